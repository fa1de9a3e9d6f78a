"""The replicate ceiling: one half of the held-out cells as the prediction of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.perturbation.scoring import metrics
from nmfbench.perturbation.scoring.backends import Backend
from nmfbench.perturbation.scoring.cells import Cells
from nmfbench.perturbation.scoring.registry import BOUNDED
from nmfbench.perturbation.scoring.score import score_prediction, summarise
from nmfbench.perturbation.scoring.truth import build_truth

if TYPE_CHECKING:
    import pandas as pd


def replicate_ceiling(
    cells: Cells,
    backend: Backend,
    genes: Sequence[str],
    own_gene: np.ndarray,
    *,
    target_sum: float,
    fdr: float,
    responsive: np.ndarray,
    reference: np.ndarray | None,
    repeats: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Score halves of the held-out cells against the other halves, by the scorer itself.

    The halves of a target are disjoint; the control cells are shared out in the same way. Half as many cells
    as the truth has make the ceiling too low: ``corrected`` is the Spearman-Brown value of what is bounded
    by one, what is expected between two wholes.

    Returns
    -------
    DataFrame
        metric, targets, value, std, n, corrected; means over the repeats.
    """
    import pandas as pd

    tables = []
    for number in range(repeats):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 9, number]))
        half = np.zeros(len(cells.group), dtype=bool)
        for group in range(-1, len(cells.names)):
            mine = rng.permutation(np.flatnonzero(cells.group == group))
            half[mine[: len(mine) // 2]] = True
        one, other = (Cells(cells.counts[mask], cells.group[mask], cells.names) for mask in (half, ~half))
        truth = build_truth(other, backend, genes, own_gene, target_sum=target_sum, fdr=fdr)
        if reference is not None:
            truth = _with_reference(truth, reference)
        table, _ = score_prediction(truth, one)
        tables.append(summarise(table, responsive))
    joined = pd.concat(tables)
    joined = joined.groupby(["metric", "targets"], sort=False)[["value", "std", "n"]].mean().reset_index()
    bounded = joined["metric"].isin(BOUNDED)
    joined["corrected"] = np.where(bounded, metrics.spearman_brown(joined["value"].to_numpy()), np.nan)
    return joined


def _with_reference(truth, reference: np.ndarray):
    from dataclasses import replace

    return replace(truth, reference=reference)
