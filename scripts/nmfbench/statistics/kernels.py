"""Compiled accumulation of Xᵀ X from the nonzeros of a block of cells."""

from __future__ import annotations

import numpy as np
from numba import prange

from nmfbench.compiled import compiled


@compiled(parallel=True)
def add_sparse_gram(indptr, indices, data, column_ptr, cells, first_row, gram):
    """Add the upper triangle of Xᵀ X of a block of cells to `gram`, in float64.

    A row of the result belongs to one thread and takes the cells in their order, so the number of threads
    does not change a bit of it. A gene's row is summed in a buffer that stays in the cache.

    Parameters
    ----------
    indptr, indices, data : arrays
        CSR of the block with sorted indices.
    column_ptr, cells : arrays
        Where each gene's nonzeros lie: positions in the CSR, cell by cell, and the cell of each.
    first_row : int
        Gene of the first row of `gram`, which holds a tile of rows.
    gram : (rows, genes) float64 array
        Only entries on and right of the diagonal are touched.
    """
    n_genes = gram.shape[1]
    for row in prange(gram.shape[0]):
        gene = first_row + row
        start, stop = column_ptr[gene, 0], column_ptr[gene, 1]
        if stop > start:
            total = np.zeros(n_genes, np.float64)
            for at in range(start, stop):
                position = cells[at, 1]
                x = np.float64(data[position])
                # unsigned: numba then leaves out its test for indices counted from the end
                for e in range(np.uint64(position), np.uint64(indptr[cells[at, 0] + 1])):
                    total[np.uint64(indices[e])] += x * data[e]
            for l in range(gene, n_genes):
                gram[row, l] += total[l]


@compiled()
def positions_by_gene(indptr, indices, n_genes):
    """Where each gene's nonzeros lie in a CSR block.

    Returns
    -------
    column_ptr : (genes, 2) int64 array
        First and last + 1 of each gene's entries in `cells`.
    cells : (nonzeros, 2) int64 array
        Cell and position in the CSR of each nonzero, gene by gene and then cell by cell.
    """
    column_ptr = np.zeros((n_genes, 2), np.int64)
    for e in range(indices.shape[0]):
        column_ptr[indices[e], 1] += 1
    start = 0
    for g in range(n_genes):
        n = column_ptr[g, 1]
        column_ptr[g, 0] = start
        column_ptr[g, 1] = start
        start += n
    cells = np.empty((indices.shape[0], 2), np.int64)
    for i in range(indptr.shape[0] - 1):
        for e in range(indptr[i], indptr[i + 1]):
            at = column_ptr[indices[e], 1]
            cells[at, 0] = i
            cells[at, 1] = e
            column_ptr[indices[e], 1] = at + 1
    return column_ptr, cells
