"""The published CSVs: one row per model, columns to the letter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nmfbench.metrics import CLASSIFICATION_METRICS, CLUSTERING_METRICS, METRICS
from nmfbench.tables.runs import Cell, identity

if TYPE_CHECKING:
    import pandas as pd


def _columns(metrics: Sequence[str]) -> tuple[str, ...]:
    return tuple(column for m in metrics for column in (METRICS[m].mean_column, METRICS[m].std_column))


CLUSTERING_CSV = ("Model", *_columns(CLUSTERING_METRICS))
COUNTS = ("n_cells", "n_classes", "min_cells_per_class")
CLASSIFICATION_CSV = ("Model", *_columns(CLASSIFICATION_METRICS), "n_rows", *COUNTS)


def _first_seed(grid: Iterable[Cell], rank: int) -> dict[str, Cell]:
    """First training seed of each model at a rank, in the order of the config."""
    first: dict[str, Cell] = {}
    for cell in grid:
        if cell["rank"] == rank:
            first.setdefault(cell["model"], cell)
    return first


def clustering_csv(scores: pd.DataFrame, grid: Sequence[Cell], *, label: str, rank: int) -> pd.DataFrame:
    """Published clustering table of one label and rank.

    Parameters
    ----------
    scores : DataFrame
        Result of :func:`collect_scores` for one dataset.
    grid : sequence of mapping
        Expected runs of that dataset.
    label : str
        Label scored.
    rank : int
        Rank of the embeddings.

    Returns
    -------
    DataFrame
        Columns :data:`CLUSTERING_CSV`, a row per model in the order of the config, of its first
        training seed. A model without scores has no row.
    """
    import pandas as pd

    rows = [
        {"Model": cell["display_name"]} | values
        for cell in _first_seed(grid, rank).values()
        if (values := _published(scores, cell, label, CLUSTERING_METRICS))
    ]
    return pd.DataFrame(rows, columns=list(CLUSTERING_CSV))


def classification_csv(
    scores: pd.DataFrame, folds: pd.DataFrame, grid: Sequence[Cell], *, label: str, rank: int
) -> pd.DataFrame:
    """Published classification table of one label and rank.

    Parameters
    ----------
    scores, grid, label, rank
        As in :func:`clustering_csv`.
    folds : DataFrame
        Result of :func:`collect_folds`.

    Returns
    -------
    DataFrame
        Columns :data:`CLASSIFICATION_CSV`, rows as in :func:`clustering_csv`. ``n_rows`` is the number
        of fold rows averaged.
    """
    import pandas as pd

    rows = []
    for cell in _first_seed(grid, rank).values():
        values = _published(scores, cell, label, CLASSIFICATION_METRICS)
        if not values:
            continue
        used = _of_run(folds, cell, label)
        used = used[used["status"] == "ok"]
        counts = {c: int(used[c].iloc[0]) for c in COUNTS}
        rows.append({"Model": cell["display_name"]} | values | {"n_rows": len(used)} | counts)
    return pd.DataFrame(rows, columns=list(CLASSIFICATION_CSV))


def _of_run(table: pd.DataFrame, cell: Cell, label: str) -> pd.DataFrame:
    chosen = table["label"] == label
    for column, value in identity(cell).items():
        chosen &= table[column] == value
    return table[chosen]


def _published(scores: pd.DataFrame, cell: Cell, label: str, metrics: Sequence[str]) -> dict[str, float]:
    """Mean and std under their published names; empty where nothing was scored."""
    rows = _of_run(scores, cell, label).set_index("metric")
    values: dict[str, float] = {}
    for metric in metrics:
        row = rows.loc[metric]
        if row["status"] == "ok":
            values |= {METRICS[metric].mean_column: row["value"], METRICS[metric].std_column: row["std"]}
    return values
