"""The steps of the task between files, one function for each rule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from nmfbench.errors import InputError
from nmfbench.job import commit, versions, write_json
from nmfbench.perturbation.embeddings import embed
from nmfbench.perturbation.models import read_model
from nmfbench.perturbation.predicted import read_cells, read_predictions, save_profiles, write_cells
from nmfbench.perturbation.sampling import draw_cells, read_sampling_list
from nmfbench.perturbation.scoring.backends import BACKENDS
from nmfbench.perturbation.scoring.ceiling import replicate_ceiling
from nmfbench.perturbation.scoring.cells import Cells
from nmfbench.perturbation.scoring.registry import DEPTH_RATIO, overall
from nmfbench.perturbation.scoring.score import score_prediction, summarise
from nmfbench.perturbation.scoring.truth import build_truth, read_truth
from nmfbench.perturbation.screen import Screen, read_screen
from nmfbench.perturbation.splits import (
    SCORED_CONTROL,
    TRAIN_CONTROL,
    Split,
    read_split,
    sampling_list,
    split_screen,
    split_table,
)
from nmfbench.perturbation.sums import gather_sums, read_sums
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


def rows_of(screen: Screen, mask: np.ndarray) -> sparse.csr_matrix:
    """Counts of some cells of a screen, in row order."""
    parts = [
        block[np.flatnonzero(mask[start : start + block.shape[0]])]
        for start, block in screen.counts.blocks()
        if mask[start : start + block.shape[0]].any()
    ]
    if not parts:
        return sparse.csr_matrix((0, screen.counts.n_genes), dtype=np.float32)
    return sparse.vstack(parts, format="csr")


def held_out_cells(screen: Screen, split: Split) -> Cells:
    """The cells that predictions are scored against, and the control cells for scoring."""
    mask = (split.fold >= 0) | (split.fold == SCORED_CONTROL)
    codes = screen.codes[mask]
    present = np.unique(codes[codes >= 0])
    group = np.where(codes >= 0, np.searchsorted(present, codes), -1)
    return Cells(rows_of(screen, mask), group, [screen.targets[number] for number in present])


def make_truth(
    filtered: str, split: str, sums: str, screen: Mapping[str, Any], scorer: Mapping[str, Any], folder: str
) -> None:
    """Sum up the held-out cells and score halves of them.

    Writes ``truth.npz``, the published ``ground_truth_bulk.npz`` and ``metadata.json``, ``real_de.tsv.gz``,
    and ``ceiling.tsv``.
    """
    cells, roles, gathered = read_screen(filtered, screen), read_split(split), read_sums(sums)
    real, backend = held_out_cells(cells, roles), BACKENDS[scorer["backend"]]
    number = {name: row for row, name in enumerate(cells.targets)}
    own_gene = np.array([cells.gene_of[number[name]] for name in real.names])
    options = {"target_sum": gathered.target_sum, "fdr": scorer["fdr"]}
    truth = build_truth(real, backend, cells.genes, own_gene, **options)
    from dataclasses import replace

    truth = replace(truth, **_from_sums(gathered, [number[name] for name in real.names], cells, roles))
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    truth.save(place / "truth.npz")
    responsive = truth.responsive(scorer["responsive"])
    log.info(
        "%d of %d targets have %d or more DE genes", responsive.sum(), len(responsive), scorer["responsive"]
    )
    ceiling = replicate_ceiling(
        real, backend, cells.genes, own_gene, responsive=responsive, reference=truth.reference,
        repeats=scorer["ceiling_repeats"], **options,
    ) if scorer["ceiling_repeats"] else _no_ceiling()  # fmt: skip
    write_table(ceiling, place / "ceiling.tsv")
    keys = [screen["control"], *truth.names]
    np.savez(
        place / "ground_truth_bulk.npz",
        bulk_keys=np.array(keys, dtype=str),
        bulk_values=np.vstack([truth.control_profile, truth.profiles]),
        genes=cells.genes.astype(str),
    )
    write_json(
        place / "metadata.json",
        {
            "pert_col": screen["column"],
            "control": screen["control"],
            "bulk_file": "ground_truth_bulk.npz",
            "real_de_file": "truth.npz",
            "de_method": "wilcoxon",
            "perturbations": truth.names,
            "content_sha256": truth.fingerprint,
            "responsive": [name for name, is_one in zip(truth.names, responsive, strict=True) if is_one],
            **backend.record(truth.target_sum, scorer["fdr"]),
        },
    )


def _no_ceiling():
    import pandas as pd

    return pd.DataFrame(columns=["metric", "targets", "value", "std", "n", "corrected"])


def _from_sums(sums, numbers: list[int], screen: Screen, split: Split) -> dict[str, Any]:
    """What the truth takes from the sums: sums of held-out cells, the reference of each target's fold."""
    held_out = sums.by_target((sums.target >= 0) & (sums.fold >= 0))
    rows = np.searchsorted(held_out.target, numbers)
    profiles = {}
    for fold in range(sums.n_folds):
        profiles[fold] = sums.by_target(sums.training(fold)).profiles.mean(axis=0)
    fold_of = [int(split.fold[(screen.codes == number) & (split.fold >= 0)][0]) for number in numbers]
    control = (sums.target == -1) & (sums.fold == TRAIN_CONTROL)
    return {
        "reference": np.array([profiles[fold] for fold in fold_of]),
        "train_control_profile": sums.logs[control].sum(axis=0) / sums.n[control].sum(),
        "counts": held_out.counts[rows],
        "size": held_out.size[rows],
        "size_squared": held_out.size_squared[rows],
    }


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
