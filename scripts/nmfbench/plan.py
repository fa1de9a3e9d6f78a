"""What a run will do: the fits, and the jobs that they share, as the rules and the tables are told of them.

What a fit begins from follows from the config and from what is known of the size of the data before any job
runs (:mod:`nmfbench.sharing`, :func:`nmfbench.rows.opening.place`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nmfbench.grid import Grid
from nmfbench.rows.opening import place
from nmfbench.sharing import Sharing, decide, sharers

FILTERED = "<results>/{dataset}/filtered.h5ad"


@dataclass(frozen=True)
class Plan(Grid):
    """The grid of a config, and what its fits share."""

    _decided: dict[str, Sharing] = field(default_factory=dict, repr=False)

    # ---- the statistics

    def sharing(self, dataset: str) -> Sharing:
        """Whether the fits of a dataset share one pass over its cells; the same in every job of a run."""
        if dataset not in self._decided:
            filtered = self.place(FILTERED).format(dataset=dataset)
            self._decided[dataset] = decide(self.config, dataset, filtered)
        return self._decided[dataset]

    def _from_statistics(self, dataset: str, model: str) -> bool:
        return model in sharers(self.config) and self.sharing(dataset).shared

    def shards_in(self, part: str) -> list[int]:
        """Numbers of the shards of `all` cells, of those `fitted` or `held_out` in a rank selection."""
        n, held_out = self.config.statistics.shards, self.config.rank_selection.held_out_shards
        first = max(n - held_out, 0)
        return {"all": list(range(n)), "fitted": list(range(first)), "held_out": list(range(first, n))}[part]

    def donor_grams(self, wildcards: Any) -> bool:
        """Whether a model with loadings of its own for each donor is fitted from a dataset's statistics."""
        swept = self.config.rank_selection.by_hidden_genes
        return any(
            self.config.card(name).own_loadings
            and (name in swept or self._from_statistics(wildcards.dataset, name))
            for name in self.config.models
        )

    def statistics(self, wildcards: Any) -> str | list[str]:
        """The statistics that a fit begins from, where they are gathered once for all fits."""
        shared = self._from_statistics(wildcards.dataset, wildcards.model)
        return self.spell(f"<results>/{wildcards.dataset}/statistics/all.h5") if shared else []

    # ---- donors held out

    def without_groups(self, wildcards: Any) -> list[str]:
        """Statistics without each group of donors, for the fits of an autoencoder that never see it.

        One with loadings for each donor is fitted to the cells: a Gram matrix of each donor would be needed.
        """
        section, card = self.section(wildcards), self.card(wildcards)
        if not section.begins_from_statistics() or card.own_loadings:
            return []
        groups = range(self.config.donor_transfer.groups)
        pattern = f"<results>/{wildcards.dataset}/statistics/without-donor-group-{{}}.h5"
        return [self.spell(pattern).format(group) for group in groups]

    def other_groups(self, wildcards: Any) -> list[str]:
        """Statistics of every group of donors but a job's."""
        groups = range(self.config.donor_transfer.groups)
        pattern = f"<results>/{wildcards.dataset}/statistics/donor-group-{{}}.h5"
        return [self.spell(pattern).format(group) for group in groups if group != int(wildcards.group)]

    # ---- the shuffled store

    def _expected_nonzeros(self, dataset: str) -> float:
        """About how many nonzeros a dataset may have, from what is known before any job runs."""
        source = self.config.datasets[dataset]
        if source.simulate is not None:
            return source.simulate.n_cells * min(source.simulate.n_genes, source.simulate.mean_counts)
        file = Path(source.path) if source.path else None
        size = file.stat().st_size if file is not None and file.exists() else source.size or 0
        # 1.7 bytes a nonzero, as well as gzip can: a store too many costs minutes, one too few an error
        return size / 1.7

    def out_of_core(self, wildcards: Any) -> bool:
        """Whether a fit is expected to leave its cells on disk."""
        asked, limit = self.config.out_of_core, self.config.in_memory_mb
        expected = self._expected_nonzeros(wildcards.dataset)
        return "shuffled" in self.card(wildcards).needs and place(expected, asked, limit).out_of_core

    def shuffled(self, wildcards: Any) -> str | list[str]:
        """The shuffled store of a fit that may take minibatches out of core."""
        gathered = self._from_statistics(wildcards.dataset, wildcards.model)
        order = self.section(wildcards).shuffled_order(gathered)
        if order is None or not self.out_of_core(wildcards):
            return []
        return self.spell(f"<results>/{wildcards.dataset}/shuffled-{order}.h5ad")

    # ---- fits and jobs, for the tables

    def needs_of(self, dataset: str, model: str) -> list[str]:
        """Files of shared jobs that the fits of a model begin from."""
        asking = SimpleNamespace(dataset=dataset, model=model)
        needs = [self.spell(FILTERED).format(dataset=dataset), self.statistics(asking), self.shuffled(asking)]
        return [self.locate(file) for file in needs if file]

    def expected_fits(self, wildcards: Any) -> list[dict[str, Any]]:
        """The fits that the tables of a dataset expect, as :mod:`nmfbench.tables.runs` describes them.

        They come in the order of the config; at one rank where the job has one.
        """
        config = self.config
        ranks = [int(wildcards.rank)] if hasattr(wildcards, "rank") else config.ranks
        transferred = config.transferred_models()
        return [
            {
                "dataset": wildcards.dataset,
                "model": model,
                "kind": section.kind,
                "role": config.card(model).role,
                "display_name": config.display_name(model),
                "rank": rank,
                "seed": seed,
                "labels": config.labels,
                "cv_seeds": config.classification.seeds,
                "leiden_seeds": config.clustering.seeds,
                "n_folds": config.classification.n_folds,
                "classifiers": config.classification.classifiers,
                "expected_cells": config.datasets[wildcards.dataset].expected_cells,
                "integration": config.integration.metrics,
                "profile": config.protocol,
                "donor_labels": config.donor_labels,
                "donor_cv": config.donor_cv.enabled,
                "donor_transfer": model in transferred,
                "deviance": config.deviance.enabled,
                "umap": seed == config.seeds[0],
                "needs": self.needs_of(wildcards.dataset, model),
            }
            for model, section in config.models.items()
            for rank in ranks
            for seed in config.seeds
        ]

    def _job(self, dataset, step, file, needs=(), part="", model=None) -> dict[str, Any]:
        words = [word for word in (dataset, model, part) if word]
        return {
            **{"dataset": dataset, "step": step, "part": part, "model": model},
            **{"file": file, "needs": list(needs), "wildcards": "_".join(words)},
            "log": self.place(f"<logs>/{step}/{'-'.join(words)}.log"),
            "benchmark": self.place(f"<benchmarks>/{step}/{'-'.join(words)}.tsv"),
        }

    def shared_jobs(self, wildcards: Any) -> list[dict[str, Any]]:
        """The jobs of a dataset that no single fit owns, as :mod:`nmfbench.tables.shared` describes them.

        They come in the order of the work.
        """
        dataset, n = wildcards.dataset, self.config.statistics.shards
        folder = self.place(f"<results>/{dataset}")
        asked = dict.fromkeys(file for model in self.config.models for file in self.needs_of(dataset, model))
        swept = self.config.rank_selection.by_hidden_genes
        parts = ["all"] * (f"{folder}/statistics/all.h5" in asked) + ["fitted", "held_out"] * bool(swept)
        shards = [f"{folder}/statistics/shards/{number}-of-{n}.h5" for number in range(1, n + 1)]
        merged = {part: f"{folder}/statistics/{part}.h5" for part in parts}
        filtered, source = f"{folder}/filtered.h5ad", f"{folder}/source.h5ad"

        section = self.config.datasets[dataset]
        made_by = "fetch_dataset" if section.url else "simulate_dataset" if section.simulate else None
        jobs = [self._job(dataset, made_by, source)] if made_by else []
        jobs.append(self._job(dataset, "filter_donors", filtered, [source] if made_by else []))
        if self.config.integration.metrics:
            jobs.append(self._job(dataset, "make_reference", f"{folder}/reference.npz", [filtered]))
        for file in shards if parts else []:
            jobs.append(self._job(dataset, "gather_statistics", file, [filtered], Path(file).stem))
        for part, file in merged.items():
            needs = [shards[shard] for shard in self.shards_in(part)]
            jobs.append(self._job(dataset, "merge_statistics", file, needs, part))
        for model in swept:
            needs = [merged["fitted"], merged["held_out"]]
            file = f"{folder}/{model}/rank_selection.tsv"
            jobs.append(self._job(dataset, "select_ranks", file, needs, model=model))
        for model in self.config.rank_selection.by_unseen_molecules:
            file = f"{folder}/{model}/unseen_molecules.tsv"
            jobs.append(self._job(dataset, "score_unseen_molecules", file, [filtered], model=model))
        for file in asked:
            if Path(file).name.startswith("shuffled-"):
                order = Path(file).stem.removeprefix("shuffled-")
                jobs.append(self._job(dataset, "shuffle_cells", file, [filtered], order))
        return jobs

    # ---- what is there now

    def present_results(self, wildcards: Any) -> list[str]:
        """Which result files of a dataset are there now."""
        steps = ("run.json", "clustering.tsv", "integration.tsv")
        steps += ("classification/{label}/cv-seed-{cv_seed}.tsv",)
        found = [f for step in steps for f in self.fits(f"<results>/<fit>/{step}", dataset=wildcards.dataset)]
        files = [self.locate(file) for file in found]
        made = self.held_out_donors(wildcards) + self.held_out_counts(wildcards)
        files += [self.locate(file) for file in made]
        files += [job["file"] for job in self.shared_jobs(wildcards)]
        return [file for file in files if Path(file).exists()]

    def ages_of_logs(self, wildcards: Any) -> list[int]:
        """When the logs of a dataset's jobs were last written: what failed may fail otherwise."""
        files = sorted(
            {file for pattern in self.logs.values() for file in self.fits(pattern, dataset=wildcards.dataset)}
        )
        files += [job["log"] for job in self.shared_jobs(wildcards)]
        return [Path(file).stat().st_mtime_ns for file in files if Path(file).exists()]

    def everything(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """All fits and all shared jobs, of every dataset."""
        each = [SimpleNamespace(dataset=dataset) for dataset in self.config.datasets_with("embedding")]
        fits = [fit for dataset in each for fit in self.expected_fits(dataset)]
        return fits, [job for dataset in each for job in self.shared_jobs(dataset)]
