"""Config section of what is said of factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from nmfbench.config.dataset import Dataset
from nmfbench.section import Column, Name, Section


class Projection(Section):
    """Cells that no model was fitted to, to be embedded by the fits of a dataset."""

    path: str = Field(description="An .h5ad with raw counts of the same organism.")
    dataset: Name = Field(description="Dataset whose fits embed the cells.")
    models: list[Name] = Field([], description="Models of `models` that embed them; none: all that can.")
    matrix: str = Field("auto", description="Where the counts lie: auto, X, raw or the name of a layer.")
    labels: dict[Column, str | None] = Field(
        {"cell_type": None},
        min_length=1,
        description="Labels of the dataset that nearest neighbours give to the cells, each with the column "
        "of `path` that holds the truth, for scores, or null.",
    )
    n_neighbours: int = Field(15, ge=1, description="Neighbours that vote on a label.")

    def check(self, where: str, datasets: Mapping[str, Dataset], models: Mapping[str, Any]) -> None:
        """Refuse a dataset, model or label that the configuration does not have."""
        if self.dataset not in datasets:
            raise ValueError(f"{where}.dataset: {self.dataset!r} is not one of the datasets {list(datasets)}")
        if unknown := sorted(set(self.models) - set(models)):
            raise ValueError(f"{where}.models: {unknown} are not among the models {list(models)}")
        dataset = datasets[self.dataset]
        known = {"cell_type", "donor_id", *dataset.condition_columns, *dataset.keep_obs}
        if missing := sorted(set(self.labels) - known):
            raise ValueError(f"{where}.labels: add {missing} to datasets.{self.dataset}.keep_obs")


class Enrichment(Section):
    """Gene sets that the factors are tested for."""

    gene_sets: str | None = Field(
        None, description="A GMT file with symbols or Ensembl ids; none: factors are not tested."
    )
    method: Literal["ulm", "prerank"] = Field(
        "ulm",
        description="`ulm`: linear model of the gene scores on a set's membership, two-sided. `prerank`: "
        "GSEA's preranked test, as in the manuscript; needs gseapy (docs/factors.md).",
    )
    min_size: int = Field(5, ge=2, description="Genes that a set must have among those ranked.")
    max_size: int = Field(500, ge=2, description="Genes that a set may have among those ranked.")
    universe: Literal["gene_sets", "measured"] = Field(
        "gene_sets", description="Rank the genes that are in a set of the file, or all genes with a score."
    )
    n_permutations: int = Field(1000, ge=10, description="`prerank`: permutations.")
    seed: int = Field(0, ge=0, description="`prerank`: their seed.")

    @property
    def environment(self) -> str:
        """Which of ``envs/*.yaml`` has what the method needs: gseapy is in one alone."""
        return "enrichment" if self.method == "prerank" else "evaluation"


class Factors(Section):
    """What is said of the factors of each fit."""

    n_top_genes: int = Field(100, ge=1, description="Genes listed of each factor, by gene score.")
    matched_with: Name | None = Field(
        None,
        description="Model of `models` whose loadings the other models' are matched with in the figure of "
        "orthogonality; none: the first.",
    )
    enrichment: Enrichment = Field(Enrichment(), description="Gene sets that the factors are tested for.")
    across_datasets: bool = Field(
        False,
        description="Match the programs of every two datasets, model by model, on the genes that both have.",
    )
    starcat_reference: bool = Field(
        False, description="Write the programs of each fit in the form that starCAT reads."
    )
    n_reference_genes: int = Field(
        2000, ge=1, description="Genes of the starCAT reference: those that vary most for their mean."
    )
