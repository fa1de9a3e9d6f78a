"""Compiled: what a block of cells adds to the sums over all, its nonzeros taken gene by gene, once."""

from __future__ import annotations

import numpy as np

from nmfbench.by_gene import count_by_gene
from nmfbench.compiled import compiled_loop


@compiled_loop
def add_block(indptr, indices, million, values, H, per_share, products, sums, low, high):
    """Add the genes low to high of a block of cells to `products` and `sums`.

    Parameters
    ----------
    indptr, indices : ndarray of int64 and int32
        CSR, indices ascending within a row.
    million, values : ndarray of float32, shape (nonzeros,)
        Counts per million and normalised values.
    H : ndarray of shape (rows, k)
        The embedding.
    per_share : ndarray of float64, shape (rows,)
        1 over the sum of the cell's row of H; 0 where it has no shares.
    products : ndarray of float64, shape (genes, 3, k)
        Of counts per million with H, with shares, and of values with H.
    sums : ndarray of float64, shape (4, genes)
        Of counts per million, their squares, of values, their squares.
    """
    n, k = H.shape
    # the nonzeros of these genes, sorted by gene (a counting sort): a gene's sums then stay in cache
    border, first, last = count_by_gene(indptr, indices, low, high)
    cells = np.empty(border[high - low], np.int32)
    weights = np.empty((border[high - low], 2), np.float32)
    for i in range(n):
        for j in range(first[i], last[i]):
            q = border[indices[j] - low]
            border[indices[j] - low] = q + 1
            cells[q] = i
            weights[q, 0] = million[j]
            weights[q, 1] = values[j]
    j = 0
    for g in range(high - low):
        end = border[g]
        of_usage, of_share, of_value = products[g + low, 0], products[g + low, 1], products[g + low, 2]
        for q in range(j, end):
            t, v = np.float64(weights[q, 0]), np.float64(weights[q, 1])
            sums[0, g + low] += t
            sums[1, g + low] += t * t
            sums[2, g + low] += v
            sums[3, g + low] += v * v
        # two cells at a time, so that the sums are read and written half as often
        while j + 2 <= end:
            a, b = cells[j], cells[j + 1]
            ta, tb = np.float64(weights[j, 0]), np.float64(weights[j + 1, 0])
            va, vb = np.float64(weights[j, 1]), np.float64(weights[j + 1, 1])
            sa, sb = ta * per_share[a], tb * per_share[b]
            x, y = H[a], H[b]
            for l in range(k):
                of_usage[l] = (of_usage[l] + ta * x[l]) + tb * y[l]
                of_share[l] = (of_share[l] + sa * x[l]) + sb * y[l]
                of_value[l] = (of_value[l] + va * x[l]) + vb * y[l]
            j += 2
        if j < end:
            t, v, x = np.float64(weights[j, 0]), np.float64(weights[j, 1]), H[cells[j]]
            s = t * per_share[cells[j]]
            for l in range(k):
                of_usage[l] += t * x[l]
                of_share[l] += s * x[l]
                of_value[l] += v * x[l]
            j += 1
