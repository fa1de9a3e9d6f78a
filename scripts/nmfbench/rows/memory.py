"""Where the rows of a matrix come from: in memory here, on disk in :mod:`nmfbench.rows.disk`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

BLOCK_ROWS = 4096
"""Cells in a block of a sequential pass: small against the data, large against the cost of a call."""


@runtime_checkable
class RowSource(Protocol):
    """Cells x genes of non-negative numbers, read in rows; column indices ascend within a row.

    `order` is the number of the cell that each row is; None where the rows are the cells in their order.
    """

    n_rows: int
    n_columns: int
    nnz: int
    dtype: np.dtype
    order: np.ndarray | None

    def rows(self, indices: np.ndarray):
        """The rows `indices`, in that order, as CSR."""

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, object]]:
        """Pairs of the first row's number and the CSR block, covering all rows in order."""

    def fingerprint(self) -> str:
        """A text that changes when the content does."""


class InMemoryRows:
    """Rows of a CSR matrix held in memory, not copied.

    Parameters
    ----------
    csr : csr_matrix or csr_array of shape (n_rows, n_columns)
        Indices ascend within each row.
    fingerprint : str or None, default=None
        The content's fingerprint where it is known; hashed on demand otherwise.
    """

    order = None

    def __init__(self, csr, fingerprint: str | None = None) -> None:
        self.csr = csr
        self.n_rows, self.n_columns = csr.shape
        self.nnz = int(csr.nnz)
        self.dtype = csr.dtype
        self._fingerprint = fingerprint

    def rows(self, indices: np.ndarray):
        return _sorted_rows(self.csr[indices])

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, object]]:
        for start in range(0, self.n_rows, size):
            yield start, _sorted_rows(self.csr[start : start + size])

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.blake2b(f"{self.csr.shape} {self.dtype}".encode(), digest_size=16)
            for part in (self.csr.indptr, self.csr.indices, self.csr.data):
                digest.update(np.ascontiguousarray(part).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _sorted_rows(csr):
    # Rows are taken whole from a sorted matrix: no need to look through them again.
    csr.has_sorted_indices = True
    return csr
