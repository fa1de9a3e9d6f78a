"""The loop about every engine: ELBO, form of the axes, stop, checkpoints, watchers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmfbench.fitting.progress import Progress
from nmfbench.memory import peak_mb
from nmfbench.models.nb_hierarchical.start import information_at, informed_forms

log = logging.getLogger(__name__)

WINDOW = 5
"""Evaluations of each of the two windows whose medians are compared."""
CALM = 2
"""Comparisons in a row without a gain that end a fit."""


@dataclass
class Trace:
    """Where a fit stands; with the engine's arrays it is all that a checkpoint keeps.

    Attributes
    ----------
    waited : int
        Comparisons in a row without a gain.
    since : int
        Rows of the history before the axes took their present form: their ELBO is of another posterior.
    forms_checked : bool
        Whether the forms were decided a second time.
    slope : float
        Gain of the last comparison, relative.
    """

    waited: int = 0
    since: int = 0
    forms_checked: bool = False
    slope: float = math.nan
    seconds: float = 0.0
    stop_reason: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def run(
    engine: Any,
    *,
    max_iter: int,
    stop_rule: str,
    tol: float,
    auto_forms: bool,
    keeper: Any,
    stored: Any,
    should_stop: Callable[[], bool] | None,
    observer: Any,
    describe: Callable[[], dict[str, Any]],
    progress: bool | None,
) -> Trace:
    """Fit until the ELBO is at rest.

    Parameters
    ----------
    engine
        ``advance(steps)``, ``loc``, ``log_sd``, ``step_number``, ``problem``, ``rows`` (steps of a row of
        the history), ``parameter_change`` (smallest of the row), ``reform``, ``state`` and ``load_state``.
    max_iter : int
    stop_rule : {"elbo", "parameters"}
    tol : float
        Of ``elbo``: the relative gain between two windows of evaluations; of ``parameters``: the
        relative change.
    auto_forms : bool
        Whether the axes' forms are decided once more after a tenth of the steps.
    keeper, stored
        The checkpoint and what it held.
    should_stop, observer, progress
        As of every fit.
    describe : callable
        What a watcher is shown.
    """
    trace = Trace()
    family = engine.problem.family
    if stored is not None:
        arrays, record = stored
        trace = Trace(**record["trace"])
        engine.load_state({k[7:]: v for k, v in arrays.items() if k.startswith("engine.")}, record["forms"])
        trace.stop_reason = None if trace.stop_reason in ("interrupted", "max_iter") else trace.stop_reason
    stop = False
    bar = Progress("NBHierarchical", math.ceil(max_iter * engine.share_of_a_step), 0, progress)
    entries = engine.problem.likelihood.n_entries
    while trace.stop_reason is None and not stop:
        if engine.step_number >= max_iter:
            trace.stop_reason = "max_iter"
            break
        started, before = time.monotonic(), engine.step_number
        engine.advance(min(engine.rows, max_iter - before))
        if auto_forms and not trace.forms_checked and engine.step_number >= max_iter // 10:
            trace.forms_checked = True
            if _reform(engine):
                trace.since, trace.waited = len(trace.history), 0
        fit, rest, _ = engine.problem.elbo(engine.loc, engine.log_sd, 1)
        seconds = time.monotonic() - started
        trace.seconds += seconds
        row = {
            "epoch": engine.step_number * engine.share_of_a_step,
            "step": engine.step_number,
            "objective": -(fit + rest) / family.n_cells,
            "likelihood": -fit / family.n_cells,
            "divergence": -rest / family.n_cells,
            "elbo": fit + rest,
            "elbo_per_entry": (fit + rest) / entries,
            "parameter_change": engine.parameter_change,
            "seconds": trace.seconds,
            "cells_per_s": (engine.step_number - before) * engine.share_of_a_step * family.n_cells / seconds,
            "peak_mb": peak_mb(),
        }
        engine.refuse_infinite(row["objective"])
        trace.history.append(row)
        stop = should_stop is not None and should_stop()
        settled = engine.step_number >= max_iter // 10 or not auto_forms
        if stop_rule == "elbo" and settled:
            _judge(trace, tol)
        elif stop_rule == "parameters" and engine.parameter_change < tol:
            trace.stop_reason = "converged"
        bar.update(row)
        if observer is not None:
            values = {k: v for k, v in row.items() if k != "step" and math.isfinite(v)}
            observer.step(row["step"], {"loss": row["objective"], **values})
            if observer.state_every and len(trace.history) % observer.state_every == 0:
                observer.state(row["step"], describe())
        if engine.step_number >= max_iter and trace.stop_reason is None:
            trace.stop_reason = "max_iter"
        if keeper is not None and (stop or trace.stop_reason or keeper.is_due()):
            keeper.save(
                {f"engine.{k}": v for k, v in engine.state().items()},
                {"trace": trace.__dict__, "seed": engine.problem.seed, "forms": engine.problem.family.forms},
            )
    bar.close()
    if stop and trace.stop_reason is None:
        trace.stop_reason = "interrupted"
    if observer is not None:
        observer.end(int(engine.step_number), describe())
    log.info("NBHierarchical: %s after %d steps", trace.stop_reason, engine.step_number)
    return trace


def _judge(trace: Trace, tol: float) -> None:
    """Whether the ELBO has come to rest: medians of two windows, twice in a row."""
    values = [row["elbo"] for row in trace.history[trace.since :]]
    if len(values) < 2 * WINDOW:
        return
    last, before = np.median(values[-WINDOW:]), np.median(values[-2 * WINDOW : -WINDOW])
    trace.slope = float((last - before) / max(abs(before), 1e-300))
    trace.waited = trace.waited + 1 if trace.slope < tol else 0
    if trace.waited >= CALM:
        trace.stop_reason = "converged"


def _reform(engine: Any) -> bool:
    problem = engine.problem
    size, length = problem.size.numpy(), problem.length.numpy()
    information = information_at(problem.family, problem.likelihood, size, length, engine.loc)
    forms = problem.family.forms | informed_forms(problem.family, engine.loc, engine.log_sd, information)
    if forms == problem.family.forms:
        return False
    log.info(
        "param: auto: %s", ", ".join(f"{k} {'centred' if v else 'non-centred'}" for k, v in forms.items())
    )
    engine.reform(*problem.family.reformed(engine.loc, engine.log_sd, forms, information))
    return True
