"""One streamed pass over the counts beside an embedding: sums from which all scores of its factors follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data.filtered import normalise_block, read_filtered
from nmfbench.errors import InputError
from nmfbench.factors.block_sums import add_block

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from nmfbench.factors.stored import StoredFit

#: Counts of a cell are brought to this sum, as the field's "transcripts per million" of a program.
MILLION = 1e6
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class FactorMoments:
    """Sums over the cells. T: counts per million; L: normalised values; H: the embedding; S: its shares.

    The shares of a cell are its row of H divided by the row's sum; a cell without any has none.

    Attributes
    ----------
    n_cells : int
    genes : Index of p genes
    signed : bool
        Whether H has negative entries: it then has no shares.
    usage_sums : ndarray of shape (k,)
        Column sums of H.
    usage_gram, share_gram : ndarray of shape (k, k)
        ``HᵀH`` and ``SᵀS``.
    usage_products, share_products : ndarray of shape (p, k)
        ``TᵀH`` and ``TᵀS``.
    value_products : ndarray of shape (p, k)
        ``LᵀH``.
    gene_sums, gene_squares : ndarray of shape (p,)
        Sums of T and of T² over the cells.
    value_sums, value_squares : ndarray of shape (p,)
        The same of L.
    detected : ndarray of shape (p,)
        Cells with a count of the gene.
    """

    n_cells: int
    genes: pd.Index
    signed: bool
    usage_sums: np.ndarray
    usage_gram: np.ndarray
    share_gram: np.ndarray
    usage_products: np.ndarray
    share_products: np.ndarray
    value_products: np.ndarray
    gene_sums: np.ndarray
    gene_squares: np.ndarray
    value_sums: np.ndarray
    value_squares: np.ndarray
    detected: np.ndarray

    @property
    def gene_means(self) -> np.ndarray:
        """Mean counts per million of each gene."""
        return self.gene_sums / self.n_cells

    @property
    def gene_sds(self) -> np.ndarray:
        """Standard deviation of each gene's counts per million, over all cells (ddof 0)."""
        variance = self.gene_squares / self.n_cells - self.gene_means**2
        # a gene with the same value in every cell leaves rounding behind
        return np.sqrt(np.where(variance > 1e-12 * self.gene_squares / self.n_cells, variance, 0.0))


def gather_moments(
    filtered: str | Path, fit: StoredFit, normalisation: Mapping[str, Any], *, block_rows: int = _BLOCK_ROWS
) -> FactorMoments:
    """One pass over the filtered counts and the embedding of a fit to them.

    Parameters
    ----------
    filtered : str or Path
        What the fit was trained on.
    fit : StoredFit
    normalisation : mapping
        ``target_sum`` and ``log1p`` of L.
    block_rows : int
        Cells in memory at a time.

    Raises
    ------
    InputError
        The two files are not of the same cells and genes.
    """
    data = read_filtered(filtered)
    cells = fit.record.get("cells")  # of an embedding that lacks some
    _check_same(filtered, data, fit, data.n_cells if cells is None else len(cells))

    def pairs():
        for start, block in data.blocks(block_rows):
            first, end = start, start + block.shape[0]
            if cells is not None:
                here = np.searchsorted(cells, [start, end])
                block, (first, end) = block[cells[slice(*here)] - start], here
            if end > first:
                yield block, fit.rows(first, end, as_stored=True)

    return sum_moments(pairs(), data.var.index, fit.n_factors, normalisation)


def sum_moments(
    pairs: Iterable[tuple[sparse.csr_matrix, np.ndarray]],
    genes: pd.Index,
    n_factors: int,
    normalisation: Mapping[str, Any],
) -> FactorMoments:
    """The sums over blocks of raw counts (CSR) and the embedding of their cells.

    Products are summed in double precision: embeddings can be nearly collinear, and what is solved from the
    sums magnifies their rounding.
    """
    from nmfbench.linalg import SparseRows

    p, k, n_cells, signed = len(genes), n_factors, 0, False
    products, sums = np.zeros((p, 3, k)), np.zeros((4, p))
    grams, usage_sums, detected = np.zeros((2, k, k)), np.zeros(k), np.zeros(p)
    for block, H in pairs:
        if not block.has_sorted_indices:
            block = block.sorted_indices()
        million = normalise_block(block, MILLION, log1p=False)
        values = normalise_block(block, **normalisation)
        per_share = _inverse_sums(H)
        SparseRows(million).by_gene(
            add_block, values.data, np.ascontiguousarray(H), per_share, products, sums
        )
        H = H.astype(np.float64, copy=False)
        shares = H * per_share[:, None]
        grams += np.stack([H.T @ H, shares.T @ shares])
        usage_sums += H.sum(axis=0)
        detected += np.bincount(block.indices[block.data > 0], minlength=p)
        n_cells += block.shape[0]
        signed |= bool((H < 0).any())
    return FactorMoments(
        *(n_cells, genes, signed, usage_sums, *grams),
        *(products[:, 0], products[:, 1], products[:, 2], *sums, detected),
    )


def _inverse_sums(H: np.ndarray) -> np.ndarray:
    """1 over the sum of each row of the embedding; 0 where it is not positive: such a row has no shares."""
    sums = H.sum(axis=1, dtype=np.float64)
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)


def _check_same(filtered: str | Path, data: Any, fit: StoredFit, n_cells: int) -> None:
    genes = data.var.index
    same = n_cells == fit.n_cells and data.n_genes == fit.n_genes and genes.equals(fit.var.index)
    if not same:
        raise InputError(
            f"{filtered} and {fit.path}",
            "the filtered counts that the fit was trained on",
            f"{data.n_cells} cells x {data.n_genes} genes, and a fit of {fit.n_cells} x {fit.n_genes}",
            "train the fit again, or give the counts it was trained on",
        )
