"""Card of scikit-learn's NMF, and its section of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources


class BaseNMF(ModelSection):
    """scikit-learn's NMF by coordinate descent: the baseline."""

    kind: Literal["base_nmf"] = "base_nmf"
    init: Literal["nndsvda", "nndsvd", "nndsvdar", "random"] = Field(
        "nndsvda", description="Start, as in scikit-learn."
    )
    max_iter: int = Field(100, ge=1, description="At most this many sweeps.")
    tol: float = Field(1e-4, ge=0, description="scikit-learn's stopping rule on the projected gradient.")


CARDS = (
    ModelCard(
        section=BaseNMF,
        estimator="BaseNMF",
        display_name="Base_NMF",
        colour="#0072B2",
        marker="o",
        revision=1,
        resources=Resources(3000, 12),
        gpu=False,
    ),
)
