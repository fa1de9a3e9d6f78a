"""Baseline where targets are seen: a target does what it did in the training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nmfbench.perturbation.predictors.base import Baseline, PredictorSettings, mean_change

if TYPE_CHECKING:
    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


class Settings(PredictorSettings):
    """The target's own mean profile in the training cells; the mean of all for a target without any."""

    kind: Literal["target_mean"] = "target_mean"
    title: ClassVar[str] = "Target mean"
    needs_seen: ClassVar[bool] = True


class Predictor(Baseline):
    """The target's own mean profile; of an unseen target the mean of perturbed, flagged."""

    def predict(self, fold: Fold, log=None) -> Prediction:
        import numpy as np

        place = {name: row for row, name in enumerate(fold.trained_names)}
        shared, profiles = mean_change(fold), fold.trained.profiles - fold.control.profile
        change = np.array([profiles[place[name]] if name in place else shared for name in fold.asked])
        flags = ["" if name in place else "unseen target: shared response" for name in fold.asked]
        return fold.from_profiles(change.reshape(-1, len(fold.control.mean)), flags)
