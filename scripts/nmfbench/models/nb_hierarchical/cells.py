"""Effects of cells given those of the genes: one concave problem in one number for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood
from nmfbench.models.nb_hierarchical.means import Means

STEPS, CLOSE = 50, 1e-8


def infer_cells(
    counts: Any, size: np.ndarray, group: np.ndarray, means: Means, prior: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable ``b_i`` of new cells, and their sds from the curvature.

    Parameters
    ----------
    counts : csr of shape (cells, genes)
        Over the fitted genes.
    size : ndarray of shape (cells,)
        Log size factors.
    group : ndarray of shape (cells,)
        Combination of the covariates' levels.
    means : Means
        Of the fit: c and the dispersions.
    prior : tuple of float
        Mean and sd of the cell effects.
    """
    likelihood = SplitLikelihood(counts, group=group, n_groups=len(means.c))
    mean, sd = prior
    b = np.full(len(size), mean)
    for _ in range(STEPS):
        terms = likelihood.evaluate(b + size, means.c, means.log_alpha, value=False, bend=True)
        precision = 1 / sd**2 - terms.t_bend
        step = (terms.t - (b - mean) / sd**2) / precision
        b += np.clip(step, -2.0, 2.0)
        if np.max(np.abs(step)) < CLOSE:
            break
    return b, 1 / np.sqrt(precision)
