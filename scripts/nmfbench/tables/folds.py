"""Classification scores by fold: how far folds differ, apart from how far classifiers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmfbench.metrics import CLASSIFICATION_METRICS

if TYPE_CHECKING:
    import pandas as pd

KEY = ("model", "rank", "seed", "label", "metric")
#: How the classification of one label of one run is named.
RUN = ("model", "rank", "seed", "label")


def over_folds(folds: pd.DataFrame) -> pd.DataFrame:
    """Spread of the classification scores over folds, and the mean of every classifier.

    Rows of one fold are of several classifiers, whose levels differ far more than the folds do: a deviation
    over all rows describes the choice of classifiers. So a fold counts once, by its mean over them.

    Parameters
    ----------
    folds : DataFrame
        folds.tsv: :data:`RUN`, cv_seed, fold, classifier, status and a column for each metric.

    Returns
    -------
    DataFrame
        :data:`KEY`, std (standard deviation, ddof 1, over the fold means), n (fold means) and classifiers
        (a list: the mean of each over its folds).
    """
    import pandas as pd

    columns = [*KEY, "std", "n", "classifiers"]
    if "status" in folds:
        folds = folds[folds["status"].astype(str) == "ok"]
    folds = folds.astype({"model": str, "rank": int, "seed": int, "label": str})
    found = []
    for metric in [name for name in CLASSIFICATION_METRICS if name in folds]:
        values = folds.assign(value=pd.to_numeric(folds[metric], errors="coerce")).dropna(subset="value")
        if values.empty:
            continue
        by_fold = values.groupby([*RUN, "cv_seed", "fold"])["value"].mean().groupby(list(RUN))
        table = pd.DataFrame({"std": by_fold.std(ddof=1), "n": by_fold.size()})
        by_classifier = values.groupby([*RUN, "classifier"])["value"].mean()
        table["classifiers"] = by_classifier.groupby(list(RUN)).agg(list)
        found.append(table.assign(metric=metric).reset_index()[columns])
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def with_fold_deviations(scores: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Rows of scores.tsv in which ``std`` of the classification metrics is that over fold means."""
    import pandas as pd

    found = over_folds(folds).set_index(list(KEY))["std"].to_dict()
    keys = zip(*(scores[name] for name in KEY), strict=True)
    std = pd.Series([found.get(key) for key in keys], scores.index, dtype=float)
    of_folds = scores["metric"].isin(CLASSIFICATION_METRICS)
    return scores.assign(std=scores["std"].astype(float).where(~of_folds, std))
