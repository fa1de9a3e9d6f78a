"""Card of the toy, and its section of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources


class Toy(ModelSection):
    """A truncated singular value decomposition, whose numbers have signs."""

    kind: Literal["toy"] = "toy"
    n_iter: int = Field(4, ge=1, description="Power iterations.")


CARDS = (
    ModelCard(
        section=Toy,
        estimator="Toy",
        display_name="TOY",
        colour="#FF2D69",
        marker="8",
        revision=1,
        resources=Resources(1000, 2),
        role="baseline",
        gpu=False,
        non_negative=False,
    ),
)
