"""The statistics of a filtered file: how its cells are laid out in shards, and the job of one shard."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.data.donor_groups import deal_donors, runs_of
from nmfbench.data.filtered import FilteredCounts, normalise_block, read_filtered
from nmfbench.endings import Interrupted
from nmfbench.gram_cost import choose_method, gram_bytes
from nmfbench.statistics.gather import Block, gather_shard
from nmfbench.statistics.grams import check_gpu_memory
from nmfbench.statistics.record import Layout, Statistics
from nmfbench.statistics.store import save
from nmfbench.statistics.tiles import check_disk, gather_to_disk, tile_height

log = logging.getLogger(__name__)

PIECE_ROWS = 256
"""Cells of a piece at most: few, so that a shard of a file sorted by donor has cells of all donors."""

BLOCK_ROWS = 4096
"""Cells of a block of the pass. Part of the result: sums of other blocks differ in the last bit."""

_SECONDS_BETWEEN_LINES = 30
_MIB = 2**20


def lay_out(
    data: FilteredCounts,
    *,
    normalisation: Mapping[str, Any],
    condition_columns: Sequence[str],
    n_shards: int,
    donor_grams: bool,
    memory_mb: float,
    on_gpu: bool = False,
    by_donor: bool = False,
) -> Layout:
    """How the cells of a filtered file are shared out, and what is gathered of them.

    Parameters
    ----------
    data : FilteredCounts
    normalisation : mapping
        ``target_sum`` and ``log1p``.
    condition_columns : sequence of str
    n_shards : int
    donor_grams : bool
        Whether a Gram matrix for each donor is wanted; it is made where they all fit in `memory_mb`.
    memory_mb : float
        MiB for Gram matrices.
    on_gpu : bool
        Blocks are then densified.
    by_donor : bool
        Shards are groups of whole donors (:func:`nmfbench.data.donor_groups.deal_donors`), not random cells.

    Returns
    -------
    Layout
    """
    conditions = {name: tuple(data.label(name).categories) for name in condition_columns}
    donors = len(conditions[condition_columns[0]])
    method = "dense" if on_gpu else choose_method(data.n_cells, data.n_genes, data.nnz)
    need = gram_bytes(data.n_genes, n_grams=donors, method=method) / _MIB
    if donor_grams and need > memory_mb:
        log.warning(
            "no Gram matrix for each of the %d %ss: %.0f MiB, more than the %.0f MiB of "
            "statistics.memory_mb; models with loadings of their own are fitted from the cells",
            donors, condition_columns[0], need, memory_mb,
        )  # fmt: skip
        donor_grams = False
    sizes: tuple[int, ...] = ()
    if by_donor:
        sizes = tuple(np.bincount(donor_group(data, n_shards), minlength=n_shards).tolist())
    return Layout(
        fingerprint=data.fingerprint,
        genes=tuple(data.var.index),
        n_cells=data.n_cells,
        n_shards=n_shards,
        piece_rows=min(PIECE_ROWS, max(1, data.n_cells // (32 * n_shards))),
        normalisation=dict(normalisation),
        conditions=conditions,
        types=tuple(data.label("cell_type").categories),
        donor_grams=donor_grams,
        method=method,
        shard_sizes=sizes,
    )


def donor_group(data: FilteredCounts, n_groups: int) -> np.ndarray:
    """Group of each cell, where the shards are groups of donors; every cell that was kept has a donor."""
    return deal_donors(data.label("donor_id"), n_groups)


def shard_spans(data: FilteredCounts, layout: Layout, shard: int) -> list[tuple[int, int]]:
    """Ranges of cells that make up a shard, in the order of the file."""
    if not layout.shard_sizes:
        return layout.spans(shard)
    return runs_of(donor_group(data, layout.n_shards) == shard)


def shard_blocks(data: FilteredCounts, layout: Layout, shard: int) -> Iterator[Block]:
    """One pass over the cells of a shard: normalised values, condition codes and type codes."""
    # As stored, a byte or two a cell; those of a block are made wide enough to reckon with.
    codes = [data.label(name).codes for name in layout.conditions]
    types = data.label("cell_type").codes
    for rows, block in data.spans(shard_spans(data, layout, shard), BLOCK_ROWS):
        of_block = np.column_stack([column[rows] for column in codes]).astype(np.int64)
        yield normalise_block(block, **layout.normalisation), of_block, types[rows].astype(np.int64)


def gather_file(
    filtered: str | Path,
    path: str | Path,
    *,
    shard: int,
    n_shards: int,
    normalisation: Mapping[str, Any],
    condition_columns: Sequence[str],
    donor_grams: bool,
    memory_mb: float,
    passes: int,
    device: str = "cpu",
    gpu_memory_mb: float | None = None,
    should_stop: Callable[[], bool] | None = None,
    by_donor: bool = False,
) -> Statistics:
    """Gather one shard of a filtered file into a file of its own.

    Parameters
    ----------
    filtered, path : path
        The counts, and the .h5 file written; it appears whole or not at all.
    shard, n_shards : int
        Which shard, counted from 0, of how many.
    normalisation, condition_columns, donor_grams, memory_mb
        As in :func:`lay_out`.
    passes : int
        A Gram matrix larger than `memory_mb` is made on disk, in at most so many passes.
    device : str
        ``auto`` and ``cuda`` use all GPUs that can be seen.
    gpu_memory_mb : float, optional
        MiB granted on each.
    should_stop : callable, optional
        Asked after each block; once it says True the work is given up.
    by_donor : bool
        As in :func:`lay_out`.

    Returns
    -------
    Statistics

    Raises
    ------
    InputError
        Before work starts, if memory, disk or GPU have no room for the Gram matrix.
    Interrupted
        If `should_stop` said so; nothing is kept of the shard.
    """
    remove_leftovers(path)
    data = read_filtered(filtered)
    devices = devices_of(device)
    layout = lay_out(
        data,
        normalisation=normalisation,
        condition_columns=condition_columns,
        n_shards=n_shards,
        donor_grams=donor_grams,
        memory_mb=memory_mb,
        on_gpu=devices != ("cpu",),
        by_donor=by_donor,
    )
    need = gram_bytes(data.n_genes, n_grams=layout.n_grams, method=layout.method) / _MIB
    log.info(
        "shard %d of %d: %d of %d cells x %d genes, %s products on %s, %.0f MiB for Gram matrices",
        shard + 1, n_shards, layout.size(shard), data.n_cells, data.n_genes, layout.method,
        ", ".join(devices), need,
    )  # fmt: skip
    pace = _Pace(layout.size(shard), should_stop)
    if need <= memory_mb:
        check_gpu_memory(layout, devices, BLOCK_ROWS, gpu_memory_mb)
        check_disk(layout, path)
        blocks = shard_blocks(data, layout, shard)
        statistics = gather_shard(blocks, layout, shard, device=devices, memory_mb=memory_mb, progress=pace)
        save(statistics, path)
        _say_gpu_peak(devices)
        return statistics
    height = tile_height(layout, memory_mb, passes)
    check_gpu_memory(layout, devices, BLOCK_ROWS, gpu_memory_mb, height)
    check_disk(layout, path, copies=2)
    log.info("more than %.0f MiB: in tiles of %d rows on disk", memory_mb, height)
    statistics = gather_to_disk(
        lambda: shard_blocks(data, layout, shard),
        layout,
        path,
        shard,
        memory_mb=memory_mb,
        passes=passes,
        device=devices,
        progress=pace,
    )
    _say_gpu_peak(devices)
    return statistics


class _Pace:
    """Told of every block: says in the log how far a pass is, and gives up when asked to."""

    def __init__(self, n_cells: int, should_stop: Callable[[], bool] | None) -> None:
        self.n_cells, self.done = n_cells, 0
        self.should_stop = should_stop or (lambda: False)
        self.began = self.said = time.monotonic()

    def __call__(self, n: int) -> None:
        self.done += n
        if self.should_stop():
            raise Interrupted("nothing is kept of this shard; run the same command again")
        if (now := time.monotonic()) - self.said > _SECONDS_BETWEEN_LINES:
            self.said = now
            log.info(
                "%.1f passes over %d cells, %.0f cells/s",
                self.done / self.n_cells, self.n_cells, self.done / (now - self.began),
            )  # fmt: skip


def remove_leftovers(path: str | Path) -> None:
    """Remove what a job that was killed while it wrote `path` left beside it."""
    for file in Path(path).parent.glob(f".{glob.escape(Path(path).name)}.*"):
        log.info("%s was left by a job that was killed: removed", file)
        file.unlink(missing_ok=True)


def _say_gpu_peak(devices: Sequence[str]) -> None:
    on_gpu = [device for device in devices if device.startswith("cuda")]
    if on_gpu:
        import torch

        peaks = [f"{torch.cuda.max_memory_allocated(device) / _MIB:.0f} MiB on {device}" for device in on_gpu]
        log.info("peak GPU memory: %s", ", ".join(peaks))


def devices_of(device: str) -> tuple[str, ...]:
    """The devices of a pass: all GPUs that can be seen where GPUs are wanted, else the processor."""
    if device == "cpu":
        return ("cpu",)
    from nmfbench.device import resolve_device  # loads torch

    resolved = resolve_device(device)
    if resolved.type != "cuda":
        return ("cpu",)
    if ":" in device:
        return (device,)
    import torch

    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
