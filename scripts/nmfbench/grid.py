"""The grid of a config: datasets, models, ranks and seeds, and the files that their jobs leave.

Pure functions of the config. Paths are written with Snakemake's path variables and wildcards,
``<results>/<fit>/run.json``; `spell` puts in what the variables stand for. Methods that a rule hands to
Snakemake take a job's wildcards: anything with ``dataset``, ``model``, ``rank`` ... as attributes.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmfbench.config import Config
    from nmfbench.models.card import ModelCard

NOTHING = "(?!)"
"""A pattern that matches nothing, for the wildcards of a rule without any job."""

COMPARISON = (
    "{dataset}/comparisons/{model}-rank-{rank}-seed-{seed}"
    "-with-{other_model}-rank-{other_rank}-seed-{other_seed}"
)
"""Two fits whose factors are matched; names of models have no hyphen, so the parts stay apart."""

ACROSS = "{dataset}/comparisons/{model}-rank-{rank}-seed-{seed}-with-dataset-{other_dataset}"
"""One model's fits of two datasets, whose programs are matched."""

PROJECTION = "{dataset}/projections/{projection}/{model}-rank-{rank}-seed-{seed}"
"""New cells, embedded by one fit."""

TABLES = (
    *("leaderboard", "scores", "folds", "resources", "coverage", "intervals", "comparisons"),
    "factor_summary",
)
FIGURES = (
    *("scores-rank-{rank}", "tradeoff-rank-{rank}", "training-rank-{rank}", "resources"),
    *("{model}/umap-rank-{rank}", "{model}/factors-rank-{rank}"),
    *("factor-statistics-rank-{rank}", "orthogonality-rank-{rank}"),
)
CSVS = ("clustering_metrics_by_{label}_k{rank}", "classification_summary_by_{label}_k{rank}")

STEPS = (
    *("train", "find_neighbours", "cluster_embedding", "score_clusters", "score_integration"),
    *("compute_umap", "transfer_to_donors", "score_held_out_counts"),
)
"""What is done once for each fit; beside them it is classified, once for each label and shuffle."""

BY_LABEL = ("classify_held_out_donors",)
"""What is done once for each fit and label but the donor."""


LEAST_DATASETS = 5
"""From so many on, models are compared by their ranks over datasets."""


def expand(pattern: str, **values: Any) -> list[str]:
    """Fill a pattern's wildcards with every combination of their values, the last one running fastest.

    Examples
    --------
    >>> expand("{model}/{rank}", rank=[3, 4], model=["a", "b"], seed=[1])
    ['a/3', 'b/3', 'a/4', 'b/4']
    """
    used = {field for _, field, *_ in string.Formatter().parse(pattern) if field}
    lists = {
        key: [value] if isinstance(value, (str, int)) else list(value)
        for key, value in values.items()
        if key in used
    }
    return [
        pattern.format(**dict(zip(lists, chosen, strict=True)))
        for chosen in itertools.product(*lists.values())
    ]


