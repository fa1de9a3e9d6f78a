"""What of a fit by minibatches lies on a card, by arithmetic alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nmfbench.errors import InputError

DENSE_ABOVE = 0.0025
"""Share of nonzeros from which dense batches are faster on a card than the sparse ones that there are.

On one H200 a sparse step, whose batch is cut out in memory, sent and transposed, took 12 ms at 60,000 genes
of which 2.9 % were nonzero, and 4.2 ms at 20,000 and 4.1 %; a dense one 0.67 and 0.27 ms (prototypes). The
one takes time by the nonzeros, the other by the genes: equal at 0.16 and 0.26 %.
"""

SHARE = 0.9
"""Of the free memory that is used; the rest is for the libraries and for what breaks up."""

LARGEST_WINDOW = 2**30  # bytes
SMALLEST_WINDOW = 2**22
EVALUATED = 2**29
"""Bytes of the dense blocks that the objective of all cells is computed by."""

_SLOT = 48  # bytes of numbers of places for each nonzero of a block
_MIB = 2**20


@dataclass(frozen=True)
class CardPlacement:
    """Where the cells of a fit by minibatches lie.

    Attributes
    ----------
    rows : {"resident", "windows"}
        All of them on the card, or those of the next batches, copied ahead.
    window : int
        Bytes of nonzeros in a window; 0 where all are resident.
    resident_mb, working_mb, free_mb : float
        MiB that all nonzeros would take, that the fit takes beside them, and that were free.
    """

    rows: Literal["resident", "windows"]
    window: int
    resident_mb: float
    working_mb: float
    free_mb: float

    def record(self) -> dict[str, Any]:
        """The decision as plain values, for ``run.json``."""
        return asdict(self)


def dense_on_card(nnz: int, n_rows: int, n_columns: int) -> bool:
    """Whether batches are made dense on a card."""
    return nnz >= DENSE_ABOVE * n_rows * n_columns


def block_rows(n_columns: int, item: int, at_most: int) -> int:
    """Rows of a dense block of the pass over all cells."""
    return max(1, min(at_most, EVALUATED // (item * max(n_columns, 1))))


def place_on_card(
    nnz: int, n_rows: int, n_columns: int, *, item: int, batch_rows: int, weights: int, free: float
) -> CardPlacement:
    """Decide where the cells lie.

    Parameters
    ----------
    nnz, n_rows, n_columns : int
        Of all cells.
    item : int
        Bytes of a value.
    batch_rows : int
        Cells of a batch at most.
    weights : int
        Bytes of weights, moments, gradients and best weights.
    free : float
        Bytes that are free on the card before any of these is there.

    Raises
    ------
    InputError
        If there is no room for weights, a dense batch and two small windows.
    """
    a_row = nnz / max(n_rows, 1)
    evaluated = block_rows(n_columns, item, n_rows)
    working = weights + (batch_rows + evaluated) * n_columns * item
    working += int(2 * _SLOT * a_row * (batch_rows + evaluated))
    resident = nnz * (4 + item) + 16 * n_rows
    usable = SHARE * free
    numbers = {"resident_mb": resident / _MIB, "working_mb": working / _MIB, "free_mb": free / _MIB}
    if working + resident <= usable:
        return CardPlacement("resident", 0, **numbers)
    window = int(min(LARGEST_WINDOW, (usable - working) / 2))  # one in use, one on its way
    if window < SMALLEST_WINDOW:
        raise InputError(
            f"minibatches of {batch_rows} cells x {n_columns} genes on a card",
            f"at most the {usable / _MIB:.0f} MiB that can be used of {free / _MIB:.0f} free",
            f"{(working + 2 * SMALLEST_WINDOW) / _MIB:.0f} MiB",
            "lower batch_size, keep fewer genes, or set device: cpu",
        )
    return CardPlacement("windows", window, **numbers)
