"""Rows that stay on disk: the filtered counts, read in order and normalised on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from scipy import sparse

from nmfbench.data.filtered import FilteredCounts, csr_of, normalise_block
from nmfbench.rows.memory import BLOCK_ROWS

T = TypeVar("T")
_END = object()


class FilteredRows:
    """Normalised cells x genes of a filtered file; one block and the one after it are in memory.

    Parameters
    ----------
    counts : FilteredCounts
    normalisation : mapping
        ``target_sum`` and ``log1p``.

    Attributes
    ----------
    n_rows, n_columns, nnz : int
    dtype : numpy.dtype
        float32.
    """

    order: np.ndarray | None = None
    block_rows = BLOCK_ROWS

    def __init__(self, counts: FilteredCounts, normalisation: Mapping[str, Any]) -> None:
        self.counts = counts
        self.normalisation = dict(normalisation)
        self.n_rows, self.n_columns, self.nnz = counts.n_cells, counts.n_genes, counts.nnz
        self.dtype = np.dtype(np.float32)

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Pairs of the first row's number and the CSR block; the next block is read meanwhile."""
        return prefetched(self._read(size))

    def rows(self, indices: np.ndarray) -> sparse.csr_matrix:
        """The rows `indices`, in that order, from one pass over the blocks that hold them."""
        ascending = np.argsort(indices, kind="stable")
        wanted = np.asarray(indices)[ascending]
        indptr = np.zeros(len(wanted) + 1, np.int64)
        for start, lengths in zip(
            range(0, self.n_rows, self.block_rows), self.counts.lengths(self.block_rows), strict=True
        ):
            low, high = np.searchsorted(wanted, [start, start + len(lengths)])
            indptr[low + 1 : high + 1] = lengths[wanted[low:high] - start]
        np.cumsum(indptr, out=indptr)
        # Filled in place: parts of many blocks, put together at the end, would leave as many holes.
        data, columns = np.empty(indptr[-1], self.dtype), np.empty(indptr[-1], np.int32)
        needed = np.unique(wanted // self.block_rows)
        for start, block in prefetched(self._read(self.block_rows, needed)):
            low, high = np.searchsorted(wanted, [start, start + block.shape[0]])
            part, place = block[wanted[low:high] - start], slice(indptr[low], indptr[high])
            data[place], columns[place] = part.data, part.indices
        found = csr_of(data, columns, indptr, self.n_columns)
        if not np.array_equal(ascending, np.arange(len(ascending))):
            found = found[np.argsort(ascending)]
        found.has_sorted_indices = True
        return found

    def fingerprint(self) -> str:
        """Of the counts and their normalisation."""
        return f"{self.counts.fingerprint} {self.normalisation}"

    def _read(self, size: int, needed: np.ndarray | None = None) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, block in self._counts(size, needed):
            yield start, normalise_block(block, **self.normalisation)

    def _counts(self, size: int, needed: np.ndarray | None) -> Iterator[tuple[int, sparse.csr_matrix]]:
        return self.counts.blocks(size, needed)


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="nmfbench-read") as pool:
        waiting = pool.submit(next, items, _END)
        while (item := waiting.result()) is not _END:
            waiting = pool.submit(next, items, _END)
            yield item
            del item  # the consumer may be done with it before the next one is there
