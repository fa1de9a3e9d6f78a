"""Scores of donors held out of the classifiers, and of the fits, beside those of random folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.metrics.contingency import prediction_scores
from nmfbench.metrics.donors_held_out import DONOR_METRICS
from nmfbench.metrics.uncertainty import donor_interval
from nmfbench.tables.cells import CELLS, cells_of
from nmfbench.tables.failures import NOT_APPLICABLE
from nmfbench.tables.files import read_table
from nmfbench.tables.runs import (
    RUN_COLUMNS,
    Cell,
    donor_cv_path,
    donor_transfer_path,
    identity,
    read_scores,
    try_read,
)

if TYPE_CHECKING:
    import pandas as pd

TABLE_COLUMNS = (
    *(*RUN_COLUMNS, "protocol", "label", "metric", "classifier"),
    *("value", "std", "n", "low", "high", "n_donors", "method", "status", "reason"),
    *CELLS,
)
RANDOM, DONOR_CV, TRANSFER = "random folds", "donor_cv", "donor_transfer"
MEAN = "mean"  # over the classifiers
_COUNTED = ("F1", "Precision", "Accuracy", "Recall")  # scores of counts of the cells that could be known
_TEXT = ("label", "classifier", "donor", "true", "predicted", "donors", "absent_classes", "unseen_classes")


def donors_held_out(
    grid: Sequence[Cell],
    directory: str | Path,
    folds: pd.DataFrame,
    *,
    replicates: int,
    seed: int,
    transfer_asked: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gather what held-out donors scored of every run.

    Parameters
    ----------
    grid : sequence of mapping
        Expected runs of one dataset (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.
    folds : DataFrame
        folds.tsv, for the scores of random folds beside.
    replicates, seed : int
        Of the bootstrap over donors.
    transfer_asked : bool
        Whether the transfer is part of the run, so that models without it are told of.

    Returns
    -------
    scores : DataFrame
        Columns :data:`TABLE_COLUMNS`. ``value`` and ``std`` (ddof 1) are over ``n`` deals of the donors;
        ``low`` and ``high`` the 95 % interval over donors of scores of counts, by ``method``. Classifier
        ``mean`` is the mean of them within a deal. Rows of protocol ``random folds`` are those of folds.tsv.
    folds : DataFrame
        The donors, sizes and missing classes of every fold, once for each label and deal of donors.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    for cell in grid:
        before = len(rows)
        for label in cell["donor_labels"]:
            rows += _of_random_folds(cell, label, folds)
        for protocol, labels, path in _expected(cell, directory):
            rows += _of_run(cell, protocol, labels, path, replicates, seed)
            described, _ = try_read(_beside(path, "-folds.tsv"), partial(read_table, text=_TEXT))
            if described is not None:
                parts.append(described.assign(protocol=protocol, dataset=cell["dataset"]))
        rows += _without(cell, transfer_asked)
        counted = cells_of(cell, directory)
        rows[before:] = [row | counted for row in rows[before:]]
    first = ["dataset", "protocol"]
    found = pd.concat(parts, ignore_index=True).drop_duplicates() if parts else pd.DataFrame(columns=first)
    found = found[[*first, *found.columns.difference(first, sort=False)]]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    return table.astype(dict.fromkeys(CELLS, "Int64")), found


def _of_run(
    cell: Cell, protocol: str, labels: Sequence[str], path: Path, replicates: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of one run and protocol, a gap for a label without scores."""
    table, problem = try_read(path, partial(read_scores, columns=["label", "classifier", "F1"]))
    counts, _ = try_read(_beside(path, "-counts.tsv.gz"), partial(read_table, text=_TEXT))
    for label in labels:
        key = identity(cell) | {"protocol": protocol, "label": label}
        if table is None:
            yield key | _gap(problem)
            continue
        mine = table[table["label"] == label]
        if (mine["status"] == NOT_APPLICABLE).any():
            yield key | {"status": NOT_APPLICABLE, "reason": mine["message"].iloc[0]}
            continue
        of_label = counts if counts is None else counts[counts["label"] == label]
        yield from (key | row for row in _scores(mine, of_label, replicates, seed))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.stem}{ending}")


def _expected(cell: Cell, directory: str | Path) -> Iterator[tuple[str, Sequence[str], Path]]:
    if cell.get("donor_cv"):
        for label in cell["donor_labels"]:
            yield DONOR_CV, [label], donor_cv_path(cell, directory, label)
    if cell.get("donor_transfer"):
        yield TRANSFER, cell["donor_labels"], donor_transfer_path(cell, directory)


