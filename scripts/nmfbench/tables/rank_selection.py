"""Which rank the data support: a table of light fits, condensed to one row for each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MEANS = (
    "objective",
    "relative_error",
    "held_out_objective",
    "held_out_error",
    "predicted_error",
    "stability",
    "sweeps",
    "seconds",
)
_FOLD = "predicted_error_"


def summarise(fits: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of each model, set of penalties and rank, and the rank that is supported.

    Parameters
    ----------
    fits : DataFrame
        One row per fit, as :mod:`nmfbench.rank_selection` writes them, of one or more
        models.

    Returns
    -------
    DataFrame
        model, penalties, rank, n_seeds, converged (share), mean and ``_std`` of each measure,
        ``behind_best`` and ``behind_best_se`` (how far the predicted error is above the lowest of its model
        and penalties, with the standard error over gene folds) and ``supported``.
    """
    import pandas as pd

    parts = []
    for (model, penalties), group in fits.groupby(["model", "penalties"], sort=False):
        by_rank = group.groupby("rank")
        table = pd.DataFrame({"n_seeds": by_rank.size()})
        table["converged"] = (group["stop_reason"] == "converged").groupby(group["rank"]).mean()
        for name in MEANS:
            table[name], table[f"{name}_std"] = by_rank[name].mean(), by_rank[name].std(ddof=1)
        behind, error = behind_best(group)
        table["behind_best"], table["behind_best_se"] = behind, error
        table["supported"] = table.index == supported_rank(behind, error)
        parts.append(table.reset_index().assign(model=model, penalties=penalties))
    summary = pd.concat(parts, ignore_index=True)
    return summary[["model", "penalties", *(name for name in summary if name not in ("model", "penalties"))]]


def behind_best(group: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """How far each rank's predicted error lies above the lowest, and the standard error of that.

    The folds of genes are the same for all ranks, so the difference is taken fold by fold: folds that are
    hard for every rank do not blur it.

    Returns
    -------
    behind, error : Series by rank
    """
    folds = [name for name in group if name.startswith(_FOLD) and name.removeprefix(_FOLD).isdecimal()]
    means = group.groupby("rank")[folds].mean()
    apart = means - means.loc[means.mean(axis=1).idxmin()]
    return apart.mean(axis=1), apart.std(axis=1, ddof=1) / np.sqrt(len(folds))


def supported_rank(behind: pd.Series, error: pd.Series) -> int:
    """The smallest rank that is not behind the best by more than one standard error."""
    return int(behind.index[behind <= error].min())
