"""Which tables of a dataset are pages of the report, and what stands above them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nmfbench.paths import path_name
from nmfbench.tables.coverage import CLASSIFY, SCORE
from nmfbench.tables.inapplicable import why_not
from nmfbench.tables.leaderboard import KEEP, LEADING, MIX
from nmfbench.tables.page import table_page

if TYPE_CHECKING:
    import pandas as pd

_SHORT = {KEEP: "cell type", MIX: "donor"}
_ARROWS = {KEEP: " ↑", MIX: " ↓"}
_WORDS = {
    "coverage": "Which results were expected and which are there, step by step, with the reason of each gap.",
    "overview": "How much of each step is there for each run.",
    "resources": "Time, memory and device of every job.",
    "donors": "Cells of each donor, and whether it was kept.",
}
_CSV = re.compile(r"(clustering_metrics|classification_summary)_by_(?P<label>.+)_k(?P<rank>\d+)\.csv")


def pages(dataset: str, tables: Mapping[str, pd.DataFrame], sentence: str) -> dict[str, str]:
    """Write the pages of the tables of one dataset.

    Parameters
    ----------
    dataset : str
        Its name, for the titles.
    tables : mapping of str to DataFrame or None
        File name and content of the tables.
    sentence : str
        What the leaderboard says.

    Returns
    -------
    dict of str to str
        HTML by file name: the leaderboard, the published CSVs, coverage, overview and resources.
    """
    made = {"leaderboard.html": leaderboard_page(tables["leaderboard.tsv"], dataset, sentence)}
    for name, words in _WORDS.items():
        if tables[f"{name}.tsv"] is None:
            continue
        frame = tables[f"{name}.tsv"].drop(columns="dataset", errors="ignore")
        made[f"{name}.html"] = table_page(frame, f"{name}, {dataset}", words)
    for name, frame in tables.items():
        if found := _CSV.fullmatch(name):
            covered = tables["coverage.tsv"]
            made[name.replace(".csv", ".html")] = _published(frame, covered, dataset, **found.groupdict())
    return made


def leaderboard_page(board: pd.DataFrame, dataset: str, sentence: str) -> str:
    """The leaderboard with the best value of each column marked."""
    headings = {
        "display_name": "model",
        "seeds": "training seeds",
        "results": "results",
        "train_seconds": "training (s)",
        "train_peak_mb": "memory (MB)",
    }
    headings |= {f"{label}_NMI_scaled": f"{_SHORT[label]} NMI, 0 to 1 of controls ↑" for label in _SHORT}
    spreads, best = {}, {True: [], False: []}
    for column in board.columns:
        label, _, metric = column.rpartition("_")
        if metric in LEADING:
            headings[column] = f"{_SHORT.get(label, label)} {metric}{_ARROWS.get(label, '')}"
            spreads[column] = f"{column}_std"
            if label in (KEEP, MIX):
                best[label == KEEP].append(column)
    board = board.assign(results=[f"{a} of {b}" for a, b in zip(board.present, board.expected, strict=True)])
    profile = ", ".join(dict.fromkeys(board["profile"])) if "profile" in board else ""
    unshown = ("model", "present", "expected", "results", "profile")
    shown = [column for column in board if column not in unshown and _has_a_place(board, column)]
    return table_page(
        board[["display_name", *(column for column in shown if column != "display_name"), "results"]],
        f"leaderboard, {dataset}",
        f"{sentence} Shaded: the best of a column. ARI, NMI: Leiden clusters against the label; F1, AUROC: "
        "the label predicted from the embedding, their ± over folds."
        + f" Profile: {profile}."
        * bool(profile),
        headings=headings,
        spreads=spreads,
        high=best[True],
        low=best[False],
    )


def _has_a_place(board: pd.DataFrame, column: str) -> bool:
    """Whether a column is on the page: intervals are in the table, scaled scores where there are controls."""
    if column.endswith(("_low", "_high")):
        return False
    if not column.endswith("_scaled"):
        return True
    leads = column in (f"{KEEP}_NMI_scaled", f"{MIX}_NMI_scaled")
    return leads and bool(board[column].notna().any())


def _published(frame: pd.DataFrame, covered: pd.DataFrame, dataset: str, label: str, rank: str) -> str:
    """One of the published CSVs, its deviations behind its means, and why it is empty where it is."""
    spreads = {}
    for column in frame.columns:
        for deviation in (f"{column} Std", f"{column.removeprefix('MeanFold')}_std"):
            if deviation in frame.columns:
                spreads[column] = deviation
    kind = "clusters" if "ARI" in frame.columns else "classification"
    words = f"{kind} scored by {label}, rank {rank}"
    high, low = (list(spreads) if label == wanted else [] for wanted in (KEEP, MIX))
    note = (
        "± over Leiden seeds." if kind == "clusters" else "± over folds, shuffles and classifiers together."
    )
    if frame.empty and "label" in covered:
        step = SCORE if kind == "clusters" else CLASSIFY
        names = [name for name in covered["label"].dropna().unique() if path_name(name) == label]
        reasons = [reason for name in names for reason in why_not(covered, name, step)]
        note = (
            f"Not applicable: {'; '.join(reasons)}."
            if reasons
            else "No model has these scores; see coverage."
        )
    return table_page(frame, f"{words}, {dataset}", note, spreads=spreads, high=high, low=low)
