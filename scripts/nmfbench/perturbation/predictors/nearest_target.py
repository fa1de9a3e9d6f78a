"""Baseline: a target does what the nearest training target does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nmfbench.perturbation.predictors.base import SHARED, Baseline, PredictorSettings, mean_change

if TYPE_CHECKING:
    import numpy as np

    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


class Settings(PredictorSettings):
    """The training target whose vector has the largest cosine with the target's."""

    kind: Literal["nearest_target"] = "nearest_target"
    title: ClassVar[str] = "Nearest target"
    uses_embedding: ClassVar[bool] = True


class Predictor(Baseline):
    """The profile of the nearest training target; without a vector the mean of perturbed, flagged."""

    def predict(self, fold: Fold, log=None) -> Prediction:
        import numpy as np

        _, trained, asked, missing_trained, missing = fold.vectors()
        profiles = fold.trained.profiles - fold.control.profile
        if missing_trained.all():
            missing = np.ones(len(asked), dtype=bool)
        cosine = _unit(asked) @ _unit(trained).T
        cosine[:, missing_trained] = -np.inf
        nearest = cosine.argmax(axis=1)
        shared = mean_change(fold)
        change = np.where(missing[:, None], shared, profiles[nearest])
        flags = [
            SHARED if alone else f"nearest: {fold.trained_names[row]}"
            for alone, row in zip(missing, nearest, strict=True)
        ]
        return fold.from_profiles(change, flags)


def _unit(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
