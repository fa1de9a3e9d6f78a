"""What the tables say of scores that have no meaning for the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmfbench.metrics import METRICS
from nmfbench.tables.cautions import sentence
from nmfbench.tables.coverage import CLASSIFY, SCORE, TRAIN
from nmfbench.tables.failures import NOT_APPLICABLE
from nmfbench.tables.runs import RUN_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

#: Step of each family of scores by a label, and what a person calls it.
STEPS = {"clustering": SCORE, "classification": CLASSIFY}
WORDS = {SCORE: "clusters are not compared with", CLASSIFY: "there is no classification by"}


def mark_inapplicable(scores: pd.DataFrame, covered: pd.DataFrame) -> pd.DataFrame:
    """Give scores that are missing because they have no meaning a status that says so.

    Parameters
    ----------
    scores, covered : DataFrame
        scores.tsv and coverage.tsv.

    Returns
    -------
    DataFrame
        The scores; ``status`` is ``not applicable`` where it was ``missing`` for that reason.
    """
    without = covered[covered["failure"] == NOT_APPLICABLE]
    of_label = {tuple(row) for row in without[[*RUN_COLUMNS, "label", "step"]].itertuples(index=False)}
    of_fit = {
        tuple(row) for row in without.loc[without["step"] == TRAIN, list(RUN_COLUMNS)].itertuples(index=False)
    }

    def status(row: pd.Series) -> str:
        run = tuple(row[column] for column in RUN_COLUMNS)
        family = METRICS[row["metric"]].family if row["metric"] in METRICS else None
        has_none = run in of_fit or (*run, row["label"], STEPS.get(family)) in of_label
        return NOT_APPLICABLE if row["status"] == "missing" and has_none else row["status"]

    if not len(scores):
        return scores
    return scores.assign(status=scores.apply(status, axis=1))


def why_not(covered: pd.DataFrame, label: str, step: str) -> list[str]:
    """Reasons for which a step has nothing to say of a label, of fits that were made; each once."""
    mine = covered[(covered["label"] == label) & (covered["step"] == step)]
    untrained = covered.loc[
        (covered["step"] == TRAIN) & (covered["failure"] == NOT_APPLICABLE), list(RUN_COLUMNS)
    ]
    untrained = {tuple(run) for run in untrained.itertuples(index=False)}
    return list(
        dict.fromkeys(
            row["reason"]
            for _, row in mine[mine["failure"] == NOT_APPLICABLE].iterrows()
            if tuple(row[column] for column in RUN_COLUMNS) not in untrained
        )
    )


def sentences(covered: pd.DataFrame) -> list[str]:
    """What of the scores has no meaning for these data, and why, for the first page of the report."""
    labels = list(dict.fromkeys(covered.loc[covered["step"].isin(WORDS), "label"]))
    return [
        sentence(f"Not applicable: {words} {label}: {reason}") + "."
        for label in labels
        for step, words in WORDS.items()
        for reason in why_not(covered, label, step)
    ]
