"""Whether models differ over datasets: Friedman's test of their ranks, and Nemenyi's critical difference.

Demšar (2006). The unit is the dataset: folds and training seeds of one dataset are not independent of each
other, and have no place here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
LEAST_DATASETS, FEW_DATASETS = 5, 10  # the workflow plans the figure from the first on (grid.py)
"""Below the first there is no test; below the second it finds large differences alone."""


@dataclass(frozen=True)
class RankTest:
    """Mean ranks of models (1 is best) and what of their differences is no chance.

    Attributes
    ----------
    mean_ranks : ndarray of shape (n_models,)
    p : float
        Of Friedman's test that no model ranks otherwise than another.
    critical_difference : float
        Mean ranks closer than this do not differ (Nemenyi, family-wise at 5 %).
    n_datasets : int
    """

    mean_ranks: np.ndarray
    p: float
    critical_difference: float
    n_datasets: int


def rank_models(scores: np.ndarray, *, higher_is_better: bool) -> RankTest:
    """Test whether models differ over datasets.

    Parameters
    ----------
    scores : ndarray of shape (n_datasets, n_models)
        One score of each model on each dataset; datasets with a gap are left out.
    higher_is_better : bool

    Returns
    -------
    RankTest
        ``p`` and ``critical_difference`` are NaN for fewer than five datasets or two models.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    scores = np.asarray(scores, dtype=np.float64)
    scores = scores[np.isfinite(scores).all(axis=1)]
    n, k = scores.shape
    if n == 0:
        return RankTest(np.full(k, np.nan), np.nan, np.nan, 0)
    ranks = rankdata(-scores if higher_is_better else scores, axis=1)
    means = ranks.mean(axis=0)
    if n < LEAST_DATASETS or k < 2:
        return RankTest(means, np.nan, np.nan, n)
    difference = studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    if (ranks == ranks[:, :1]).all():  # all models tie everywhere
        p = 1.0
    elif k == 2:  # the test needs three; of two it is that of signs
        p = _signs(scores)
    else:
        p = float(friedmanchisquare(*scores.T).pvalue)
    return RankTest(means, p, float(difference), n)


def _signs(scores: np.ndarray) -> float:
    from scipy.stats import binomtest

    signs = np.sign(scores[:, 0] - scores[:, 1])
    signs = signs[signs != 0]
    return float(binomtest(int((signs > 0).sum()), signs.size).pvalue) if signs.size else 1.0


def groups_within(mean_ranks: np.ndarray, critical_difference: float) -> list[tuple[int, int]]:
    """Runs of models, in the order of their ranks, that do not differ: first and last of each, widest ones.

    Parameters
    ----------
    mean_ranks : ndarray, ascending
    critical_difference : float
    """
    found: list[tuple[int, int]] = []
    for first in range(len(mean_ranks)):
        last = int(np.flatnonzero(mean_ranks - mean_ranks[first] < critical_difference)[-1])
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found
