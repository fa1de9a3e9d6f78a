"""The runs of the second task: their files and parameters, as functions of the config."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.errors import InputError

if TYPE_CHECKING:
    from nmfbench.config import Config

NONE = "none"  # the embedding of predictors that use none
SUBMISSION = "submission"
UNSEEN = ("leave_target_out", "held_out_targets", "file")
SAMPLING = {"sampler": "nb", "phase_strategy": "global", "gamma_heterogeneity": None}
RUN = "<results>/{dataset}/perturbation/{split}/{embedding}/{predictor}/seed-{seed}"
LOGS = "<logs>/{step}/{dataset}/perturbation/{split}/{embedding}/{predictor}/seed-{seed}.log"


class Grid:
    """Input functions and lists for the rules.

    Parameters
    ----------
    cfg : Config
    apply : callable
        Replaces ``<results>`` and the like in a path, for inputs of rules.
    place : callable, optional
        The same for what is read or written beside the rules.
    """

    def __init__(
        self, cfg: Config, apply: Callable[[str], str], place: Callable[[str], str] | None = None
    ) -> None:
        self.cfg, self.apply, self.place = cfg, apply, place or apply

    # ---- the runs

    def runs(self, dataset: str, splits: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """dataset, split, embedding, predictor, seed of every run, in the order of the config."""
        found = []
        for split in self.cfg.perturbation.splits if splits is None else splits:
            for name, section in self.cfg.predictors.items():
                for embedding in self._embeddings(split, section):
                    found += [
                        {
                            "dataset": dataset,
                            "split": split,
                            "embedding": embedding,
                            "predictor": name,
                            "seed": seed,
                        }
                        for seed in self.cfg.seeds
                    ]
        return found

    def _unseen(self, split: str) -> bool:
        if split == SUBMISSION:
            return True
        section = self.cfg.perturbation.splits[split]
        return section.kind in UNSEEN or (section.kind == "column" and not section.targets_seen)

    def _embeddings(self, split: str, section: Any) -> list[str]:
        if section.needs_seen and self._unseen(split):
            return []
        if not section.trained and split == SUBMISSION:
            return []
        if not section.uses_embedding:
            return [NONE]
        return [
            name
            for name, embedding in self.cfg.perturbation.embeddings.items()
            if embedding.source != "responses" or not (self._unseen(split) or section.kind != "nb_glm")
        ]

    def every(self, pattern: str) -> list[str]:
        """A path for every run of every screen."""
        return [
            self.apply(pattern).format(**run)
            for dataset in self.cfg.datasets_with("perturbation")
            for run in self.runs(dataset)
        ]

    def files(self, pattern: str) -> Callable:
        """An input function: a path for every run of the job's dataset."""
        return lambda wildcards: [self.apply(pattern).format(**run) for run in self.runs(wildcards.dataset)]

    def split_files(self, pattern: str) -> Callable:
        """An input function: a path for every split of the job's dataset."""
        return lambda wildcards: [
            self.apply(pattern).format(dataset=wildcards.dataset, split=split)
            for split in self.cfg.perturbation.splits
        ]

    def submission(self, pattern: str) -> Callable:
        """An input function: a path for every run of a fit to all targets."""

        def asked(wildcards: Any) -> list[str]:
            if self.cfg.perturbation.predict_also is None:
                raise InputError(
                    "perturbation.predict_also",
                    "a list of targets to draw cells for",
                    "none",
                    "name a table with the columns target_gene, n_cells, median_umi_per_cell",
                )
            return [
                self.apply(pattern).format(**run)
                for dataset in self.cfg.datasets_with("perturbation")
                for run in self.runs(dataset, [SUBMISSION])
            ]

        return asked

    def targets(self, figures: Iterable[str]) -> list[str]:
        """What is made by default: tables and figures of every screen."""
        files = []
        for dataset in self.cfg.datasets_with("perturbation"):
            files.append(f"<results>/{dataset}/tables/perturbation_scores.tsv")
            for split in self.cfg.perturbation.splits:
                files += [f"<results>/{dataset}/figures/perturbation-{name}-{split}.png" for name in figures]
        return [self.apply(file) for file in files]

    def grid(self, wildcards: Any) -> list[dict[str, Any]]:
        """The runs of a dataset with their files and logs, for the tables."""
        steps = ("train_predictor", "predict_cells", "score_predictions")
        return [
            {
                **run,
                "kind": self.cfg.predictors[run["predictor"]].kind,
                "display_name": self.display_names()[run["predictor"]],
                "folder": self.place(RUN).format(**run),
                "ceiling": self.place(
                    f"<results>/{run['dataset']}/perturbation/{run['split']}/truth/"
                    f"{self.cfg.perturbation.scorer.backend}/ceiling.tsv"
                ),
                "logs": {step: self.place(LOGS).format(step=step, **run) for step in steps},
                "trained": self._is_trained(run["predictor"]),
            }
            for run in self.runs(wildcards.dataset)
        ]

    def ages(self, wildcards: Any) -> list[int]:
        """When the files of the runs were last written."""
        files = [Path(run["folder"], "scores.tsv") for run in self.grid(wildcards)]
        files += [Path(log) for run in self.grid(wildcards) for log in run["logs"].values()]
        return [file.stat().st_mtime_ns for file in files if file.exists()]

    # ---- sections

    def screen(self, dataset: str) -> dict[str, Any]:
        """The section of a screen."""
        return self.cfg.datasets[dataset].screen.model_dump()

    def of_kind(self, kind: str) -> list[str]:
        """Names of the predictors of a kind."""
        return [name for name, section in self.cfg.predictors.items() if section.kind == kind]

    def trained_kinds(self, kinds: Iterable[str]) -> list[str]:
        """Kinds that the config has and that are trained: one rule each."""
        return [kind for kind in kinds if any(self._is_trained(name) for name in self.of_kind(kind))]

    def _is_trained(self, name: str) -> bool:
        section = self.cfg.predictors[name]
        return section.trained and getattr(section, "checkpoint", None) is None

    def settings(self, wildcards: Any) -> dict[str, Any]:
        """The section of a predictor."""
        section = self.cfg.predictors[wildcards.predictor]
        return section.model_dump(exclude={"kind", "display_name", "checkpoint"})

    def sampling(self, wildcards: Any) -> dict[str, Any]:
        """How a predictor draws cells."""
        section = self.cfg.predictors[wildcards.predictor]
        return {key: getattr(section, key, default) for key, default in SAMPLING.items()}

    def split(self, wildcards: Any) -> dict[str, Any]:
        """The section of a split."""
        if wildcards.split == SUBMISSION:
            return {"kind": "none", "seed": 0}
        return self.cfg.perturbation.splits[wildcards.split].model_dump()

    def embedding(self, wildcards: Any) -> dict[str, Any]:
        """The section of an embedding."""
        return self.cfg.perturbation.embeddings[wildcards.embedding].model_dump()

    def display_names(self) -> dict[str, str]:
        """Name of each predictor in tables and figures."""
        return {
            name: section.display_name or (section.title if name == section.kind else name)
            for name, section in self.cfg.predictors.items()
        }

    def gpus(self, wildcards: Any) -> int:
        """GPUs that a training asks for: none where it is the convex fit, which runs on the CPU."""
        from nmfbench.perturbation.predictors.nb_glm import is_bilinear

        section = self.cfg.predictors[wildcards.predictor]
        wanted = section.uses_gpu and not is_bilinear(section.model_dump())
        return int(wanted and self.cfg.device in ("auto", "cuda"))

    # ---- inputs

    def pair(self, wildcards: Any) -> dict[str, str]:
        """The two files of a dataset that is given as a pair."""
        section = self.cfg.datasets[wildcards.dataset]
        return {"train": section.path, "test": section.screen.test_path}

    def pairs(self) -> list[str]:
        """Names of the datasets that are given as a pair of files."""
        screens = [(name, self.cfg.datasets[name].screen) for name in self.cfg.datasets_with("perturbation")]
        return [name for name, screen in screens if screen.test_path is not None]

    def split_file(self, wildcards: Any) -> list[str]:
        """The table that a split is read from."""
        path = self.split(wildcards).get("path")
        return [] if path is None else [path]

    def truth_cache(self, wildcards: Any) -> str | list[str]:
        """The description of a truth made before; the path may hold ``{dataset}`` and ``{split}``."""
        path = self.cfg.perturbation.truth_cache
        if path is None:
            return []
        return f"{path.format(dataset=wildcards.dataset, split=wildcards.split)}/metadata.json"

    def embedding_fit(self, wildcards: Any) -> str | list[str]:
        """The fit of the first task whose loadings are the vectors."""
        section = self.cfg.perturbation.embeddings[wildcards.embedding]
        if section.source != "fit":
            return []
        seed = self.cfg.seeds[0] if section.seed is None else section.seed
        fit = f"{section.dataset}/{section.model}/rank-{section.rank}/seed-{seed}"
        return self.apply(f"<results>/{fit}/result.h5ad")

    def embedding_tables(self, wildcards: Any) -> list[str]:
        """The tables of vectors; paths may hold ``{dataset}`` for those that a simulation leaves."""
        section = self.cfg.perturbation.embeddings[wildcards.embedding]
        return [path for path in (section.genes, section.targets) if path is not None]

    def vectors(self, wildcards: Any) -> str | list[str]:
        """The vectors of a run."""
        if wildcards.embedding == NONE:
            return []
        return self.apply("<results>/{dataset}/perturbation/{split}/embeddings/{embedding}.npz")

    def cells_to_train_on(self, wildcards: Any) -> str | list[str]:
        """The cells, for a predictor that is fitted to them and not to sums."""
        section = self.cfg.predictors[wildcards.predictor]
        whole = getattr(section, "fit_mode", "") == "whole"
        return self.apply("<results>/{dataset}/filtered.h5ad") if whole else []

    def model(self, wildcards: Any) -> str | list[str]:
        """The model that cells are drawn from: the run's own, or a given checkpoint."""
        section = self.cfg.predictors[wildcards.predictor]
        if not section.trained:
            return []
        given = getattr(section, "checkpoint", None)
        return given or self.apply(f"{RUN}/model.{'pt' if section.kind == 'nb_glm' else 'npz'}")

    def predictions_file(self, wildcards: Any) -> list[str]:
        """Somebody's predicted cells."""
        section = self.cfg.predictors[wildcards.predictor]
        return [] if section.trained else [section.path]

    def sampling_list(self, wildcards: Any) -> str:
        """The list of targets to draw cells of."""
        if wildcards.split == SUBMISSION:
            return str(self.cfg.perturbation.predict_also)
        return self.apply("<results>/{dataset}/perturbation/{split}/targets.csv")

    def also_list(self, wildcards: Any) -> str | None:
        """The list of further targets, where there is one and the split is that of all cells."""
        return self.cfg.perturbation.predict_also if wildcards.split == SUBMISSION else None

    def also_names(self, wildcards: Any) -> list[str] | None:
        """Names on that list."""
        path = self.also_list(wildcards)
        if path is None:
            return None
        from nmfbench.perturbation.sampling import read_sampling_list

        control = self.cfg.datasets[wildcards.dataset].screen.control
        return read_sampling_list(path, control)["target_gene"].tolist()

    def kept(self, path: str, temp: Callable) -> Any:
        """A path of drawn cells, which go once they are scored where the config says so."""
        return path if self.cfg.perturbation.keep_cells else temp(path)
