"""Baseline: a perturbation does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nmfbench.perturbation.predictors.base import Baseline, PredictorSettings

if TYPE_CHECKING:
    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


class Settings(PredictorSettings):
    """The mean of the control cells, for every target."""

    kind: Literal["control_mean"] = "control_mean"
    title: ClassVar[str] = "Control"


class Predictor(Baseline):
    """The mean of the control cells, for every target."""

    def predict(self, fold: Fold, log=None) -> Prediction:
        import numpy as np

        return fold.from_profiles(np.zeros((len(fold.asked), len(fold.control.mean))))
