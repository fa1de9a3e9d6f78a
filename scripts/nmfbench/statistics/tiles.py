"""A Gram matrix larger than memory: gathered by tiles of rows, one pass over the cells each, kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from nmfbench.errors import InputError
from nmfbench.statistics.gather import Block, GroupSums, PartialGrams, check_shard
from nmfbench.statistics.record import Layout, Statistics
from nmfbench.statistics.store import fill, load, writing

_MIB = 2**20


def gather_to_disk(
    read_blocks: Callable[[], Iterable[Block]],
    layout: Layout,
    path: str | Path,
    *,
    memory_mb: float,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Statistics of all cells whose Gram matrix is written to `path` and never held whole.

    Parameters
    ----------
    read_blocks : callable
        Begins a pass over all cells; called once for each tile of rows.
    layout : Layout
        Of one shard and without Gram matrices of donors.
    path : path
        The file written; it appears whole or not at all.
    memory_mb : float
        For one tile of rows, in MiB: rows x genes x 8 bytes.
    progress : callable, optional
        Told the number of cells of each block done, in every pass.

    Returns
    -------
    Statistics
        With `gram` a memory map of the file.
    """
    p = len(layout.genes)
    if layout.n_shards != 1 or layout.donor_grams:
        raise InputError(
            "Gram matrix on disk", "one shard, no Gram matrices of donors",
            f"{layout.n_shards} shards, donor_grams: {layout.donor_grams}",
            "gather it in one job; for cae_nmf2 go through the nonzeros instead",
        )  # fmt: skip
    height = min(int(memory_mb * _MIB // (8 * p)), p)
    if height < 1:
        raise InputError(
            "Gram matrix on disk", f"memory for one row, {8 * p / _MIB:.3g} MiB", f"{memory_mb:.3g} MiB",
            "grant more memory",
        )  # fmt: skip
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.gram")
    kind = np.dtype(layout.dtype)
    try:
        gram = np.memmap(partial, mode="w+", dtype=kind, shape=(p, p))
        sums = None
        for low in range(0, p, height):
            high = min(low + height, p)
            grams = PartialGrams(layout, rows=(low, high))
            first = GroupSums(layout) if sums is None else None
            for X, conditions, types in read_blocks():
                X = X if X.has_sorted_indices else X.sorted_indices()
                if first is not None:
                    first.add(X, conditions, types)
                grams.add(X)
                if progress is not None:
                    progress(X.shape[0])
            sums = sums or first
            check_shard(layout, 0, sums.n_cells)
            upper = grams.total[0][:, low:].astype(kind)
            corner = np.triu(upper[:, : high - low])
            gram[low:high, low:high] = corner + np.triu(corner, 1).T
            gram[low:high, high:] = upper[:, high - low :]
            gram[high:, low:high] = upper[:, high - low :].T
        statistics = sums.finish(0, gram, None)
        statistics.check()
        with writing(path) as file:
            fill(file, statistics)
    finally:
        partial.unlink(missing_ok=True)
    return load(path, memory_map=True, verify=False)
