"""The shuffled store: the cells of a filtered file once more, in random order and with checksums.

Minibatches are random cells. A compressed file gives cells in its own order dozens of times faster than at
random, so the order is made random once, and an epoch reads whole shards (stretches of the shuffled file) in
an order of its own. The store is an .h5ad of raw counts like the filtered file, with ``obs["cell"]``, the
number of each row's cell there.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy import sparse

from nmfbench.data.filtered import PROVENANCE_KEY, FilteredCounts, csr_of, read_filtered
from nmfbench.data.h5ad import open_h5ad
from nmfbench.data.writer import disk_errors, whole_h5ad, write_frame, write_sections
from nmfbench.rows.memory import BLOCK_ROWS
from nmfbench.rows.shuffled import SHUFFLE_KEY, digest, digest_of_order

log = logging.getLogger(__name__)


def shuffle_cells(
    filtered: str | Path, output: str | Path, *, by_type: bool, seed: int = 0, shard_rows: int = BLOCK_ROWS
) -> None:
    """Write the shuffled store of a filtered file; it appears whole or not at all.

    Two passes: the blocks of the filtered file are scattered over a scratch file (8 bytes a nonzero and 4 a
    cell, beside `output`, removed at the end), one region for each shard; then each region is put in order
    and written. A block and a shard are in memory, and 8 bytes a cell (24 while the order is drawn).

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
            starts = _scatter(counts, place, shard_rows, file)
            del place
            writer = new.csr("X", counts.n_genes, counts.nnz)
            for shard, start in enumerate(starts):
                first = shard * shard_rows
                block = _gather(counts, order[first : first + shard_rows], first, start, file)
                writer.append(block)
                digests.append(digest(block))
            writer.finish()
            names = (b"%d" % cell for cell in order)
            write_frame(new.hdf5, "obs", counts.n_cells, names, [("cell", order)])
            own = {"fingerprint": counts.fingerprint, "seed": seed, "by_type": by_type}
            own |= {"shard_rows": shard_rows, "digests": np.array(digests, dtype=object)}
            own["order"] = digest_of_order(order)
            write_sections(new.hdf5, {"uns": {SHUFFLE_KEY: own}})
            with open_h5ad(counts.path) as source:
                source.copy("var", new.hdf5)
                source.copy(f"uns/{PROVENANCE_KEY}", new.hdf5["uns"])
                # those of the cells in their order; the store has its own
                new.hdf5["uns"][PROVENANCE_KEY].pop("checksums", None)
    finally:
        scratch.unlink(missing_ok=True)
    log.info("shuffled %d cells into %d shards of %d", counts.n_cells, len(digests), shard_rows)


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


def _scatter(counts: FilteredCounts, place: np.ndarray, shard_rows: int, file: BinaryIO) -> list[int]:
    """Copy every cell to the region of its shard, in the order of the cells; where the regions start.

    The values come first in `file`, then the gene numbers, then each cell's nonzeros; 4 bytes each.
    """
    n_shards = -(-counts.n_cells // shard_rows)
    sizes, end = np.zeros(n_shards, np.int64), 0
    for lengths in counts.lengths(BLOCK_ROWS):
        np.add.at(sizes, place[end : end + len(lengths)] // shard_rows, lengths)
        end += len(lengths)
    starts = np.cumsum(sizes) - sizes
    free, free_cell = starts.copy(), np.arange(n_shards) * shard_rows
    for start, block in counts.blocks(BLOCK_ROWS):
        shards = place[start : start + block.shape[0]] // shard_rows
        by_shard = np.argsort(shards, kind="stable")
        block, shards = block[by_shard], shards[by_shard]
        present, first = np.unique(shards, return_index=True)
        rows = np.append(first, len(shards))
        edges = block.indptr[rows]
        values, genes = block.data.astype("<f4", copy=False), block.indices.astype("<i4", copy=False)
        lengths = np.diff(block.indptr).astype("<i4")
        for i, shard in enumerate(present):
            entries, cells = slice(edges[i], edges[i + 1]), slice(rows[i], rows[i + 1])
            for at, part in (
                (free[shard], values[entries]),
                (counts.nnz + free[shard], genes[entries]),
                (2 * counts.nnz + free_cell[shard], lengths[cells]),
            ):
                file.seek(4 * int(at))
                file.write(part.data)
            free[shard] += edges[i + 1] - edges[i]
            free_cell[shard] += rows[i + 1] - rows[i]
    return starts.tolist()


def _gather(
    counts: FilteredCounts, cells: np.ndarray, first: int, start: int, file: BinaryIO
) -> sparse.csr_matrix:
    """The cells of a shard, in their order, from its region: the cells from `first`, entries from `start`."""

    def read(at: int, n: int, dtype: str) -> np.ndarray:
        file.seek(4 * at)
        return np.frombuffer(file.read(4 * n), dtype=dtype)

    lengths = read(2 * counts.nnz + first, len(cells), "<i4")
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = read(start, int(indptr[-1]), "<f4")
    genes = read(counts.nnz + start, int(indptr[-1]), "<i4")
    there = np.sort(cells)  # as they were written
    return csr_of(values, genes, indptr, counts.n_genes)[np.searchsorted(there, cells)]
