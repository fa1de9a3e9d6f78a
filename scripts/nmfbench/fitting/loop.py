"""The one training loop: steps, history, early stop, checkpoints, interruption."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.progress import Progress
from nmfbench.memory import peak_mb
from nmfbench.rows.batches import Batch, Sampler, WindowSampler

log = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES_WITHIN_AN_EPOCH = 60.0


class DivergedError(InputError, FloatingPointError):
    """The objective is no longer a finite number."""


@dataclass(frozen=True)
class Evaluation:
    """The full objective over all cells.

    Attributes
    ----------
    parts : dict of str to float
        Its terms, weighted, in the order of the history's columns; they add up to the objective.
    relative_error : float
        ``||E||² / ||X||²``.
    """

    parts: dict[str, float]
    relative_error: float

    @property
    def objective(self) -> float:
        return math.fsum(self.parts.values())


class Problem(Protocol):
    """What the loop asks of a model: it does not know which one it trains."""

    n_rows: int

    def step(self, batch: Batch, epoch: int, rate: float) -> None:
        """One update from a batch, in epoch number `epoch` (from 0), learning rates times `rate`."""

    def evaluate(self) -> Evaluation:
        """The full objective at the present weights."""

    def weights(self) -> dict[str, np.ndarray]:
        """The present weights (views; the caller copies)."""

    def set_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Put weights in place."""

    def moments(self) -> dict[str, np.ndarray]:
        """Everything else that the next step depends on."""

    def set_moments(self, arrays: dict[str, np.ndarray]) -> None:
        """Put it in place."""


