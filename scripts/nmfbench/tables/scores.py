"""Scores of all runs: per fold, per metric, over training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.metrics import CLASSIFICATION_METRICS, CLUSTERING_METRICS, METRICS
from nmfbench.tables.cells import CELLS, cells_of, with_cells
from nmfbench.tables.integration import aggregate_rows, integration_rows
from nmfbench.tables.runs import (
    RUN_COLUMNS,
    Cell,
    classification_path,
    fold_jobs,
    identity,
    read_run_record,
    read_scores,
    run_folder,
    try_read,
)

if TYPE_CHECKING:
    import pandas as pd

CLUSTERING_COLUMNS = (*RUN_COLUMNS, "label", "leiden_seed", *CLUSTERING_METRICS, "n_clusters")
FOLD_COLUMNS = (
    *(*RUN_COLUMNS, "label", "cv_seed", "fold", "classifier"),
    *CLASSIFICATION_METRICS,
    *("fit_seconds", "n_train", "n_test", "status", "converged", "message"),
    *("n_cells", "n_classes", "min_cells_per_class"),
)
SCORE_COLUMNS = (
    *(*RUN_COLUMNS, "label", "metric", "value", "std", "n", "uses_labels", "status", "profile"),
    *CELLS,
)
HELD_OUT = "held_out_log_likelihood"
"""Log-likelihood per entry of counts set aside, of models of counts: the rows of label ``counts``."""
SPREAD_COLUMNS = ("dataset", "model", "rank", "label", "metric", "mean", "std", "n")


def collect_clusterings(grid: Sequence[Cell], directory: str | Path) -> pd.DataFrame:
    """Gather ARI and NMI of every run, label and Leiden seed.

    Parameters
    ----------
    grid : sequence of mapping
        Expected runs (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.

    Returns
    -------
    DataFrame
        Columns :data:`CLUSTERING_COLUMNS`; runs and labels without scores have no rows.
    """
    read = partial(read_scores, columns=["label", "leiden_seed", *CLUSTERING_METRICS, "n_clusters"])
    tables = []
    for cell in grid:
        table, _ = try_read(run_folder(cell, directory) / "clustering.tsv", read)
        if table is not None:
            tables.append(table[table["label"].isin(cell["labels"])].assign(**identity(cell)))
    return _stack(tables, CLUSTERING_COLUMNS)


def collect_folds(grid: Sequence[Cell], directory: str | Path) -> pd.DataFrame:
    """Gather every fold of every classification.

    Parameters
    ----------
    grid, directory
        As in :func:`collect_clusterings`.

    Returns
    -------
    DataFrame
        Columns :data:`FOLD_COLUMNS`; a failed fold has a row with ``status`` failed and no scores.
    """
    read = partial(read_scores, columns=["fold", "classifier", *CLASSIFICATION_METRICS, "status", "n_cells"])
    tables = []
    for cell in grid:
        for label, cv_seed in fold_jobs(cell):
            table, _ = try_read(classification_path(cell, directory, label, cv_seed), read)
            if table is not None:
                tables.append(table.assign(**identity(cell), label=label, cv_seed=cv_seed))
    return _stack(tables, FOLD_COLUMNS)


def _stack(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    if not tables:
        return pd.DataFrame(columns=list(columns))
    return pd.concat([table.reindex(columns=list(columns)) for table in tables], ignore_index=True)


def collect_scores(
    grid: Sequence[Cell], directory: str | Path, clusterings: pd.DataFrame, folds: pd.DataFrame
) -> pd.DataFrame:
    """Average every metric over its repeats: one row per run, label and metric.

    Parameters
    ----------
    grid, directory
        As in :func:`collect_clusterings`; ``uses_labels`` is read from each run.json.
    clusterings, folds : DataFrame
        Results of :func:`collect_clusterings` and :func:`collect_folds`.

    Returns
    -------
    DataFrame
        Columns :data:`SCORE_COLUMNS`. ``value`` and ``std`` (one degree of freedom taken off) are
        over ``n`` repeats: Leiden seeds, or folds x cross-validation seeds x classifiers that did not
        fail. A run without any has status ``missing`` and neither value nor std. A model that had counts
        to predict has one more row, of label ``counts`` and metric :data:`HELD_OUT`. ``profile`` says by
        which protocol it was scored, ``n_cells`` and ``of_cells`` on how many cells of how many.
    """
    import pandas as pd

    sources = dict.fromkeys(CLUSTERING_METRICS, clusterings) | dict.fromkeys(CLASSIFICATION_METRICS, folds)
    groups = {
        name: dict(list(table.groupby([*RUN_COLUMNS, "label"], sort=False)))
        for name, table in (("clustering", clusterings), ("classification", folds))
    }
    rows = []
    for cell in grid:
        record = try_read(run_folder(cell, directory) / "run.json", read_run_record)[0] or {}
        uses_labels = _uses_labels(cell, record)
        for label in cell["labels"]:
            key = (*identity(cell).values(), label)
            for metric in sources:
                table = groups[METRICS[metric].family].get(key)
                values = pd.Series(dtype=float) if table is None else pd.to_numeric(table[metric]).dropna()
                rows.append(
                    identity(cell)
                    | {"label": label, "metric": metric, "value": values.mean(), "std": values.std(ddof=1)}
                    | {
                        "n": len(values),
                        "uses_labels": uses_labels,
                        "status": "ok" if len(values) else "missing",
                    }
                )
        for row in integration_rows(cell, directory):
            rows.append(row | {"uses_labels": uses_labels})
        if cell.get("integration"):
            mine = pd.DataFrame([row for row in rows if all(row[c] == cell[c] for c in RUN_COLUMNS)])
            rows += [row | {"uses_labels": uses_labels} for row in aggregate_rows(cell, mine)]
        if record.get(HELD_OUT) is not None:
            rows.append(
                identity(cell)
                | {"label": "counts", "metric": HELD_OUT, "value": record[HELD_OUT], "std": float("nan")}
                | {"n": 1, "uses_labels": uses_labels, "status": "ok"}
            )
    told = {tuple(identity(cell).values()): cell.get("profile", "") for cell in grid}
    counted = {tuple(identity(cell).values()): cells_of(cell, directory) for cell in grid}
    for row in rows:
        run = tuple(row[column] for column in RUN_COLUMNS)
        row |= {"profile": told[run], **counted[run]}
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype(dict.fromkeys(CELLS, "Int64"))


def _uses_labels(cell: Cell, record: Mapping[str, Any]) -> Any:
    value = record.get("uses_labels", cell.get("uses_labels"))
    return ",".join(map(str, value)) or False if isinstance(value, (list, tuple)) else value


def seed_spread(scores: pd.DataFrame) -> pd.DataFrame | None:
    """Mean and std of every score over training seeds.

    Parameters
    ----------
    scores : DataFrame
        Result of :func:`collect_scores`.

    Returns
    -------
    DataFrame or None
        Columns :data:`SPREAD_COLUMNS`, ``n`` the seeds that have a value; None where every model
        was trained with one seed.
    """
    if scores["seed"].nunique() < 2:
        return None
    spread = scores.groupby(list(SPREAD_COLUMNS[:5]), sort=False)["value"].agg(["mean", "std", "count"])
    return with_cells(spread.rename(columns={"count": "n"}).reset_index()[list(SPREAD_COLUMNS)], scores)
