"""Which differences of the leaderboard are larger than their uncertainty, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nmfbench.tables.leaderboard import KEEP, MIX
from nmfbench.tables.runs import Cell
from nmfbench.tables.uncertainty import FOLDS, MEAN, SEEDS, comparisons

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
SEED_METRIC, FOLD_METRIC = "NMI", "F1"
_HOW = {
    SEEDS: "Welch's t over training seeds",
    FOLDS: "corrected resampled t over the folds of one training",
}


def differences(scores: pd.DataFrame, folds: pd.DataFrame, grid: Sequence[Cell]) -> pd.DataFrame:
    """The rows of comparisons.tsv that the sentence is of, with the same p values.

    NMI over training seeds, where a pair could be tested; else F1, mean of the classifiers, over folds.
    """
    labels = [KEEP, MIX]
    mine = scores[(scores["metric"] == SEED_METRIC) & scores["label"].isin(labels)]
    found = comparisons(mine, folds.iloc[:0], grid)
    if found["p_holm"].notna().any():
        return found
    found = comparisons(scores.iloc[:0], folds[folds["label"].isin(labels)], grid)
    return found[(found["metric"] == FOLD_METRIC) & (found["classifier"] == MEAN)]


def sentence_of_differences(found: pd.DataFrame, display_names: Mapping[str, str]) -> str:
    """Whom the best model by each label is tested to be better than, at 5 % after Holm's correction.

    Parameters
    ----------
    found : DataFrame
        As :func:`differences` gives it.
    display_names : mapping of str to str

    Returns
    -------
    str
        Empty where no pair could be tested.
    """
    said = []
    ranks = list(dict.fromkeys(found["rank"]))
    for rank in ranks:
        for label, good in ((KEEP, 1.0), (MIX, -1.0)):
            rows = found[(found["rank"] == rank) & (found["label"] == label) & found["p_holm"].notna()]
            if rows.empty:
                continue
            best = _best(rows, good)
            mine = rows[(rows["model"] == best) | (rows["other"] == best)]
            others = mine["other"].where(mine["model"] == best, mine["model"])
            larger = (mine["p_holm"] < LEVEL).to_numpy()
            sides = {"higher than" if good > 0 else "lower than": others[larger]}
            sides["not told apart from"] = others[~larger]
            parts = [
                f"{word} {', '.join(display_names.get(model, model) for model in side)}"
                for word, side in sides.items()
                if len(side)
            ]
            at = f" at rank {rank}" if len(ranks) > 1 else ""
            by = label.removesuffix("_id").replace("_", " ")
            said.append(f"by {by}{at} {display_names.get(best, best)} is {' and '.join(parts)}")
    if not said:
        return ""
    metric, how = found["metric"].iloc[0], _HOW[found["unit"].iloc[0]]
    return f"Differences of {metric} ({how}, Holm's correction, 5 %): {'; '.join(said)}."


def _best(rows: pd.DataFrame, good: float) -> str:
    """The model that no other is better than, by the differences of the pairs."""
    signed = good * rows["difference"]
    beaten = {*rows["other"][signed > 0], *rows["model"][signed < 0]}
    models = dict.fromkeys([*rows["model"], *rows["other"]])
    return next((model for model in models if model not in beaten), next(iter(models)))
