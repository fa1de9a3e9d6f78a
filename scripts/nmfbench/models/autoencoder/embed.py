"""The embedding of all cells, a block of cells at a time: no more of their counts is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from nmfbench.linalg import SparseRows
from nmfbench.rows.memory import BLOCK_ROWS, RowSource


def embed(components: np.ndarray, source: RowSource) -> np.ndarray:
    """The embedding ``X Wᵀ`` in one array, of shape (cells, k), in the cells' order; `components` is W."""
    H = np.empty((source.n_rows, len(components)), dtype=source.dtype)
    for start, block in times_blocks(components, source):
        H[start : start + len(block)] = block
    if source.order is None:
        return H
    ordered = np.empty_like(H)
    ordered[source.order] = H
    return ordered


def times_blocks(
    components: np.ndarray, source: RowSource, size: int = BLOCK_ROWS
) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs of the first cell's number and the block's ``X Wᵀ``, of shape (cells of the block, k)."""
    # Always on the CPU: new cells and training cells then get the same numbers, to the last bit.
    W = torch.from_numpy(np.ascontiguousarray(components.T, dtype=source.dtype))
    for start, block in source.blocks(size):
        yield start, SparseRows(block).times(W).numpy()
