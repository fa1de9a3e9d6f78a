"""How a fit goes whichever engine moves the posterior: ELBO, form of the axes, stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nmfbench.fitting.engine import Engine, Row, part_of
from nmfbench.models.nb_hierarchical.start import information_at, informed_forms

log = logging.getLogger(__name__)

WINDOW = 5
"""Evaluations of each of the two windows whose medians are compared."""
CALM = 2
"""Comparisons in a row without a gain that end a fit."""


class VariationalFit(Engine):
    """Moves a posterior by a row of steps at a time, and judges its ELBO.

    Parameters
    ----------
    ascent : ExactEngine, EntriesEngine or PlatesEngine
        ``advance(steps)``, ``loc``, ``log_sd``, ``step_number``, ``problem``, ``rows`` (steps of a row of
        the history), ``share_of_a_step`` (of a pass), ``parameter_change`` (smallest of the row), ``reform``,
        ``state`` and ``load_state``.
    max_iter : int
        Steps, at most.
    stop_rule : {"elbo", "parameters"}
    tol : float
        Of ``elbo``: the relative gain between two windows of evaluations; of ``parameters``: the relative
        change.
    auto_forms : bool
        Whether the axes' forms are decided once more after a tenth of the steps.
    describe : callable
        What a watcher is shown.

    Attributes
    ----------
    slope : float
        Gain of the last comparison, relative.
    """

    remedy = "lower learning_rate"

    def __init__(
        self,
        ascent: Any,
        *,
        max_iter: int,
        stop_rule: str,
        tol: float,
        auto_forms: bool,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self.ascent, self.max_iter, self.stop_rule, self.tol = ascent, max_iter, stop_rule, tol
        self.auto_forms, self.describe = auto_forms, describe
        self.limit = max_iter * ascent.share_of_a_step
        self.elbos: list[float] = []  # since the axes took their form: before, they are of another posterior
        self.waited = 0  # comparisons in a row without a gain
        self.forms_checked = self.at_rest = False
        self.slope = math.nan

    @property
    def clock(self) -> float:
        return self.ascent.step_number * self.ascent.share_of_a_step

    @property
    def steps(self) -> int:
        return int(self.ascent.step_number)

    @property
    def iterations(self) -> tuple[int, str]:
        return self.steps, "step"

    def advance(self, pause: Callable[[], bool]) -> Row:
        """The steps of one row."""
        ascent = self.ascent
        ascent.advance(min(ascent.rows, self.max_iter - ascent.step_number))
        tenth = ascent.step_number >= self.max_iter // 10
        if self.auto_forms and tenth and not self.forms_checked:
            self.forms_checked = True
            if _reform(ascent):
                self.elbos, self.waited = [], 0
        fit, rest, _ = ascent.problem.elbo(ascent.loc, ascent.log_sd, 1)
        self._judge(fit + rest, tenth or not self.auto_forms)
        n = ascent.problem.family.n_cells
        return {
            "epoch": self.clock,
            "step": ascent.step_number,
            "objective": -(fit + rest) / n,
            "likelihood": -fit / n,
            "divergence": -rest / n,
            "elbo": fit + rest,
            "elbo_per_entry": (fit + rest) / ascent.problem.likelihood.n_entries,
            "parameter_change": ascent.parameter_change,
        }

    def has_converged(self) -> bool:
        return self.at_rest

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        record = {key: getattr(self, key) for key in _KEPT}
        arrays = {f"ascent.{key}": value for key, value in self.ascent.state().items()}
        return arrays, record | {"forms": self.ascent.problem.family.forms}

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        self.ascent.load_state(part_of(arrays, "ascent"), record["forms"])
        for key in _KEPT:
            setattr(self, key, record[key])

    def _judge(self, elbo: float, settled: bool) -> None:
        """Whether the fit has come to rest: medians of two windows of ELBOs, twice in a row."""
        if not math.isfinite(elbo):
            return  # the loop refuses it
        self.elbos.append(elbo)
        if self.stop_rule == "parameters":
            self.at_rest = self.ascent.parameter_change < self.tol
            return
        if not settled or len(self.elbos) < 2 * WINDOW:
            return
        last, before = np.median(self.elbos[-WINDOW:]), np.median(self.elbos[-2 * WINDOW : -WINDOW])
        self.slope = float((last - before) / max(abs(before), 1e-300))
        self.waited = self.waited + 1 if self.slope < self.tol else 0
        self.at_rest = self.waited >= CALM


_KEPT = ("elbos", "waited", "forms_checked", "at_rest", "slope")


def _reform(ascent: Any) -> bool:
    """Take the form of each axis that suits the present posterior; whether one changed."""
    problem = ascent.problem
    size, length = problem.size.numpy(), problem.length.numpy()
    information = information_at(problem.family, problem.likelihood, size, length, ascent.loc)
    forms = problem.family.forms | informed_forms(problem.family, ascent.loc, ascent.log_sd, information)
    if forms == problem.family.forms:
        return False
    log.info(
        "param: auto: %s", ", ".join(f"{k} {'centred' if v else 'non-centred'}" for k, v in forms.items())
    )
    ascent.reform(*problem.family.reformed(ascent.loc, ascent.log_sd, forms, information))
    return True
