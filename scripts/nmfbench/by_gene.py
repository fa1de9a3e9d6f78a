"""Compiled: where the nonzeros of a range of genes lie in a CSR block, so that they can be sorted by gene."""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled_loop


@compiled_loop
def count_by_gene(indptr, indices, low, high):
    """The first half of a counting sort of the genes low to high.

    Parameters
    ----------
    indptr, indices : ndarray of int
        CSR, indices ascending within a row.

    Returns
    -------
    border : ndarray of int64, shape (high - low + 1,)
        Where the nonzeros of each gene begin when sorted by gene; the last one is their number.
    first, last : ndarray of int64, shape (rows,)
        Range of each row's nonzeros that are of these genes.
    """
    n = indptr.shape[0] - 1
    border = np.zeros(high - low + 1, np.int64)
    first = np.empty(n, np.int64)
    last = np.empty(n, np.int64)
    for i in range(n):
        row = indices[indptr[i] : indptr[i + 1]]
        first[i] = indptr[i] + np.searchsorted(row, low)
        last[i] = indptr[i] + np.searchsorted(row, high)
        for j in range(first[i], last[i]):
            border[indices[j] - low + 1] += 1
    for g in range(high - low):
        border[g + 1] += border[g]
    return border, first, last
