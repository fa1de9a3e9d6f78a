"""Many light fits of one model from statistics alone: every set of penalties, rank and seed."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.endings import Interrupted
from nmfbench.errors import InputError
from nmfbench.job import Job
from nmfbench.statistics import Statistics, load

log = logging.getLogger(__name__)


def sweep(
    fitted: str | Path,
    held_out: str | Path,
    table: str | Path,
    *,
    kind: str,
    name: str,
    settings: Mapping[str, Any],
    ranks: Sequence[int],
    seeds: Sequence[int],
    penalties: Sequence[Mapping[str, float]],
    gene_folds: int,
    device: str,
    run: Job,
) -> None:
    """Fit one model many times from one reading of the statistics, and judge the fits on other cells.

    Every fit begins from a random start of its seed. Finished fits are kept beside the table until all are
    done: a job that was killed goes on from there.

    Parameters
    ----------
    fitted, held_out : path
        Statistics of the cells to fit, and of cells to judge the fits on.
    table : path
        One row per fit, tab-separated.
    kind, name : str
        The registered model, and its name in the config.
    settings : mapping
        The estimator's parameters from the config.
    ranks, seeds : sequence of int
    penalties : sequence of mappings
        Sets of penalties, each over those of `settings`; keys that the model does not have are left out.
    gene_folds : int
        Folds of genes that are hidden in turn in the cells held out.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    run : Job

    Raises
    ------
    InputError
        If the two files do not belong together, a rank is too large, or a Gram matrix for each donor is
        missing.
    Interrupted
        If the job was told to stop; finished fits are kept.
    """
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from nmfbench.models import get_model
    from nmfbench.tables.files import write_table

    cells, others = load(fitted, memory_map=True), load(held_out, memory_map=True)
    _check_parts(fitted, cells, held_out, others)
    check_ranks(ranks, cells.n_cells, len(cells.layout.genes))
    model_class = get_model(kind)
    make = {
        label: {**settings, **chosen, "init": "random", "device": device}
        for label, chosen in _sets_of(penalties, settings).items()
    }
    folder = Path(table).with_suffix(".fits")
    rows: list[dict[str, Any]] = []
    with threadpool_limits(run.threads):
        fits = _Fits(model_class(ranks[0], **next(iter(make.values()))), cells, others, gene_folds)
        for label, options in make.items():
            for rank in ranks:
                group, loadings = [], []
                for seed in seeds:
                    model = model_class(rank, **options, random_state=seed)
                    row = fits.fit(model, folder / _place(label, rank, seed), run)
                    log.info(
                        "penalties %s, rank %d, seed %d: error on hidden genes %.4f",
                        label, rank, seed, row["predicted_error"],
                    )  # fmt: skip
                    group.append({"model": name, "penalties": label, "rank": rank, "seed": seed, **row})
                    loadings.append(model.components_)
                rows += _with_stability(group, loadings)
    write_table(pd.DataFrame(rows), table)
    shutil.rmtree(folder, ignore_errors=True)


class _Fits:
    """Both Gram matrices, read once for all fits."""

    def __init__(self, model: Any, cells: Statistics, others: Statistics, n_folds: int) -> None:
        from nmfbench.models.autoencoder.exact.gathered import GatheredCells
        from nmfbench.models.autoencoder.exact.held_out import gene_folds

        self.cells, self.others = cells, others
        self.operator, self.other_operator = model.gram_of(cells), model.gram_of(others)
        log.info(
            "%d cells to fit, %d held out, products on %s",
            cells.n_cells,
            others.n_cells,
            self.operator.device,
        )
        self.other_cells = GatheredCells(others)
        self.folds = gene_folds(len(cells.layout.genes), n_folds)

    def fit(self, model: Any, checkpoint: Path, run: Job) -> dict[str, Any]:
        """Fit, and say how the fit does on its own cells and on the others."""
        from nmfbench.models.autoencoder.exact.held_out import hidden_gene_errors

        around = {"checkpoint": checkpoint, "should_stop": run.stop_requested, "progress": False}
        model.fit_statistics(self.cells, operator=self.operator, **around)
        if model.stop_reason_ == "interrupted":
            raise Interrupted("the finished fits are kept; run the same command again to go on")
        objective, relative_error, decoder = model.evaluate(self.other_operator, self.other_cells)
        sums = self.other_cells.condition_sums(by_type=False) if decoder.U is not None else None
        hidden = hidden_gene_errors(self.other_operator, self.others.gene_squares, decoder, self.folds, sums)
        return {
            "n_cells": self.cells.n_cells,
            "n_held_out": self.others.n_cells,
            "objective": model.objective_,
            "relative_error": model.relative_error_,
            "held_out_objective": objective,
            "held_out_error": relative_error,
            "predicted_error": float(np.nanmean(hidden)),
            **{f"predicted_error_{fold}": value for fold, value in enumerate(hidden)},
            "sweeps": model.n_iter_,
            "stop_reason": model.stop_reason_,
            "uses_labels": model.uses_labels_,
            "seconds": model.history_[-1]["seconds"],
        }


def _with_stability(group: list[dict[str, Any]], loadings: list[np.ndarray]) -> list[dict[str, Any]]:
    """Add to each fit how well its factors match those of the other seeds, on average."""
    from nmfbench.models.autoencoder.exact.held_out import matched_correlations

    together = matched_correlations(loadings)
    others = len(loadings) - 1
    return [row | {"stability": (line.sum() - 1) / others} for row, line in zip(group, together, strict=True)]


def _sets_of(
    penalties: Sequence[Mapping[str, float]], settings: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Sets of penalties that differ for a model with these settings, by their text."""
    sets: dict[str, dict[str, float]] = {}
    for chosen in penalties:
        known = {key: value for key, value in chosen.items() if key in settings}
        text = ", ".join(f"{key}={value:g}" for key, value in sorted(known.items())) or "as set"
        sets.setdefault(text, known)
    return sets


def _place(label: str, rank: int, seed: int) -> str:
    """Folder of a fit, the same whatever else is swept: a longer list then goes on from the shorter one."""
    return f"rank-{rank}-seed-{seed}-{hashlib.blake2b(label.encode(), digest_size=4).hexdigest()}"


def _check_parts(path: str | Path, cells: Statistics, other_path: str | Path, others: Statistics) -> None:
    if cells.layout != others.layout or set(cells.shards) & set(others.shards):
        raise InputError(
            f"{path} and {other_path}", "statistics of different shards of one layout",
            f"shards {cells.shards} and {others.shards}"
            + ("" if cells.layout == others.layout else " of different layouts"),
            "delete both and run again",
        )  # fmt: skip


def check_ranks(ranks: Sequence[int], n_cells: int, n_genes: int) -> None:
    """Refuse ranks that the data cannot carry, before anything is fitted."""
    if max(ranks) > min(n_cells, n_genes):
        raise InputError(
            f"rank_selection.ranks: {max(ranks)} is larger than the data",
            f"ranks of at most {min(n_cells, n_genes)}", f"{n_cells} cells x {n_genes} genes",
            "leave the larger ranks out",
        )  # fmt: skip
