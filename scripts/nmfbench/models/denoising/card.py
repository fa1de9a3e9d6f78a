"""Cards of the denoising models, and their sections of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, OnDevice, Resources
from nmfbench.section import Fraction


class Denoising(ModelSection):
    """What the denoising models share."""

    max_iter: int = Field(500, ge=1, description="At most this many sweeps over the genes.")
    tol: Fraction = Field(
        1e-5, description="Stop after three sweeps that lower the objective by less than this share."
    )
    gram_memory_mb: float = Field(
        6144, ge=0, description="MiB for the Gram matrices; where they need more, the nonzeros are used."
    )
    penalty_W: Fraction = Field(1e-2, description="Weight of ||W||² (lambda_W).")
    init: Literal["nndsvd", "random"] = Field(
        "nndsvd", description="Start of W: NNDSVD or random, scaled to the data."
    )
    embedding: Literal["projection", "least_squares"] = Field(
        "projection",
        description="What is scored of a cell x: the projection x Wᵀ; or the h >= 0 with the least "
        "||x - h W||², by W alone: no donor is asked for. The projection stays in the result under its key.",
    )

    def parameters(self) -> dict[str, Any]:
        found = super().parameters()
        if self.embedding == "projection":  # as before there was a choice: no fit is run again
            del found["embedding"]
        return found


class Communality(Denoising):
    """What those share that tell a gene's common variance from its own."""

    n_axes: int = Field(
        10,
        ge=1,
        description="Axes of what genes share (principal axis factoring), at most one for each factor. More "
        "leave single genes axes of their own, and factors copy them.",
    )


class SplitCounts(Communality):
    """What the models of split counts share."""

    communality: bool = Field(
        True,
        description="Ask a gene for what it shares with other genes alone: a factor earns nothing by what "
        "one gene has for itself, in both halves of its counts.",
    )
    n_splits: int = Field(1, ge=1, description="Random splits of the counts whose objectives are averaged.")


class SplitNMF(SplitCounts):
    """Autoencoding NMF of split counts: each half of a cell's counts is written from the other half."""

    kind: Literal["ae_nmf_split"] = "ae_nmf_split"


class BlindNMF(Denoising):
    """Autoencoding NMF with a blind spot: each gene is written from all other genes."""

    kind: Literal["ae_nmf_blind"] = "ae_nmf_blind"

    def begins_from_statistics(self) -> bool:
        return True


class CommonNMF(Communality):
    """Autoencoding NMF of common variance: what a gene has for itself, noise included, is not asked for."""

    kind: Literal["ae_nmf_common"] = "ae_nmf_common"

    def begins_from_statistics(self) -> bool:
        return True


class AlikeInClusters(ModelSection):
    """What those share that ask donors to be alike in every cluster of cells."""

    penalty_U: Fraction = Field(1e-1, description="Weight of ||U||² of the donor profiles (lambda_U).")
    penalty_invariance: float = Field(
        100.0,
        ge=0,
        description="Weight of the differences between the donors' means within a cluster of cells (gamma); "
        "0: none, and no clusters.",
    )
    n_clusters: int = Field(
        15, ge=1, description="Clusters of cells (k-means) within which donors are to be alike."
    )


class OwnLoadings(ModelSection):
    """What those share that have loadings of their own for each donor."""

    penalty_U: Fraction = Field(5e-2, description="Weight of ||U||² of the donor loadings (lambda_U).")
    save_u: bool = Field(False, description="Keep all donor loadings (donors x k x genes) in the result.")

    def begins_from_statistics(self) -> bool:
        return True


class AdditiveCommonNMF(AlikeInClusters, Communality):
    """Conditional AE-NMF of common variance, with the donors alike in every cluster that it finds."""

    kind: Literal["cae_nmf1_common"] = "cae_nmf1_common"


class OwnLoadingsCommonNMF(OwnLoadings, Communality):
    """Conditional AE-NMF of common variance, with loadings of its own for each donor."""

    kind: Literal["cae_nmf2_common"] = "cae_nmf2_common"


class AdditiveSplitNMF(AlikeInClusters, SplitCounts):
    """Conditional AE-NMF of split counts, with the donors alike in every cluster that it finds.

    No better than `cae_nmf1_common` on average, and slower: to compare with it, docs/denoising.md.
    """

    kind: Literal["cae_nmf1_split"] = "cae_nmf1_split"


