"""The shuffled store that :mod:`nmfbench.rows.shuffle` writes, read by shards and windows of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from nmfbench.data.filtered import FilteredCounts, csr_of, read_filtered
from nmfbench.data.h5ad import open_h5ad, reading
from nmfbench.errors import InputError
from nmfbench.rows.disk import FilteredRows
from nmfbench.rows.memory import BLOCK_ROWS

SHUFFLE_KEY = "nmfbench_shuffle"
WINDOW_SHARDS = 4
"""Shards in memory from which the batches are drawn; as many more are being read meanwhile."""

_AGAIN = "delete the file and run snakemake again: shuffle_cells writes it anew"


class ShuffledRows(FilteredRows):
    """Normalised cells x genes of a shuffled store, with minibatches by windows of a few shards.

    Parameters
    ----------
    path : path
        What :func:`shuffle_cells` wrote.
    counts : FilteredCounts
        The filtered file it was written from.
    normalisation : mapping

    Attributes
    ----------
    order : ndarray of int of shape (cells,)
        The number in the filtered file of each row's cell.
    block_rows : int
        Cells in a shard.

    Raises
    ------
    InputError
        The store is not one, is damaged, or is of other data. Every shard is compared with its checksum
        when it is first read.

    Notes
    -----
    In use as a context, so that the reading thread ends.
    """

    def __init__(self, path: str | Path, counts: FilteredCounts, normalisation: Mapping[str, Any]) -> None:
        super().__init__(read_filtered(path), normalisation)
        own, self.order = _read_header(self.counts.path)
        if (own["fingerprint"], self.n_rows) != (counts.fingerprint, counts.n_cells):
            raise InputError(
                f"{path}: a store of other data",
                f"{counts.n_cells} cells with the fingerprint {counts.fingerprint}",
                f"{self.n_rows} cells with the fingerprint {own['fingerprint']}",
                _AGAIN,
            )
        self.block_rows = int(own["shard_rows"])
        self._digests = [str(digest) for digest in own["digests"]]
        self._own = f"order {own['order']}, windows of {WINDOW_SHARDS} x {self.block_rows}"
        self._nonzeros = np.array([lengths.sum() for lengths in self.counts.lengths(self.block_rows)])
        self._verified: set[int] = set()
        self._plan: list[np.ndarray] = []
        self._window: tuple[int, sparse.csr_matrix] | None = None
        self._next: tuple[int, Future] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nmfbench-read")

    def __enter__(self) -> ShuffledRows:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def n_shards(self) -> int:
        """Number of shards; the last may have fewer cells."""
        return len(self._digests)

    def shard_of(self, number: int) -> np.ndarray:
        """The row numbers of a shard."""
        return np.arange(number * self.block_rows, min((number + 1) * self.block_rows, self.n_rows))

    def fingerprint(self) -> str:
        """Of the counts, their normalisation and order, and the windows that batches are drawn from."""
        return f"{super().fingerprint()} {self._own}"

    def follow(self, plan: list[np.ndarray]) -> None:
        """Say which windows (arrays of shards) the coming batches are drawn from, in their order."""
        self._plan, self._window, self._next = plan, None, None

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """As in the parent; the blocks are the shards, whatever the `size`."""
        self._window = None  # no batch comes between two passes
        return super().blocks(self.block_rows)

    def rows(self, indices: np.ndarray) -> sparse.csr_matrix:
        """The rows `indices`, in that order: of a window of the plan, or from a pass where none has them."""
        shards = np.unique(indices // self.block_rows)
        if self._window is None or not np.isin(shards, self._plan[self._window[0]]).all():
            found = (i for i, window in enumerate(self._plan) if np.isin(shards, window).all())
            number = next(found, None)
            if number is None:
                return super().rows(indices)
            self._window = None  # before the next one comes
            self._window = number, self._load(number)
        number, csr = self._window
        window = self._plan[number]
        # Where each shard begins in the window; only the last shard of the file is shorter.
        lengths = np.minimum(self.block_rows, self.n_rows - window * self.block_rows)
        first = np.zeros(self.n_shards, np.int64)
        first[window] = np.cumsum(lengths) - lengths
        batch = csr[first[indices // self.block_rows] + indices % self.block_rows]
        batch.has_sorted_indices = True
        return batch

    def _load(self, number: int) -> sparse.csr_matrix:
        """A window, read ahead where it is the one foreseen; the one after it is then read."""
        if self._next is None or self._next[0] != number:
            self._next = number, self._pool.submit(self._join, number)
        csr = self._next[1].result()
        self._next = None
        if number + 1 < len(self._plan):
            self._next = number + 1, self._pool.submit(self._join, number + 1)
        return csr

    def _join(self, number: int) -> sparse.csr_matrix:
        """The shards of a window in one matrix, filled shard by shard."""
        window = self._plan[number]
        n_rows = sum(len(self.shard_of(shard)) for shard in window)
        nnz = int(self._nonzeros[window].sum())
        indptr, row, end = np.zeros(n_rows + 1, np.int64), 0, 0
        data, indices = np.empty(nnz, np.float32), np.empty(nnz, np.int32)
        for _, block in self._read(self.block_rows, window):
            indptr[row + 1 : row + 1 + block.shape[0]] = end + block.indptr[1:].astype(np.int64)
            row += block.shape[0]
            part = slice(end, end := end + block.nnz)
            data[part], indices[part] = block.data, block.indices
        return csr_of(data, indices, indptr, self.n_columns)

    def _counts(self, size: int, needed: np.ndarray | None) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, block in super()._counts(size, needed):
            shard = start // size
            if shard not in self._verified and digest(block) != self._digests[shard]:
                raise InputError(
                    f"{self.counts.path}: shard {shard}, cells from {start}",
                    "the cells that were written",
                    "others (the checksum differs)",
                    _AGAIN,
                )
            self._verified.add(shard)
            yield start, block


def digest(block: sparse.csr_matrix) -> str:
    """Checksum of some cells' counts."""
    hasher = hashlib.blake2b(np.diff(block.indptr).astype("<i4").data, digest_size=16)
    hasher.update(block.indices.astype("<i4", copy=False).data)
    hasher.update(block.data.astype("<f4", copy=False).data)
    return hasher.hexdigest()


def digest_of_order(order: np.ndarray) -> str:
    """Checksum of the order of the cells."""
    hasher = hashlib.blake2b(digest_size=16)
    for start in range(0, len(order), BLOCK_ROWS):
        hasher.update(order[start : start + BLOCK_ROWS].astype("<i8").data)
    return hasher.hexdigest()


def _read_header(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The store's own entry of uns, and its order."""
    from anndata.io import read_elem

    with open_h5ad(path) as file:
        if f"uns/{SHUFFLE_KEY}" not in file:
            raise InputError(str(path), "a store written by the rule shuffle_cells", "another file", _AGAIN)
        with reading(path, "obs and uns"):
            own = read_elem(file["uns"][SHUFFLE_KEY])
            order = file["obs/cell"][:]
    if digest_of_order(order) != own["order"]:
        raise InputError(f"{path}: the order of the cells", "as it was written", "another", _AGAIN)
    return own, order
