"""Integration scores of all runs, and the aggregates that the field reports of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.metrics import METRICS
from nmfbench.tables.runs import Cell, identity, read_scores, run_folder, try_read

if TYPE_CHECKING:
    import pandas as pd

#: Clustering scores that have a part in the aggregate of biology, beside those of the registry.
_BIO = (("NMI", "cell_type"), ("ARI", "cell_type"))
BIO, BATCH, TOTAL = "bio_conservation", "batch_correction", "total"
_LEAST = 0.8  # share of the parts that an aggregate needs
_WEIGHTS = {BIO: 0.6, BATCH: 0.4}


def integration_rows(cell: Cell, directory: str | Path) -> list[dict]:
    """Rows of scores.tsv for the integration scores of a run, a missing one as such."""
    read = partial(read_scores, columns=["metric", "label", "value", "status"])
    table, _ = try_read(run_folder(cell, directory) / "integration.tsv", read)
    found = {} if table is None else {row.metric: row for row in table.itertuples()}
    rows = []
    for metric in cell.get("integration", ()):
        row = found.get(metric)
        rows.append(
            identity(cell)
            | {"label": METRICS[metric].label, "metric": metric, "std": np.nan}
            | {
                "value": np.nan if row is None else row.value,
                "n": int(row is not None and row.status == "ok"),
            }
            | {"status": "missing" if row is None else row.status}
        )
    return rows


def aggregate_rows(cell: Cell, scores: pd.DataFrame) -> list[dict]:
    """Means of the scores of biology and of batch, and the two weighed 0.6 and 0.4 (Luecken et al. 2022).

    Parameters
    ----------
    cell : mapping
        A run.
    scores : DataFrame
        Its rows of scores.tsv.

    Returns
    -------
    list of dict
        A row for each, ``n`` the parts that are there. Of fewer than 80 % of the parts there is no mean:
        status ``missing``.
    """
    wanted = cell.get("integration", ())
    if not wanted:
        return []
    values = scores.set_index(["metric", "label"])["value"]
    parts = {
        BIO: [*_BIO, *((m, METRICS[m].label) for m in wanted if METRICS[m].part == "bio")],
        BATCH: [(m, METRICS[m].label) for m in wanted if METRICS[m].part == "batch"],
    }
    means, rows = {}, []
    for name, keys in parts.items():
        there = [values[key] for key in keys if key in values.index and np.isfinite(values[key])]
        enough = bool(keys) and len(there) >= _LEAST * len(keys)
        means[name] = float(np.mean(there)) if enough else np.nan
        rows.append((name, means[name], len(there)))
    rows.append((TOTAL, sum(_WEIGHTS[name] * mean for name, mean in means.items()), sum(r[2] for r in rows)))
    return [
        identity(cell)
        | {"label": "integration", "metric": name, "value": value, "std": np.nan, "n": n}
        | {"status": "ok" if np.isfinite(value) else "missing"}
        for name, value, n in rows
    ]
