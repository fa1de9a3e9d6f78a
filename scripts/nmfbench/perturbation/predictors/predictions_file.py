"""Somebody's predicted cells, scored beside all others."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from nmfbench.perturbation.predictors.base import Baseline, PredictorSettings


class Settings(PredictorSettings):
    """Cells of an .h5ad: counts in X, the target in the screen's column of obs, genes by name."""

    kind: Literal["predictions_file"] = "predictions_file"
    path: str = Field(description="The .h5ad with the predicted cells, control cells among them or not.")
    allow_non_integer: bool = Field(False, description="Accept values that are not whole numbers.")
    title: ClassVar[str] = "Predictions file"
    trained: ClassVar[bool] = False


class Predictor(Baseline):
    """Nothing to fit: see :func:`nmfbench.perturbation.predicted.read_predictions`."""
