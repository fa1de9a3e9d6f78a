"""Shards added up to the statistics of a data set, in memory or from file to file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from nmfbench.errors import InputError
from nmfbench.statistics.record import Layout, Statistics
from nmfbench.statistics.store import fill, load, writing
from nmfbench.statistics.tiles import check_disk

_SUMMED = ("n_cells", "squared_norm", "group_sums", "group_counts", "type_sizes", "gene_sums", "gene_squares")


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Add the shards of one data set, in the order of the shards whatever the order given.

    Parameters
    ----------
    parts : iterable of Statistics
        One shard each, given in any order. Sorted input (a generator that loads one file after the other) is
        consumed piece by piece, so that no two Gram matrices but the running sum and one shard are held.

    Returns
    -------
    Statistics

    Raises
    ------
    InputError
        If a shard is missing or comes twice, or belongs to other data, genes, settings or dtype.
    """
    waiting: dict[int, Statistics] = {}
    total: Statistics | None = None
    layout: Layout | None = None
    seen: set[int] = set()
    for part in parts:
        layout = layout or part.layout
        _check_part(layout, part, seen)
        seen.add(part.shards[0])
        waiting[part.shards[0]] = part
        while (following := 0 if total is None else len(total.shards)) in waiting:
            total = _add(total, waiting.pop(following))
        del part
    if layout is None:
        raise InputError(*_NO_SHARD)
    _check_all_there(seen, range(layout.n_shards))
    dtype = np.dtype(layout.dtype)
    donor_grams = total.donor_grams
    total = replace(
        total,
        gram=total.gram.astype(dtype, copy=False),
        donor_grams=None if donor_grams is None else donor_grams.astype(dtype, copy=False),
    )
    total.check()
    return total


def _check_part(layout: Layout, part: Statistics, seen: Sequence[int]) -> None:
    if part.layout.to_json() != layout.to_json():
        ours, theirs = asdict(layout), asdict(part.layout)
        # what differs in its order alone are the conditions
        name = next((key for key in ours if ours[key] != theirs[key]), "conditions")
        raise InputError(
            f"merge of statistics: {name} of shard {part.shards[0]}",
            _short(ours[name]),
            _short(theirs[name]),
            "gather all shards from the same data with the same settings",
        )  # fmt: skip
    if len(part.shards) != 1:
        raise InputError(
            "merge of statistics", "single shards", f"shards {part.shards}", "merge once, at the end"
        )
    shard = part.shards[0]
    if shard in seen:
        raise InputError("merge of statistics", "each shard once", f"shard {shard} twice", "leave one out")
    if part.n_cells != layout.size(shard):
        raise InputError(
            f"merge of statistics: shard {shard}", f"{layout.size(shard)} cells", str(part.n_cells),
            "gather it again",
        )  # fmt: skip


def _check_all_there(seen: set[int], wanted: Iterable[int]) -> None:
    if missing := sorted(set(wanted) - seen):
        raise InputError(
            "merge of statistics", f"shards {sorted(wanted)}", f"missing: {missing}",
            "gather the missing shards",
        )  # fmt: skip


_NO_SHARD = ("merge of statistics", "at least one shard", "none", "gather the shards first")


def _add(total: Statistics | None, part: Statistics) -> Statistics:
    if total is None:
        grams = part.donor_grams
        return replace(
            part,
            gram=part.gram.astype(np.float64),
            donor_grams=None if grams is None else grams.astype(np.float64),
        )
    total.gram += part.gram
    if total.donor_grams is not None:
        total.donor_grams += part.donor_grams
    sums = {name: getattr(total, name) + getattr(part, name) for name in _SUMMED}
    return replace(total, shards=total.shards + part.shards, digests=total.digests + part.digests, **sums)


def merge_files(
    paths: Iterable[str | Path], path: str | Path, *, shards: Iterable[int] | None = None
) -> Statistics:
    """Add shard files into one file, to the same bits as :func:`merge`, without holding a Gram matrix.

    Parameters
    ----------
    paths : iterable of path
        Files of one shard each, in any order.
    path : path
        The file written; it appears whole or not at all.
    shards : iterable of int, optional
        The shards that must be there, each once: all of the layout by default. Fewer give the statistics of a
        part of the cells.

    Returns
    -------
    Statistics
        With the Gram matrices as memory maps of the file.

    Raises
    ------
    InputError
        If a file is damaged, a shard is missing or comes twice, or belongs to other data or settings.
    """
    parts = [load(file, memory_map=True) for file in paths]
    if not parts:
        raise InputError(*_NO_SHARD)
    layout, seen = parts[0].layout, set()
    for part in parts:
        _check_part(layout, part, seen)
        seen.add(part.shards[0])
    _check_all_there(seen, range(layout.n_shards) if shards is None else list(shards))
    parts.sort(key=lambda part: part.shards)
    if shards is not None and (extra := sorted(seen - set(shards))):
        raise InputError("merge of statistics", f"shards {sorted(shards)}", f"{extra} too", "leave them out")
    check_disk(layout, path)
    kind = np.dtype(layout.dtype)
    sums = {
        name: sum((getattr(part, name) for part in parts[1:]), getattr(parts[0], name)) for name in _SUMMED
    }
    total = Statistics(
        layout=layout,
        shards=tuple(part.shards[0] for part in parts),
        digests=tuple(part.digests[0] for part in parts),
        gram=_Sum([part.gram for part in parts], kind),
        donor_grams=_Sum([part.donor_grams for part in parts], kind) if layout.donor_grams else None,
        **sums,
    )
    with writing(path) as file:
        fill(file, total)
    return load(path, memory_map=True, verify=False)


class _Sum:
    """Arrays on disk that look like one: their sum in float64, made piece by piece as it is read."""

    def __init__(self, arrays: Sequence[np.ndarray], dtype: np.dtype) -> None:
        self.arrays = arrays
        self.shape, self.ndim, self.dtype = arrays[0].shape, arrays[0].ndim, dtype

    def __getitem__(self, part) -> np.ndarray:
        total = self.arrays[0][part].astype(np.float64)
        for array in self.arrays[1:]:
            total += array[part]
        return total.astype(self.dtype)


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
