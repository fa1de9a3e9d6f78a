"""Which rank unseen molecules ask for: a table of fits, condensed to one row for each rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def summarise_unseen(fits: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Mean errors of each model and rank, and the smallest rank that is near the least.

    Parameters
    ----------
    fits : DataFrame
        One row per fit, as :mod:`nmfbench.unseen_molecules` writes them, of one or more models.
    tolerance : float
        By how much of the least error a rank may be above it.

    Returns
    -------
    DataFrame
        model, rank, n_seeds, converged (share), unseen_error and relative_error (means over seeds) with
        ``_std``, ``above_least`` (share of the least unseen error of the model) and ``chosen``.
    """
    import pandas as pd

    parts = []
    for model, group in fits.groupby("model", sort=False):
        by_rank = group.groupby("rank")
        table = pd.DataFrame({"n_seeds": by_rank.size()})
        table["converged"] = (group["stop_reason"] == "converged").groupby(group["rank"]).mean()
        for name in ("unseen_error", "relative_error", "sweeps", "seconds"):
            table[name], table[f"{name}_std"] = by_rank[name].mean(), by_rank[name].std(ddof=1)
        table["above_least"] = table["unseen_error"] / table["unseen_error"].min() - 1
        table["chosen"] = table.index == table.index[table["above_least"] <= tolerance].min()
        parts.append(table.reset_index().assign(model=model))
    summary = pd.concat(parts, ignore_index=True)
    return summary[["model", *(name for name in summary if name != "model")]]


def said_of_ranks(summary: pd.DataFrame, tolerance: float) -> dict[str, str]:
    """A sentence for each model of a table of :func:`summarise_unseen`."""
    found = {}
    for model, rows in summary.groupby("model", sort=False):
        chosen = rows[rows["chosen"].astype(bool)].iloc[0]
        least = rows.loc[rows["unseen_error"].idxmin()]
        found[str(model)] = (
            f"rank {chosen['rank']} is the smallest whose error of unseen molecules "
            f"({chosen['unseen_error']:.4f}) is within {100 * tolerance:.3g} % of the least "
            f"({least['unseen_error']:.4f}, rank {least['rank']})"
            + ("; it is the largest tried: try larger ones" if chosen["rank"] == rows["rank"].max() else "")
        )
    return found
