"""Card of the hierarchical negative binomial model, and its section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nmfbench.models.card import ModelCard, ModelSection, OnDevice, Resources
from nmfbench.renamed import Renamed
from nmfbench.section import Fraction, Section, one_message

Share = Annotated[float, Field(ge=0, lt=1)]


class Nuts(Section):
    """A small panel on which the fit is compared with NUTS."""

    cells: int = Field(100, ge=2, le=500, description="Cells of the panel.")
    genes: int = Field(20, ge=2, le=300, description="Genes of the panel.")
    chains: int = Field(4, ge=2, description="Chains.")
    warmup: int = Field(500, ge=50, description="Steps of each chain before its draws.")
    draws: int = Field(500, ge=50, description="Draws of each chain.")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "engine": "exact",
        "priors": "default",
        "dispersion": "gene",
        "param": "auto",
        "offset": "total",
        "length": "none",
        "batch_size": 256,
        "optimizer": "adam",
        "learning_rate": 0.05,
        "max_iter": 1000,
        "stop": "elbo",
        "start": "informed",
        "marginals": "auto",
    },
    "published": {
        "engine": "entries",
        "priors": "published",
        "dispersion": "shared",
        "param": "noncentred",
        "offset": "constant",
        "length": "uniform",
        "batch_size": 128,
        "optimizer": "adagrad_window",
        "learning_rate": 1e-3,
        "max_iter": 300_000,
        "stop": "parameters",
        "start": "prior",
        "marginals": "mean_field",
    },
}
"""What a key that is not given is, by preset."""


def _by_preset(text: str, key: str) -> str:
    default, published = (PRESETS[name][key] for name in ("default", "published"))
    return f"{text} null: as the preset says, {default} (published: {published})."


TOL = {"elbo": 1e-5, "parameters": 0.01}
"""By `stop`."""


def _stops_by_elbo(given: Mapping[str, Any]) -> bool:
    preset = PRESETS.get(str(given.get("preset")), PRESETS["default"])
    stop = given.get("stop")
    return str(preset["stop"] if stop is None else stop) == "elbo"


class NBHierarchical(ModelSection):
    """Negative binomial counts about gene effects plus cell effects, by variational inference."""

    renamed: ClassVar[Mapping[str, Renamed]] = {
        "max_steps": Renamed("max_iter"),
        "tolerance": Renamed("tol", ("parameters",)),
        "tol": Renamed("tol", ("elbo",), unless=_stops_by_elbo),  # a number was that of `stop: elbo`
    }

    kind: Literal["nb_hierarchical"] = "nb_hierarchical"
    not_parameters: ClassVar[frozenset[str]] = ModelSection.not_parameters | {"nuts"}

    preset: Literal["default", "published"] = Field(
        "default", description="`published`: the notebook's model and settings; keys given beside it win."
    )
    engine: Literal["exact", "plates", "entries"] | None = Field(
        None,
        description=_by_preset(
            "`exact`: all counts in every step, at the cost of the nonzeros. `plates`: Pyro, cells and genes "
            "subsampled. `entries`: `batch_size` entries in a step, as published.",
            "engine",
        ),
    )
    priors: Literal["default", "published"] | None = Field(
        None, description=_by_preset("Priors; `published` has a mean of the cell effects beside.", "priors")
    )
    dispersion: Literal["gene", "shared"] | None = Field(
        None,
        description=_by_preset("One alpha a gene (log-normal), or one (half-Cauchy).", "dispersion"),
    )
    param: Literal["auto", "centred", "noncentred"] | None = Field(
        None,
        description=_by_preset(
            "How effects are written; `auto`: for each axis, centred where the prior is wider than what the "
            "counts say of one effect.",
            "param",
        ),
    )
    offset: Literal["total", "column", "constant", "none"] | None = Field(
        None,
        description=_by_preset(
            "Depth of each cell: its total, `depth_column` of obs, one number for all (the column's median; "
            "without a column 10,000), or none.",
            "offset",
        ),
    )
    depth_column: str | None = Field(None, description="Column of obs, for `offset`; see `keep_obs`.")
    length: Literal["none", "column", "uniform"] | None = Field(
        None,
        description=_by_preset(
            "Gene lengths: none (right for UMI counts), `length_column` of var, or drawn from 1,000 to 3,000 "
            "by the genes' names, as published.",
            "length",
        ),
    )
    length_column: str | None = Field(None, description="Column of var, for `length`.")
    offset_seed: int = Field(0, ge=0, description="Of `length: uniform`.")
    covariates: list[str] | None = Field(
        None,
        description="Columns of obs (batch, condition) whose levels have an effect on each gene; the first "
        "level is the reference.",
    )
    n_cells: int | None = Field(None, ge=2, description="Fit a random panel of so many cells; null: all.")
    n_genes: int | None = Field(None, ge=2, description="Fit a random panel of so many genes; null: all.")
    panel_seed: int = Field(0, ge=0, description="Of the panel, which goes by names.")
    start: Literal["informed", "prior"] | None = Field(
        None, description=_by_preset("`informed`: Newton's method; `prior`: the prior's middle.", "start")
    )
    batch_size: int | None = Field(
        None, ge=1, description=_by_preset("`plates`: cells of a step; `entries`: entries.", "batch_size")
    )
    batch_genes: int | None = Field(None, ge=1, description="`plates`: genes of a step; null: all.")
    guide: Literal["normal", "list"] = Field(
        "normal",
        description="`plates`: AutoNormal, or a list with a full covariance of the shared numbers.",
    )
    optimizer: Literal["adam", "adagrad_window"] | None = Field(
        None, description=_by_preset("`entries` and `plates`; `exact` has its own Adam.", "optimizer")
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description=_by_preset("Of the first steps; in `exact` counted in posterior sds.", "learning_rate"),
    )
    max_iter: int | None = Field(None, ge=1, description=_by_preset("At most this many steps.", "max_iter"))
    stop: Literal["elbo", "parameters"] | None = Field(
        None,
        description=_by_preset(
            "`elbo`: its median over five evaluations no longer gains, twice in a row. `parameters`: no "
            "parameter changes by `tol`, the published check.",
            "stop",
        ),
    )
    tol: Annotated[
        Fraction | dict[Literal["elbo", "parameters"], Fraction] | None,
        one_message("a number of at least 0, or one for each stop: {elbo: 1.0e-5, parameters: 0.01}"),
    ] = Field(
        None,
        description="`stop: elbo`: the relative gain of the ELBO that counts; `stop: parameters`: the "
        "relative change. One for each stop; a number alone is for `elbo`. "
        "null: `{elbo: 1.0e-5, parameters: 0.01}`.",
    )
    draws: int = Field(1000, ge=0, description="Posterior draws in trace.nc.")
    draws_mb: Fraction = Field(
        256, description="Without the cells' draws where all draws take more megabytes."
    )
    mask_fraction: Share = Field(
        0.0, description="Share of the entries (cell, gene) that are held out and scored."
    )
    held_out_fraction: Share = Field(
        0.0,
        description="Share of the molecules set aside by thinning; the score is comparable between models of "
        "counts.",
    )
    marginals: Literal["auto", "quadrature", "mean_field"] | None = Field(
        None,
        description=_by_preset(
            "Posteriors of cell effects and log dispersions, and of mean and sd of either axis: "
            "`mean_field`, or anew by `quadrature` after the fit; `auto`: of the axes that are non-centred, "
            "where a normal for each number by itself is too narrow.",
            "marginals",
        ),
    )
    nuts: Nuts | None = Field(None, description="Compare the fit with NUTS on a small panel.")

    def passes(self) -> int:
        """Steps at most, as though each took all cells."""
        return self.max_iter or PRESETS[self.preset]["max_iter"]

    def obs_columns(self) -> list[str]:
        """The depth's column, and the covariates'."""
        return [*filter(None, [self.depth_column]), *(self.covariates or [])]

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> NBHierarchical:
        if self.mask_fraction and self.held_out_fraction:
            raise ValueError("mask_fraction and held_out_fraction exclude each other")
        return self


class Given(OnDevice):
    """What the estimator takes beside its section."""

    covariates: Annotated[Any, "sequence of str or None"] = Field(
        None,
        description="Columns of `obs` whose levels have an effect on each gene; the first is the reference.",
    )


FILES = (
    "posterior_summary.tsv",
    "trace.nc",
    "held_out.tsv",
    "gene_checks.tsv",
    "cell_checks.tsv",
)
"""What a fit writes beside its result."""

CARDS = (
    ModelCard(
        section=NBHierarchical,
        estimator="NBHierarchical",
        display_name="NB_hierarchical",
        colour="#AB1578",
        marker="h",
        revision=4,  # shared numbers of centred axes at their optimum; the other axes by quadrature
        resources=Resources(megabytes=3000, megabytes_per_input=24),
        input="counts",
        non_negative=False,
        needs=frozenset({"names", "tables"}),
        files=FILES,
    ),
)
