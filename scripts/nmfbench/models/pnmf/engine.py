"""The stages of a fit, one after the other, as the loop of all fits drives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nmfbench.fitting.engine import Engine, Row
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.likelihood import relative_error
from nmfbench.models.pnmf.stages import Stage, Value


class StagedFit(Engine):
    """Take every stage to its end.

    Parameters
    ----------
    stages : list of callable
        Each builds a stage from the one before it.
    counts : Counts
    max_iter : int
        Steps of each stage, at most.
    tol, absolute
        Of the test of convergence.
    after_step : callable or None
        Called with the stage, the number of the step (from 0) and the ELBO before it.

    Attributes
    ----------
    stage : Stage
        The present one.
    learning_rates : list of float
        Of each step of a stage that has a schedule.
    """

    unit = "step"
    lags = True

    def __init__(
        self,
        stages: list[Callable[[Stage | None], Stage]],
        counts: Counts,
        *,
        max_iter: int,
        tol: float,
        absolute: bool,
        after_step: Callable[[Stage, int, float], None] | None = None,
    ) -> None:
        self.stages, self.counts, self.limit = stages, counts, max_iter * len(stages)
        self.tol, self.absolute, self.after_step = tol, absolute, after_step
        self.stage = stages[0](None)
        self.index = self.t = self.clock = 0
        self.values: list[float] = []
        self.learning_rates: list[float] = []
        self.done = self.came_to_rest = False
        self._gram: np.ndarray | None = None

    def advance(self, pause: Callable[[], bool]) -> Row:
        """One step, of the next stage where the present one is over; the row is of before it."""
        if self._stage_is_over():
            self.index += 1
            self.stage = self.stages[self.index](self.stage)
            self.t, self.values, self.done = 0, [], False
        stage = self.stage
        if (schedule := getattr(stage, "schedule", None)) is not None:
            self.learning_rates.append(schedule.at(self.t)[0])
        error = self._error()
        self._note_gram()
        value = stage.step(self.t)
        number = self.clock
        self.t, self.clock = self.t + 1, self.clock + 1
        self.values.append(value.elbo)
        self.done = stage.is_done(self.values, self.tol, self.absolute)
        if self._stage_is_over() and not stage.by_schedule:
            self.came_to_rest = self.done
        if self.after_step is not None:
            self.after_step(stage, number, value.elbo)
        return self._row(value, number, error)

    def has_converged(self) -> bool:
        return self.is_over() and self.came_to_rest

    def is_over(self) -> bool:
        return self.index == len(self.stages) - 1 and self._stage_is_over()

    def end(self) -> Row:
        value = self.stage.evaluate()
        self._note_gram()
        return self._row(value, self.clock, self._error())

    def gene_gram(self) -> np.ndarray | None:
        return self._gram

    def describe(self) -> dict[str, np.ndarray]:
        # W is a point, so that it has no deviation
        state = self.stage.posterior()
        A = state.mean_factors()
        return {
            "cell_factors": A.cpu().numpy(),
            "cell_factors_sd": (A * torch.expm1(state.v).sqrt()).cpu().numpy(),
            "gene_factors": state.W.T.cpu().numpy(),
        }

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, record = self.stage.state()
        names = ("index", "t", "clock", "values", "learning_rates", "done", "came_to_rest")
        return arrays, {**{name: getattr(self, name) for name in names}, "stage": record}

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        record = dict(record)
        stage = record.pop("stage")
        for name, value in record.items():
            setattr(self, name, value)
        for build in self.stages[1 : self.index + 1]:
            self.stage = build(self.stage)
        self.stage.load_state(arrays, stage)

    def _stage_is_over(self) -> bool:
        return self.done or self.t >= self.stage.steps

    def _row(self, value: Value, number: int, error: float) -> Row:
        n = self.counts.shape[0]
        return {
            "epoch": number,
            "objective": -value.elbo / n,
            "reconstruction": -value.log_likelihood / n,
            "divergence": value.divergence / n,
            "elbo": value.elbo,
            "bound": value.kind,
            "relative_error": error,
        }

    def _note_gram(self) -> None:
        W = self.stage.posterior().W
        self._gram = (W.T @ W).double().cpu().numpy()

    def _error(self) -> float:
        state = self.stage.posterior()
        return relative_error(self.counts, state.mean_factors(), state.W, state.scales)
