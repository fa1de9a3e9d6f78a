"""A Gram matrix larger than memory: gathered by tiles of rows, one pass over the cells each, kept on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from nmfbench.errors import InputError
from nmfbench.statistics.gather import Block, GroupSums, check_shard
from nmfbench.statistics.grams import TILE_ROWS, PartialGrams
from nmfbench.statistics.record import Layout, Statistics
from nmfbench.statistics.store import fill, load, writing

_MIB = 2**20


def tile_height(layout: Layout, memory_mb: float, passes: int | None = None) -> int:
    """Rows of the Gram matrix that are made in one pass over the cells.

    Parameters
    ----------
    memory_mb : float
        For one tile of rows, in MiB: rows x genes x 8 bytes for each Gram matrix kept.
    passes : int, optional
        Refuse if it takes more.

    Raises
    ------
    InputError
        If not one row fits, or it takes too many passes.
    """
    p = len(layout.genes)
    row = 8 * p * layout.n_grams / _MIB
    height = min(int(memory_mb // row), p)
    if height < 1:
        raise InputError(
            "Gram matrix on disk", f"memory for one row, {row:.3g} MiB", f"{memory_mb:.3g} MiB",
            "grant more memory",
        )  # fmt: skip
    if height > TILE_ROWS:
        height -= height % TILE_ROWS  # whole tiles, so that the bits are those of a sum in memory
    needed = -(-p // height)
    if passes is not None and needed > passes:
        fits = -(-p // passes)
        fits = -(-fits // TILE_ROWS) * TILE_ROWS if fits > TILE_ROWS else fits
        remedy = (
            f"set statistics.memory_mb to {np.ceil(fits * row):.0f} or statistics.passes to {needed}, keep "
            "fewer genes (datasets.<name>.genes), or train by minibatch (models.<name>.solver: minibatch)"
        )
        raise InputError(
            f"Gram matrix of {p} genes" + (f" x {layout.n_grams} donors" if layout.donor_grams else ""),
            f"at most {passes} passes over the cells in the {memory_mb:.0f} MiB granted",
            f"{needed} passes of {height} rows ({p * row:.0f} MiB in all)",
            remedy,
        )
    return height


def check_disk(layout: Layout, path: str | Path, copies: int = 1) -> None:
    """Refuse, before work starts, a Gram matrix for which the disk has no room.

    Parameters
    ----------
    layout : Layout
    path : path
        The file to be written.
    copies : int
        Two where it is made in tiles on disk, which are then copied into the file.
    """
    p = len(layout.genes)
    need = copies * np.dtype(layout.dtype).itemsize * p * p * (layout.n_grams + layout.donor_grams) / _MIB
    free = shutil.disk_usage(Path(path).parent).free / _MIB
    if need > free:
        raise InputError(
            f"{path}: Gram matrix of {p} genes on disk", f"{need:.0f} MiB of free space", f"{free:.0f} MiB",
            "free space, run in a folder on a larger disk, keep fewer genes, or train by minibatch",
        )  # fmt: skip


def gather_to_disk(
    read_blocks: Callable[[], Iterable[Block]],
    layout: Layout,
    path: str | Path,
    shard: int = 0,
    *,
    memory_mb: float,
    passes: int | None = None,
    device: str | Sequence[str] = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Statistics of the cells of one shard whose Gram matrix is written to `path` and never held whole.

    Parameters
    ----------
    read_blocks : callable
        Begins a pass over the shard's cells; called once for each tile of rows.
    layout : Layout
    path : path
        The file written; it appears whole or not at all.
    shard : int
    memory_mb, passes
        As in :func:`tile_height`.
    device : str or sequence of str
        As in :func:`~nmfbench.statistics.gather.gather_shard`.
    progress : callable, optional
        Told the number of cells of each block done, in every pass.

    Returns
    -------
    Statistics
        With the Gram matrices as memory maps of the file; the same bits as :func:`gather_shard` gives (by the
        dense method, where `memory_mb` holds `TILE_ROWS` rows or all).
    """
    p = len(layout.genes)
    height = tile_height(layout, memory_mb, passes)
    check_disk(layout, path, copies=2)
    devices = [device] if isinstance(device, str) else device
    path = Path(path)
    partial = [path.with_name(f".{path.name}.{os.getpid()}.{name}") for name in ("gram", "donor-grams")]
    kind = np.dtype(layout.dtype)
    try:
        gram = np.memmap(partial[0], mode="w+", dtype=kind, shape=(p, p))
        donor_grams = None
        if layout.donor_grams:
            donor_grams = np.memmap(partial[1], mode="w+", dtype=kind, shape=(layout.n_grams, p, p))
        sums = None
        for low in range(0, p, height):
            grams = PartialGrams(layout, devices, rows=(low, min(low + height, p)))
            first = GroupSums(layout) if sums is None else None
            for X, conditions, types in read_blocks():
                X = X if X.has_sorted_indices else X.sorted_indices()
                if first is not None:
                    first.add(X, conditions, types)
                donors = np.asarray(conditions).reshape(X.shape[0], -1)[:, 0] if layout.donor_grams else None
                grams.add(X, donors)
                if progress is not None:
                    progress(X.shape[0])
            sums = sums or first
            check_shard(layout, shard, sums.n_cells)
            grams.fill(gram, donor_grams)
        statistics = sums.finish(shard, gram, donor_grams)
        statistics.check()
        with writing(path) as file:
            fill(file, statistics)
    finally:
        for file in partial:
            file.unlink(missing_ok=True)
    return load(path, memory_map=True, verify=False)
