"""XᵀX of the cells of one fit, gathered on one card and left there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp
import torch

from nmfbench.errors import InputError
from nmfbench.gram_cost import card_gram_bytes
from nmfbench.statistics.card_products import Sender, SparseByDense
from nmfbench.statistics.grams import TILE_ROWS

_MIB = 2**20


def gram_on_card(
    blocks: Iterable[tuple[sp.csr_matrix, np.ndarray | None]],
    n_genes: int,
    device: torch.device,
    *,
    n_groups: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[torch.Tensor], float]:
    """XᵀX of all cells, or of the cells of each group, summed in double precision.

    Parameters
    ----------
    blocks : iterable of (X, codes)
        A CSR block of cells and the group of each; None where there are no groups.
    n_genes : int
    device : torch.device
    n_groups : int
    dtype : torch.dtype
        Of the result.

    Returns
    -------
    grams : list of Tensor of shape (genes, genes)
        On the device, symmetric; nothing of that shape is ever in memory.
    squared_norm : float
        ``||X||²``.
    """
    tiles = [(a, min(a + TILE_ROWS, n_genes)) for a in range(0, n_genes, TILE_ROWS)]
    sums = [
        [torch.zeros((b - a, n_genes - a), dtype=torch.float64, device=device) for a, b in tiles]
        for _ in range(n_groups)
    ]
    squares = torch.zeros((), dtype=torch.float64, device=device)
    sender, groups = Sender(device), []

    def parts() -> Iterable[sp.csr_matrix]:
        for X, codes in blocks:
            for c in [0] if codes is None else np.unique(codes):
                groups.append(int(c))
                yield X if codes is None else X[codes == c]

    for i, sent in enumerate(sender.ahead(parts())):
        sender.arrive(sent)
        squares += sent.data.double().square().sum()
        held = SparseByDense(sent, tiles)
        for tile, total in zip(tiles, sums[groups[i]], strict=True):
            total += held.product(tile)
        del held
    return [_whole(tiles, of_group, n_genes, dtype) for of_group in sums], float(squares)


def _whole(tiles, sums: list[torch.Tensor | None], p: int, dtype: torch.dtype) -> torch.Tensor:
    """A symmetric matrix from the upper tiles, each of which is given up once it is in place."""
    K = torch.empty((p, p), dtype=dtype, device=sums[0].device)
    for i, (a, b) in enumerate(tiles):
        part, sums[i] = sums[i].to(dtype), None
        corner = torch.triu(part[:, : b - a])
        K[a:b, a:b] = corner + torch.triu(corner, 1).T
        K[a:b, b:] = part[:, b - a :]
        K[b:, a:b] = part[:, b - a :].T
    return K


def check_card(
    n_genes: int, n_groups: int, block_rows: int, item: int, free: float, device: torch.device
) -> None:
    """Refuse, before work starts, an XᵀX that the card has no room for.

    Parameters
    ----------
    n_genes, n_groups, block_rows : int
    item : int
        Bytes of a value.
    free : float
        Bytes that are free on it.
    device : torch.device

    Raises
    ------
    InputError
    """
    need = card_gram_bytes(n_genes, n_grams=n_groups, block_rows=block_rows, item=item)
    if need > free:
        raise InputError(
            f"Gram matrix of {n_genes} genes" + (f" x {n_groups} donors" if n_groups > 1 else ""),
            f"at most the {free / _MIB:.0f} MiB that are free on {device}", f"{need / _MIB:.0f} MiB",
            "keep fewer genes (datasets.<name>.genes), or set device: cpu",
        )  # fmt: skip
