"""What the exact solvers take, from the rows of the cells; and the threads that they get."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from nmfbench.device import free_bytes
from nmfbench.linalg import SparseRows
from nmfbench.models.autoencoder.costs import gram_method
from nmfbench.models.autoencoder.exact.conditions import ConditionSums
from nmfbench.models.autoencoder.exact.gathered import operator_of
from nmfbench.models.autoencoder.exact.operators import GramOperator, Operator, SparseOperator
from nmfbench.models.autoencoder.penalties import co_occurrence
from nmfbench.models.labels import FitData
from nmfbench.rows.memory import BLOCK_ROWS, RowSource
from nmfbench.statistics import Layout, gather_shard
from nmfbench.statistics.card_gram import check_card, gram_on_card

CARDS = frozenset({"cuda"})
"""Kinds of devices that XᵀX is gathered on. Tests add the processor under torch's name."""

SMALL_PRODUCT = 5e7
"""Multiply-adds of a product, about a millisecond of one thread, below which BLAS does it in one thread."""


class Cells(Protocol):
    """What a descent asks of the cells besides products with XᵀX."""

    n_cells: int
    has_types: bool

    def condition_sums(self, *, by_type: bool) -> ConditionSums:
        """Sums of the cells of each condition, within each cell type where `by_type`."""


@dataclass(frozen=True)
class RowCells:
    """`Cells` from their rows, wherever these lie."""

    data: FitData

    @property
    def n_cells(self) -> int:
        return self.data.source.n_rows

    @property
    def has_types(self) -> bool:
        return self.data.strata is not None

    def condition_sums(self, *, by_type: bool) -> ConditionSums:
        data = self.data
        codes, m = data.conditions.codes, data.conditions.size
        types = data.strata if by_type else np.zeros(len(codes), np.int64)
        q = int(types.max()) + 1
        sums = torch.zeros((q * m, data.source.n_columns), dtype=torch.float64)
        for start, block in data.source.blocks(BLOCK_ROWS):
            rows, part = SparseRows(block), slice(start, start + block.shape[0])
            for column in codes[part].T:
                rows.group_sums(types[part] * m + column, sums)
        counts = co_occurrence(torch.from_numpy(codes), m, torch.from_numpy(types), q).numpy()
        return ConditionSums(sums=sums.numpy().reshape(q, m, -1), counts=counts.round().astype(np.int64))


def operator_of_rows(
    source: RowSource, codes: np.ndarray | None, route: str, memory_mb: float | None, device: str
) -> Operator:
    """What the solvers take, from the cells: through the nonzeros (``sparse``) or XᵀX (``gram``).

    Parameters
    ----------
    codes : ndarray of int or None
        The group of each cell, where each has loadings of its own.
    """
    if route == "sparse":
        return SparseOperator(source.csr, groups=codes)
    return gram_operator(source, codes, memory_mb, device)


def gram_operator(
    source: RowSource, codes: np.ndarray | None, memory_mb: float | None, device: str
) -> GramOperator:
    """XᵀX of all cells, or of the cells of each code, from one pass over the rows.

    Raises
    ------
    InputError
        If it does not fit in `memory_mb` or on the GPU, before the first block is read.
    """
    if device.split(":")[0] in CARDS:
        return _gram_on_card(source, codes, torch.device(device), memory_mb)
    n, p = source.n_rows, source.n_columns
    device = "cpu"  # Metal has no double precision: the processor takes its place, as for all small sums
    categories = () if codes is None else tuple(str(c) for c in range(int(codes.max()) + 1))
    layout = Layout(
        fingerprint="",
        genes=tuple(map(str, range(p))),
        n_cells=n,
        conditions={} if codes is None else {"condition": categories},
        donor_grams=codes is not None,
        method=gram_method(n, p, source.nnz, device),
        dtype="float64" if source.dtype == np.float64 else "float32",
    )
    labels = np.zeros((n, 0), np.int64) if codes is None else codes[:, None]
    blocks = ((X, labels[start : start + X.shape[0]], None) for start, X in source.blocks(BLOCK_ROWS))
    statistics = gather_shard(blocks, layout, memory_mb=memory_mb)
    return operator_of(statistics, by_donor=codes is not None, device=device, dtype=source.dtype)


def _gram_on_card(
    source: RowSource, codes: np.ndarray | None, device: torch.device, memory_mb: float | None
) -> GramOperator:
    """The same, gathered on a card and left there: only what the products need, and no sum in memory."""
    n_groups, item = 1 if codes is None else int(codes.max()) + 1, np.dtype(source.dtype).itemsize
    if (free := free_bytes(device)) is not None:
        free = min(free, math.inf if memory_mb is None else memory_mb * 2**20)
        check_card(source.n_columns, n_groups, min(BLOCK_ROWS, source.n_rows), item, free, device)
    blocks = (
        (X, None if codes is None else codes[start : start + X.shape[0]])
        for start, X in source.blocks(BLOCK_ROWS)
    )
    dtype = torch.float64 if source.dtype == np.float64 else torch.float32
    K, squared_norm = gram_on_card(blocks, source.n_columns, device, n_groups=n_groups, dtype=dtype)
    return GramOperator(
        K, n_cells=source.n_rows, squared_norm=squared_norm, device=str(device), dtype=source.dtype
    )


@contextmanager
def blas_threads(operator: Operator, rank: int) -> Iterator[None]:
    """One thread for products so small that handing half of them over takes longer than making them."""
    by = operator.block_size if isinstance(operator, GramOperator) else rank
    if by * operator.n_genes * rank >= SMALL_PRODUCT:
        yield
        return
    with threadpool_limits(1, "blas"):
        yield


@contextmanager
def numba_threads(n: int) -> Iterator[None]:
    """numba's own pool held to the threads that the job was given."""
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(n, numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)