class OwnLoadingsSplitNMF(OwnLoadings, SplitCounts):
    """Conditional AE-NMF of split counts, with loadings of its own for each donor.

    No better than `cae_nmf2_common` but in NMI, and slower: to compare with it, docs/denoising.md.
    """

    kind: Literal["cae_nmf2_split"] = "cae_nmf2_split"

    def begins_from_statistics(self) -> bool:
        return False  # sums have no molecules to deal out


class AdditiveBlindNMF(AlikeInClusters, Denoising):
    """Conditional AE-NMF with a blind spot, with the donors alike in every cluster that it finds."""

    kind: Literal["cae_nmf1_blind"] = "cae_nmf1_blind"


class OwnLoadingsBlindNMF(OwnLoadings, Denoising):
    """Conditional AE-NMF with a blind spot, with loadings of its own for each donor."""

    kind: Literal["cae_nmf2_blind"] = "cae_nmf2_blind"
    penalty_U: Fraction = Field(
        2.0,
        description="Weight of ||U||² of the donor loadings (lambda_U). Where it is small they write alone, "
        "and the encoder is left to pick single genes.",
    )


class OfCounts(OnDevice):
    """What an estimator has that normalises the counts itself; the config says it in `normalisation`."""

    target_sum: float | None = Field(
        1e4, gt=0, description="Every cell's counts, and either half of them, are scaled to this sum."
    )
    log1p: bool = Field(True, description="Then log(1 + x).")


_RESOURCES = Resources(9000, 12)
_NO_MASK = "it writes normalised values and has no density of counts"

CARDS = (
    ModelCard(
        section=SplitNMF,
        estimator="AENMFSplit",
        display_name="AE_NMF_split",
        colour="#0000BF",
        marker=">",
        revision=3,
        resources=_RESOURCES,
        input="counts",
        normalises=True,
        no_mask=_NO_MASK,
    ),
    ModelCard(
        section=BlindNMF,
        estimator="AENMFBlind",
        display_name="AE_NMF_blind",
        colour="#3F0000",
        marker="<",
        revision=1,
        resources=_RESOURCES,
        needs=frozenset({"statistics"}),
    ),
    ModelCard(
        section=CommonNMF,
        estimator="AENMFCommon",
        display_name="AE_NMF_common",
        colour="#E500E5",
        marker="8",
        revision=2,
        resources=_RESOURCES,
        needs=frozenset({"statistics"}),
    ),
    ModelCard(
        section=AdditiveCommonNMF,
        estimator="CAENMF1Common",
        display_name="CAE_NMF1_common",
        colour="#55007F",
        marker="d",
        revision=2,
        resources=_RESOURCES,
        conditional=True,
    ),
    ModelCard(
        section=OwnLoadingsCommonNMF,
        estimator="CAENMF2Common",
        display_name="CAE_NMF2_common",
        colour="#55D47F",
        marker="H",
        revision=2,
        resources=_RESOURCES,
        needs=frozenset({"statistics"}),
        conditional=True,
        one_condition=True,
        own_loadings=True,
    ),
    ModelCard(
        section=AdditiveSplitNMF,
        estimator="CAENMF1Split",
        display_name="CAE_NMF1_split",
        colour="#FF1E69",
        marker="$\u2665$",  # every filled marker of one letter is another model's
        revision=1,
        resources=_RESOURCES,
        input="counts",
        normalises=True,
        no_mask=_NO_MASK,
        conditional=True,
    ),
    ModelCard(
        section=OwnLoadingsSplitNMF,
        estimator="CAENMF2Split",
        display_name="CAE_NMF2_split",
        colour="#7878FF",
        marker="$\u25d7$",
        revision=1,
        resources=_RESOURCES,
        input="counts",
        normalises=True,
        no_mask=_NO_MASK,
        conditional=True,
        one_condition=True,
        own_loadings=True,
    ),
    ModelCard(
        section=AdditiveBlindNMF,
        estimator="CAENMF1Blind",
        display_name="CAE_NMF1_blind",
        colour="#AA0000",
        marker="$\\clubsuit$",
        revision=1,
        resources=_RESOURCES,
        conditional=True,
    ),
    ModelCard(
        section=OwnLoadingsBlindNMF,
        estimator="CAENMF2Blind",
        display_name="CAE_NMF2_blind",
        colour="#005500",
        marker="$\\spadesuit$",
        revision=1,
        resources=_RESOURCES,
        needs=frozenset({"statistics"}),
        conditional=True,
        one_condition=True,
        own_loadings=True,
    ),
)