def _gap(problem: str | None) -> dict[str, Any]:
    mark = f"{NOT_APPLICABLE}: "
    if problem and problem.startswith(mark):
        return {"status": NOT_APPLICABLE, "reason": problem.removeprefix(mark)}
    return {"status": "missing", "reason": problem or "its job left no scores; see coverage.tsv"}


def _without(cell: Cell, transfer_asked: bool) -> Iterator[dict[str, Any]]:
    """Rows for what cannot be asked: the donor as a label, and embeddings without a place for new cells."""
    protocols = [DONOR_CV] * bool(cell.get("donor_cv")) + [TRANSFER] * transfer_asked
    if "donor_id" in cell["labels"]:
        for protocol in protocols:
            reason = "a donor that is held out cannot be predicted: no other cell has its label"
            key = identity(cell) | {"protocol": protocol, "label": "donor_id"}
            yield key | {"status": NOT_APPLICABLE, "reason": reason}
    if transfer_asked and not cell.get("donor_transfer"):
        reason = "the model has no place for cells of donors that it never saw, or was not asked"
        for label in cell["donor_labels"]:
            key = identity(cell) | {"protocol": TRANSFER, "label": label}
            yield key | {"status": NOT_APPLICABLE, "reason": reason}


def _of_random_folds(cell: Cell, label: str, folds: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Means of folds.tsv by shuffle, over shuffles: the same cells, other donors on neither side."""
    here = (folds["status"] == "ok") & (folds["label"] == label)
    for column in RUN_COLUMNS:
        here &= folds[column] == cell[column]
    mine = folds[here]
    if mine.empty:
        return
    key = identity(cell) | {"protocol": RANDOM, "label": label, "status": "ok", "reason": ""}
    for classifier, rows in ((MEAN, mine), *mine.groupby("classifier", sort=False)):
        by_seed = rows.groupby("cv_seed")
        for metric in ("F1", "AUROC", "Precision", "Accuracy", "Recall"):
            yield key | {"metric": metric, "classifier": classifier} | _over(by_seed[metric].mean())


def _over(values: pd.Series) -> dict[str, Any]:
    values = values.dropna()
    return {"value": values.mean(), "std": values.std(ddof=1), "n": len(values)}


def _scores(table, counts, replicates: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of one run, protocol and label."""
    table = table[table["status"] == "ok"]
    donors = int(table["n_donors"].max()) if len(table) else 0
    classifiers = list(dict.fromkeys(table["classifier"]))
    tables = {} if counts is None or counts.empty else _tables(counts)
    for classifier in (MEAN, *classifiers):
        mine = table if classifier == MEAN else table[table["classifier"] == classifier]
        for metric in DONOR_METRICS:
            row = {"metric": metric, "classifier": classifier, "n_donors": donors, "status": "ok"}
            row |= _over(mine.groupby("cv_seed")[metric].mean())
            if metric in _COUNTED and tables:
                wanted = classifiers if classifier == MEAN else [classifier]
                fits = [[np.stack([deal[name] for name in wanted], axis=1) for deal in tables.values()]]
                found = donor_interval(
                    [[part.reshape(len(part), -1, part.shape[-1]) for part in fits[0]]],
                    partial(_mean_score, metric=metric, n=len(wanted)),
                    replicates=replicates,
                    seed=seed,
                )
                row |= {"low": found.low, "high": found.high, "method": found.method}
            yield row


def _mean_score(tables: np.ndarray, *, metric: str, n: int) -> np.ndarray:
    """A score of `n` classifiers whose tables stand below each other, mean over them."""
    square = tables.reshape(*tables.shape[:-2], n, tables.shape[-1], tables.shape[-1])
    return prediction_scores(square)[metric].mean(axis=-1)


def _tables(counts: pd.DataFrame) -> Mapping[Any, dict[str, np.ndarray]]:
    """By deal and classifier: cells by donor, true and predicted class, of classes that could be learnt."""
    donors = {name: place for place, name in enumerate(sorted(counts["donor"].unique()))}
    names = sorted({*counts["true"], *counts["predicted"]})
    classes = {name: place for place, name in enumerate(names)}
    found: dict[Any, dict[str, np.ndarray]] = {}
    for (deal, classifier), part in counts[counts["seen"]].groupby(["cv_seed", "classifier"], sort=False):
        table = np.zeros((len(donors), len(classes), len(classes)))
        where = (part["donor"].map(donors), part["true"].map(classes), part["predicted"].map(classes))
        np.add.at(table, tuple(column.to_numpy() for column in where), part["n"].to_numpy())
        found.setdefault(deal, {})[classifier] = table
    whole = max(len(deal) for deal in found.values())
    return {deal: tables for deal, tables in found.items() if len(tables) == whole}