@dataclass
class State:
    """Where a fit stands; all of it is in the checkpoint."""

    seed: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = math.inf
    best_epoch: int = 0
    best_error: float = math.inf
    reference: float = math.inf
    waited: int = 0
    seconds: float = 0.0
    stop_reason: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast.

    Parameters
    ----------
    max_epochs : int
    patience : int
        Epochs without a better objective before training ends.
    tol : float
        Better means lower by more than this share.
    cosine : bool
        Whether the learning rates fall to zero along a half cosine over `max_epochs`.
    """

    max_epochs: int
    patience: int
    tol: float
    cosine: bool = False

    def rate(self, progress: float) -> float:
        """Factor of the learning rates at a share `progress` of `max_epochs`."""
        return 0.5 * (1 + math.cos(math.pi * progress)) if self.cosine else 1.0


def train(
    problem: Problem,
    sampler: Sampler | WindowSampler,
    schedule: Schedule,
    *,
    name: str = "model",
    checkpoint: Checkpoint | None = None,
    stored: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool | None = None,
) -> State:
    """Train until the objective no longer falls, and leave the best weights in `problem`.

    Parameters
    ----------
    problem : Problem
        The model's weights, steps and objective. Its weights are the start unless `stored` is given.
    sampler : Sampler or WindowSampler
        The batches of each epoch.
    schedule : Schedule
    name : str
        For the log.
    checkpoint : Checkpoint or None
        Where the state is kept.
    stored : tuple or None
        What ``checkpoint.load()`` found: the state to go on from.
    should_stop : callable or None
        Asked after each step; once it says True the state is written and training ends.
    progress : bool or None
        See :class:`~nmfbench.fitting.progress.Progress`.

    Returns
    -------
    State
        ``stop_reason`` is ``"converged"``, ``"max_epochs"`` or ``"interrupted"``.
    """
    fit = _Fit(problem, sampler, schedule, checkpoint, stored, should_stop)
    state = fit.state
    bar = Progress(name, schedule.max_epochs, state.epoch, progress)
    try:
        while state.stop_reason is None:
            fit.epoch()
            if state.stop_reason != "interrupted":
                bar.update(state.history[-1])
    finally:
        bar.close()
    log.info(
        "%s: %s after %d epochs and %.1f s, best objective %.6g (relative error %.4f) at epoch %d",
        name,
        state.stop_reason,
        state.epoch,
        state.seconds,
        state.best,
        state.best_error,
        state.best_epoch,
    )
    problem.set_weights(fit.best_weights)
    return state


class _Fit:
    """The loop's own variables."""

    def __init__(self, problem, sampler, schedule, checkpoint, stored, should_stop) -> None:
        self.problem = problem
        self.sampler = sampler
        self.schedule = schedule
        self.checkpoint = checkpoint
        self.should_stop = should_stop or (lambda: False)
        self.state = State(seed=sampler.seed)
        self.best_weights: dict[str, np.ndarray] = {}
        if stored is None:
            self._record(time.monotonic())
        else:
            self._resume(*stored)

    def epoch(self) -> None:
        """Take the rest of the present epoch's steps, then judge."""
        state, started = self.state, time.monotonic()
        batches = self.sampler.epoch(state.epoch)
        while state.batch < len(batches):
            at = (state.epoch + state.batch / len(batches)) / self.schedule.max_epochs
            self.problem.step(batches[state.batch], state.epoch, self.schedule.rate(at))
            state.batch += 1
            stop = self.should_stop()
            if stop or self._is_due(SECONDS_BETWEEN_SAVES_WITHIN_AN_EPOCH):
                state.seconds += time.monotonic() - started
                started = time.monotonic()
                self._save()
            if stop:
                state.stop_reason = "interrupted"
                return
        state.epoch, state.batch = state.epoch + 1, 0
        self._record(started)
        if state.waited >= self.schedule.patience:
            state.stop_reason = "converged"
        elif state.epoch >= self.schedule.max_epochs:
            state.stop_reason = "max_epochs"
        if state.stop_reason or self._is_due():
            self._save()

    def _record(self, started: float) -> None:
        """Evaluate the weights, keep the best, add a row to the history."""
        state = self.state
        found = self.problem.evaluate()
        if not math.isfinite(found.objective):
            raise DivergedError(
                f"the objective at epoch {state.epoch}",
                "a finite number",
                ", ".join(f"{name} {value:g}" for name, value in found.parts.items()),
                "lower learning_rate_W, use init='nndsvd', or fit in double precision (float64)",
            )
        if found.objective < state.best:
            state.best, state.best_error = found.objective, found.relative_error
            state.best_epoch = state.epoch
            self._keep_best()
        if found.objective < state.reference - self.schedule.tol * abs(state.reference) or not state.history:
            state.reference, state.waited = found.objective, 0
        else:
            state.waited += 1
        state.seconds += time.monotonic() - started
        spent = state.seconds - (state.history[-1]["seconds"] if state.history else 0.0)
        state.history.append(
            {
                "epoch": state.epoch,
                "objective": found.objective,
                **found.parts,
                "relative_error": found.relative_error,
                "seconds": state.seconds,
                "cells_per_s": self.problem.n_rows / spent if state.epoch else 0.0,
                "peak_mb": peak_mb(),
            }
        )

    def _keep_best(self) -> None:
        present = self.problem.weights()
        if not self.best_weights:
            self.best_weights = {key: np.empty_like(value) for key, value in present.items()}
        for key, value in present.items():
            np.copyto(self.best_weights[key], value)

    def _is_due(self, wait: float = 0.0) -> bool:
        return self.checkpoint is not None and self.checkpoint.is_due(wait)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        arrays = {f"weights.{key}": value for key, value in self.problem.weights().items()}
        arrays |= {f"moments.{key}": value for key, value in self.problem.moments().items()}
        arrays |= {f"best.{key}": value for key, value in self.best_weights.items()}
        self.checkpoint.save(arrays, vars(self.state))

    def _resume(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        def begin_with(prefix: str) -> dict[str, np.ndarray]:
            return {
                key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
            }

        self.problem.set_weights(begin_with("weights."))
        self.problem.set_moments(begin_with("moments."))
        self.best_weights = begin_with("best.")
        self.state = State(**record)
        # A fit that ended at its last epoch goes on when it is given more of them.
        if self.state.stop_reason == "max_epochs" and self.state.epoch < self.schedule.max_epochs:
            self.state.stop_reason = None
        elif self.state.epoch >= self.schedule.max_epochs and self.state.stop_reason is None:
            self.state.stop_reason = "max_epochs"
        log.info("going on from epoch %d, batch %d of the checkpoint", self.state.epoch, self.state.batch)
