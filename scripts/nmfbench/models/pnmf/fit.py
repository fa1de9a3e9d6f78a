"""Running the stages of a fit: history, callbacks, convergence, checkpoints, stops."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.observer import Observer
from nmfbench.fitting.progress import Progress
from nmfbench.memory import peak_mb
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.likelihood import relative_error
from nmfbench.models.pnmf.stages import Stage, Value

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a fit went.

    Attributes
    ----------
    history : list of dict
        A row for the start and for each step: where the fit stood after that many steps.
    stop_reason : {"converged", "max_iter", "interrupted"}
    stage : Stage
        The last one, where it ended.
    learning_rates : list of float
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = "max_iter"
    stage: Stage | None = None
    value: Value | None = None
    learning_rates: list[float] = field(default_factory=list)


def run_stages(
    stages: list[Callable[[Stage | None], Stage]],
    counts: Counts,
    *,
    name: str,
    total: int,
    tol: float,
    absolute: bool,
    seed: int,
    checkpoint: Checkpoint | None = None,
    stored: tuple | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: bool | None = None,
    after_step: Callable[[Stage, int, float], None] | None = None,
    observer: Observer | None = None,
) -> Outcome:
    """Take every stage to its end, one after the other.

    Parameters
    ----------
    stages : list of callable
        Each builds a stage from the one before it.
    counts : Counts
    name : str
        Of the model, for the log.
    total : int
        Steps of all stages together, at most.
    tol, absolute
        Of the test of convergence.
    seed : int
        Kept in the checkpoint.
    checkpoint, stored
        Where to keep the state, and the state to go on from.
    should_stop : callable or None
        Asked after each step.
    progress : bool or None
        As in :class:`nmfbench.fitting.progress.Progress`.
    after_step : callable or None
        Called with the stage, the number of the step (from 0) and the ELBO before it.
    observer : Observer or None
    """
    outcome = Outcome()
    record = {
        "index": 0,
        "t": 0,
        "history": [],
        "seconds": 0.0,
        "learning_rates": [],
        "stop_reason": "max_iter",
    }
    if stored is not None:
        record = stored[1]
    outcome.history = list(record["history"])
    outcome.learning_rates = list(record["learning_rates"])
    outcome.stop_reason = record["stop_reason"]
    clock = _Clock(record["seconds"])
    bar = Progress(name, total, len(outcome.history), progress)
    stage, stopped = None, False
    try:
        for index, build in enumerate(stages):
            stage = build(stage)
            if index < record["index"]:
                continue
            t = record["t"] if index == record["index"] else 0
            if stored is not None and index == record["index"] and "stage" in record:
                stage.load_state(stored[0], record["stage"])
            values = [row["elbo"] for row in outcome.history[len(outcome.history) - t :]]
            done = stage.is_done(values, tol, absolute)
            while t < stage.steps and not done and not stopped:
                rate = getattr(stage, "schedule", None)
                if rate is not None:
                    outcome.learning_rates.append(rate.at(t)[0])
                number = len(outcome.history)
                error, seconds = _error(counts, stage), clock.seconds()
                value = stage.step(t)
                t += 1
                values.append(value.elbo)
                outcome.history.append(_row(counts, value, number, seconds, error))
                bar.update(outcome.history[-1])
                done = stage.is_done(values, tol, absolute)
                if observer is not None:
                    _show(observer, stage, outcome.history[-1], number + 1)
                if after_step is not None:
                    after_step(stage, number, value.elbo)
                stopped = should_stop is not None and should_stop()
                if checkpoint is not None and (stopped or checkpoint.is_due()):
                    _save(checkpoint, stage, index, t, outcome, clock.seconds(), seed)
            if stopped:
                outcome.stop_reason = "interrupted"
                break
            if not stage.by_schedule:
                outcome.stop_reason = "converged" if done else "max_iter"
    finally:
        bar.close()
    outcome.stage = stage
    if not stopped and checkpoint is not None:
        _save(checkpoint, stage, index, t, outcome, clock.seconds(), seed)
    outcome.value = stage.evaluate()
    outcome.history.append(
        _row(counts, outcome.value, len(outcome.history), clock.seconds(), _error(counts, stage))
    )
    last = outcome.history[-1]
    if observer is not None:
        observer.end(last["epoch"], _factors(stage))
    log.info(
        "%s: %s after %d steps and %.1f s, ELBO %.6g (relative error %.4f)",
        name,
        outcome.stop_reason,
        last["epoch"],
        last["seconds"],
        last["elbo"],
        last["relative_error"],
    )
    return outcome


class _Clock:
    """Seconds of training, those before an interruption included."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._start


def _row(counts: Counts, value: Value, number: int, seconds: float, error: float) -> dict[str, Any]:
    n = counts.shape[0]
    return {
        "epoch": number,
        "objective": -value.elbo / n,
        "reconstruction": -value.log_likelihood / n,
        "divergence": value.divergence / n,
        "elbo": value.elbo,
        "bound": value.kind,
        "relative_error": error,
        "seconds": seconds,
        "cells_per_s": n * number / seconds if number else 0.0,
        "peak_mb": peak_mb(),
    }


def _show(observer: Observer, stage: Stage, row: dict[str, Any], steps: int) -> None:
    values = {key: v for key, v in row.items() if isinstance(v, float | int) and math.isfinite(v)}
    observer.step(steps, {"loss": row["objective"], **values})
    if observer.state_every and steps % observer.state_every == 0:
        observer.state(steps, _factors(stage))


def _factors(stage: Stage) -> dict[str, np.ndarray]:
    """What an observer is told of the factors; W is a point, so that it has no deviation."""
    state = stage.posterior()
    A = state.mean_factors()
    return {
        "cell_factors": A.cpu().numpy(),
        "cell_factors_sd": (A * torch.expm1(state.v).sqrt()).cpu().numpy(),
        "gene_factors": state.W.T.cpu().numpy(),
    }


def _error(counts: Counts, stage: Stage) -> float:
    state = stage.posterior()
    return relative_error(counts, state.mean_factors(), state.W, state.scales)


def _save(
    checkpoint: Checkpoint, stage: Stage, index: int, t: int, outcome: Outcome, seconds: float, seed: int
) -> None:
    arrays, record = stage.state()
    checkpoint.save(
        arrays,
        {
            "seed": seed,
            "index": index,
            "t": t,
            "history": outcome.history,
            "learning_rates": outcome.learning_rates,
            "stop_reason": outcome.stop_reason,
            "seconds": seconds,
            "stage": record,
        },
    )
