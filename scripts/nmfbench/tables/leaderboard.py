"""The answer in one table: a line for each model with its scores, what it cost and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nmfbench.metrics.uncertainty import seed_interval
from nmfbench.tables.cells import with_cells
from nmfbench.tables.coverage import failures_among
from nmfbench.tables.folds import with_fold_deviations
from nmfbench.tables.page import number
from nmfbench.tables.runs import Cell

if TYPE_CHECKING:
    import pandas as pd

#: Scores of the leaderboard, left to right.
LEADING = ("ARI", "NMI", "F1", "AUROC")
#: Labels that should be kept apart by an embedding, and mixed.
KEEP, MIX = "cell_type", "donor_id"


def leaderboard(
    scores: pd.DataFrame,
    folds: pd.DataFrame,
    covered: pd.DataFrame,
    resources: pd.DataFrame,
    grid: Sequence[Cell],
    scaled: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Put scores, coverage and cost of every model and rank into one line.

    Parameters
    ----------
    scores, folds, covered, resources : DataFrame
        The tables of the same names, of one dataset.
    grid : sequence of mapping
        Expected runs (:mod:`nmfbench.tables.runs`).
    scaled : DataFrame, optional
        scaled_scores.tsv.

    Returns
    -------
    DataFrame
        model, display_name, rank, seeds (trainings with scores); for each label and metric of
        :data:`LEADING` ``{label}_{metric}``, the mean over training seeds, and ``{label}_{metric}_std``,
        their standard deviation, or that over Leiden seeds or fold means where one was trained; present and
        expected (results); failures, the classes of what failed by itself, or ``none``; train_seconds and
        train_peak_mb (means over seeds); profile, the protocol of the scores; for
        each score again ``_low`` and ``_high``, its 95 % interval over training seeds, and ``_scaled``, 0 for
        the worst control and 1 for the best; n_cells of of_cells, the cells it was scored on and those of the
        dataset. What is missing stays so.
    """
    import pandas as pd

    scores = with_fold_deviations(scores, folds)
    lines = []
    for (model, rank), cells in _by_model(grid).items():
        mine = _of(scores, model, rank)
        line: dict[str, Any] = {"model": model, "display_name": cells[0]["display_name"], "rank": rank}
        line["seeds"] = mine.loc[mine["value"].notna(), "seed"].nunique()
        for label in cells[0]["labels"]:
            for metric in LEADING:
                rows = mine[(mine["label"] == label) & (mine["metric"] == metric) & mine["value"].notna()]
                several = len(rows) > 1
                line[f"{label}_{metric}"] = rows["value"].mean()
                line[f"{label}_{metric}_std"] = (
                    rows["value"].std(ddof=1) if several else rows["std"].astype(float).mean()
                )
        counted = _of(covered, model, rank)
        line |= {"present": counted["present"].sum(), "expected": counted["expected"].sum()}
        line["failures"] = failures_among(counted)
        training = _of(resources, model, rank)
        training = training[training["step"] == "train"]
        line["train_seconds"] = training["seconds"].astype(float).mean()
        line["train_peak_mb"] = training["peak_mb"].astype(float).mean()
        line["profile"] = cells[0].get("profile", "")
        line |= _beside(mine, cells[0]["labels"], None if scaled is None else _of(scaled, model, rank))
        lines.append(line)
    return with_cells(pd.DataFrame(lines), scores) if lines else pd.DataFrame(lines)


def _beside(mine: pd.DataFrame, labels: Sequence[str], scaled: pd.DataFrame | None) -> dict[str, float]:
    """Intervals over training seeds, and scores on the scale of the controls, of one model."""
    found: dict[str, float] = {}
    for label in labels:
        for metric in LEADING:
            name = f"{label}_{metric}"
            rows = mine[(mine["label"] == label) & (mine["metric"] == metric)]
            interval = seed_interval(rows["value"].astype(float))
            found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            if scaled is not None:
                here = scaled[(scaled["label"] == label) & (scaled["metric"] == metric)]["scaled"]
                found[f"{name}_scaled"] = float(here.iloc[0]) if len(here) else math.nan
    return found


def _by_model(grid: Sequence[Cell]) -> dict[tuple[str, int], list[Cell]]:
    found: dict[tuple[str, int], list[Cell]] = {}
    for cell in grid:
        found.setdefault((cell["model"], cell["rank"]), []).append(cell)
    return found


def _of(table: pd.DataFrame, model: str, rank: int) -> pd.DataFrame:
    return table[(table["model"] == model) & (table["rank"] == rank)]


def headline(board: pd.DataFrame, metric: str = "NMI") -> str:
    """What the leaderboard says, in a few sentences for each rank.

    Parameters
    ----------
    board : DataFrame
        As :func:`leaderboard` returns it, without the controls.
    metric : str
        The score that is spoken of.

    Returns
    -------
    str
        Which model keeps cell types apart best and which mixes donors best, by how much, and for which models
        no other is better in both. Empty where the two labels were not scored.
    """
    keep, mix = f"{KEEP}_{metric}", f"{MIX}_{metric}"
    if not {keep, mix} <= set(board):
        return ""
    ranks = list(dict.fromkeys(board["rank"]))
    said = []
    for rank in ranks:
        rows = board[(board["rank"] == rank) & board[keep].notna() & board[mix].notna()].to_dict("records")
        if not rows:
            said.append(f"At rank {rank} no model has scores by both cell type and donor.")
            continue
        kept, mixed = (sorted(rows, key=lambda row: -row[keep]), sorted(rows, key=lambda row: row[mix]))
        front = [row for row in rows if not any(_better(other, row, keep, mix) for other in rows)]
        first, second = (_words(order, column) for order, column in ((kept, keep), (mixed, mix)))
        if kept[0] is mixed[0]:
            text = (
                f"{kept[0]['display_name']} keeps cell types apart best ({metric} {first}) and mixes donors "
            )
            text += f"best ({second})."
        else:
            text = f"{kept[0]['display_name']} keeps cell types apart best ({metric} {first}), "
            text += f"{mixed[0]['display_name']} mixes donors best ({second}). "
            names = [row["display_name"] for row in front]
            text += f"No model does both; none is better in both than {_list(names)}."
        said.append((f"Rank {rank}: " if len(ranks) > 1 else "") + text)
    if not (board[keep].notna() & board[mix].notna()).any():
        return " ".join(said)
    several = board["seeds"].max() > 1
    spread = "training seeds" if several else "Leiden seeds of one training"
    said.append(f"± is the standard deviation over {spread}, and no test of a difference.")
    return " ".join(said)


def _better(one: Mapping[str, Any], other: Mapping[str, Any], keep: str, mix: str) -> bool:
    """Whether one model is at least as good in both and better in one."""
    at_least = one[keep] >= other[keep] and one[mix] <= other[mix]
    return at_least and (one[keep], one[mix]) != (other[keep], other[mix])


def _words(order: Sequence[Mapping[str, Any]], column: str) -> str:
    """The best value with its deviation, and whether the next one lies within the deviations."""
    best = order[0]
    text = number(best[column]) + _deviation(best[f"{column}_std"])
    if len(order) > 1:
        gap = abs(best[column] - order[1][column])
        spread = math.hypot(*(value for row in order[:2] if (value := row[f"{column}_std"]) == value))
        if gap <= spread:
            text += f", {order[1]['display_name']} within the deviations"
    return text


def _deviation(value: float) -> str:
    return f" ± {number(value)}" if value == value else ""


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
