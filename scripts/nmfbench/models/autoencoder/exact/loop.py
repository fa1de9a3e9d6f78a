"""The loop around coordinate sweeps: history, convergence, interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nmfbench.errors import InputError

REFRESH = 10  # sweeps between two exact recomputations of the images, which follow W with rounding errors


@dataclass
class SolverResult:
    """Where a solver ended.

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
        Sweeps or iterations over all runs that were resumed.
    converged : bool
    stop_reason : str
    history : list of dict
        One row per iteration, the start included: iteration, objective, its parts, relative_error, seconds,
        products (products with K so far).
    """

    W: np.ndarray
    U: np.ndarray | None
    objective: float
    parts: dict[str, float]
    relative_error: float
    n_iter: int
    converged: bool
    stop_reason: str
    history: list[dict] = field(default_factory=list)


class Problem(Protocol):
    """A model's objective on the statistics, with one sweep of descent."""

    settings: dict
    """What decides the result besides data and start, for a resumed run to agree with."""

    def refresh(self) -> None:
        """Recompute from W and U everything that follows them."""

    def evaluate(self) -> tuple[dict[str, float], float]:
        """Parts of the objective and the relative error, at the present W and U."""

    def sweep(self, relax: float) -> None:
        """One pass over all entries, which never raises the objective."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the parameters, by name."""

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what `arrays` gave."""

    @property
    def n_products(self) -> float:
        """Products with K so far."""


def descend(
    problem: Problem,
    *,
    max_iter: int,
    tol: float,
    relax: float,
    patience: int = 3,
    max_seconds: float | None = None,
    state: dict | None = None,
    callback: Callable[[int, dict], bool | None] | None = None,
    watch: Callable[[dict, dict | None], bool | None] | None = None,
) -> tuple[list[dict], bool, str]:
    """Sweep until the objective falls by less than `tol` of itself `patience` times in a row.

    Parameters
    ----------
    problem : Problem
    max_iter : int
        Sweeps in all, those before a resumption included.
    tol : float
        Relative decrease of the objective counted as none.
    relax : float
        Over-relaxation, from 1 (exact minimisation of each entry) to below 2.
    max_seconds : float, optional
        Stop at the first checkpoint after this time.
    state : dict, optional
        A state a callback was given; the run goes on from it and ends as if it had not been interrupted.
    callback : callable, optional
        Called with (iteration, state) every 10 sweeps; the state is a dict of arrays, its own copy. Returning
        True stops the run.
    watch : callable, optional
        Called at the start of a new run and after every sweep with (row, state): the history's new row, with
        `seconds_before`, the seconds of the runs before, and the state where a run can go on from here (every
        10 sweeps, the start and convergence included), else None. Returning True stops the run at once; it
        then goes on from the newest state.

    Returns
    -------
    history : list of dict
    converged : bool
    stop_reason : str
    """
    if not 1.0 <= relax < 2.0:
        raise InputError("relax", "a number from 1 to below 2", str(relax), "set relax to 1.8, the default")
    columns, rows, quiet, iteration, before = None, [], 0, 0, 0.0
    if state is not None:
        columns = [str(name) for name in state["history_columns"]]
        rows = [dict(zip(columns, row, strict=True)) for row in state["history"].tolist()]
        iteration, quiet = int(state["iteration"]), int(state["quiet"])
        before = rows[-1]["seconds"]
        _check_settings(json.loads(str(state["settings"])), problem.settings | {"relax": relax})
        problem.load(state)
    began = time.perf_counter()
    products_before = (rows[-1]["products"] if rows else 0.0) - problem.n_products

    def record() -> float:
        parts, relative_error = problem.evaluate()
        parts = {name: float(value) for name, value in parts.items()}
        row = {"iteration": iteration, "objective": sum(parts.values()), **parts}
        row["relative_error"] = float(relative_error)
        row["seconds"] = before + time.perf_counter() - began
        row["products"] = products_before + problem.n_products
        rows.append(row)
        return row["objective"]

    problem.refresh()
    if state is None:
        last = record()
        if watch is not None and np.isfinite(last):
            watch(rows[-1] | {"seconds_before": before}, _state(problem, rows, 0, 0, relax))
    else:
        problem.evaluate()
        last = rows[-1]["objective"]
    if not np.isfinite(last):
        raise InputError(
            "objective", "a finite number at the start", str(last), "check the data for NaN or infinity"
        )
    reason = "max_iter" if quiet < patience else "converged"
    while iteration < max_iter and quiet < patience:
        problem.sweep(relax)
        iteration += 1
        if iteration % REFRESH == 0:
            problem.refresh()
        value = record()
        quiet = quiet + 1 if last - value < tol * abs(value) or value == 0.0 else 0
        last = value
        if quiet >= patience:
            reason = "converged"
        elif iteration % REFRESH == 0:
            if max_seconds is not None and rows[-1]["seconds"] >= max_seconds:
                reason = "max_seconds"
            stop = False
            if callback is not None:
                stop = callback(iteration, _state(problem, rows, iteration, quiet, relax))
            if stop:
                reason = "interrupted"
        if watch is not None:
            whole = iteration % REFRESH == 0 or reason == "converged"
            state = _state(problem, rows, iteration, quiet, relax) if whole else None
            if watch(rows[-1] | {"seconds_before": before}, state) and reason == "max_iter":
                reason = "interrupted"
        if reason != "max_iter":
            break
    return rows, reason == "converged", reason


def _check_settings(begun: dict, present: dict) -> None:
    for name, value in present.items():
        if begun.get(name) != value:
            raise InputError(
                f"state: {name}", f"{begun.get(name)}, as the run began", str(value),
                f"resume with {name} as it was, or begin anew",
            )  # fmt: skip


def _state(problem: Problem, rows: list[dict], iteration: int, quiet: int, relax: float) -> dict:
    return {
        "settings": np.array(json.dumps(problem.settings | {"relax": relax})),
        **problem.arrays(),
        "iteration": np.array(iteration),
        "quiet": np.array(quiet),
        "history": np.array([list(row.values()) for row in rows], dtype=np.float64),
        "history_columns": np.array(list(rows[0])),
    }
