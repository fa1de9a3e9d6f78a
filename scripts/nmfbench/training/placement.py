"""Whether the cells of a fit are held in memory or left on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
