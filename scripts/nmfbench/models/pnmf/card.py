"""Cards of Poisson factorisation, and its sections of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nmfbench.models.card import CountModelSection, ModelCard, OnDevice, Resources
from nmfbench.section import Fraction


class PoissonFactorisation(CountModelSection):
    """What the three share."""

    mode: Literal["expanded", "simple", "lower-bound"] = Field(
        "expanded",
        description="What is maximised: the evidence bound (two Monte-Carlo estimates of it), or Jensen's "
        "bound below it, which needs no draws and half the steps.",
    )
    init: Literal["random", "nndsvd", "nndsvda", "nndsvdar", "k-means", "prior", "several"] = Field(
        "random",
        description="Start of the factors; `prior`: ln F drawn from its prior; `several`: the best of NNDSVD "
        "and three such draws after 25 sweeps each, by the bound.",
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

    @model_validator(mode="after")
    def _mask_needs_whole_steps(self) -> PoissonFactorisation:
        batches = [key for key in ("batch_size", "y_batch_size") if getattr(self, key, None) is not None]
        if self.mask_fraction and batches:
            raise ValueError(f"mask_fraction needs all cells and genes in each step: leave out {batches[0]}")
        return self


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
    donor_embedding: Literal["marginal", "own"] = Field(
        "marginal",
        description="What is scored. `marginal`: a cell's factors as of one of unknown donor, the "
        "multipliers at their prior mean, which is 1. `own`: under its donor's; a factor that the cell "
        "hardly uses then has a value of the donor's.",
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


class Details(OnDevice):
    """What the estimators have beside their sections, and what they take more widely."""

    n_components: int = Field(10, ge=1, description="Number of factors k.")
    verbose: bool = Field(False, description="A progress bar, whether or not stderr is a terminal.")
    init: Literal["random", "nndsvd", "nndsvda", "nndsvdar", "k-means", "prior", "several"] | None = Field(
        "random",
        description="Start of the factors, see :func:`nmfbench.models.pnmf.initialize_factors`; "
        "`several`: the best of NNDSVD and three draws of the prior after 25 sweeps each, by the bound.",
    )
    scheduler_patience: int = Field(200, ge=0, description="Of `plateau`: steps without a gain.")
    scheduler_factor: float = Field(0.8, gt=0, description="Of `plateau`: what the rate is multiplied by.")
    min_lr: float = Field(1e-5, ge=0, description="Of `plateau`: the smallest rate.")
    scheduler_pct_start: float = Field(0.3, ge=0, description="Of `one_cycle`: the share of rising steps.")
    scheduler_div_factor: float = Field(25.0, gt=0, description="Of `one_cycle`: highest over first rate.")
    scheduler_final_div_factor: float = Field(1e4, gt=0, description="Of `one_cycle`: first over last rate.")
    shuffle: bool = Field(True, description="Whether each pass takes the cells (genes) in a new order.")
    scale_ll_D: bool = Field(
        True,
        description="With `y_batch_size`: the sum over nonzeros is scaled to all genes, and the rates are "
        "those of all genes, exactly. False: the likelihood of the batch's genes as it is.",
    )
    tol_mode: Literal["relative", "absolute"] = Field(
        "relative", description="`absolute`: stop where two neighbouring ELBOs differ by less than `tol`."
    )
    eval_every: int = Field(25, ge=1, description="Steps between evaluations of a Monte-Carlo ELBO.")
    patience: int = Field(
        3, ge=1, description="Evaluations without a gain after which gradient training ends."
    )
    spatial: bool = Field(
        False, description="Whether factors are Gaussian processes over the cells' coordinates."
    )
    kernel: Literal["Matern32"] = Field("Matern32", description="`spatial`: the covariance.")
    jitter: float = Field(1e-5, gt=0, description="`spatial`: added to the diagonal of the covariance.")
    cholesky_mode: Literal["exp", "softplus"] = Field(
        "exp", description="`spatial`: how the diagonal of q's factor is kept positive."
    )
    diagonal_only: bool = Field(
        False,
        description="`spatial`: whether q of the inducing values has a diagonal covariance (in the whitened "
        "values).",
    )
    inducing_allocation: Literal["proportional", "equal", "derived"] = Field(
        "proportional", description="`multigroup`: how groups share the inducing points."
    )
    precompute_knn: bool = Field(True, description="`local`: whether neighbours are found once and kept.")
    scale_kl_NM: bool = Field(
        False,
        description="Without `local`: whether the divergence is multiplied by cells / inducing points. The "
        "objective is then no bound; for comparison with software that does it.",
    )


def _card(section, estimator, display_name, colour, marker, revision=1, **more) -> ModelCard:
    return ModelCard(
        section=section,
        estimator=estimator,
        display_name=display_name,
        colour=colour,
        marker=marker,
        revision=revision,
        resources=Resources(3000, 24, 60, 4),  # the counts by cell and by gene
        input="counts",
        **{"needs": frozenset({"names"})} | more,
    )


CARDS = (
    _card(PNMF, "PNMF", "PNMF", "#CC79A7", "v"),
    # revision 2: the factors that are scored are no longer those under the donor's own multipliers
    _card(PNMFDonor, "PNMFDonor", "PNMF_donor", "#D55E00", "P", 2, conditional=True, one_condition=True),
    _card(
        *(PNMFSpatial, "SpatialPNMF", "PNMF_spatial", "#8700FF", "p"),
        needs=frozenset({"coordinates", "names"}),
        own_cells_only="a model whose factors follow from a cell's place, not from its counts",
    ),
)
