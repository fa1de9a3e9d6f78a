"""Where the rows of a fit are taken from: memory, the filtered file, or its shuffled store.

Light to import: the workflow decides with :func:`place` what a fit needs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmfbench.data.filtered import FilteredCounts
    from nmfbench.rows.memory import RowSource

log = logging.getLogger(__name__)

BYTES_PER_NONZERO = 16
"""In memory: the matrix by cells, and by genes for the solver that goes through the nonzeros."""

_MIB = 2**20


@dataclass(frozen=True)
class Placement:
    """Whether a fit reads its cells from disk, and why.

    Attributes
    ----------
    out_of_core : bool
    setting : "auto" or bool
        What was asked for.
    estimated_mb, in_memory_mb : float
        MiB that the nonzeros would take, and may take with the setting ``auto``.
    """

    out_of_core: bool
    setting: bool | str
    estimated_mb: float
    in_memory_mb: float

    def record(self) -> dict[str, Any]:
        """The decision as plain values, for ``run.json``."""
        return asdict(self)


def place(nnz: int, setting: bool | str, in_memory_mb: float) -> Placement:
    """Decide whether `nnz` nonzeros are held in memory.

    Parameters
    ----------
    nnz : int
    setting : "auto" or bool
        ``auto``: out of core where the nonzeros need more than `in_memory_mb`.
    in_memory_mb : float
    """
    estimated = BYTES_PER_NONZERO * nnz / _MIB
    chosen = estimated > in_memory_mb if setting == "auto" else bool(setting)
    return Placement(chosen, setting, estimated, in_memory_mb)


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
    from nmfbench.data.filtered import load_normalised
    from nmfbench.rows.disk import FilteredRows
    from nmfbench.rows.memory import InMemoryRows
    from nmfbench.rows.shuffled import ShuffledRows

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
