"""Coordinate sweeps as an engine, and a fit of an objective on its own, without an estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nmfbench.errors import InputError
from nmfbench.fitting.engine import Engine, Row
from nmfbench.fitting.loop import Run, fit

REFRESH = 10  # sweeps between two exact recomputations of the images, which follow W with rounding errors
RELAX = 1.8


class Objective(Protocol):
    """A model's objective on the statistics, with one sweep of descent; W is held as genes x k."""

    W: np.ndarray
    U: np.ndarray | None
    n: int

    def refresh(self) -> None:
        """Recompute from W and U everything that follows them."""

    def evaluate(self) -> tuple[dict[str, float], float]:
        """Parts of the objective and the relative error, at the present W and U."""

    def sweep(self, relax: float) -> None:
        """One pass over all entries, which never raises the objective."""


class Sweeps(Engine):
    """Sweep until the objective falls by less than a share of itself so many times in a row.

    A fit can go on only from a sweep at which the images were computed afresh (every tenth, and the last
    one), so a stop in between gives the sweeps since then up; resumed, they are taken again, to the same
    bits.

    Parameters
    ----------
    objective : Objective
        At the start.
    max_iter : int
        Sweeps in all, those before a resumption included.
    tol : float
        Relative decrease of the objective counted as none.
    relax : float
        Over-relaxation, from 1 (exact minimisation of each entry) to below 2.
    patience : int
    embed : callable, optional
        From loadings (k x genes) to the embedding of all cells, for watchers.
    """

    unit = "sweep"
    remedy = "check the data for NaN or infinity"

    def __init__(
        self,
        objective: Objective,
        *,
        max_iter: int = 500,
        tol: float = 1e-5,
        relax: float = RELAX,
        patience: int = 3,
        embed: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if not 1.0 <= relax < 2.0:
            raise InputError(
                "relax", "a number from 1 to below 2", str(relax), "set relax to 1.8, the default"
            )
        self.objective, self.limit, self.tol, self.relax = objective, max_iter, tol, relax
        self.patience, self.embed = patience, embed
        self.clock = self.quiet = 0
        self._last = np.inf
        self._kept: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None

    @property
    def undone(self) -> int:
        """Sweeps since the newest state that a fit can go on from."""
        return self.clock - self._kept[1]["clock"]

    def begin(self) -> Row:
        self.objective.refresh()
        row = self._row()
        self._keep()
        return row

    def advance(self, pause: Callable[[], bool]) -> Row:
        """One sweep."""
        self.objective.sweep(self.relax)
        self.clock += 1
        if self.clock % REFRESH == 0:
            self.objective.refresh()
        before, row = self._last, self._row()
        value = row["objective"]
        self.quiet = self.quiet + 1 if before - value < self.tol * abs(value) or value == 0.0 else 0
        if self.clock % REFRESH == 0 or self.has_converged():
            self._keep()
        return row

    def has_converged(self) -> bool:
        return self.quiet >= self.patience

    def gene_gram(self) -> np.ndarray:
        return self.objective.W.T @ self.objective.W

    def describe(self) -> dict[str, np.ndarray]:
        W = np.ascontiguousarray(self.objective.W.T)
        return {"gene_factors": W} | ({} if self.embed is None else {"cell_factors": self.embed(W)})

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return self._kept

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        for name, value in arrays.items():
            setattr(self.objective, name, value)
        self.clock, self.quiet, self._last = record["clock"], record["quiet"], record["last"]
        self.objective.refresh()
        self.objective.evaluate()
        self._kept = arrays, record

    def _row(self) -> Row:
        parts, relative_error = self.objective.evaluate()
        parts = {name: float(value) for name, value in parts.items()}
        self._last = sum(parts.values())
        row = {"epoch": self.clock, "objective": self._last, **parts}
        return {**row, "relative_error": float(relative_error)}

    def _keep(self) -> None:
        arrays = {"W": self.objective.W.copy()}
        if self.objective.U is not None:
            arrays["U"] = self.objective.U.copy()
        self._kept = arrays, {"clock": self.clock, "quiet": self.quiet, "last": self._last}


@dataclass
class SolverResult:
    """Where a fit ended.

    Attributes
    ----------
    W : (k, genes) array
        Shared loadings.
    U : (M, genes) or (donors, k, genes) array, or None
        Additive profiles (model 1) or donor loadings (model 2).
    objective : float
        Per cell, penalties included.
    parts : dict
        The terms of the objective; they add up to it.
    relative_error : float
        ||E||² / ||X||².
    n_iter : int
        Sweeps.
    converged : bool
    stop_reason : str
    history : list of dict
        One row per sweep, the start included.
    """

    W: np.ndarray
    U: np.ndarray | None
    objective: float
    parts: dict[str, float]
    relative_error: float
    n_iter: int
    converged: bool
    stop_reason: str
    history: list[dict]


def minimise(objective: Objective, *, run: Run | None = None, **options: Any) -> SolverResult:
    """Minimise an objective from where it stands.

    Parameters
    ----------
    objective : Objective
    run : Run, optional
        What watches or stops the fit.
    **options
        ``max_iter``, ``tol`` and ``relax`` of :class:`Sweeps`.
    """
    outcome = fit(
        lambda _: Sweeps(objective, **options),
        name=type(objective).__name__,
        n_cells=objective.n,
        run=run or Run(progress=False),
    )
    last = outcome.history[-1]
    around = {"epoch", "objective", "relative_error", "seconds", "cells_per_s", "peak_mb", "orthogonality"}
    U = objective.U
    return SolverResult(
        W=np.ascontiguousarray(objective.W.T),
        U=None if U is None else np.ascontiguousarray(np.swapaxes(U, -1, -2)),
        objective=last["objective"],
        parts={name: value for name, value in last.items() if name not in around},
        relative_error=last["relative_error"],
        n_iter=int(last["epoch"]),
        converged=outcome.stop_reason == "converged",
        stop_reason=outcome.stop_reason,
        history=outcome.history,
    )