@dataclass(frozen=True)
class Grid:
    """What a config asks for, as fits and files.

    Parameters
    ----------
    config : Config
    spell : callable
        Puts in the path variables of a pattern: ``<results>/x`` becomes ``results/x``. Rules are given this.
    locate : callable
        Says where such a path lies, seen from the working directory: Snakemake puts the prefix of a module
        before the files of its rules, and before nothing else.
    """

    config: Config
    spell: Callable[[str], str]
    locate: Callable[[str], str] = str

    def place(self, pattern: str) -> str:
        """Where the file of a pattern lies; for what is no input or output of a rule."""
        return self.locate(self.spell(pattern))

    # ---- names

    def fit_of(self, kind: str) -> str:
        """Folder of a fit, for the models of one kind only."""
        names = "|".join(name for name, section in self.config.models.items() if section.kind == kind)
        return f"{{dataset}}/{{model,{names or NOTHING}}}/rank-{{rank}}/seed-{{seed}}"

    @property
    def first_fit(self) -> str:
        """Folder of the fit that things are drawn for: of the first training seed."""
        return f"{{dataset}}/{{model}}/rank-{{rank}}/seed-{self.config.seeds[0]}"

    def datasets_from(self, source: str) -> str:
        """Pattern of the datasets that come from `url` or `simulate`."""
        sections = self.config.datasets.items()
        return "|".join(name for name, section in sections if getattr(section, source) is not None) or NOTHING

    def display_names(self) -> dict[str, str]:
        """Name in figures and CSVs of every model, in the order of the config."""
        return {name: self.config.display_name(name) for name in self.config.models}

    def roles(self) -> dict[str, str]:
        """Role of every model, in the order of the config."""
        return {name: self.config.card(name).role for name in self.config.models}

    def kinds(self) -> dict[str, str]:
        """Kind of every model, in the order of the config; figures take colours by it."""
        return {name: section.kind for name, section in self.config.models.items()}

    # ---- files

    def fits(self, pattern: str, **fixed: Any) -> list[str]:
        """Expand a pattern over the grid of fits, with some of its wildcards fixed or widened."""
        config = self.config
        values = {
            **{"dataset": config.datasets_with("embedding"), "model": list(config.models)},
            **{"rank": config.ranks, "seed": config.seeds},
            **{"label": list(config.label_paths), "cv_seed": config.classification.seeds},
        }
        return expand(self.spell(pattern), **{**values, **fixed})

    def fits_of(self, pattern: str, *given: str) -> Callable[[Any], list[str]]:
        """An input function: the pattern over the fits of a job's dataset; wildcards named are the job's."""
        return lambda wildcards: self.fits(
            pattern, dataset=wildcards.dataset, **{key: getattr(wildcards, key) for key in given}
        )

    def compared_fits(self, pattern: str) -> list[str]:
        """Expand a pattern over the comparisons that the config asks for, in every dataset."""
        return [
            self.spell(pattern).format(
                dataset=dataset,
                **first._asdict(),
                **{f"other_{key}": value for key, value in second._asdict().items()},
            )
            for dataset in self.config.datasets_with("embedding")
            for first, second in self.config.compared_fits()
        ]

    def consensus_models(self) -> list[str]:
        """Models that are found from fits of others."""
        return [name for name, section in self.config.models.items() if section.kind == "consensus"]

    def members(self, file: str) -> Callable[[Any], list[str]]:
        """An input function: a file of each fit that a job's consensus is found from."""

        def of_job(wildcards: Any) -> list[str]:
            section = self.config.models[wildcards.model]
            return [
                self.spell(f"<results>/<fit>/{file}").format(
                    dataset=wildcards.dataset, model=section.of, rank=wildcards.rank, seed=seed
                )
                for seed in section.member_seeds(int(wildcards.seed))
            ]

        return of_job

    def projecting_fits(self, wildcards: Any) -> list[dict[str, Any]]:
        """The fits that embed a job's new cells: those of the first seed."""
        config = self.config
        return [
            {"dataset": wildcards.dataset, "model": model, "rank": rank, "seed": config.seeds[0]}
            for model in config.projecting_models(wildcards.projection)
            for rank in config.ranks
        ]

    def projected_fits(self, pattern: str) -> Callable[[Any], list[str]]:
        """An input function: the pattern over the fits that embed a job's new cells."""
        return lambda wildcards: [
            self.spell(pattern).format(projection=wildcards.projection, **fit)
            for fit in self.projecting_fits(wildcards)
        ]

    def targets(self) -> list[str]:
        """Everything the benchmark makes: tables and figures of every dataset."""
        wanted = [f"tables/{name}.csv" for name in CSVS]
        wanted += [f"tables/{name}.tsv" for name in TABLES] + [f"figures/{name}.png" for name in FIGURES]
        if self.config.rank_selection.by_hidden_genes:
            wanted += ["tables/rank_selection.tsv", "figures/rank_selection.png"]
        if self.config.rank_selection.by_unseen_molecules:
            wanted += ["tables/unseen_molecules.tsv", "figures/unseen_molecules.png"]
        files = [file for name in wanted for file in self.fits(f"<results>/{{dataset}}/{name}")]
        files += self.fits(f"<results>/{self.first_fit}/factors.html")
        if self.config.factors.across_datasets:
            for one, other in itertools.combinations(self.config.datasets, 2):
                name = f"<results>/{ACROSS}.tsv"
                files += self.fits(name, dataset=one, other_dataset=other, seed=self.config.seeds[0])
        if self.consensus_models():
            files += self.fits("<results>/{dataset}/figures/consensus.png")
            clustergrams = "<results>/{dataset}/figures/{model}/clustergram-rank-{rank}.png"
            files += self.fits(clustergrams, model=self.consensus_models())
        if self.config.factors.enrichment.gene_sets:
            files += self.fits("<results>/{dataset}/tables/enrichment_summary.tsv")
            files += self.fits("<results>/{dataset}/figures/enrichment-rank-{rank}.png")
        if self.config.factors.starcat_reference:
            able = [name for name in self.config.models if self.config.card(name).non_negative]
            files += self.fits("<results>/<fit>/starcat_reference.tsv", model=able)
        files += [
            self.spell(f"<results>/{asked.dataset}/projections/{name}/scores.tsv")
            for name, asked in self.config.projections.items()
        ]
        files += self._across_datasets()
        if self.config.deviance.enabled:
            files += self.fits("<results>/{dataset}/tables/deviance_explained.tsv")
        if self.config.donor_cv.enabled or self.config.donor_transfer.enabled:
            files += self.fits("<results>/{dataset}/tables/donors_held_out.tsv")
            files += self.fits("<results>/{dataset}/figures/donors-held-out-rank-{rank}.png")
        files += self._count_targets()
        files += self.compared_fits(f"<results>/{COMPARISON}.tsv")
        files += self.compared_fits(f"<results>/{COMPARISON}.png")
        return sorted(set(files))

    def _across_datasets(self) -> list[str]:
        """What several datasets have beside the tables and figures of each."""
        n = len(self.config.datasets_with("embedding"))
        if n < 2:
            return []
        folder = "<results>/across_datasets"
        files = self.fits(f"{folder}/tables/scores_across_datasets.tsv")
        files += self.fits(f"{folder}/figures/scores-by-{{label}}-rank-{{rank}}.png")
        ranked = [label for label in self.config.label_paths if label in ("cell_type", "donor_id")]
        if n >= LEAST_DATASETS:
            name = f"{folder}/figures/critical-differences-by-{{label}}-rank-{{rank}}.png"
            files += self.fits(name, label=ranked)
        return files

    def _checked_models(self) -> list[str]:
        """Models that check what they predict of counts."""
        return [name for name in self.config.models if "held_out.tsv" in self.config.card(name).files]

    def _count_targets(self) -> list[str]:
        """What models of counts are asked beside the scores of all models."""
        checked = self._checked_models()
        if not checked and not any(
            getattr(model, "mask_fraction", 0) for model in self.config.models.values()
        ):
            return []
        files = self.fits("<results>/{dataset}/tables/held_out_counts.tsv")
        files += self.fits("<results>/{dataset}/figures/{model}/count-checks-rank-{rank}.png", model=checked)
        compared = [name for name in checked if self.config.models[name].nuts is not None]
        return files + self.fits("<results>/{dataset}/figures/{model}/advi-vs-nuts.png", model=compared)

    def checked_fits(self, wildcards: Any, file: str) -> list[dict[str, Any]]:
        """Fits of a dataset that check what they predict, each with the place of one of its files."""
        return self._told_of(wildcards.dataset, self._checked_models(), file)

    def count_fits(self, wildcards: Any, file: str) -> list[dict[str, Any]]:
        """The same of all models of counts, and why one cannot leave entries out (``no_mask``)."""
        names = [name for name in self.config.models if self.config.card(name).input == "counts"]
        fits = self._told_of(wildcards.dataset, names, file)
        return [fit | {"no_mask": self.config.card(fit["model"]).no_mask} for fit in fits]

    def all_fits(self, wildcards: Any, file: str) -> list[dict[str, Any]]:
        """The same of all models."""
        return self._told_of(wildcards.dataset, list(self.config.models), file)

    def _told_of(self, dataset: str, models: list[str], file: str) -> list[dict[str, Any]]:
        return [
            {"file": self.spell(f"<results>/{dataset}/{model}/rank-{rank}/seed-{seed}/{file}")}
            | {"dataset": dataset, "model": model, "rank": rank, "seed": seed}
            for model in models
            for rank in self.config.ranks
            for seed in self.config.seeds
        ]

    def source_file(self, wildcards: Any) -> str:
        """The .h5ad a dataset starts from: the person's own file, or the one we download or simulate."""
        name = wildcards.dataset
        return self.config.datasets[name].path or self.spell(f"<results>/{name}/source.h5ad")

    # ---- what the tables are told

    def step_patterns(self, folder: str, suffix: str) -> dict[str, str]:
        """Path of the log or benchmark file of each step of a fit, with the wildcards left in."""
        steps = dict.fromkeys(STEPS, "<fit>")
        steps["classify_embedding"] = "<fit>/{label}-cv-seed-{cv_seed}"
        steps |= dict.fromkeys(BY_LABEL, "<fit>/{label}")
        return {step: self.place(f"{folder}/{step}/{fit}.{suffix}") for step, fit in steps.items()}

    @cached_property
    def logs(self) -> dict[str, str]:
        """Where each step of a fit leaves its log."""
        return self.step_patterns("<logs>", "log")

    @cached_property
    def benchmarks(self) -> dict[str, str]:
        """Where each step of a fit leaves its benchmark."""
        return self.step_patterns("<benchmarks>", "tsv")

    def held_out_counts(self, wildcards: Any) -> list[str]:
        """Scores of counts set aside, of every fit of a job's dataset."""
        if not self.config.deviance.enabled:
            return []
        return self.fits("<results>/<fit>/deviance_explained.tsv", dataset=wildcards.dataset)

    def held_out_donors(self, wildcards: Any) -> list[str]:
        """Scores of held-out donors of a job's dataset, by cross-validation and by transfer."""
        config, here = self.config, {"dataset": wildcards.dataset}
        files = []
        if config.donor_cv.enabled:
            labels = [path for path, label in config.label_paths.items() if label in config.donor_labels]
            files += self.fits("<results>/<fit>/donor_cv/{label}.tsv", label=labels, **here)
        models = config.transferred_models()
        return files + self.fits("<results>/<fit>/donor_transfer.tsv", model=models, **here)

    # ---- parameters of the rules

    def section(self, wildcards: Any) -> Any:
        """Section of a job's model, as its fit has it."""
        return self.config.models[wildcards.model].of_fit(wildcards)

    def card(self, wildcards: Any) -> ModelCard:
        """Card of a job's model."""
        return self.config.card(wildcards.model)

    def dataset(self, *keys: str, **unless: Any) -> Callable[[Any], dict[str, Any]]:
        """A function that gives some keys of a dataset's section to a rule.

        Those of `unless` are left out where they have the value said: what was made before the key was there
        is then not made again.
        """

        def given(wildcards: Any) -> dict[str, Any]:
            found = self.config.datasets[wildcards.dataset].model_dump(include={*keys, *unless})
            return {key: value for key, value in found.items() if key in keys or value != unless[key]}

        return given

    def device(self, wildcards: Any) -> str:
        """Where a model trains: one that cannot use a GPU, such as scikit-learn's NMF, always on the CPU."""
        return self.config.device if self.card(wildcards).gpu else "cpu"

    def compared_names(self, wildcards: Any) -> list[str]:
        """What the two fits of a comparison are called in its figure."""
        return [
            f"{self.config.display_name(model)}, rank {rank}, seed {seed}"
            for model, rank, seed in (
                (wildcards.model, wildcards.rank, wildcards.seed),
                (wildcards.other_model, wildcards.other_rank, wildcards.other_seed),
            )
        ]

    def tensorboard(self, wildcards: Any) -> dict[str, Any] | None:
        """Where and how the event files of a fit are written; None when they are off."""
        settings = self.config.tensorboard
        if not settings.enabled:
            return None
        fit = f"{wildcards.dataset}/{wildcards.model}/rank-{wildcards.rank}/seed-{wildcards.seed}"
        folder = self.place(f"<logs>/tensorboard/{fit}")
        return {"folder": folder, **settings.model_dump(exclude={"enabled"})}
