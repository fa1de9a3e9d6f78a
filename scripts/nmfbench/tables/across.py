"""Several datasets as one benchmark: scores of each, their mean over datasets, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.metrics.critical_difference import FEW_DATASETS, LEAST_DATASETS, rank_models
from nmfbench.metrics.uncertainty import seed_interval
from nmfbench.tables.cells import CELLS
from nmfbench.tables.leaderboard import KEEP, LEADING, MIX
from nmfbench.tables.scaled import direction

if TYPE_CHECKING:
    import pandas as pd

KEY = ("model", "rank", "label", "metric")
DATASET_COLUMNS = ("dataset", *KEY, "value", "std", "n", "profile", *CELLS)
ACROSS_COLUMNS = (*KEY, "mean", "se", "low", "high", "n_datasets", "expected", "status")
RANK_COLUMNS = (
    *("rank", "label", "metric", "model", "mean_rank", "n_datasets", "n_models"),
    *("p", "critical_difference", "note"),
)


def scores_by_dataset(scores: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean of every score over the training seeds of each dataset.

    Parameters
    ----------
    scores : sequence of DataFrame
        scores.tsv of each dataset.

    Returns
    -------
    DataFrame
        Columns :data:`DATASET_COLUMNS`; ``std`` (ddof 1) is over the ``n`` training seeds that have a value.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for table in scores:
        for key, group in table.groupby(["dataset", *KEY], sort=False):
            values = pd.to_numeric(group["value"], errors="coerce").dropna()
            row = dict(zip(("dataset", *KEY), key, strict=True))
            row |= {"value": values.mean(), "std": values.std(ddof=1), "n": len(values)}
            row |= {"profile": group["profile"].iloc[0] if "profile" in group else ""}
            rows.append(row | {name: group[name].min() for name in CELLS if name in group})
    return pd.DataFrame(rows, columns=list(DATASET_COLUMNS))


def scores_across_datasets(by_dataset: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """Mean and standard error of every score over datasets.

    Parameters
    ----------
    by_dataset : DataFrame
        Of :func:`scores_by_dataset`.
    datasets : sequence of str
        Those that are expected.

    Returns
    -------
    DataFrame
        Columns :data:`ACROSS_COLUMNS`. ``se`` is the deviation over datasets (ddof 1) over the root of their
        number, ``low`` and ``high`` the 95 % t interval. ``status`` is ``partial`` where a dataset has no
        value, whose mean is over other datasets than the rest, and ``missing`` where none has.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for key, group in by_dataset.groupby(list(KEY), sort=False):
        values = group["value"].dropna()
        interval, n = seed_interval(values), len(values)
        rows.append(
            dict(zip(KEY, key, strict=True))
            | {"mean": interval.value, "se": values.std(ddof=1) / np.sqrt(n) if n else np.nan}
            | {"low": interval.low, "high": interval.high, "n_datasets": n, "expected": len(datasets)}
            | {"status": "ok" if n == len(datasets) else "partial" if n else "missing"}
        )
    return pd.DataFrame(rows, columns=list(ACROSS_COLUMNS))


def ranks_over_datasets(by_dataset: pd.DataFrame, roles: Mapping[str, str]) -> pd.DataFrame:
    """Mean rank of every model over datasets, with the critical difference of two of them.

    Parameters
    ----------
    by_dataset : DataFrame
        Of :func:`scores_by_dataset`.
    roles : mapping of str to str
        Role of every model; controls have no rank.

    Returns
    -------
    DataFrame
        Columns :data:`RANK_COLUMNS`, for the scores of the leaderboard by cell type and donor. Datasets where
        a model has no score are left out; a model without any score has no rank.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    ranked = by_dataset[[roles.get(model) != "control" for model in by_dataset["model"]]]
    for (rank, label, metric), group in ranked.groupby(["rank", "label", "metric"], sort=False):
        if metric not in LEADING or label not in (KEEP, MIX):
            continue
        table = group.pivot(index="dataset", columns="model", values="value").dropna(axis=1, how="all")
        table = table[[model for model in dict.fromkeys(group["model"]) if model in table]]
        test = rank_models(table.to_numpy(), higher_is_better=direction(metric, label) == "higher")
        shared = {"rank": rank, "label": label, "metric": metric, "n_datasets": test.n_datasets}
        shared |= {"n_models": table.shape[1], "p": test.p, "critical_difference": test.critical_difference}
        for model, value in zip(table.columns, test.mean_ranks, strict=True):
            rows.append(shared | {"model": model, "mean_rank": value, "note": _note(test.n_datasets)})
    return pd.DataFrame(rows, columns=list(RANK_COLUMNS))


def _note(n_datasets: int) -> str:
    if n_datasets < LEAST_DATASETS:
        return f"no test of fewer than {LEAST_DATASETS} datasets"
    return f"low power: fewer than {FEW_DATASETS} datasets" if n_datasets < FEW_DATASETS else ""
