"""How many cells a run was scored on, of how many the dataset has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.tables.runs import Cell, read_run_record, run_folder, try_read

if TYPE_CHECKING:
    import pandas as pd

CELLS = ("n_cells", "of_cells")
"""Cells of the scores, and cells of the dataset: an embedding made elsewhere may lack some."""


def cells_of(cell: Cell, directory: str | Path) -> dict[str, Any]:
    """:data:`CELLS` of one run, None before it is trained."""
    record = try_read(run_folder(cell, directory) / "run.json", read_run_record)[0] or {}
    n = record.get("n_cells")
    return {"n_cells": n, "of_cells": record.get("cells_of_dataset", n)}


def with_cells(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """A table of models with :data:`CELLS` as its last columns, the fewest over training seeds.

    Parameters
    ----------
    table : DataFrame
        Columns ``model`` and ``rank`` among others.
    scores : DataFrame
        scores.tsv of one dataset.
    """
    import pandas as pd

    if not set(CELLS) <= set(scores.columns):  # of an earlier version
        return table.assign(**dict.fromkeys(CELLS, pd.NA))
    counted = scores[["model", "rank"]].assign(**{name: pd.to_numeric(scores[name]) for name in CELLS})
    fewest = counted.groupby(["model", "rank"], sort=False)[list(CELLS)].min()
    found = table.merge(fewest, how="left", left_on=["model", "rank"], right_index=True)
    return found.astype(dict.fromkeys(CELLS, "Int64"))


def on_other_cells(scores: pd.DataFrame, rank: int, models: tuple[str, str]) -> bool:
    """Whether one of two models was scored on fewer cells than its dataset has."""
    if not set(CELLS) <= set(scores.columns):
        return False
    here = scores[(scores["rank"] == rank) & scores["model"].isin(models)]
    return bool((here["n_cells"] < here["of_cells"]).fillna(False).any())
