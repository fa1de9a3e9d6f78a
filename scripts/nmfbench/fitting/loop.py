"""The one loop of every fit: history, best state, early stop, checkpoints, watchers, interruption."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.engine import Engine, Row, orthogonality
from nmfbench.fitting.observer import Observer
from nmfbench.fitting.progress import Progress
from nmfbench.memory import peak_mb

log = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES_WITHIN_A_ROW = 60.0

Stored = tuple[dict[str, np.ndarray], dict[str, Any]]


class DivergedError(InputError, FloatingPointError):
    """The objective is no longer a finite number."""


@dataclass(frozen=True)
class Run:
    """What surrounds a fit; its numbers are the same whatever it is.

    Attributes
    ----------
    checkpoint : path or None
        A folder to keep the state in. The fit goes on from it where it holds one.
    should_stop : callable or None
        Asked after each step (sweep); once it says True the state is written and the fit ends with
        ``stop_reason_ == "interrupted"``.
    progress : bool or None
        True: a bar; False: lines in the log; None: a bar if stderr is a terminal.
    observer : Observer or None
        Told of every row of the history.
    """

    checkpoint: str | Path | None = None
    should_stop: Callable[[], bool] | None = None
    progress: bool | None = None
    observer: Observer | None = None


@dataclass
class Outcome:
    """How a fit went.

    Attributes
    ----------
    engine : Engine
        Where the fit ended: at its best state, where it has one.
    history : list of dict
    stop_reason : str
        ``"converged"``, ``"interrupted"``, or the name of the budget that was used up.
    clock : float
        Passes over the cells, sweeps or steps.
    best : int
        Number of the row whose state the engine holds.
    seconds : float
    """

    engine: Engine
    history: list[Row]
    stop_reason: str
    clock: float
    best: int
    seconds: float

    @property
    def relative_error(self) -> float:
        """Of that state; not a number where the history does not tell it."""
        return self.best_row.get("relative_error", math.nan)

    @property
    def best_row(self) -> Row:
        """The history's row of the state that the engine holds; of a fit that was stopped before its first
        row, one that tells nothing."""
        nothing = {"epoch": 0, "objective": math.nan, "relative_error": math.nan}
        return self.history[self.best] if self.history else nothing


@dataclass
class _State:
    """Where the loop stands; with the engine's state it is all that a checkpoint keeps."""

    seed: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_row: int = -1
    history: list[Row] = field(default_factory=list)


def fit(
    build: Callable[[bool], Engine],
    *,
    name: str,
    n_cells: int,
    seed: int = 0,
    run: Run | None = None,
    checkpoint: Checkpoint | None = None,
    stored: Stored | None = None,
) -> Outcome:
    """Fit until the engine has converged or its budget is used up.

    Parameters
    ----------
    build : callable
        Makes the engine, given whether it is about to go on from a stored state. The seconds of the history
        begin with it.
    name : str
        Of the model, for the log.
    n_cells : int
        Cells of one pass, for the speed.
    seed : int
        Kept in the checkpoint.
    run : Run
    checkpoint : Checkpoint or None
        Where the state is kept.
    stored : tuple or None
        What ``checkpoint.load()`` found: the state to go on from.

    Raises
    ------
    DivergedError
        If the objective is no longer a finite number.
    """
    loop = _Loop(build, name, n_cells, seed, run or Run(), checkpoint, stored)
    bar = Progress(name, math.ceil(loop.engine.limit), int(loop.engine.clock), loop.run.progress)
    reason = loop.reason()
    try:
        while reason is None:
            reason = loop.row()
            if loop.state.history:
                bar.update(loop.state.history[-1])
    finally:
        bar.close()
    return loop.outcome(reason)


