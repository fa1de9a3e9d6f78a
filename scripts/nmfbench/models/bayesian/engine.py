"""Either way of inference as the loop of all fits drives it: rows of the history, and the best posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nmfbench.fitting.engine import Engine, Patience, Row, part_of
from nmfbench.models.bayesian.posterior import Marginals, Posterior


class PosteriorFit(Engine):
    """Moves a posterior row by row; the best one is kept.

    Parameters
    ----------
    inference : FullAscent, StochasticAscent or StochasticGradient
        ``advance``, ``posterior``, ``state``, ``load_state``, ``clock`` (epochs, steps), ``is_exact``:
        whether its objective is free of noise and falls with each row, and ``may_converge``.
    epochs : float
        Passes over the cells, at most.
    tol : float
    patience : int
    relative_error, describe : callable
        From a posterior to the relative error of its means, and to what a watcher is shown of it.
    held_out : callable or None
        From a posterior to the held-out log-likelihood per entry, by which the best one is chosen.
    """

    unit = "epoch"
    remedy = "lower learning_rate, or set clip_norm, or fit with inference='cavi'"

    def __init__(
        self,
        inference: Any,
        *,
        epochs: float,
        tol: float,
        patience: int,
        relative_error: Callable[[Posterior], float],
        describe: Callable[[Posterior], dict[str, Any]],
        held_out: Callable[[Posterior], float] | None = None,
    ) -> None:
        self.inference, self.limit = inference, epochs
        self.patience = Patience(tol, patience if inference.may_converge else math.inf)
        self.relative_error, self._describe, self.held_out = relative_error, describe, held_out
        self.best: Posterior | None = None  # None: the present one

    @property
    def clock(self) -> float:
        return self.inference.clock[0]

    @property
    def iterations(self) -> tuple[int, str]:
        return (math.ceil(self.clock), self.unit) if self.inference.may_converge else (self.steps, "step")

    @property
    def steps(self) -> int:
        return int(self.inference.clock[1])

    def advance(self, pause: Callable[[], bool]) -> Row | None:
        parts = self.inference.advance(pause)
        if parts is None:
            return None
        posterior = self.inference.posterior()
        epoch, step = self.inference.clock
        row = {"epoch": epoch, "step": step, "objective": math.fsum(parts.values()), **parts}
        row["held_out_log_likelihood"] = math.nan if self.held_out is None else self.held_out(posterior)
        self.patience.see(row["objective"])
        return {**row, "relative_error": self.relative_error(posterior)}

    def has_converged(self) -> bool:
        return self.patience.is_over()

    def score(self, row: Row) -> float:
        return row["objective"] if self.held_out is None else -row["held_out_log_likelihood"]

    def keep_best(self) -> None:
        # where the objective falls with each row, the last posterior is the best
        if self.held_out is not None or not self.inference.is_exact:
            self.best = self.inference.posterior().kept()

    def end(self) -> None:
        self.best = (self.inference.posterior() if self.best is None else self.best).copy()

    def gene_gram(self) -> np.ndarray | None:
        p = self.inference.problem.probability
        return self.inference.posterior().gene_gram(p.odds() if p.by == "gene" else None)

    def describe(self) -> dict[str, Any]:
        return self._describe(self.inference.posterior())

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"inference.{key}": value for key, value in self.inference.state().items()}
        return arrays | _pack(self.best), self.patience.record()

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        self.inference.load_state(part_of(arrays, "inference"))
        self.best = _unpack(arrays)
        self.patience.load(record)


def _pack(best: Posterior | None) -> dict[str, np.ndarray]:
    if best is None:
        return {}
    best = best.copy()  # it lies where the fit is
    arrays = {"best.family": np.array(best.cells.family)}
    arrays |= {f"best.learnt.{name}": value.numpy() for name, value in best.learnt.items()}
    for name, side in (("cells", best.cells), ("genes", best.genes)):
        arrays |= {f"best.{name}.first": side.first.numpy(), f"best.{name}.second": side.second.numpy()}
        if side.fixed is not None:
            arrays[f"best.{name}.fixed"] = side.fixed.numpy()
    return arrays


def _unpack(arrays: dict[str, np.ndarray]) -> Posterior | None:
    if "best.family" not in arrays:
        return None
    sides = []
    for name in ("cells", "genes"):
        parts = [arrays.get(f"best.{name}.{part}") for part in ("first", "second", "fixed")]
        tensors = [None if part is None else torch.from_numpy(part) for part in parts]
        sides.append(Marginals(str(arrays["best.family"]), *tensors))
    learnt = {
        key.removeprefix("best.learnt."): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith("best.learnt.")
    }
    return Posterior(*sides, learnt)
