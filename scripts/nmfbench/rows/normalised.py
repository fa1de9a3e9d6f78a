"""Rows of counts, seen normalised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nmfbench.data.filtered import normalise_block
from nmfbench.rows.memory import BLOCK_ROWS, RowSource


class NormalisedRows:
    """Counts of a source, each block normalised as it is read.

    Parameters
    ----------
    counts : RowSource
    target_sum, log1p
        As in :func:`nmfbench.data.normalise_block`.
    """

    def __init__(self, counts: RowSource, target_sum: float | None, log1p: bool) -> None:
        self.counts, self.normalisation = counts, {"target_sum": target_sum, "log1p": log1p}
        self.n_rows, self.n_columns, self.nnz = counts.n_rows, counts.n_columns, counts.nnz
        self.order = counts.order
        self.dtype = np.dtype(np.float32)

    def rows(self, indices: np.ndarray):
        """The rows `indices`, in that order, as CSR."""
        return normalise_block(self.counts.rows(indices), **self.normalisation)

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, object]]:
        """Pairs of the first row's number and the CSR block, covering all rows in order."""
        for start, block in self.counts.blocks(size):
            yield start, normalise_block(block, **self.normalisation)

    def fingerprint(self) -> str:
        """Of the counts and their normalisation."""
        return f"{self.counts.fingerprint()} {self.normalisation}"
