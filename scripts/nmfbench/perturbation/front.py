"""The first page of the report, for the second task: a sentence and a short table for each split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nmfbench.atomic import whole_file
from nmfbench.tables.files import write_table

if TYPE_CHECKING:
    import pandas as pd

#: Heading -> column of the summary; the arrow is the direction that is better.
SHOWN = {
    "MAE ↓": "MAE",
    "MAE, responsive ↓": "MAE_responsive",
    "Pearson delta ↑": "PearsonDelta",
    "responsive ↑": "PearsonDelta_responsive",
    "PDS ↑": "PDS",
    "DES ↑": "DES",
}
AGAINST = "against the mean"
NOTHING = "\N{EN DASH}"  # a hyphen alone would be a list in the report
WORDS = {"yes": "better", "no": "worse", "": "no difference"}


def write_front(
    folder: Path, split: str, summary: pd.DataFrame, differences: pd.DataFrame, kinds: Mapping[str, str]
) -> None:
    """Write ``perturbation_front_{split}.tsv`` and ``.txt``.

    Parameters
    ----------
    folder : Path
    split : str
    summary : DataFrame
        The summary of the split, with the column ``predictor`` (its name in the config) besides.
    differences : DataFrame
        Paired differences of the split (:func:`nmfbench.perturbation.tables.differences`).
    kinds : mapping
        Predictor to its kind.
    """
    verdict = verdicts(differences)
    table = front_table(summary, verdict, kinds)
    write_table(table, folder / f"perturbation_front_{split}.tsv")
    with whole_file(folder / f"perturbation_front_{split}.txt") as stream:
        stream.write((sentence(summary, verdict, kinds) + "\n").encode())


def verdicts(differences: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Embedding and predictor -> better, worse or no difference in MAE over all targets to their mean."""
    mine = differences[
        (differences["baseline"] == "perturbed_mean")
        & (differences["metric"] == "MAE")
        & (differences["targets"] == "all")
    ]
    return {(row.embedding, row.predictor): WORDS[row.better] for row in mine.itertuples()}


def front_table(
    summary: pd.DataFrame, verdict: Mapping[tuple[str, str], str], kinds: Mapping[str, str]
) -> pd.DataFrame:
    """predictor, embedding, the leading scores, the verdict on MAE, and how many seeds are there."""
    import pandas as pd

    rows = []
    for row in summary.to_dict("records"):
        asked = row["n_seeds"] + row["n_failed"]
        is_run = row["predictor"] in kinds
        rows.append(
            {
                "predictor": row["Predictor"],
                "embedding": row["Embedding"] if row["Embedding"] != "none" else NOTHING,
                **{title: row[column] for title, column in SHOWN.items()},
                AGAINST: verdict.get((row["Embedding"], row["predictor"]), NOTHING),
                "seeds": f"{row['n_seeds']} of {asked}" if is_run else NOTHING,
            }
        )
    return pd.DataFrame(rows, columns=["predictor", "embedding", *SHOWN, AGAINST, "seeds"])


def sentence(summary: pd.DataFrame, verdict: Mapping[tuple[str, str], str], kinds: Mapping[str, str]) -> str:
    """Which predictors have a smaller error than the mean of perturbed, by an interval without zero."""
    several = summary.loc[summary["Embedding"] != "none", "Embedding"].nunique() > 1
    names: dict[str, list[str]] = {word: [] for word in WORDS.values()}
    for row in summary.to_dict("records"):
        word = verdict.get((row["Embedding"], row["predictor"]))
        if word is not None:
            suffix = f" ({row['Embedding']})" if several and row["Embedding"] != "none" else ""
            names[word].append(f"{row['Predictor']}{suffix}")
    if not any(kinds.get(name) == "perturbed_mean" for name in summary["predictor"]):
        return "There is no mean of perturbed (predictor perturbed_mean) to compare the others with."
    beyond = "beyond the interval over targets"
    text = f"No predictor has a smaller error than the mean of perturbed {beyond}"
    if names["better"]:
        text = f"A smaller error than the mean of perturbed, {beyond}: {', '.join(names['better'])}"
    if names["worse"]:
        text += f"; a larger one: {', '.join(names['worse'])}"
    return text + "."
