"""The whole configuration, and what its sections ask of each other."""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import Field, model_validator

from nmfbench.config.comparison import Comparison, Fit
from nmfbench.config.dataset import Dataset, Normalisation
from nmfbench.config.evaluation import (
    Classification,
    Clustering,
    Deviance,
    DonorCV,
    DonorTransfer,
    Integration,
    TensorBoard,
    Umap,
    Uncertainty,
)
from nmfbench.config.factors import Factors, Projection
from nmfbench.config.model import CARDS, Models
from nmfbench.config.perturbation import Perturbation
from nmfbench.config.predictors import Predictors
from nmfbench.config.profiles import described
from nmfbench.config.statistics import RankSelection, Statistics
from nmfbench.models.card import ModelCard
from nmfbench.paths import path_name
from nmfbench.section import Column, Device, Name, Rank, Section, Seed

_FOLDERS_OF_RESULTS = {"logs", "benchmarks", "across_datasets"}
_FOLDERS_OF_A_DATASET = {"comparisons", "figures", "partial_tables", "statistics", "tables"}


class Config(Section):
    """The whole configuration of a run."""

    profile: Literal["published", "cz-benchmarks", "fast"] = Field(
        "published",
        description="Set of keys that the others are changes of (docs/tables.md): the published protocol, "
        "that of cz-benchmarks, or a cheap one for an atlas. It is written into the tables.",
    )
    datasets: dict[Name, Dataset] = Field(min_length=1, description="One entry for each dataset.")
    models: Models = Field(
        {name: {} for name in ("base_nmf", "ae_nmf", "cae_nmf1", "cae_nmf2")},
        min_length=1,
        validate_default=True,
        description="One entry for each model. The key is the name in paths; `kind` names the model where "
        "the key is not one (for variants).",
    )
    ranks: list[Rank] = Field([80], min_length=1, description="Numbers of factors k.")
    seeds: list[Seed] = Field(
        [42], min_length=1, description="Training seeds. The CSVs hold the first; all are in scores.tsv."
    )
    device: Device = Field(
        "auto",
        description="Where the autoencoders train: auto, cpu, cuda, or mps (untested on a Mac).",
    )
    scoring_device: Literal["cpu", "cuda", "auto"] = Field(
        "cpu",
        description="Where nearest neighbours are searched and `logistic_regression` is fitted; these jobs "
        "then ask for a GPU. `auto`: on one where there is one, but not in jobs that also grow a forest, "
        "which would hold it for hours. Neighbours are the same to the last bit, predictions but for one in "
        "a thousand.",
    )
    normalisation: Normalisation = Field(Normalisation(), description="From counts to what is factorised.")
    out_of_core: Literal["auto"] | bool = Field(
        "auto",
        description="Whether the autoencoders leave the cells on disk while they train. `auto`: where the "
        "nonzeros need more than `in_memory_mb`. Minibatches are then drawn from a shuffled copy of the "
        "counts, which is removed at the end.",
    )
    in_memory_mb: float = Field(
        8192, gt=0, description="MiB that the nonzeros may take in memory, at 16 bytes each."
    )
    statistics: Statistics = Field(Statistics(), description="Sufficient statistics, gathered in one pass.")
    rank_selection: RankSelection = Field(
        RankSelection(), description="Which rank the data support, from the statistics."
    )
    labels: list[Column] = Field(
        ["cell_type", "donor_id"], min_length=1, description="Columns of obs that embeddings are scored by."
    )
    clustering: Clustering = Field(Clustering(), description="Clustering scores.")
    classification: Classification = Field(Classification(), description="Classification scores.")
    donor_cv: DonorCV = Field(DonorCV(), description="Scores with donors held out of the classifiers.")
    donor_transfer: DonorTransfer = Field(
        DonorTransfer(), description="Scores with donors held out of the fits."
    )
    deviance: Deviance = Field(Deviance(), description="Counts set aside, on one scale for all models.")
    integration: Integration = Field(Integration(), description="Integration scores.")
    uncertainty: Uncertainty = Field(Uncertainty(), description="Intervals.")
    umap: Umap = Field(Umap(), description="UMAP figures.")
    factors: Factors = Field(Factors(), description="What is said of the factors of each fit.")
    projections: dict[Name, Projection] = Field(
        {}, description="New cells to be embedded, one entry for each file; none by default."
    )
    tensorboard: TensorBoard = Field(TensorBoard(), description="Logs of the fits for TensorBoard.")
    perturbation: Perturbation = Field(
        Perturbation(), description="The second task (docs/perturbation.md), for datasets that have it."
    )
    predictors: Predictors = Field(
        {
            name: {}
            for name in ("control_mean", "perturbed_mean", "nearest_target", "bilinear_ridge", "nb_glm")
        },
        min_length=1,
        validate_default=True,
        description="Predictors of the second task, as `models` are of the first.",
    )
    devices: list[int | str] | None = Field(
        None,
        description="GPUs of one machine without a scheduler, for the second task: a job takes the first "
        "that is free (`[0, 1]`, `cuda:2`; `cpu` or -1 is none).",
    )
    comparisons: list[Comparison] = Field(
        [], description="Pairs of fits whose factors are matched, in every dataset; none by default."
    )

    @model_validator(mode="after")
    def _comparisons_are_in_the_grid(self) -> Config:
        grid = {"model": list(self.models), "rank": self.ranks, "seed": self.seeds}
        for place, comparison in enumerate(self.comparisons):
            for key, side in comparison.sides():
                for part, known in grid.items():
                    value = getattr(side, part)
                    if value is not None and value not in known:
                        where = f"comparisons.{place}.{key}" + f".{part}" * (key != "seeds_of")
                        raise ValueError(f"{where}: {value!r} is not one of the {part}s {known}")
            if comparison.seeds_of is not None and len(self.seeds) < 2:
                raise ValueError(f"comparisons.{place}.seeds_of: it needs two seeds, got {self.seeds}")
            if any(one == other for one, other in comparison.pairs(self.ranks, self.seeds)):
                raise ValueError(f"comparisons.{place}: a fit is compared with itself")
        return self

    @model_validator(mode="after")
    def _names_of_folders_are_free(self) -> Config:
        for key, taken in (("datasets", _FOLDERS_OF_RESULTS), ("models", _FOLDERS_OF_A_DATASET)):
            if hit := sorted(set(getattr(self, key)) & taken):
                raise ValueError(
                    f"{key}.{hit[0]}: results have a folder of this name; call it otherwise "
                    f"(taken: {', '.join(sorted(taken))})"
                )
        if len(self.label_paths) < len(set(self.labels)):
            raise ValueError(f"labels: two of {self.labels} have one name in names of files")
        if self.device == "mps" and sys.platform != "darwin":
            raise ValueError(f"device: mps is Metal of a Mac, this machine runs {sys.platform}")
        return self

    @model_validator(mode="after")
    def _ranks_fit_the_data(self) -> Config:
        for name in self.datasets_with("embedding"):
            dataset, limits = self.datasets[name], {}
            if dataset.genes.select == "hvg":
                limits["genes.n_top"] = dataset.genes.n_top
            if dataset.simulate is not None:
                limits |= {
                    f"simulate.{key}": getattr(dataset.simulate, key) for key in ("n_cells", "n_genes")
                }
            for key, most in limits.items():
                if max(self.ranks) > most:
                    raise ValueError(f"ranks: {max(self.ranks)} is above datasets.{name}.{key} ({most})")
        return self

    @model_validator(mode="after")
    def _names_fit_together(self) -> Config:
        for key in ("ranks", "seeds", "labels"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: {values} holds a value twice")
        for name in self.datasets_with("embedding"):
            dataset = self.datasets[name]
            known = {"cell_type", "donor_id", *dataset.condition_columns, *dataset.keep_obs}
            if missing := [label for label in self.labels if label not in known]:
                raise ValueError(f"labels: add {missing} to datasets.{name}.keep_obs, so that they are kept")
            if len(dataset.condition_columns) > 1 and (
                models := [key for key, model in self.models.items() if CARDS[model.kind].one_condition]
            ):
                raise ValueError(
                    f"datasets.{name}.condition_columns: {models[0]} is conditioned on one column, "
                    f"got {dataset.condition_columns}"
                )
        shown = [self.display_name(name) for name in self.models]
        if len(set(shown)) < len(shown):
            raise ValueError(f"models: two models share a display_name in {shown}")
        return self

    @model_validator(mode="after")
    def _factors_and_projections_have_their_fits(self) -> Config:
        chosen = self.factors.matched_with
        if chosen is not None and chosen not in self.models:
            raise ValueError(f"factors.matched_with: {chosen!r} is not one of the models {list(self.models)}")
        for name, section in self.models.items():
            if section.kind != "consensus":
                continue
            able = [key for key in self.models if self.card(key).role not in ("external", "consensus")]
            if section.of not in able:
                raise ValueError(f"models.{name}.of: {section.of!r} is none of the trained models {able}")
        for name, asked in self.projections.items():
            asked.check(f"projections.{name}", self.datasets, self.models)
            for model in asked.models:
                if why := self.card(model).own_cells_only:
                    raise ValueError(f"projections.{name}.models: {model!r} embeds no new cells; it is {why}")
            if not self.projecting_models(name):
                raise ValueError(f"projections.{name}: none of the models embeds new cells")
        return self

    @model_validator(mode="after")
    def _held_out_donors_have_a_label(self) -> Config:
        for key in ("donor_cv", "donor_transfer"):
            if getattr(self, key).enabled and not self.donor_labels:
                raise ValueError(
                    f"{key}: the only label is the donor, and a donor that is held out cannot be predicted; "
                    "add another to `labels`, such as cell_type"
                )
        if unknown := [name for name in self.donor_transfer.models if name not in self.models]:
            raise ValueError(f"donor_transfer.models: {unknown} are none of the models {list(self.models)}")
        if unable := [name for name in self.donor_transfer.models if not self.card(name).unseen_donors]:
            raise ValueError(
                f"donor_transfer.models: {unable} have no place for cells of donors that they never saw"
            )
        return self

    @property
    def donor_labels(self) -> list[str]:
        """Labels that can be predicted in donors that are held out: all but the donor."""
        return [label for label in self.labels if label != "donor_id"]

    def transferred_models(self) -> list[str]:
        """Models that are fitted anew without a group of donors."""
        if not self.donor_transfer.enabled:
            return []
        able = [name for name in self.models if self.card(name).unseen_donors]
        return [name for name in able if name in (self.donor_transfer.models or able)]

    @model_validator(mode="after")
    def _embeddings_have_their_fits(self) -> Config:
        for name, embedding in self.perturbation.embeddings.items():
            if embedding.source != "fit" or not self.datasets_with("perturbation"):
                continue
            grid = {
                "dataset": self.datasets_with("embedding"),
                "model": list(self.models),
                "rank": self.ranks,
            }
            for key, known in grid.items():
                value = getattr(embedding, key)
                if value not in known:
                    raise ValueError(f"perturbation.embeddings.{name}.{key}: {value!r} is none of {known}")
        return self

    @property
    def protocol(self) -> str:
        """The profile, and what was changed of it."""
        return described(self)

    def datasets_with(self, task: str) -> list[str]:
        """Names of the datasets that have a task."""
        return [name for name, dataset in self.datasets.items() if task in dataset.tasks]

    @property
    def label_paths(self) -> dict[str, str]:
        """The scored labels by the names that they have in paths."""
        return {path_name(label): label for label in self.labels}

    def compared_fits(self) -> list[tuple[Fit, Fit]]:
        """Every pair of fits that `comparisons` asks for, once."""
        pairs = (pair for each in self.comparisons for pair in each.pairs(self.ranks, self.seeds))
        return list(dict.fromkeys(pairs))

    @model_validator(mode="after")
    def _rank_selection_has_its_models(self) -> Config:
        chosen = self.rank_selection
        for name in chosen.models:
            able = [key for key, model in self.models.items() if "statistics" in CARDS[model.kind].needs]
            if name not in able:
                raise ValueError(f"rank_selection.models: {name!r} is no autoencoder of `models`; {able} are")
            if chosen.by_unseen_molecules and (why := self._not_from_the_other_half(name)):
                raise ValueError(f"rank_selection.models: {name!r} by criterion unseen_molecules: {why}")
        if chosen.by_hidden_genes and chosen.held_out_shards >= self.statistics.shards:
            raise ValueError(
                f"rank_selection.held_out_shards: {chosen.held_out_shards} of {self.statistics.shards} "
                "statistics.shards leaves none to fit; give more shards"
            )
        for penalties in chosen.penalties:
            known = {
                key
                for name in chosen.models
                for key in type(self.models[name]).model_fields
                if key.startswith("penalty_")
            }
            if chosen.models and (unknown := sorted(set(penalties) - known)):
                raise ValueError(f"rank_selection.penalties: {unknown} are penalties of none of the models")
            if negative := sorted(key for key, value in penalties.items() if value < 0):
                raise ValueError(f"rank_selection.penalties: {negative} must not be negative")
        return self

    def _not_from_the_other_half(self, name: str) -> str | None:
        """Why a model does not write one half of the molecules as X WᵀW of the other; None where it does."""
        if self.card(name).conditional:
            return "it is told the donors; take a model that is not"
        if self.models[name].kind == "ae_nmf_blind":
            return "it leaves WᵀW's diagonal free; take ae_nmf or ae_nmf_common"
        return None

    @model_validator(mode="after")
    def _genes_are_scaled_where_fits_are_made(self) -> Config:
        scaled = [name for name, dataset in self.datasets.items() if dataset.gene_scaling != "none"]
        if scaled and self.rank_selection.by_hidden_genes:
            raise ValueError(
                f"gene_scaling of {scaled}: rank_selection by hidden_genes would fit the values as they are; "
                "leave one of them out, or set rank_selection.criterion: unseen_molecules"
            )
        return self

    def display_name(self, name: str) -> str:
        """Name of a model in CSVs and figures."""
        section = self.models[name]
        return section.display_name or (self.card(name).display_name if name == section.kind else name)

    def projecting_models(self, name: str) -> list[str]:
        """The models that embed the cells of a projection: those it names, or all that embed new cells."""
        asked = self.projections[name].models
        return asked or [model for model in self.models if not self.card(model).own_cells_only]

    def card(self, name: str) -> ModelCard:
        """Card of the model that a name in the config stands for."""
        return CARDS[self.models[name].kind]
