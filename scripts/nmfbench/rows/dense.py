"""Cells on a device as arrays of nonzeros, and blocks of them as dense matrices in one buffer.

Every step here has fixed shapes whatever the cells, so that it can be recorded once and replayed. Each pair
of row and gene has one nonzero at most: what is written to a dense block is written once, and no order of
threads can change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

_TAIL = 4096
"""Places behind a buffer that take what unused slots write: many, as neighbours write to one less fast."""


class DenseRows:
    """A dense block of cells, ready for the products of :class:`nmfbench.linalg.SparseRows`.

    Parameters
    ----------
    X : Tensor of shape (rows, genes)
    """

    def __init__(self, X: torch.Tensor) -> None:
        self.X = X
        self.shape = tuple(X.shape)
        self.device = X.device

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """``X dense``, of shape (rows, k)."""
        return self.X @ dense

    def transposed_times(
        self, dense: torch.Tensor, out: torch.Tensor | None = None, *, accumulate: bool = False
    ) -> torch.Tensor:
        """``Xᵀ dense``, of shape (genes, k); written to `out` when given, or added to it."""
        if out is None:
            return self.X.T @ dense
        return out.addmm_(self.X.T, dense) if accumulate else torch.mm(self.X.T, dense, out=out)

    def subset(self, rows: np.ndarray) -> DenseRows:
        """The block of the cells `rows` (positions within this one): a view where they are neighbours."""
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all()):
            return DenseRows(self.X[first : last + 1])
        return DenseRows(self.X.index_select(0, torch.from_numpy(rows).to(self.device)))


@dataclass
class Nonzeros:
    """Nonzeros of cells on a device, row after row, and one empty row behind the last.

    Attributes
    ----------
    first, lengths : Tensor of int64 of shape (rows + 1,)
        Where each row begins, and how many nonzeros it has.
    indices : Tensor of int32
    data : Tensor
    """

    first: torch.Tensor
    lengths: torch.Tensor
    indices: torch.Tensor
    data: torch.Tensor

    @classmethod
    def empty(cls, n_rows: int, nnz: int, dtype: torch.dtype, device: torch.device) -> Nonzeros:
        """Room for so many; all rows are empty. One place more, so that place 0 is always there."""
        first, lengths = (torch.zeros(n_rows + 1, dtype=torch.int64, device=device) for _ in range(2))
        indices = torch.zeros(nnz + 1, dtype=torch.int32, device=device)
        return cls(first, lengths, indices, torch.zeros(nnz + 1, dtype=dtype, device=device))

    @property
    def empty_row(self) -> int:
        return len(self.lengths) - 1

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.first, self.lengths, self.indices, self.data


class Densifier:
    """One reused buffer that any rows of some nonzeros are written into.

    Parameters
    ----------
    nonzeros : Nonzeros
    n_rows, n_columns : int
        Shape of the buffer.
    capacity : int
        Nonzeros that its rows have together, at most.
    """

    def __init__(self, nonzeros: Nonzeros, n_rows: int, n_columns: int, capacity: int) -> None:
        self.nonzeros, self.n_rows, self.n_columns, self.capacity = nonzeros, n_rows, n_columns, capacity
        size, device = n_rows * n_columns, nonzeros.data.device
        self._flat = torch.zeros(size + _TAIL, dtype=nonzeros.data.dtype, device=device)
        self._slots = torch.arange(capacity, device=device)
        self._unused = size + self._slots % _TAIL
        self.block = self._flat[:size].view(n_rows, n_columns)

    def fill(self, rows: torch.Tensor) -> torch.Tensor:
        """The buffer with the rows `rows`, of int64 and as many as it has; nothing waits for the device."""
        held, slots = self.nonzeros, self._slots
        lengths = held.lengths.index_select(0, rows)
        ends = torch.cumsum(lengths, 0)
        shift = held.first.index_select(0, rows) - ends + lengths
        used = slots < ends[-1]
        owner = torch.searchsorted(ends, slots, right=True).clamp_(max=self.n_rows - 1)
        places = torch.where(used, shift.index_select(0, owner) + slots, 0)
        columns = held.indices.index_select(0, places).long()
        targets = torch.where(used, owner * self.n_columns + columns, self._unused)
        self._flat.zero_()
        self._flat.index_put_((targets,), held.data.index_select(0, places))
        return self.block


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Products of float32 matrices in TF32 on cards that have it, where `precision` says so; else in full."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
