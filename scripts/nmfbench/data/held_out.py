"""Counts set aside for judging a model of counts."""

from __future__ import annotations

from typing import Any

import numpy as np


def thin_counts(counts: Any, fraction: float, seed: int) -> tuple[Any, Any]:
    """Split every count in two: each molecule is set aside with chance `fraction`, apart from all others.

    Parameters
    ----------
    counts : csr_matrix or csr_array of shape (cells, genes)
        Whole numbers.
    fraction : float
        Between 0 and 1.
    seed : int

    Returns
    -------
    train, test : of the type of `counts`
        They add up to `counts`; neither stores a zero. Every cell and gene is in both, so that a model is
        judged on cells that it knows.
    """
    rng = np.random.default_rng([seed, 0x7E57])
    test = counts.copy()
    test.data = rng.binomial(counts.data.astype(np.int64), fraction).astype(counts.dtype)
    train = counts.copy()
    train.data = counts.data - test.data
    for part in (train, test):
        part.eliminate_zeros()
    return train, test
