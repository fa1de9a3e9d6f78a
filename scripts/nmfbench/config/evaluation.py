"""Config sections of the scores and the figures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from nmfbench.metrics import DEFAULT_INTEGRATION_METRICS, INTEGRATION_METRICS, METRICS
from nmfbench.section import Name, Section, Seed, no_value_twice

Seeds = Annotated[list[Seed], AfterValidator(no_value_twice)]
ClassifierName = Literal[
    "logistic_regression",
    "knn",
    "random_forest",
    "random_forest_100k",
    "random_forest_intelex",
    "cz_logistic_regression",
    "cz_knn",
    "cz_random_forest",
]


class Clustering(Section):
    """Leiden clusters of the z-scored embedding, scored by ARI and NMI."""

    n_neighbours: int = Field(25, ge=2, description="Nearest neighbours (euclidean).")
    resolution: float = Field(0.8, gt=0, description="Leiden resolution.")
    n_iterations: int = Field(2, ge=-1, description="Leiden iterations; -1 runs until nothing improves.")
    flavor: Literal["igraph", "leidenalg"] = Field("igraph", description="Which Leiden implementation.")
    z_score: bool = Field(True, description="Whether factors are z-scored before the neighbours are found.")
    weighted: bool = Field(False, description="Whether Leiden weighs neighbours as UMAP's graph does.")
    seeds: Seeds = Field(list(range(10)), min_length=1, description="Leiden is repeated with these.")

    @model_validator(mode="after")
    def _leiden_moves_cells(self) -> Clustering:
        if self.n_iterations == 0:
            raise ValueError(
                "n_iterations: 1 or more, or -1, got 0: without an iteration each cell is its own cluster"
            )
        return self

    def settings(self) -> dict[str, Any]:
        """What a job is told; later keys only where they are set, so that nothing is made again for them."""
        later = {key for key in ("z_score", "weighted") if getattr(self, key) == self.default(key)}
        return self.model_dump(exclude=later)

    @classmethod
    def default(cls, key: str) -> Any:
        """What a key is, where the config does not say."""
        return cls.model_fields[key].default


class Classification(Section):
    """Cross-validated classification of the embedding."""

    min_cells_per_class: int = Field(10, ge=2, description="Rarer classes are left out.")
    n_folds: int = Field(5, ge=2, description="Stratified folds.")
    seeds: Seeds = Field([42, 52, 62, 72, 82], min_length=1, description="Shuffles of the folds.")
    classifiers: Annotated[
        list[ClassifierName],
        AfterValidator(no_value_twice),
    ] = Field(
        ["logistic_regression", "knn", "random_forest"],
        min_length=1,
        description="Multinomial logistic regression, 15 nearest neighbours, random forest of 200. For an "
        "atlas, instead of the last: `random_forest_100k` (fitted to 100,000 cells of a fold) or "
        "`random_forest_intelex` (scikit-learn-intelex, to be installed beside). Those that begin with `cz_` "
        "are of the profile `cz-benchmarks`.",
    )
    subsample: int | None = Field(None, ge=100, description="Classify a stratified sample of so many cells.")

    @model_validator(mode="after")
    def _each_fold_has_each_class(self) -> Classification:
        if self.n_folds > self.min_cells_per_class:
            raise ValueError(
                f"n_folds: at most min_cells_per_class ({self.min_cells_per_class}), got {self.n_folds}: a "
                "class of so few cells is not in every fold"
            )
        return self


class HeldOutDonors(Section):
    """What both scores of held-out donors have."""

    enabled: bool = Field(False, description="Whether these scores are made.")
    classifiers: Annotated[list[ClassifierName], AfterValidator(no_value_twice)] = Field(
        ["logistic_regression", "knn", "random_forest"], min_length=1, description="As in `classification`."
    )
    min_cells: int = Field(
        10, ge=1, description="A class is scored where `min_donors` donors have this many cells of it each."
    )
    min_donors: int = Field(2, ge=2, description="See `min_cells`.")


class DonorCV(HeldOutDonors):
    """Cross-validation in which whole donors are held out of the classifiers."""

    folds: int = Field(5, ge=2, description="Folds of donors; up to ten donors are held out one by one.")
    seeds: Seeds = Field([42, 52, 62], min_length=1, description="Deals of the donors.")


class DonorTransfer(HeldOutDonors):
    """Fits that never saw a group of donors, asked about their cells."""

    groups: int = Field(
        5, ge=2, description="Groups of donors; each is left out of one more fit of every model."
    )
    models: Annotated[list[Name], AfterValidator(no_value_twice)] = Field(
        [], description="Which models of `models`; empty: all that embed cells of other donors."
    )


class Deviance(Section):
    """How many of the counts set aside a model explains, by fits to the rest."""

    enabled: bool = Field(False, description="Whether every model is fitted once more, to thinned counts.")
    fraction: float = Field(0.1, gt=0, lt=1, description="Share of the molecules that is set aside.")
    seed: Seed = Field(0, description="Seed of the draw, the same for all models.")


class Integration(Section):
    """Scores of how an embedding mixes donors and keeps cell types, of the embedding as it is given."""

    metrics: Annotated[list[Literal[INTEGRATION_METRICS]], AfterValidator(no_value_twice)] = Field(
        list(DEFAULT_INTEGRATION_METRICS),
        description="Which of them; docs/tables.md says what each is. Empty: none. `kBET`: an extra package.",
    )
    silhouette_cells: int = Field(
        100_000, ge=100, description="Above so many cells, silhouettes are of a stratified sample."
    )
    entropy_neighbours: int = Field(90, ge=3, description="Neighbours that `batch_entropy` counts.")
    kbet_cells: int = Field(
        20_000, ge=100, description="Above so many cells, `kBET` is of a stratified sample, whose seed is 0."
    )

    def settings(self) -> dict[str, Any]:
        """What a job is told; a later key only where its score is wanted, so that nothing is made again."""
        return self.model_dump(exclude=set() if "kBET" in self.metrics else {"kbet_cells"})

    @property
    def environment(self) -> str:
        """Which of ``envs/*.yaml`` has what the scores need."""
        packages = [METRICS[name].package for name in self.metrics]
        return next((package.environment for package in packages if package), "evaluation")


class Uncertainty(Section):
    """Intervals over donors, in `intervals.tsv`."""

    replicates: int = Field(2000, ge=100, description="Draws of the bootstrap over donors.")
    seed: Seed = Field(0, description="Seed of the draws.")


class TensorBoard(Section):
    """Event files of the fits, for TensorBoard."""

    enabled: bool = Field(
        False, description="Write them, to `results/logs/tensorboard/`. A fit is the same either way."
    )
    state_every: int = Field(
        50,
        ge=0,
        description="Steps between two looks at the factors (maps, norms, moments); 0: the end alone.",
    )
    max_points: int | None = Field(
        5000, ge=10, description="At most so many cells (or genes) in maps, moments and projector; none: all."
    )


class Umap(Section):
    """The UMAP figures."""

    max_cells: int = Field(50_000, ge=100, description="Larger datasets are drawn from a stratified sample.")
    seed: Seed = Field(0, description="Seed of the UMAP.")
