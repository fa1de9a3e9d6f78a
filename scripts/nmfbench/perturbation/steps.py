"""The steps of the task between files, one function for each rule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.job import commit, versions, write_json
from nmfbench.perturbation.embeddings import embed
from nmfbench.perturbation.models import read_model
from nmfbench.perturbation.predicted import read_cells, read_predictions, save_profiles, write_cells
from nmfbench.perturbation.sampling import draw_cells, read_sampling_list
from nmfbench.perturbation.scoring.registry import DEPTH_RATIO, overall
from nmfbench.perturbation.scoring.score import score_prediction, summarise
from nmfbench.perturbation.scoring.truth import read_truth
from nmfbench.perturbation.screen import read_screen, rows_of
from nmfbench.perturbation.splits import (
    TRAIN_CONTROL,
    read_split,
    sampling_list,
    split_screen,
    split_table,
)
from nmfbench.perturbation.sums import gather_sums
from nmfbench.tables.files import write_table

log = logging.getLogger(__name__)


def make_split(
    filtered: str,
    screen: Mapping[str, Any],
    settings: Mapping[str, Any],
    folder: str,
    target_sum: float | str,
) -> None:
    """Split a screen and add its cells up.

    Writes ``split.npz`` (cells), ``split.tsv`` (targets), ``targets.csv`` (the sampling list), ``labels.tsv``
    and ``sums.npz`` into `folder`.
    """
    cells = read_screen(filtered, screen)
    split = split_screen(cells, settings)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    dropped = cells.labels.loc[~cells.labels["kept"]]
    for row in dropped.itertuples():
        log.warning("%s (%d cells) is left out: %s", row.label, row.cells, row.reason)
    unmeasured = [name for name, gene in zip(cells.targets, cells.gene_of, strict=True) if gene < 0]
    if unmeasured:
        log.info("%d targets are no measured genes: %s", len(unmeasured), ", ".join(unmeasured[:10]))
    split.save(place / "split.npz")
    write_table(split_table(cells, split), place / "split.tsv")
    write_table(sampling_list(cells, split), place / "targets.csv")
    write_table(cells.labels, place / "labels.tsv")
    gather_sums(cells, split, target_sum).save(place / "sums.npz")


def make_embedding(
    filtered: str,
    split: str,
    screen: Mapping[str, Any],
    settings: Mapping[str, Any],
    output: str,
    *,
    fit: str | None,
    also: str | None,
) -> None:
    """Vectors of the genes and targets of a screen."""
    cells = read_screen(filtered, screen)
    names = [] if also is None else read_sampling_list(also, cells.control)["target_gene"].tolist()
    embed(cells, read_split(split), settings, fit=fit, also=names).save(output)


def predict_cells(
    model: str | None,
    targets: str,
    filtered: str,
    split: str,
    *,
    screen: Mapping[str, Any],
    settings: Mapping[str, Any],
    sampling: Mapping[str, Any],
    predictor: str,
    seed: int,
    cells_out: str,
    profiles_out: str,
) -> None:
    """Draw the cells of a sampling list from a model, or take them from somebody's file."""
    real, roles = read_screen(filtered, screen), read_split(split)
    wanted = read_sampling_list(targets, real.control)
    names = wanted["target_gene"].tolist()
    control = rows_of(real, roles.fold == TRAIN_CONTROL)
    options = {"genes": real.genes, "column": screen["column"], "control_label": real.control}
    record = {"predictor": predictor, "seed": seed}
    if model is None:
        found = read_predictions(
            settings["path"], targets=names, allow_non_integer=settings["allow_non_integer"], **options
        )
        own = np.flatnonzero(found.group == -1)
        if len(own):  # their control cells; the house scorer does not look at them
            control = found.counts[own]
        parts = (
            (name, found.counts[np.flatnonzero(found.group == row)], None) for row, name in enumerate(names)
        )
        drawn = [(name, counts, np.zeros(counts.shape[0], dtype=np.int64)) for name, counts, _ in parts]
        n_drawn, prediction, theta = sum(counts.shape[0] for _, counts, _ in drawn), None, None
    else:
        background, prediction = read_model(model, list(real.genes), names)
        theta = background.control.theta
        drawn = draw_cells(
            background, prediction, wanted["n_cells"].tolist(), wanted["median_umi_per_cell"].tolist(),
            seed=seed, **sampling,
        )  # fmt: skip
        n_drawn = int(wanted["n_cells"].sum())
        for name, flag in zip(prediction.names, prediction.flags, strict=True):
            if flag and not flag.startswith("nearest"):
                log.warning("%s: %s", name, flag)
    write_cells(cells_out, control, drawn, max_cells=control.shape[0] + n_drawn, uns=record, **options)
    save_profiles(profiles_out, prediction, names, theta)


