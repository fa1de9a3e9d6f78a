"""Cards of the autoencoding models, and their sections of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nmfbench.models.card import ModelCard, ModelSection, Resources
from nmfbench.renamed import Renamed, told_value
from nmfbench.section import Count, Fraction, one_message

# What `training: published` sets where the config does not say otherwise: the settings of the published
# runs, of which the solver, the start and the batches differ from ours (the reasons are in docs/models.md).
_PUBLISHED: dict[str, Any] = {
    "solver": "minibatch",
    "init": "uniform",
    "batches": "round_robin",
    "learning_rate_schedule": "constant",
}


Solver = Literal["statistics", "minibatch"]
MAX_ITER = {"statistics": 500, "minibatch": 100}
TOL = {"statistics": 1e-5, "minibatch": 1e-6}
"""What each solver takes where the key says nothing of it."""


class Autoencoder(ModelSection):
    """What the three autoencoding models share."""

    renamed: ClassVar[Mapping[str, Renamed]] = {
        "max_sweeps": Renamed("max_iter", ("statistics",)),
        "max_epochs": Renamed("max_iter", ("minibatch",)),
        "solver_tol": Renamed("tol", ("statistics",)),
        # a number was that of minibatches, whichever solver fitted
        "tol": Renamed("tol", ("minibatch",), unless=lambda given: str(given.get("solver")) == "minibatch"),
        "learning_rate_W": Renamed("learning_rate"),
    }
    not_parameters: ClassVar[frozenset[str]] = ModelSection.not_parameters | {"training"}
    published: ClassVar[dict[str, Any]] = {}
    """What `training: published` sets."""

    training: Literal["default", "published"] = Field(
        "default",
        description="`published`: the minibatches, start and row norm of the published runs, for "
        "comparison; keys given beside it win.",
    )
    solver: Literal["auto", "statistics", "minibatch"] = Field(
        "auto",
        description="`statistics`: all cells at once, by coordinate descent to the optimum. `minibatch`: "
        "Adam, which stops before it: another embedding. `auto`: `statistics`, by the route that is "
        "estimated to be sooner; `minibatch` with `row_norm` or `init: uniform`, which only it has.",
    )
    max_iter: Annotated[
        Count | dict[Solver, Count] | None,
        one_message(
            "a whole number of at least 1, or one for each solver: {statistics: 500, minibatch: 100}"
        ),
    ] = Field(
        None,
        description="At most this many iterations: sweeps over the genes (`statistics`), epochs "
        "(`minibatch`); a number, or one for each solver. null: `{statistics: 500, minibatch: 100}`.",
    )
    tol: Annotated[
        Fraction | dict[Solver, Fraction] | None,
        one_message(
            "a number of at least 0, or one for each solver: {statistics: 1.0e-5, minibatch: 1.0e-6}"
        ),
    ] = Field(
        None,
        description="The share by which the objective has to become lower. `statistics`: three sweeps below "
        "it end the fit; `minibatch`: `patience` epochs. One for each solver; a number alone is for "
        "`minibatch`. null: `{statistics: 1.0e-5, minibatch: 1.0e-6}`.",
    )
    patience: int = Field(
        6, ge=1, description="`minibatch`: stop after this many epochs without a better objective."
    )
    gram_memory_mb: Annotated[
        Fraction | Literal["auto"], one_message("a number of MiB of at least 0, or 'auto'")
    ] = Field(
        "auto",
        description="`statistics`: MiB for XᵀX; where it needs more, the nonzeros of X are used (with "
        "`shared_statistics`: it is left on disk). `auto`: 6144 in memory; on a GPU what is free there.",
    )
    batch_size: int = Field(512, ge=1, description="Cells in a minibatch.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step for the loadings W.")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="`cosine`: the steps fall to zero over `max_iter`."
    )
    precision: Literal["float32", "tf32"] = Field(
        "float32",
        description="Products of the steps of minibatches on a card. `tf32`: faster, of numbers cut to 10 "
        "bits; the objective is computed in full all the same. On a CPU both are float32, and `run.json` "
        "says so.",
    )
    penalty_W: Fraction = Field(1e-2, description="Weight of ||W||² (lambda_W).")
    row_norm: bool = Field(False, description="Scale the rows of W to unit norm after each step.")
    init: Literal["nndsvd", "random", "uniform"] = Field(
        "nndsvd",
        description="Start of W: NNDSVD or random, scaled to the data; `uniform` is the published start.",
    )

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("training") == "published":
            return {**_PUBLISHED, **cls.published, **given}
        return given

    @model_validator(mode="after")
    def _solver_has_the_options(self) -> Autoencoder:
        if self.solver == "statistics" and (self.init == "uniform" or self.row_norm):
            raise ValueError(
                "solver: statistics has neither init: uniform nor row_norm: true; leave them out, or set "
                "solver: minibatch"
            )
        return self

    def most_epochs(self) -> int:
        """Passes over the cells that minibatches take at most."""
        return told_value(self.max_iter, "minibatch", MAX_ITER["minibatch"])

    def passes(self) -> int:
        """As :meth:`most_epochs`: sweeps over the genes are the shorter way."""
        return self.most_epochs()

    def begins_from_statistics(self) -> bool:
        return not self.row_norm and self.init != "uniform" and self.solver != "minibatch"

    def shuffled_order(self, gathered: bool) -> Literal["by_type", "plain"] | None:
        if gathered or self.begins_from_statistics():
            return None
        return "by_type" if self.batches in ("proportional", "round_robin") else "plain"


class AENMF(Autoencoder):
    """Autoencoding NMF with tied weights."""

    published: ClassVar[dict[str, Any]] = {"row_norm": False}

    kind: Literal["ae_nmf"] = "ae_nmf"
    batches: Literal["proportional", "round_robin", "random"] = Field(
        "proportional",
        description="How batches are drawn. `proportional` and the published `round_robin` use the cell "
        "types; `random` uses no label.",
    )


class CAENMF1(Autoencoder):
    """Conditional AE-NMF with an additive profile for each donor."""

    published: ClassVar[dict[str, Any]] = {"row_norm": True, "update_U": "adam"}

    kind: Literal["cae_nmf1"] = "cae_nmf1"
    batches: Literal["proportional", "round_robin", "random"] = Field(
        "proportional", description="As in ae_nmf."
    )
    learning_rate_U: float = Field(5e-4, gt=0, description="Adam's step for the donor profiles U.")
    penalty_U: Fraction = Field(1e-1, description="Weight of ||U||² (lambda_U).")
    update_U: Literal["adam", "closed_form"] = Field(
        "closed_form", description="How U is updated: set to its optimum given W, or by Adam as published."
    )
    penalty_invariance: Fraction = Field(
        1e-3,
        description="Weight of the donor-invariance penalty (gamma). Uses the cell types; 0 is off.",
    )
    penalty_hsic: Fraction = Field(5e-4, description="Weight of the HSIC penalty (eta).")
    centred_invariance: bool = Field(
        False, description="Penalise donor means about the cell type's mean, not the mean itself."
    )
    warmup_epochs: int = Field(5, ge=0, description="Epochs before the two penalties are switched on.")


class CAENMF2(Autoencoder):
    """Conditional AE-NMF with loadings of its own for each donor."""

    published: ClassVar[dict[str, Any]] = {"row_norm": True}

    kind: Literal["cae_nmf2"] = "cae_nmf2"
    batches: Literal["by_condition", "proportional", "round_robin", "random"] = Field(
        "by_condition",
        description="`by_condition`: cells of one donor in a batch; the rest as in ae_nmf.",
    )
    learning_rate_U: float = Field(5e-4, gt=0, description="Adam's step for the donor loadings U.")
    penalty_U: Fraction = Field(5e-2, description="Weight of ||U||² (lambda_U).")
    save_u: bool = Field(False, description="Keep all donor loadings (donors x k x genes) in the result.")

    def shuffled_order(self, gathered: bool) -> Literal["by_type", "plain"] | None:
        # The Gram matrices of all donors may turn out too large, and the cells are then read after all.
        return super().shuffled_order(False)


# 9000 MB leave room for gram_memory_mb.
_RESOURCES = Resources(9000, 12)
_NEEDS = frozenset({"statistics", "shuffled"})

CARDS = (
    ModelCard(
        section=AENMF,
        estimator="AENMF",
        display_name="AE_NMF",
        colour="#E69F00",
        marker="s",
        revision=1,
        resources=_RESOURCES,
        needs=_NEEDS,
    ),
    ModelCard(
        section=CAENMF1,
        estimator="CAENMF1",
        display_name="CAE_NMF1",
        colour="#009E73",
        marker="^",
        revision=1,
        resources=_RESOURCES,
        needs=_NEEDS,
        conditional=True,
    ),
    ModelCard(
        section=CAENMF2,
        estimator="CAENMF2",
        display_name="CAE_NMF2",
        colour="#56B4E9",
        marker="D",
        revision=1,
        resources=_RESOURCES,
        needs=_NEEDS,
        conditional=True,
        one_condition=True,
        own_loadings=True,
    ),
)
