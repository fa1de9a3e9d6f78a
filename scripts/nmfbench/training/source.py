"""Where the rows of a fit are taken from: memory, the filtered file, or its shuffled store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nmfbench.data.filtered import FilteredCounts, load_normalised
from nmfbench.training.disk import FilteredRows
from nmfbench.training.placement import Placement
from nmfbench.training.rows import InMemoryRows, RowSource
from nmfbench.training.shards import ShuffledRows

log = logging.getLogger(__name__)


@contextmanager
def open_rows(
    data: FilteredCounts,
    normalisation: Mapping[str, Any],
    placement: Placement,
    shuffled: str | Path | None = None,
) -> Iterator[RowSource]:
    """The normalised rows of a filtered file, as a context.

    Parameters
    ----------
    data : FilteredCounts
    normalisation : mapping
        ``target_sum`` and ``log1p``.
    placement : Placement
    shuffled : path, optional
        The shuffled store, which is used where the rows are not held in memory.
    """
    if not placement.out_of_core:
        fingerprint = f"{data.fingerprint} {dict(normalisation)}"
        yield InMemoryRows(load_normalised(data.path, **normalisation), fingerprint)
        return
    log.info("%d nonzeros (%.0f MiB in memory) are left on disk", data.nnz, placement.estimated_mb)
    if shuffled is None:
        yield FilteredRows(data, normalisation)
        return
    with ShuffledRows(shuffled, data, normalisation) as rows:
        yield rows
