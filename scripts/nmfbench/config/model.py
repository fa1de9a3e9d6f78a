"""Config sections of the models: one class for each kind, with its defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nmfbench.config.base import DisplayName, Fraction, Name, Section
from nmfbench.config.bayesian import PyroExponential, PyroGammaNB
from nmfbench.config.pnmf import PNMF, PNMFDonor, PNMFSpatial

DISPLAY_NAMES = {
    "base_nmf": "Base_NMF",
    "ae_nmf": "AE_NMF",
    "cae_nmf1": "CAE_NMF1",
    "cae_nmf2": "CAE_NMF2",
    "pyro_gamma_nb": "Pyro_GammaNB",
    "pyro_exponential": "Pyro_Exponential",
    "pnmf": "PNMF",
    "pnmf_donor": "PNMF_donor",
    "pnmf_spatial": "PNMF_spatial",
}

# What `training: published` sets where the config does not say otherwise: the
# settings of the published runs, of which the solver, the start and the batches differ
# from ours (the reasons are in docs/models.md).
_PUBLISHED = {
    "solver": "minibatch",
    "init": "uniform",
    "batches": "round_robin",
    "learning_rate_schedule": "constant",
}
PUBLISHED_TRAINING: dict[str, dict[str, Any]] = {
    "ae_nmf": {**_PUBLISHED, "row_norm": False},
    "cae_nmf1": {**_PUBLISHED, "row_norm": True, "update_U": "adam"},
    "cae_nmf2": {**_PUBLISHED, "row_norm": True},
}


class Model(Section):
    """What every model section has."""

    display_name: DisplayName | None = Field(
        None, description="Name in CSVs and figures; by default the model's own (`AE_NMF`), or this key."
    )


class BaseNMF(Model):
    """scikit-learn's NMF by coordinate descent: the baseline."""

    kind: Literal["base_nmf"] = "base_nmf"
    init: Literal["nndsvda", "nndsvd", "nndsvdar", "random"] = Field(
        "nndsvda", description="Start, as in scikit-learn."
    )
    max_iter: int = Field(100, ge=1, description="At most this many sweeps.")
    tol: float = Field(1e-4, ge=0, description="scikit-learn's stopping rule on the projected gradient.")


class Autoencoder(Model):
    """What the three autoencoding models share."""

    training: Literal["default", "published"] = Field(
        "default",
        description="`published`: the minibatches, start and row norm of the published runs, for "
        "comparison; keys given beside it win.",
    )
    solver: Literal["auto", "statistics", "minibatch"] = Field(
        "auto",
        description="`statistics`: all cells at once, by coordinate descent. `minibatch`: Adam. `auto`: the "
        "one that is estimated to be sooner at the same objective; `minibatch` with `row_norm` or "
        "`init: uniform`, which only it has. Where a dataset shares its statistics `auto` is `statistics`.",
    )
    max_sweeps: int = Field(500, ge=1, description="`statistics`: at most this many sweeps over the genes.")
    solver_tol: Fraction = Field(
        1e-5,
        description="`statistics`: stop after three sweeps that lower the objective by less than this share.",
    )
    gram_memory_mb: float = Field(
        6144,
        ge=0,
        description="`statistics`: MiB for XᵀX; where it needs more, the nonzeros of X are used (with "
        "`shared_statistics`: it is left on disk).",
    )
    max_epochs: int = Field(100, ge=1, description="`minibatch`: at most this many passes over the cells.")
    batch_size: int = Field(512, ge=1, description="Cells in a minibatch.")
    learning_rate_W: float = Field(1e-3, gt=0, description="Adam's step for the loadings W.")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="`cosine`: the steps fall to zero over `max_epochs`."
    )
    penalty_W: Fraction = Field(1e-2, description="Weight of ||W||² (lambda_W).")
    row_norm: bool = Field(False, description="Scale the rows of W to unit norm after each step.")
    init: Literal["nndsvd", "random", "uniform"] = Field(
        "nndsvd",
        description="Start of W: NNDSVD or random, scaled to the data; `uniform` is the published start.",
    )
    patience: int = Field(6, ge=1, description="Stop after this many epochs without a better objective.")
    tol: Fraction = Field(1e-6, description="What counts as better, relative to the best objective.")

    @model_validator(mode="before")
    @classmethod
    def _published(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("training") == "published":
            return {**PUBLISHED_TRAINING[cls.model_fields["kind"].default], **data}
        return data

    @model_validator(mode="after")
    def _solver_has_the_options(self) -> Autoencoder:
        if self.solver == "statistics" and (self.init == "uniform" or self.row_norm):
            raise ValueError(
                "solver: statistics has neither init: uniform nor row_norm: true; leave them out, or set "
                "solver: minibatch"
            )
        return self


class AENMF(Autoencoder):
    """Autoencoding NMF with tied weights."""

    kind: Literal["ae_nmf"] = "ae_nmf"
    batches: Literal["proportional", "round_robin", "random"] = Field(
        "proportional",
        description="How batches are drawn. `proportional` and the published `round_robin` use the cell "
        "types; `random` uses no label.",
    )


class CAENMF1(Autoencoder):
    """Conditional AE-NMF with an additive profile for each donor."""

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

    kind: Literal["cae_nmf2"] = "cae_nmf2"
    batches: Literal["by_condition", "proportional", "round_robin", "random"] = Field(
        "by_condition",
        description="`by_condition`: cells of one donor in a batch; the rest as in ae_nmf.",
    )
    learning_rate_U: float = Field(5e-4, gt=0, description="Adam's step for the donor loadings U.")
    penalty_U: Fraction = Field(5e-2, description="Weight of ||U||² (lambda_U).")
    save_u: bool = Field(False, description="Keep all donor loadings (donors x k x genes) in the result.")


MODEL_KINDS: dict[str, type[Model]] = {
    cls.model_fields["kind"].default: cls
    for cls in (BaseNMF, AENMF, CAENMF1, CAENMF2, PyroGammaNB, PyroExponential, PNMF, PNMFDonor, PNMFSpatial)
}


def _name_the_kind(models: Any) -> Any:
    """Let ``ae_nmf: {}`` mean ``ae_nmf: {kind: ae_nmf}``."""
    if not isinstance(models, dict):
        return models
    named = {}
    for name, section in models.items():
        section = {} if section is None else section
        if isinstance(section, dict) and "kind" not in section:
            section = {"kind": name, **section}
        named[name] = section
    return named


AnyModel = Annotated[
    BaseNMF | AENMF | CAENMF1 | CAENMF2 | PyroGammaNB | PyroExponential | PNMF | PNMFDonor | PNMFSpatial,
    Field(discriminator="kind"),
]
Models = Annotated[dict[Name, AnyModel], BeforeValidator(_name_the_kind)]
