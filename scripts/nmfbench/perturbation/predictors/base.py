"""What the predictors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from nmfbench.section import Section

if TYPE_CHECKING:
    import numpy as np

    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold


SHARED = "no vector: shared response"
"""Flag of a target without a vector in the embedding."""


class PredictorSettings(Section):
    """Keys of every predictor."""

    display_name: str | None = Field(None, min_length=1, description="Name in tables and figures.")

    title: ClassVar[str] = ""
    uses_embedding: ClassVar[bool] = False
    uses_gpu: ClassVar[bool] = False
    trained: ClassVar[bool] = True
    needs_seen: ClassVar[bool] = False


class Baseline:
    """A predictor whose model is what it predicts.

    Parameters
    ----------
    settings : mapping
        Its section of the config.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    def predict(self, fold: Fold, log: Callable[[str], None] = lambda text: None) -> Prediction:
        """Fit to the training targets of `fold` and predict those it asks for."""
        raise NotImplementedError


def mean_change(fold: Fold) -> np.ndarray:
    """Mean over the training targets, each with the same weight, of the change of the profile, (genes,)."""
    return fold.trained.profiles.mean(axis=0) - fold.control.profile
