"""Minibatches as an engine: epochs of steps, the learning rates, the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from nmfbench.fitting.engine import Engine, Patience, Row, part_of
from nmfbench.models.autoencoder.minibatch import BatchObjective
from nmfbench.rows.batches import Batch, Sampler, WindowSampler


class Steps(Protocol):
    """How the steps of an epoch are taken.

    Attributes
    ----------
    draws_ahead : bool
        Whether steps go on by themselves after :meth:`step`: the next epoch is then drawn meanwhile.
    recorded : bool
        Whether a step was recorded once and is replayed.
    """

    draws_ahead: bool
    recorded: bool

    def begin(self, batches: Sequence[Batch], rates: list[float], first: int, epoch: int) -> None:
        """Get ready for the batches of `epoch` from number `first` on, each with its factor of the rates."""

    def step(self, number: int) -> None:
        """The step of one batch; they are asked for in order."""


class HostSteps:
    """Each batch is cut out of the rows when its turn comes."""

    draws_ahead = recorded = False

    def __init__(self, objective: BatchObjective) -> None:
        self.objective = objective

    def begin(self, batches: Sequence[Batch], rates: list[float], first: int, epoch: int) -> None:
        self._batches, self.rates, self._epoch = batches, rates, epoch

    def step(self, number: int) -> None:
        self.objective.step(self._batches[number], self._epoch, self.rates[number])


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast.

    Parameters
    ----------
    max_iter : int
        Epochs.
    patience : int
        Epochs without a better objective before training ends.
    tol : float
        Better means lower by more than this share.
    cosine : bool
        Whether the learning rates fall to zero along a half cosine over `max_iter`.
    """

    max_iter: int
    patience: int
    tol: float
    cosine: bool = False

    def rate(self, progress: float) -> float:
        """Factor of the learning rates at a share `progress` of `max_iter`."""
        return 0.5 * (1 + math.cos(math.pi * progress)) if self.cosine else 1.0


class Epochs(Engine):
    """Passes over the cells in minibatches; the best weights are kept.

    Parameters
    ----------
    objective : BatchObjective
    sampler : Sampler or WindowSampler
        The batches of each epoch.
    schedule : Schedule
    embed : callable
        From loadings (k x genes) to the embedding of all cells, for watchers.
    stepper : Steps, optional
        How the steps are taken; by default one batch after the other, cut out of the rows as it comes.
    """

    unit = "epoch"
    remedy = "lower learning_rate, use init='nndsvd', or fit in double precision (float64)"

    def __init__(
        self,
        objective: BatchObjective,
        sampler: Sampler | WindowSampler,
        schedule: Schedule,
        embed: Callable[[np.ndarray], np.ndarray],
        stepper: Steps | None = None,
    ) -> None:
        self.objective, self.sampler, self.schedule, self.embed = objective, sampler, schedule, embed
        self.limit = schedule.max_iter
        self.patience = Patience(schedule.tol, schedule.patience)
        self.clock = self.batch = 0
        self.stepper = stepper or HostSteps(objective)
        self.best: dict[str, torch.Tensor] = {}
        self._drawn: tuple[int, Sequence[Batch]] = -1, []

    def begin(self) -> Row:
        return self._row()

    def advance(self, pause: Callable[[], bool]) -> Row | None:
        """The rest of the present epoch's batches."""
        if not self.take_batches(pause):
            return None
        self.clock, self.batch = self.clock + 1, 0
        return self._row()

    def take_batches(self, pause: Callable[[], bool]) -> bool:
        """The steps of the rest of the present epoch; False where `pause` ended them."""
        number, batches = self._drawn
        if number != self.clock:
            batches = self.sampler.epoch(self.clock)
        rates = [
            self.schedule.rate((self.clock + i / len(batches)) / self.limit) for i in range(len(batches))
        ]
        self.stepper.begin(batches, rates, self.batch, self.clock)
        while self.batch < len(batches):
            self.stepper.step(self.batch)
            self.batch += 1
            if self.batch < len(batches) and pause():
                return False
        if self.stepper.draws_ahead and isinstance(self.sampler, Sampler):
            self._drawn = self.clock + 1, self.sampler.epoch(self.clock + 1)
        return True

    def has_converged(self) -> bool:
        return self.patience.is_over()

    def score(self, row: Row) -> float:
        return row["objective"]

    def keep_best(self) -> None:
        self.best = self.objective.copied_weights(self.best)

    def end(self) -> None:
        self.objective.set_weights(as_arrays(self.best))

    def gene_gram(self) -> np.ndarray:
        return (self.objective.W.T @ self.objective.W).double().cpu().numpy()

    def describe(self) -> dict[str, np.ndarray]:
        W = np.ascontiguousarray(self.objective.weights()["W"].T)
        return {"cell_factors": self.embed(W), "gene_factors": W}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        kinds = {
            "weights": self.objective.weights(),
            "moments": self.objective.moments(),
            "best": as_arrays(self.best),
        }
        arrays = {f"{kind}.{key}": value for kind, of in kinds.items() for key, value in of.items()}
        return arrays, {"clock": self.clock, "batch": self.batch, **self.patience.record()}

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        self.objective.set_weights(part_of(arrays, "weights"))
        self.objective.set_moments(part_of(arrays, "moments"))
        self.best = self.objective.copied_weights({})
        for name, tensor in self.best.items():
            tensor.copy_(torch.from_numpy(arrays[f"best.{name}"]))
        self.clock, self.batch = record["clock"], record["batch"]
        self.patience.load(record)

    def _row(self) -> Row:
        found = self.objective.evaluate()
        self.patience.see(found.objective)
        row = {"epoch": self.clock, "objective": found.objective, **found.parts}
        return {**row, "relative_error": found.relative_error}


def as_arrays(weights: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays in memory: views where they lie there, else copies."""
    return {name: w.cpu().numpy() for name, w in weights.items()}
