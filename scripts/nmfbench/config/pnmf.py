"""Config sections of Poisson factorisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.config.base import Fraction, Section


class PoissonFactorisation(Section):
    """What the two share."""

    display_name: str | None = Field(
        None, description="Name in CSVs and figures; by default the model's own, or this key."
    )
    mode: Literal["expanded", "simple", "lower-bound"] = Field(
        "expanded",
        description="What is maximised: the evidence bound (two Monte-Carlo estimates of it), or Jensen's "
        "bound below it, which needs no draws and half the steps.",
    )
    init: Literal["random", "nndsvd", "nndsvda", "nndsvdar", "k-means"] = Field(
        "random", description="Start of the factors."
    )
    exposure: Literal["total"] | None = Field(
        None,
        description="`total`: a cell's rates are in proportion to its sum of counts; null: the factors carry "
        "the depth too.",
    )
    learn_prior: bool = Field(False, description="Learn the prior's standard deviation of each factor.")
    max_iter: int = Field(
        200,
        ge=1,
        description="At most this many sweeps of coordinate ascent, and then as many steps of Adam.",
    )
    tol: Fraction = Field(1e-6, description="Stop where five sweeps raise the bound by less than this share.")


class PNMF(PoissonFactorisation):
    """Poisson NMF with a Gaussian latent."""

    kind: Literal["pnmf"] = "pnmf"
    engine: Literal["auto", "coordinate", "gradient"] = Field(
        "auto",
        description="`gradient`: the training loop that the keys below describe, in place of coordinate "
        "ascent; `auto` takes it where one of them asks for it.",
    )
    loadings_mode: Literal["projected", "softplus", "exp", "multiplicative"] = Field(
        "projected", description="`gradient`: how the loadings are kept non-negative."
    )
    training_mode: Literal["standard", "natural"] = Field(
        "standard", description="`natural`: natural-gradient steps of the posterior."
    )
    E: int = Field(3, ge=1, description="`gradient`: draws of a step.")
    learning_rate: float = Field(0.01, gt=0, description="`gradient`: the optimiser's step.")
    optimizer: Literal["Adam", "AdamW", "NAdam", "SGD", "RMSprop"] = Field(
        "Adam", description="`gradient`: the optimiser."
    )
    scheduler: Literal["one_cycle", "plateau"] | None = Field(
        "one_cycle", description="`gradient`: how the learning rate changes."
    )
    batch_size: int | None = Field(None, ge=1, description="`gradient`: cells of a step; null: all.")
    y_batch_size: int | None = Field(None, ge=1, description="`gradient`: genes of a step; null: all.")


class PNMFDonor(PoissonFactorisation):
    """Poisson NMF with a multiplier for every gene of every donor."""

    kind: Literal["pnmf_donor"] = "pnmf_donor"
    donor_strength: Fraction = Field(
        10.0, description="How many counts the belief weighs that donors do not differ (kappa)."
    )


class PNMFSpatial(PoissonFactorisation):
    """Poisson NMF whose factors are smooth over ``obsm["spatial"]``."""

    kind: Literal["pnmf_spatial"] = "pnmf_spatial"
    exposure: Literal["total"] | None = Field(
        "total",
        description="`total`: a cell's rates are in proportion to its sum of counts; null: smooth factors "
        "would have to carry the depth of each cell.",
    )
    learn_prior: Literal[False] = Field(False, description="Not there for this prior: set `sigma`.")
    lengthscale: float = Field(
        1.0, gt=0, description="Over what distance factors are alike, in the units of the coordinates."
    )
    sigma: float = Field(1.0, gt=0, description="Standard deviation of each factor's logarithm.")
    train_lengthscale: bool = Field(
        False, description="Seek the lengthscale with the highest bound, from `lengthscale` on."
    )
    multigroup: bool = Field(
        False,
        description="Processes of its own for every group of cells: the dataset's `condition_columns` "
        "(donors, or sections).",
    )
    group_diff_param: float = Field(
        10.0, ge=0, description="`multigroup`: from one process for all (0) to nearly independent ones (10)."
    )
    num_inducing: int = Field(3000, ge=1, description="Inducing points; as many as cells or more: the cells.")
    local: bool = Field(
        False, description="Condition each cell on its `K` neighbours, without inducing points."
    )
    K: int = Field(50, ge=1, description="`local`: neighbours.")
    neighbors: Literal["knn", "probabilistic"] = Field(
        "knn", description="`local`: the nearest, or drawn, the near ones more often."
    )
    batch_size: int | None = Field(None, ge=1, description="Cells of a step of Adam; null: all at once.")
    learning_rate: float = Field(0.01, gt=0, description="Adam's step, where there is no closed form.")
