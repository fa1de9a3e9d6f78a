"""Scores on the scale of the controls: 0 is the worst of them, 1 the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.metrics import METRICS
from nmfbench.tables.cells import CELLS, with_cells
from nmfbench.tables.integration import BATCH, BIO, TOTAL
from nmfbench.tables.runs import Cell

if TYPE_CHECKING:
    import pandas as pd

SCALED_COLUMNS = (
    *("dataset", "model", "rank", "label", "metric", "value", "scaled"),
    *("worst_control", "best_control", "n_controls", "status", "warning"),
    *CELLS,
)
_BEYOND = 0.1  # a scaled score further outside 0 to 1 says that the controls are no ends of the scale


def scaled_scores(scores: pd.DataFrame, grid: Sequence[Cell]) -> pd.DataFrame:
    """Put every score on the scale that the controls of its dataset and rank span.

    Parameters
    ----------
    scores : DataFrame
        scores.tsv of one dataset.
    grid : sequence of mapping
        Its expected runs; ``role`` says which are controls.

    Returns
    -------
    DataFrame
        Columns :data:`SCALED_COLUMNS`, a row for each model, rank, label and metric with a direction (the
        cell type is kept, the donor mixed). ``value`` and the controls' are means over training seeds.
        ``scaled`` is 1 for the best control and 0 for the worst whatever direction is good; it is missing,
        and ``status`` says why, where the score is missing, no two controls have one, or all have the same.
    """
    import pandas as pd

    controls = {cell["model"] for cell in grid if cell.get("role") == "control"}
    means = scores.groupby(["dataset", "model", "rank", "label", "metric"], sort=False)["value"].mean()
    rows: list[dict[str, Any]] = []
    for (dataset, rank, label, metric), group in means.groupby(
        ["dataset", "rank", "label", "metric"], sort=False
    ):
        better = direction(metric, label)
        if better is None:
            continue
        values = group.droplevel(["dataset", "rank", "label", "metric"])
        known = values[values.index.isin(controls)].dropna()
        ends = (known.min(), known.max()) if len(known) else (np.nan, np.nan)
        worst, best = ends if better == "higher" else ends[::-1]
        for model, value in values.items():
            row = {"dataset": dataset, "model": model, "rank": rank, "label": label, "metric": metric}
            row |= {"value": value, "worst_control": worst, "best_control": best, "n_controls": len(known)}
            rows.append(row | _scaled(value, worst, best, len(known)))
    return with_cells(pd.DataFrame(rows, columns=list(SCALED_COLUMNS[: -len(CELLS)])), scores)


def direction(metric: str, label: str) -> str | None:
    """Which way a score is good; None for a label that is neither to be kept nor to be mixed."""
    if metric in (BIO, BATCH, TOTAL):
        return "higher"
    if metric not in METRICS:
        return None
    known = METRICS[metric]
    if known.family == "integration":
        return "higher"
    return {"cell_type": known.identity, "donor_id": known.batch}.get(label)


def _scaled(value: float, worst: float, best: float, n: int) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"scaled": np.nan, "status": "the score is missing", "warning": ""}
    if n < 2:
        return {
            "scaled": np.nan,
            "status": f"{n} control{'s' * (n != 1)} with a score; two are needed",
            "warning": "",
        }
    if best == worst:
        return {"scaled": np.nan, "status": "all controls have the same score", "warning": ""}
    scaled = (value - worst) / (best - worst)
    outside = not -_BEYOND <= scaled <= 1.0 + _BEYOND
    return {"scaled": scaled, "status": "ok", "warning": "outside the controls" if outside else ""}
