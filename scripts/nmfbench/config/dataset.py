"""Config sections of a dataset: where it comes from and what is kept of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from nmfbench.config.perturbation import Screen, SimulatedScreen, screen_defaults
from nmfbench.section import Column, Section, Seed, no_value_twice

Columns = Annotated[list[Column], AfterValidator(no_value_twice)]


class Matrix(Section):
    """Where the counts lie in the .h5ad and what is accepted as counts."""

    source: str = Field(
        "auto",
        description="`auto` (raw.X where there is one, else X), `X`, `raw`, or the name of a layer.",
    )
    assume: Literal["check", "counts"] = Field(
        "check",
        description="`check`: the values must look like counts. `counts`: take them as they are, with a "
        "warning in run.json; `{source: X, assume: counts}` reproduces the published input.",
    )
    allow_non_integer: bool = Field(
        False, description="Accept values that are not whole numbers, with a warning in run.json."
    )


class Genes(Section):
    """Which genes are kept."""

    select: Literal["none", "min_cells", "hvg"] = Field(
        "none",
        description="`none`: all; `min_cells`: seen in enough cells; `hvg`: highly variable "
        "(seurat_v3 on the counts of the kept cells).",
    )
    min_cells: int = Field(10, ge=1, description="`min_cells`: a gene is kept when seen in this many cells.")
    n_top: int = Field(2000, ge=1, description="`hvg`: how many genes are kept.")


class Simulation(Section):
    """A simulated atlas in the CELLxGENE layout, deterministic by seed."""

    n_cells: int = Field(3000, ge=50, description="Cells of the large donors and the small ones together.")
    n_genes: int = Field(1500, ge=20, description="Genes.")
    n_cell_types: int = Field(8, ge=2, description="Cell types; each mixes several shared gene programs.")
    n_donors: int = Field(6, ge=1, description="Donors with enough cells.")
    n_small_donors: int = Field(2, ge=0, description="Further donors below the cell minimum.")
    mean_counts: float = Field(1500.0, gt=0, description="Mean counts of a cell (log-normal).")
    library_spread: float = Field(0.35, ge=0, description="Standard deviation of the log of a cell's counts.")
    ambient: float = Field(0.1, ge=0, lt=1, description="Mean share of a donor's own additive profile.")
    donor_strength: float = Field(
        0.35, ge=0, description="Standard deviation of the log of the donors' factors on program genes."
    )
    dispersion: float = Field(
        0.0, ge=0, description="Negative binomial counts with variance mu + dispersion mu²; 0 is Poisson."
    )
    spatial: bool = Field(
        False,
        description='Coordinates of the cells (`obsm["spatial"]`): a section for each donor, a band of it '
        "for each cell type.",
    )
    seed: Seed = Field(0, description="Seed of the simulation.")


class Dataset(Section):
    """One dataset. `path`, `url`, `simulate` or `simulate_screen` says where it comes from: exactly one."""

    tasks: list[Literal["embedding", "perturbation"]] = Field(
        ["embedding"], min_length=1, description="What is made of it: embeddings, predictions of a screen."
    )
    screen: Screen | None = Field(None, description="`perturbation`: which columns say what was done.")
    path: str | None = Field(None, min_length=1, description="A local .h5ad file, used in place.")
    url: str | None = Field(
        None,
        description="Where the .h5ad is downloaded from (https, or s3 if public); needs `sha256`.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^([0-9a-f]{64}|unknown)$",
        description="Checksum of the downloaded file. `unknown`: it is not checked, and the log says which "
        "it was, to be written here.",
    )
    size: int | None = Field(
        None, ge=1, description="Bytes of the download, where known: checked before the checksum."
    )
    expected_cells: int | None = Field(
        None, ge=1, description="Cells that are known to be left; another number is a warning in the report."
    )
    simulate: Simulation | None = Field(None, description="Simulate the dataset instead of reading one.")
    simulate_screen: SimulatedScreen | None = Field(None, description="Simulate a perturbation screen.")
    cell_type_column: str = Field(
        "cell_type", min_length=1, description="Column of obs with the cell type; written out as `cell_type`."
    )
    donor_column: str = Field(
        "donor_id", min_length=1, description="Column of obs with the donor; written out as `donor_id`."
    )
    condition_columns: Columns = Field(
        ["donor_id"],
        min_length=1,
        description="Columns that the conditional models are conditioned on. cae_nmf1 takes several; "
        "cae_nmf2 takes one.",
    )
    keep_obs: Columns = Field(
        [], description="Further columns of obs to carry into the results (needed for further `labels`)."
    )
    obs_filters: dict[str, Any] = Field(
        {},
        description="Keep only cells whose column has this value, or one of this list; for example "
        '`assay: ["10x 3\' v3"]`.',
    )
    min_cells_per_donor: int = Field(
        5000, ge=1, description="Donors with fewer cells (after the filters) are dropped."
    )
    shared_statistics: Literal["auto"] | bool = Field(
        "auto",
        description="Gather the sufficient statistics of all cells once, in a pass of its own, and fit every "
        "autoencoder with `solver: auto` or `statistics` from them. `auto`: where that is estimated to save "
        "a minute (docs/statistics.md); never for a `url`, whose size is not known in time.",
    )
    matrix: Matrix = Field(Matrix(), description="Where the counts lie.")
    genes: Genes = Field(Genes(), description="Which genes are kept.")
    gene_scaling: Literal["none", "unit_variance", "sqrt"] = Field(
        "none",
        description="Divide each gene's normalised values by their standard deviation, or by its square root "
        "(`sqrt`); without centring. Models of normalised values only; loadings in results are on the "
        "scale of the values all the same (docs/denoising.md).",
    )

    @property
    def joined(self) -> bool:
        """Whether it is given as a pair of files, which are first made one."""
        return self.screen is not None and self.screen.test_path is not None

    @model_validator(mode="before")
    @classmethod
    def _of_a_screen(cls, data: Any) -> Any:
        return screen_defaults(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        sources = ("path", "url", "simulate", "simulate_screen")
        given = [key for key in sources if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of path, url and simulate is needed, got {given or 'none'}")
        if ("perturbation" in self.tasks) != (self.screen is not None):
            raise ValueError("tasks: perturbation and the section screen belong together")
        if self.url is not None and self.sha256 is None:
            raise ValueError(
                "a url needs its sha256, so that everybody computes on the same bytes (where nobody has "
                "published it: `sha256: unknown`, and then the one that the log says)"
            )
        if self.path is not None and (odd := re.search(r"[{}]|<\w+>", self.path)):
            raise ValueError(
                f"path: {odd.group()} means something to Snakemake; give a path without it (a link will do)"
            )
        if self.url is not None and re.match(r"\w+://[^/]*@", self.url):
            raise ValueError(
                "url: a password or user stands in it, which would be copied to manifest and report; write "
                "it into ~/.netrc, which downloads read"
            )
        return self

    @model_validator(mode="after")
    def _two_labels(self) -> Dataset:
        if "embedding" in self.tasks and self.cell_type_column == self.donor_column:
            raise ValueError(
                f"donor_column: {self.donor_column!r} is the cell_type_column as well; keeping types apart "
                "and mixing donors would be one score"
            )
        return self


class Normalisation(Section):
    """What happens to the counts of a cell before they are factorised."""

    target_sum: float = Field(1e4, gt=0, description="Every cell's counts are scaled to this sum.")
    log1p: bool = Field(True, description="Then log(1 + x).")
