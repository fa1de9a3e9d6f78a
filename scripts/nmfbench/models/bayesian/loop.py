"""The loop about either way of inference: history, the best state, early stop, checkpoints, watchers."""

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
from nmfbench.fitting.loop import DivergedError
from nmfbench.fitting.observer import Observer
from nmfbench.fitting.progress import Progress
from nmfbench.memory import peak_mb
from nmfbench.models.bayesian.posterior import Marginals, Posterior

log = logging.getLogger(__name__)


@dataclass
class Trace:
    """Where a fit stands; with the engine's arrays it is all that a checkpoint keeps.

    Attributes
    ----------
    best : float
        Lowest objective, or minus the highest held-out log-likelihood where there is one.
    lowest : float
        The objective that the next must beat by more than the share `tol`.
    waited : int
        Rows since.
    """

    best: float = math.inf
    best_epoch: float = 0
    lowest: float = math.inf
    waited: int = 0
    seconds: float = 0.0
    stop_reason: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def run(
    engine: Any,
    *,
    name: str,
    n_cells: int,
    max_epochs: float,
    tol: float,
    patience: int,
    held_out: Callable[[Posterior], float] | None,
    keeper: Checkpoint | None,
    stored: tuple[dict[str, np.ndarray], dict[str, Any]] | None,
    should_stop: Callable[[], bool] | None,
    observer: Observer | None,
    relative_error: Callable[[Posterior], float],
    describe: Callable[[Posterior], dict[str, Any]],
    progress: bool | None,
) -> tuple[Trace, Posterior]:
    """Fit until the objective no longer falls; return the trace and the best posterior.

    Parameters
    ----------
    engine : FullAscent, StochasticAscent or StochasticGradient
        ``advance``, ``posterior``, ``state``, ``load_state``, ``clock`` (epochs, steps) and ``is_exact``:
        whether its objective is free of noise and falls with each row.
    held_out : callable or None
        From a posterior to the held-out log-likelihood per entry.
    relative_error, describe : callable
        From a posterior to the relative error of its means, and to what a watcher is shown of it.
    """
    trace, best = Trace(), None
    if stored is not None:
        arrays, record = stored
        trace = Trace(**record["trace"])
        engine.load_state({key[7:]: value for key, value in arrays.items() if key.startswith("engine.")})
        best = _unpack(arrays)
        trace.stop_reason = trace.stop_reason if trace.stop_reason == "converged" else None
    copies_best = held_out is not None or not engine.is_exact
    bar = Progress(name, math.ceil(max_epochs), int(engine.clock[0]), progress)
    stop = False
    try:
        while trace.stop_reason is None and not stop:
            if engine.clock[0] >= max_epochs:
                trace.stop_reason = "max_epochs"
                break
            started = time.monotonic()
            before = engine.clock[0]
            parts = engine.advance(should_stop)
            trace.seconds += time.monotonic() - started
            stop = should_stop is not None and should_stop()
            if parts is not None:
                posterior = engine.posterior()
                judged = {
                    "held_out_log_likelihood": math.nan if held_out is None else held_out(posterior),
                    "relative_error": relative_error(posterior),
                }
                row = _record(
                    trace, parts | judged, math.fsum(parts.values()), engine.clock, before, n_cells, started
                )
                if not math.isfinite(row["objective"]):
                    raise DivergedError(
                        f"{name}: the objective after {engine.clock[1]} steps",
                        "a finite number",
                        f"{row['objective']}",
                        "lower lr, or set clip_norm, or fit with inference='cavi'",
                    )
                better = row["objective"] if held_out is None else -row["held_out_log_likelihood"]
                if better < trace.best:
                    trace.best, trace.best_epoch = better, engine.clock[0]
                    best = posterior.copy() if copies_best else None
                _judge(trace, row["objective"], tol, patience if engine.may_converge else math.inf)
                bar.update(row)
                if observer is not None:
                    _show(observer, row, len(trace.history), posterior, describe)
            if engine.clock[0] >= max_epochs and trace.stop_reason is None and parts is not None:
                trace.stop_reason = "max_epochs"
            if keeper is not None and (stop or trace.stop_reason or keeper.is_due()):
                arrays = {f"engine.{key}": value for key, value in engine.state().items()}
                keeper.save(arrays | _pack(best), {"trace": trace.__dict__, "seed": engine.seed})
    finally:
        bar.close()
    if stop and trace.stop_reason is None:
        trace.stop_reason = "interrupted"
    best = engine.posterior().copy() if best is None else best
    if observer is not None:
        observer.end(int(engine.clock[1]), describe(engine.posterior()))
    log.info("%s: %s after %.4g epochs", name, trace.stop_reason, engine.clock[0])
    return trace, best


def _record(trace, columns, objective, clock, before, n_cells, started) -> dict[str, float]:
    row = {
        "epoch": clock[0],
        "step": clock[1],
        "objective": objective,
        **columns,
        "seconds": trace.seconds,
        "cells_per_s": (clock[0] - before) * n_cells / max(time.monotonic() - started, 1e-9),
        "peak_mb": peak_mb(),
    }
    trace.history.append(row)
    return row


def _judge(trace: Trace, objective: float, tol: float, patience: float) -> None:
    """Whether the fit has come to rest."""
    if objective < trace.lowest * (1 - tol):
        trace.lowest, trace.waited = objective, 0
        return
    trace.waited += 1
    if trace.waited >= patience:
        trace.stop_reason = "converged"


def _show(observer: Observer, row: dict[str, float], n_rows: int, posterior: Posterior, describe) -> None:
    values = {key: value for key, value in row.items() if key != "step" and math.isfinite(value)}
    observer.step(int(row["step"]), {"loss": row["objective"], **values})
    if observer.state_every and n_rows % observer.state_every == 0:
        observer.state(int(row["step"]), describe(posterior))


def _pack(best: Posterior | None) -> dict[str, np.ndarray]:
    if best is None:
        return {}
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
