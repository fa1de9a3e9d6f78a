"""Baseline: a bilinear model of log1p profiles, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nmfbench.perturbation.predictors.base import SHARED, Baseline, PredictorSettings

if TYPE_CHECKING:
    import numpy as np

    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


class Settings(PredictorSettings):
    """``b + G W P'`` with ridge penalties on both sides (Ahlmann-Eltze et al. 2025)."""

    kind: Literal["bilinear_ridge"] = "bilinear_ridge"
    penalty_genes: float = Field(0.1, ge=0, description="Ridge on the side of the genes.")
    penalty_targets: float = Field(0.1, ge=0, description="Ridge on the side of the targets.")
    title: ClassVar[str] = "Bilinear ridge"
    uses_embedding: ClassVar[bool] = True


class Predictor(Baseline):
    """Y is genes x training targets, b its row mean: ``W = (G'G + l I)^-1 G' (Y - b) P (P'P + m I)^-1``."""

    def predict(self, fold: Fold, log=None) -> Prediction:
        genes, trained, asked, _, missing = fold.vectors()
        profiles = fold.trained.profiles - fold.control.profile
        mean = profiles.mean(axis=0)
        W = fit(
            genes,
            trained,
            (profiles - mean).T,
            self.settings["penalty_genes"],
            self.settings["penalty_targets"],
        )
        change = mean + asked @ W.T @ genes.T
        return fold.from_profiles(change, [SHARED if alone else "" for alone in missing])


def fit(
    G: np.ndarray, P: np.ndarray, Y: np.ndarray, penalty_genes: float, penalty_targets: float
) -> np.ndarray:
    """Solve for W of shape (width of genes, width of targets); Y is genes x targets."""
    import numpy as np

    left = G.T @ G + penalty_genes * np.eye(G.shape[1])
    right = P.T @ P + penalty_targets * np.eye(P.shape[1])
    # least squares where a penalty of zero leaves the system singular
    half = np.linalg.lstsq(left, G.T @ Y @ P, rcond=None)[0]
    return np.linalg.lstsq(right, half.T, rcond=None)[0].T
