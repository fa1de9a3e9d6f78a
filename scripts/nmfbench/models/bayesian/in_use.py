"""Which patterns tell cells apart, and which the prior has switched off.

A posterior of rank 80 has patterns that nothing uses: their factors are the prior's in every cell, up to
what is left of the start. Scores z-score the factors, and so make the remnants as loud as a cell type.
"""

from __future__ import annotations

import numpy as np

from nmfbench.models.bayesian.posterior import Marginals

LEAST_RELIABILITY = 0.5
"""Half of what a factor varies by is then the cells', and half the posterior's doubt about them."""

LEAST_SHARE = 1e-3
"""Of the expected counts of all cells."""


def reliability(cells: Marginals) -> np.ndarray:
    """Reliability of each pattern, ``V / (V + U)``, of shape (f + k,).

    V is the variance between cells of the posterior means, U the mean over cells of the posterior variances:
    the share of the variance of a factor, drawn for a random cell, that knowing the cell explains (the
    reliability of classical test theory, Lord & Novick 1968). 0 where nothing varies.

    Parameters
    ----------
    cells : Marginals of shape (n, f + k)
        The posterior of the cells' factors.
    """
    between = cells.mean().double().var(dim=0, correction=0).numpy()
    within = cells.sd().double().square().mean(dim=0).numpy()
    return np.divide(between, between + within, out=np.zeros_like(between), where=between + within > 0)


def patterns_in_use(reliabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Patterns of a reliability of at least a half that account for at least a thousandth of the counts.

    Parameters
    ----------
    reliabilities : ndarray of shape (k,)
    counts : ndarray of shape (k,)
        Expected counts of all cells that a pattern accounts for.

    Returns
    -------
    ndarray of bool, shape (k,)

    Examples
    --------
    >>> patterns_in_use(np.array([0.9, 0.2, 0.9]), np.array([50.0, 50.0, 0.01]))
    array([ True, False, False])
    """
    return (reliabilities >= LEAST_RELIABILITY) & (counts >= LEAST_SHARE * counts.sum())
