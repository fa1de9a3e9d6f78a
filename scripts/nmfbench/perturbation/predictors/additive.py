"""Baseline for double perturbations: the changes of the two add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nmfbench.perturbation.predictors.base import Baseline, PredictorSettings, mean_change

if TYPE_CHECKING:
    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


class Settings(PredictorSettings):
    """The sum of the changes of the two single perturbations, where both were trained on."""

    kind: Literal["additive"] = "additive"
    title: ClassVar[str] = "Additive"


class Predictor(Baseline):
    """control + change of the first + change of the second; else the mean of perturbed, flagged."""

    def predict(self, fold: Fold, log=None) -> Prediction:
        import numpy as np

        place = {name: row for row, name in enumerate(fold.trained_names)}
        profiles, shared = fold.trained.profiles - fold.control.profile, mean_change(fold)
        separator = "+" if fold.embedding is None else fold.embedding.pair_separator
        change, flags = [], []
        for name in fold.asked:
            parts = name.split(separator)
            known = len(parts) > 1 and all(part in place for part in parts)
            change.append(sum(profiles[place[part]] for part in parts) if known else shared)
            flags.append("" if known else "no two single perturbations: shared response")
        return fold.from_profiles(np.array(change).reshape(-1, len(fold.control.mean)), flags)
