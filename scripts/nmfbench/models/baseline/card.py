"""Cards of the baselines, and their sections of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources
from nmfbench.packages import HARMONYPY, SCVI_TOOLS


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


class VariationalAutoencoder(ModelSection):
    """What scVI and its linear form share; both need the package scvi-tools."""

    n_genes: int | None = Field(
        3000, ge=2, description="Most variable genes, chosen as for `pca`; none: all."
    )
    by_donor: bool = Field(True, description="Whether the condition columns are its batches.")
    n_hidden: int = Field(128, ge=1, description="Units of a hidden layer.")
    n_layers: int = Field(1, ge=1, description="Hidden layers.")
    likelihood: Literal["zinb", "nb", "poisson"] = Field("zinb", description="Of the counts.")
    max_iter: int | None = Field(
        None, ge=1, description="Epochs; none: scvi-tools' own, 400 or fewer the more cells there are."
    )
    early_stopping: bool = Field(False, description="Whether a tenth of the cells decides when to stop.")


class ScVI(VariationalAutoencoder):
    """scVI (Lopez et al. 2018): a variational autoencoder of counts."""

    kind: Literal["scvi"] = "scvi"


class LinearScVI(VariationalAutoencoder):
    """Linearly decoded scVI (Svensson et al. 2020): factors with loadings, of either sign."""

    kind: Literal["linear_scvi"] = "linear_scvi"
    likelihood: Literal["nb", "zinb", "poisson"] = Field("nb", description="Of the counts.")


MOVED = "an embedding moved by the donors and neighbours of its own cells"
NOT_KEPT = "an embedding by a network that the result does not keep"


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
    _card(
        *(Harmony, "Harmony", "Harmony", "#B58A5A", "s"),
        conditional=True,
        unseen_donors=False,
        own_cells_only=MOVED,
        package=HARMONYPY,
    ),
    *(
        ModelCard(
            section=section,
            estimator=section.__name__,
            display_name=name,
            colour=colour,
            marker=marker,
            revision=1,
            resources=Resources(6000, 30, minutes=120, minutes_per_input=5),
            role="baseline",
            input="counts",
            non_negative=False,
            conditional=True,
            unseen_donors=False,
            own_cells_only=NOT_KEPT,
            expects_values=False,
            package=SCVI_TOOLS,
            no_mask="scvi-tools reads whole cells: an entry that is left out would be one that was seen as 0",
        )
        for section, name, colour, marker in (
            (ScVI, "scVI", "#5E3A8C", "D"),
            (LinearScVI, "Linear_scVI", "#9C86BF", "^"),
        )
    ),
)