class _Loop:
    """The loop's own variables."""

    def __init__(self, build, name, n_cells, seed, run, checkpoint, stored) -> None:
        self._since = time.monotonic()
        self.name, self.n_cells, self.run, self.checkpoint = name, n_cells, run, checkpoint
        self.engine: Engine = build(stored is not None)
        self.state = _State(seed=seed)
        self._clock = self.engine.clock  # at the newest row
        if stored is None:
            first = self.engine.begin()
            if first is not None:
                self._record(first)
        else:
            self._resume(*stored)

    def reason(self) -> str | None:
        """Why the fit ends here; None: it goes on."""
        if self.engine.has_converged():
            return "converged"
        return self.engine.budget if self.engine.is_over() else None

    def row(self) -> str | None:
        """Go on by one row; why the fit ends with it, or None."""
        before = self.state.seconds
        row = self.engine.advance(self._pause)
        if row is None:
            return "interrupted"
        self._record(row, before if self.engine.lags else None)
        self._tell()
        reason, stop = self.reason(), self._is_told_to_stop()
        if self.checkpoint is not None and (reason or stop or self._is_due()):
            self._save()
        return reason or ("interrupted" if stop else None)

    def outcome(self, reason: str) -> Outcome:
        """The end: the engine at the state that counts."""
        engine, state = self.engine, self.state
        last = engine.end()
        if last is not None:
            self._record(last)
        best = len(state.history) - 1 if state.best_row < 0 else state.best_row
        found = Outcome(engine, state.history, reason, engine.clock, best, state.seconds)
        if self.run.observer is not None:
            self.run.observer.end(engine.steps, engine.describe())
        log.info(
            "%s: %s after %.4g %ss and %.1f s, objective %.6g (relative error %.4f) at %s %.4g",
            *(self.name, reason, engine.clock, engine.unit, state.seconds, found.best_row["objective"]),
            *(found.relative_error, engine.unit, found.best_row["epoch"]),
        )
        return found

    # ------------------------------------------------------------------------------------------------

    def _record(self, row: Row, seconds: float | None = None) -> None:
        """Add a row to the history and keep the state if it is the best."""
        state, engine = self.state, self.engine
        if not math.isfinite(row["objective"]):
            parts = {key: value for key, value in row.items() if isinstance(value, float)}
            raise DivergedError(
                f"{self.name}: the objective at {engine.unit} {row['epoch']:.4g}",
                "a finite number",
                ", ".join(f"{key} {value:g}" for key, value in parts.items()),
                engine.remedy,
            )
        score = engine.score(row)
        if score is not None and score < state.best:
            state.best, state.best_row = score, len(state.history)
            engine.keep_best()
        before = state.seconds
        self._count()
        passed = (engine.clock - self._clock) * self.n_cells
        self._clock = engine.clock
        gram = engine.gene_gram()
        state.history.append(
            {
                **row,
                "seconds": state.seconds if seconds is None else seconds,
                "cells_per_s": passed / max(state.seconds - before, 1e-9) if passed else 0.0,
                "peak_mb": peak_mb(),
                **({} if gram is None else {"orthogonality": orthogonality(gram)}),
            }
        )

    def _tell(self) -> None:
        observer, row = self.run.observer, self.state.history[-1]
        if observer is None:
            return
        values = {key: value for key, value in row.items() if isinstance(value, int | float)}
        values = {key: value for key, value in values.items() if key != "step" and math.isfinite(value)}
        observer.step(self.engine.steps, {"loss": row["objective"], **values})
        rows = len(self.state.history)
        if self.state.history[0]["epoch"] == 0 and not self.engine.lags:
            rows -= 1  # the start is no step
        if observer.state_every and rows % observer.state_every == 0:
            observer.state(self.engine.steps, self.engine.describe())
        self._since = time.monotonic()

    def _pause(self) -> bool:
        """Between two steps within a row: write the state where it is time to; whether to stop."""
        stop = self._is_told_to_stop()
        if self.checkpoint is not None and (stop or self._is_due(SECONDS_BETWEEN_SAVES_WITHIN_A_ROW)):
            self._count()
            self._save()
        return stop

    def _count(self) -> None:
        """Add the time since the last count to that of the fit."""
        now = time.monotonic()
        self.state.seconds += now - self._since
        self._since = now

    def _is_told_to_stop(self) -> bool:
        return self.run.should_stop is not None and bool(self.run.should_stop())

    def _is_due(self, wait: float = 0.0) -> bool:
        return self.engine.undone == 0 and self.checkpoint.is_due(wait)

    def _save(self) -> None:
        arrays, record = self.engine.state()
        state = self.state
        kept = len(state.history) - self.engine.undone
        seconds = state.history[kept - 1]["seconds"] if self.engine.undone else state.seconds
        own = vars(state) | {"history": state.history[:kept], "seconds": seconds}
        self.checkpoint.save(arrays, own | {"engine": record})
        self._since = time.monotonic()

    def _resume(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        record = dict(record)
        self.engine.load_state(arrays, record.pop("engine"))
        self.state = _State(**record)
        self._clock = self.engine.clock
        log.info("going on from %s %.4g of the checkpoint", self.engine.unit, self.engine.clock)
