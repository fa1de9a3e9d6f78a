"""The embedding of all cells, a block of cells at a time: no more of their counts is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from nmfbench.linalg import SparseRows
from nmfbench.rows.memory import BLOCK_ROWS, RowSource

if TYPE_CHECKING:
    from nmfbench.models.autoencoder.estimator import Autoencoder


def embed_blocks(
    model: Autoencoder, source: RowSource, *, size: int = BLOCK_ROWS
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The arrays for obsm, block by block.

    Parameters
    ----------
    model : Autoencoder
        Fitted to the cells of `source`.
    source : RowSource
        The cells in their own order (``source.order`` is None), normalised as for the fit.
    size : int
        Cells in a block.

    Yields
    ------
    start : int
        Number of the first cell.
    parts : dict of str to ndarray of shape (cells of the block, .)
        By the published keys; the same numbers as ``model.embeddings()``, to the last bit.
    """
    parts, codes = model.embedding_parts(), model.conditions_.codes
    for start, H in times_blocks(model.components_, source, size):
        yield start, parts(H, codes[start : start + len(H)])


def embed(components: np.ndarray, source: RowSource) -> np.ndarray:
    """The embedding ``X Wᵀ`` in one array, of shape (cells, k); `components` is W."""
    H = np.empty((source.n_rows, len(components)), dtype=source.dtype)
    for start, block in times_blocks(components, source):
        H[start : start + len(block)] = block
    return H


def times_blocks(
    components: np.ndarray, source: RowSource, size: int = BLOCK_ROWS
) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs of the first cell's number and the block's ``X Wᵀ``, of shape (cells of the block, k)."""
    # Always on the CPU: new cells and training cells then get the same numbers, to the last bit.
    W = torch.from_numpy(np.ascontiguousarray(components.T, dtype=source.dtype))
    for start, block in source.blocks(size):
        yield start, SparseRows(block).times(W).numpy()
