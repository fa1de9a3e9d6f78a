"""Sums of counts over cells and over genes, some millions of entries at a time, in double precision.

SciPy adds single-precision values in single precision, whatever ``dtype`` is asked for: a gene with more than
2^24 counts gets a wrong total, and casts of all values at once take twice the memory of the counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_ENTRIES_AT_ONCE = 1 << 22


def entries_of(counts: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, genes and values of the stored entries, some millions at a time; float64 values."""
    start = 0
    while start < counts.shape[0]:
        ahead = np.searchsorted(counts.indptr, counts.indptr[start] + _ENTRIES_AT_ONCE, side="right") - 1
        stop = int(max(start + 1, min(ahead, counts.shape[0])))
        part = slice(counts.indptr[start], counts.indptr[stop])
        rows = np.repeat(np.arange(start, stop), np.diff(counts.indptr[start : stop + 1]))
        yield rows, counts.indices[part], counts.data[part].astype(np.float64)
        start = stop


def cell_totals(counts: Any) -> np.ndarray:
    """Sum of each cell of a CSR matrix, of shape (cells,)."""
    totals = np.zeros(counts.shape[0])
    for rows, _, y in entries_of(counts):
        if len(rows):
            first = int(rows[0])
            found = np.bincount(rows - first, weights=y)
            totals[first : first + len(found)] += found
    return totals


def gene_totals(counts: Any, factor: np.ndarray | None = None, *, power: int = 1) -> np.ndarray:
    """``sum_i f_i y_ig^power`` of each gene of a CSR matrix, of shape (genes,); f is 1 unless given."""
    totals = np.zeros(counts.shape[1])
    for rows, genes, y in entries_of(counts):
        weights = y**power if factor is None else y**power * factor[rows]
        totals += np.bincount(genes, weights=weights, minlength=len(totals))
    return totals


def gene_nonzeros(counts: Any) -> np.ndarray:
    """Stored entries of each gene of a CSR matrix, of shape (genes,)."""
    numbers = np.zeros(counts.shape[1], dtype=np.int64)
    for _, genes, _ in entries_of(counts):
        numbers += np.bincount(genes, minlength=len(numbers))
    return numbers
