"""The shuffled store: the cells of a filtered file once more, in random order and with checksums.

Minibatches are random cells. A compressed file gives cells in its own order dozens of times faster than at
random, so the order is made random once, and an epoch reads whole shards (stretches of the shuffled file) in
an order of its own. The store is an .h5ad of raw counts like the filtered file, with ``obs["cell"]``, the
number of each row's cell there.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy import sparse

from nmfbench.data.filtered import PROVENANCE_KEY, FilteredCounts, csr_of, read_filtered
from nmfbench.data.h5ad import open_h5ad, reading
from nmfbench.data.writer import disk_errors, whole_h5ad, write_frame, write_sections
from nmfbench.errors import InputError
from nmfbench.training.disk import FilteredRows
from nmfbench.training.rows import BLOCK_ROWS

log = logging.getLogger(__name__)

SHUFFLE_KEY = "nmfbench_shuffle"
WINDOW_SHARDS = 4
"""Shards in memory from which the batches are drawn; as many more are being read meanwhile."""

_AGAIN = "delete the file and run snakemake again: shuffle_cells writes it anew"


def shuffle_cells(
    filtered: str | Path, output: str | Path, *, by_type: bool, seed: int = 0, shard_rows: int = BLOCK_ROWS
) -> None:
    """Write the shuffled store of a filtered file; it appears whole or not at all.

    Two passes: the blocks of the filtered file are scattered over a scratch file (8 bytes a nonzero, beside
    `output`, removed at the end), one region for each shard; then each region is put in order and written. A
    block and a shard are in memory, and 20 bytes a cell.

    Parameters
    ----------
    filtered : path
    output : path
        The .h5ad.
    by_type : bool
        Spread each cell type evenly over the store, so that every shard has the types of the whole, as
        nearly as whole cells allow; otherwise the order uses no label.
    seed : int
        Decides the order.
    shard_rows : int
        Cells in a shard.

    Raises
    ------
    InputError
        `filtered` cannot be read, or the disk is full.
    """
    counts, output = read_filtered(filtered), Path(output)
    types = counts.label("cell_type").codes if by_type else None
    order = _draw_order(counts.n_cells, types, np.random.default_rng([seed, 0x5348]))
    del types
    place = np.empty_like(order)
    place[order] = np.arange(counts.n_cells, dtype=order.dtype)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = output.with_name(f".{output.name}.{os.getpid()}.scratch")
    digests = []
    try:
        with disk_errors(output), scratch.open("w+b") as file, whole_h5ad(output) as new:
            regions = _scatter(counts, place, shard_rows, file)
            writer = new.csr("X", counts.n_genes, counts.nnz)
            for shard, region in enumerate(regions):
                cells = order[shard * shard_rows : (shard + 1) * shard_rows]
                block = _gather(counts, cells, region, file)
                writer.append(block)
                digests.append(_digest(block))
            writer.finish()
            write_frame(new.hdf5, "obs", {"cell": order}, order.astype(np.bytes_))
            own = {"fingerprint": counts.fingerprint, "seed": seed, "by_type": by_type}
            own |= {"shard_rows": shard_rows, "digests": np.array(digests, dtype=object)}
            own["order"] = _digest_of_order(order)
            write_sections(new.hdf5, {"uns": {SHUFFLE_KEY: own}})
            with open_h5ad(counts.path) as source:
                source.copy("var", new.hdf5)
                source.copy(f"uns/{PROVENANCE_KEY}", new.hdf5["uns"])
    finally:
        scratch.unlink(missing_ok=True)
    log.info("shuffled %d cells into %d shards of %d", counts.n_cells, len(digests), shard_rows)


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
        window, pointers = self._plan[number], self.counts.indptr
        rows = np.concatenate([self.shard_of(shard) for shard in window])
        indptr = np.concatenate([[0], np.cumsum(pointers[rows + 1] - pointers[rows])])
        data = np.empty(indptr[-1], np.float32)
        indices = np.empty(indptr[-1], np.int32)
        end = 0
        for _, block in self._read(self.block_rows, window):
            part = slice(end, end := end + block.nnz)
            data[part], indices[part] = block.data, block.indices
        return csr_of(data, indices, indptr, self.n_columns)

    def _counts(self, size: int, needed: np.ndarray | None) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start, block in super()._counts(size, needed):
            shard = start // size
            if shard not in self._verified and _digest(block) != self._digests[shard]:
                raise InputError(
                    f"{self.counts.path}: shard {shard}, cells from {start}",
                    "the cells that were written",
                    "others (the checksum differs)",
                    _AGAIN,
                )
            self._verified.add(shard)
            yield start, block


def _draw_order(n: int, codes: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """The numbers 0 .. n - 1 in random order, every stretch with the shares of the whole of each code."""
    kind = np.int32 if n < 2**31 else np.int64
    if codes is None:
        order = np.arange(n, dtype=kind)
        rng.shuffle(order)
        return order
    order = np.argsort(codes, kind="stable").astype(kind)
    places = np.empty(n)
    end = 0
    for size in np.bincount(codes):
        part = slice(end, end := end + size)
        rng.shuffle(order[part])
        # Member j of a group of s stands at (j + shift) / s of the way.
        places[part] = (np.arange(size) + rng.random()) / max(size, 1)
    return order[np.argsort(places, kind="stable")]


def _scatter(
    counts: FilteredCounts, place: np.ndarray, shard_rows: int, file: BinaryIO
) -> list[tuple[int, int]]:
    """Copy every cell to the region of its shard, in the order of the cells; the regions' ends and starts.

    The values come first in `file`, then the gene numbers, 4 bytes each.
    """
    sizes = np.zeros(-(-counts.n_cells // shard_rows), np.int64)
    for start in range(0, counts.n_cells, BLOCK_ROWS):
        shards = place[start : start + BLOCK_ROWS] // shard_rows
        np.add.at(sizes, shards, np.diff(counts.indptr[start : start + len(shards) + 1]))
    starts = np.cumsum(sizes) - sizes
    free = starts.copy()
    for start, block in counts.blocks(BLOCK_ROWS):
        shards = place[start : start + block.shape[0]] // shard_rows
        by_shard = np.argsort(shards, kind="stable")
        block, shards = block[by_shard], shards[by_shard]
        present, first = np.unique(shards, return_index=True)
        edges = block.indptr[np.append(first, len(shards))]
        values, genes = block.data.astype("<f4", copy=False), block.indices.astype("<i4", copy=False)
        for shard, low, high in zip(present, edges[:-1], edges[1:], strict=True):
            for base, part in ((0, values), (counts.nnz, genes)):
                file.seek(4 * (base + int(free[shard])))
                file.write(part[low:high].data)
            free[shard] += high - low
    return list(zip(starts.tolist(), sizes.tolist(), strict=True))


def _gather(
    counts: FilteredCounts, cells: np.ndarray, region: tuple[int, int], file: BinaryIO
) -> sparse.csr_matrix:
    """The cells of a shard, in their order, from its region."""
    start, size = region
    parts = []
    for base, dtype in ((0, "<f4"), (counts.nnz, "<i4")):
        file.seek(4 * (base + start))
        parts.append(np.frombuffer(file.read(4 * size), dtype=dtype))
    there = np.sort(cells)
    indptr = np.concatenate([[0], np.cumsum(counts.indptr[there + 1] - counts.indptr[there])])
    return csr_of(*parts, indptr, counts.n_genes)[np.searchsorted(there, cells)]


def _digest(block: sparse.csr_matrix) -> str:
    """Checksum of some cells' counts."""
    hasher = hashlib.blake2b(np.diff(block.indptr).astype("<i4").data, digest_size=16)
    hasher.update(block.indices.astype("<i4", copy=False).data)
    hasher.update(block.data.astype("<f4", copy=False).data)
    return hasher.hexdigest()


def _digest_of_order(order: np.ndarray) -> str:
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
    if _digest_of_order(order) != own["order"]:
        raise InputError(f"{path}: the order of the cells", "as it was written", "another", _AGAIN)
    return own, order