def score_cells(
    cells: str,
    profiles: str,
    truth: str,
    *,
    screen: Mapping[str, Any],
    scorer: Mapping[str, Any],
    seed: int,
    scores_out: str,
    targets_out: str,
    record_out: str,
    de_out: str | None = None,
) -> None:
    """Score drawn cells: ``scores.tsv``, ``targets.tsv``, ``metrics.json``."""
    real = read_truth(truth)
    predicted, genes = read_cells(cells, screen["column"], screen["control"])
    if list(genes) != list(real.genes):
        raise InputError(f"{cells}: var", "the genes of the truth", "others", "predict the cells again")
    with np.load(profiles) as stored:
        given = {name: stored[name] for name in stored.files}
    place = {name: row for row, name in enumerate(given["names"].astype(str))}
    rows = [place[name] for name in real.names]
    has_rates = "profile" in given
    table, differential = score_prediction(
        real,
        predicted,
        profiles=given["profile"][rows] if has_rates else None,
        log_rate=given["log_rate"][rows] if has_rates else None,
        theta=given.get("theta"),
        control_reference=scorer["control_reference"],
    )
    responsive = real.responsive(scorer["responsive"])
    table.insert(1, "responsive", responsive)
    table["flag"] = given["flags"].astype(str)[rows]
    outside = (table["depth_ratio"] < DEPTH_RATIO[0]) | (table["depth_ratio"] > DEPTH_RATIO[1])
    if outside.any():
        log.warning(
            "%d targets have predicted cells of another depth than the real ones (%.2f times at the median): "
            "it shows as differential expression",
            outside.sum(),
            float(table["depth_ratio"].median()),
        )
    scores = summarise(table, responsive)
    write_table(scores, scores_out)
    write_table(table, targets_out)
    values = scores.loc[scores["targets"] == "all"].set_index("metric")["value"].to_dict()
    record: dict[str, Any] = {
        "metrics": values,
        **real.backend.record(real.target_sum, real.fdr),
        "seed": seed,
    }
    if real.backend.baseline is not None:
        record |= overall(values, dict(zip(("DES", "PDS", "MAE"), real.backend.baseline, strict=True)))
    record |= {"truth_sha256": real.fingerprint, "versions": versions(), "commit": commit()}
    write_json(record_out, record)
    if de_out is not None:
        write_table(_de_table(real, differential), de_out)


def _de_table(truth, predicted):
    """p value, FDR and fold change of both sides, a row for each target and gene that either calls."""
    import pandas as pd

    called = truth.differential.significant(truth.fdr) | predicted.significant(truth.fdr)
    target, gene = np.nonzero(called)
    columns = {"target": np.asarray(truth.names)[target], "gene": truth.genes[gene]}
    for side, found in (("real", truth.differential), ("predicted", predicted)):
        columns |= {f"p_{side}": found.p[target, gene], f"fdr_{side}": found.q[target, gene]}
        columns[f"log2_fold_change_{side}"] = found.log2_fold_change[target, gene]
    return pd.DataFrame(columns)
