"""Cards of the baselines, and their sections of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources


class Components(ModelSection):
    """What principal components are made of."""

    n_genes: int | None = Field(
        3000, ge=2, description="Most variable genes (scanpy's flavour `seurat`); none: all genes."
    )
    n_pcs: int | None = Field(None, ge=1, description="Components; none: as many as the rank.")


class PCA(Components):
    """Principal components of the log-normalised, most variable genes."""

    kind: Literal["pca"] = "pca"


class Harmony(Components):
    """Harmony on these components, by the dataset's condition columns; needs the package harmonypy."""

    kind: Literal["harmony"] = "harmony"
    max_iter: int = Field(10, ge=1, description="At most this many rounds.")
    theta: float = Field(2.0, ge=0, description="How much a cluster of one donor is penalised.")


def _card(section, estimator, name, colour, marker, **more) -> ModelCard:
    return ModelCard(
        section=section,
        estimator=estimator,
        display_name=name,
        colour=colour,
        marker=marker,
        revision=1,
        resources=Resources(3000, 12),
        role="baseline",
        gpu=False,
        non_negative=False,
        **more,
    )


CARDS = (
    _card(PCA, "PCA", "PCA", "#7A4B1F", "o"),
    _card(Harmony, "Harmony", "Harmony", "#B58A5A", "s", conditional=True, unseen_donors=False),
)
