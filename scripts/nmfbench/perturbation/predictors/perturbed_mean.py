"""Baseline: every perturbation does what the others do on average."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nmfbench.perturbation.predictors.base import Baseline, PredictorSettings, mean_change

if TYPE_CHECKING:
    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


class Settings(PredictorSettings):
    """The mean of the training targets' profiles, for every target."""

    kind: Literal["perturbed_mean"] = "perturbed_mean"
    shrinkage: float = Field(1.0, ge=0, description="Share of the way from the control to the mean.")
    title: ClassVar[str] = "Mean of perturbed"


class Predictor(Baseline):
    """control + shrinkage * (mean of the training targets' profiles - control)."""

    def predict(self, fold: Fold, log=None) -> Prediction:
        import numpy as np

        change = self.settings["shrinkage"] * mean_change(fold)
        return fold.from_profiles(np.tile(change, (len(fold.asked), 1)))
