"""Where the cells of a batch lie among the places of a step on a card: fixed shapes for whatever cells."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from nmfbench.rows.batches import Batch
from nmfbench.rows.dense import products_in

CHUNK = 2**28
"""Bytes of the loadings of all tiles that are gathered at once."""

_ROWS_FOR_A_TILE = 40
"""Padded rows that cost as much as one tile; see :func:`tile_rows`."""


class Layout:
    """One cell after another, in the order of the batch.

    Attributes
    ----------
    n_places : int
        Rows of the dense buffer; those that no cell fills are empty.
    """

    def __init__(self, batch_size: int) -> None:
        self.n_places = batch_size

    def nbytes(self, n_genes: int, k: int, item: int) -> int:
        """Bytes that a step takes beyond a buffer of as many rows as cells."""
        return 0

    def arranged(self, batch: Batch) -> Batch:
        """The batch with its cells in the order in which they are laid out."""
        return batch

    def places(self, batch: Batch) -> np.ndarray:
        """The place of each cell of an arranged batch."""
        return np.arange(len(batch.rows))

    def donors(self, batch: Batch) -> np.ndarray | None:
        """The donor of each tile; None where there are none."""
        return None


class DonorTiles(Layout):
    """Tiles of a few places, each of one donor, for the batches of several donors of conditional model 2.

    A batch of 512 cells of 16 donors, 20,000 genes, rank 80: with the donors one by one, a step would be
    other calls for each batch. Masks of the whole batch (``X [U_1 ... U_m]``, of which each row needs one
    donor's columns, and ``Xᵀ [C_1 H ... C_m H]``) take 32e9 multiply-adds, 1.3 ms at the 51 TFLOP/s of an
    H200, and one padded block for each donor just as many, as a batch may be of one donor alone. Tiles of 32
    take 11e9, 0.45 ms, and 0.2 ms for the gathered loadings (0.2 GB written and read twice); cells cut to
    measure, which a recorded step cannot have, would take 7e9.

    Parameters
    ----------
    codes : ndarray of int of shape (cells,)
        The donor of each cell.
    n_donors, batch_size : int
    """

    def __init__(self, codes: np.ndarray, n_donors: int, batch_size: int) -> None:
        self.codes, self.n_donors, self.batch_size = codes, n_donors, batch_size
        self.size = tile_rows(n_donors, batch_size)
        # most tiles where every donor fills its last one with one cell alone. Of the batch's size and the
        # donors alone, so that products have the same shapes, and bits, in a fit that is resumed
        present = min(n_donors, batch_size)
        self.n_tiles = (batch_size + present * (self.size - 1)) // self.size
        super().__init__(self.n_tiles * self.size)

    def nbytes(self, n_genes: int, k: int, item: int) -> int:
        padding = (self.n_places - self.batch_size) * n_genes
        gradient = self.n_donors * n_genes * k
        genes = genes_at_once(self.n_tiles, n_genes, k, item)
        chunk = (self.n_donors + 2 * self.n_tiles) * genes * k
        return (padding + gradient + chunk) * item

    def arranged(self, batch: Batch) -> Batch:
        return replace(batch, rows=batch.rows[np.argsort(self.codes[batch.rows], kind="stable")])

    def places(self, batch: Batch) -> np.ndarray:
        cells = np.bincount(self.codes[batch.rows], minlength=self.n_donors)
        first_place = self.size * _before(-(-cells // self.size))
        return np.arange(len(batch.rows)) + np.repeat(first_place - _before(cells), cells)

    def donors(self, batch: Batch) -> np.ndarray:
        cells = np.bincount(self.codes[batch.rows], minlength=self.n_donors)
        of_tiles = np.zeros(self.n_tiles, np.int64)  # whose does not matter where a tile is empty
        used = np.repeat(np.arange(self.n_donors), -(-cells // self.size))
        of_tiles[: len(used)] = used
        return of_tiles


def tile_rows(n_donors: int, batch_size: int) -> int:
    """Places of a tile: a power of two, 8 at least.

    Each donor leaves half a tile empty, or a whole one where the batch lacks it; each tile has its donor's
    loadings gathered, and a product of their size of its own. At 20,000 genes and rank 80 a row would take
    about 0.27 microseconds on an H200 (four products with genes x k) and a tile 10 (five times genes x k
    numbers through memory), both growing with genes x k. The sum, ``rows m + 40 B / rows``, is least at
    ``√(40 B / m)``. Arithmetic from the card's rates, no measurement; it decides the speed alone.
    """
    best = math.sqrt(_ROWS_FOR_A_TILE * batch_size / n_donors)
    most = 2 ** math.ceil(math.log2(batch_size)) if batch_size > 1 else 1
    return min(max(8, 2 ** round(math.log2(best))), most)


def genes_at_once(n_tiles: int, n_genes: int, k: int, item: int) -> int:
    """Genes whose loadings are gathered for all tiles at once."""
    return max(1, min(n_genes, CHUNK // (n_tiles * k * item)))


def donor_gradients(
    X: torch.Tensor,
    donors: torch.Tensor,
    W: torch.Tensor,
    U: torch.Tensor,
    D: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Half the gradients of ``||E||²`` with ``E_i = H_i (W + U_c(i)) - X_i`` and ``H = X Wᵀ``, all donors.

    With ``V_c = W + U_c``: ``D_c = H_cᵀ H_c V_c - H_cᵀ X_c`` for each U_c, and
    ``Σ_c [D_c + (H_c V_c V_cᵀ - X_c V_cᵀ)ᵀ X_c]`` for W (stored genes x k). The same calls with the same
    shapes for whatever cells; sums over tiles are products with one-hots, in one order.

    Parameters
    ----------
    X : Tensor of shape (tiles x places, genes)
        Cells in tiles, each of one donor; empty places are rows of zeros.
    donors : Tensor of int64 of shape (tiles,)
    W : Tensor of shape (genes, k)
    U : Tensor of shape (donors, genes, k)
    D : Tensor of shape (donors, genes, k)
        Takes the gradients of U.
    out : Tensor of shape (genes, k)
        Takes the gradient of W.
    """
    (m, p, k), n = U.shape, len(donors)
    tiles = X.view(n, -1, p)
    H = (X @ W).view(n, -1, k)
    mine = (torch.arange(m, device=X.device)[:, None] == donors).to(X.dtype)  # donors x tiles
    A = (mine @ torch.bmm(H.mT, H).view(n, k * k)).view(m, k, k)
    G, Y = torch.zeros_like(A), torch.zeros_like(H)
    width = genes_at_once(n, p, k, X.element_size())
    chunks = [slice(first, min(first + width, p)) for first in range(0, p, width)]
    for genes in chunks:
        V = W[genes] + U[:, genes]
        G.baddbmm_(V.mT, V)
        Y.baddbmm_(tiles[:, :, genes], V.index_select(0, donors))
        # D_c of these genes at once: nothing more is asked of V than its Gram matrix
        torch.bmm(V, A, out=D[:, genes])
        products = torch.bmm(tiles[:, :, genes].mT, H)
        with products_in("float32"):  # a sum of what was made, which TF32 would cut once more
            D[:, genes].view(m, -1).addmm_(mine, products.view(n, -1), alpha=-1)
    through_H = torch.baddbmm(Y, H, G.index_select(0, donors), beta=-1).view(-1, k)
    torch.sum(D, dim=0, out=out).addmm_(X.T, through_H)


def _before(counts: np.ndarray) -> np.ndarray:
    """How many there are before each."""
    return np.cumsum(counts) - counts
