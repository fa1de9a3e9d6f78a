"""Which genes are kept: all, those seen in enough cells, or the most variable ones.

The variable genes are those of ``scanpy.pp.highly_variable_genes(flavor="seurat_v3")`` on the
counts, computed from row blocks in two passes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from nmfbench.errors import InputError

if TYPE_CHECKING:
    from scipy import sparse

logger = logging.getLogger(__name__)

Blocks = Callable[[], "Iterable[sparse.csr_matrix]"]

LEAST_FOR_TREND = 10  # genes; the loess of scikit-misc crashes the process with three
LOESS_SPAN = 0.3  # scanpy's default, as are degree 2 and the clip at sqrt(cells)


@dataclass(frozen=True)
class GeneChoice:
    """Result of :func:`select_genes`.

    Attributes
    ----------
    keep : numpy.ndarray, shape (genes,)
        Booleans.
    variances_norm : numpy.ndarray or None, shape (genes,)
        Variance of the clipped standardised counts, when variable genes were chosen.
    warnings : list of str
        For the provenance.
    """

    keep: np.ndarray
    variances_norm: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)


def select_genes(
    blocks: Blocks,
    n_genes: int,
    *,
    select: Literal["none", "min_cells", "hvg"] = "none",
    min_cells: int = 0,
    n_top: int = 2000,
) -> GeneChoice:
    """Choose genes from the counts of the kept cells.

    Parameters
    ----------
    blocks
        Gives a fresh pass over the counts: CSR blocks, shape (rows, genes).
    n_genes
        Number of genes.
    select
        - ``none``: every gene;
        - ``min_cells``: genes with a count in at least `min_cells` cells;
        - ``hvg``: the `n_top` genes with the largest standardised variance.
    min_cells
        Cells in which a gene must have a count.
    n_top
        Number of variable genes.

    Raises
    ------
    InputError
        No gene is left.
    """
    if select == "none":
        return GeneChoice(np.ones(n_genes, dtype=bool))
    moments = gene_moments(blocks(), n_genes)
    if select == "min_cells":
        return GeneChoice(_seen_genes(moments, min_cells))
    if select == "hvg":
        return _variable_genes(blocks, moments, n_top)
    raise InputError(
        "datasets.<name>.genes.select", "none, min_cells or hvg", repr(select), "use one of them"
    )


def _seen_genes(moments: GeneMoments, min_cells: int) -> np.ndarray:
    """Genes with a count in at least `min_cells` cells, shape (genes,), booleans."""
    enough = moments.n_nonzero >= min_cells
    if not enough.any():
        raise InputError(
            "datasets.<name>.genes.min_cells",
            "a number of cells in which some gene has a count",
            f"{min_cells}; the commonest gene is in {moments.n_nonzero.max()} of {moments.n_cells} cells",
            "lower min_cells",
        )
    return enough


def _variable_genes(blocks: Blocks, moments: GeneMoments, n_top: int) -> GeneChoice:
    """The `n_top` genes with the largest standardised variance."""
    n_genes = moments.mean.size
    if n_top < 1:
        raise InputError("datasets.<name>.genes.n_top", "at least 1", str(n_top), "raise n_top")
    variances_norm = standardised_variance(blocks, moments)
    keep = np.zeros(n_genes, dtype=bool)
    keep[np.argsort(-variances_norm, kind="stable")[:n_top]] = True
    if n_top <= n_genes:
        return GeneChoice(keep, variances_norm)
    note = f"{n_top} variable genes were asked for, {n_genes} are there; all are kept"
    return GeneChoice(keep, variances_norm, [note])


@dataclass(frozen=True)
class GeneMoments:
    """Moments of the counts of each gene over the cells; arrays of shape (genes,)."""

    n_cells: int
    n_nonzero: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def gene_moments(blocks: Iterable[sparse.csr_matrix], n_genes: int) -> GeneMoments:
    """Mean and variance (n - 1 in the denominator) of each gene, in one pass, in float64.

    Sums of whole numbers and of their squares are exact up to 2^53, so the difference of the two
    loses nothing that matters for counts.
    """
    n_cells = 0
    n_nonzero = np.zeros(n_genes, dtype=np.int64)
    total, squares = np.zeros(n_genes), np.zeros(n_genes)
    for block in blocks:
        data = block.data.astype(np.float64)
        n_cells += block.shape[0]
        n_nonzero += np.bincount(block.indices, minlength=n_genes)
        total += np.bincount(block.indices, weights=data, minlength=n_genes)
        squares += np.bincount(block.indices, weights=data**2, minlength=n_genes)
    mean = total / n_cells
    variance = np.maximum(squares - n_cells * mean**2, 0.0) / max(n_cells - 1, 1)
    return GeneMoments(n_cells, n_nonzero, mean, variance)


def standardised_variance(blocks: Blocks, moments: GeneMoments) -> np.ndarray:
    """Variance of each gene after standardisation by the trend of variance on mean, clipped.

    With m the mean and s the standard deviation a loess of log10 variance on log10 mean expects,
    ``z = min((x - m) / s, sqrt(n))`` and the result is ``sum(z^2) / (n - 1)``.

    Parameters
    ----------
    blocks
        Gives a fresh pass over the counts.
    moments
        From :func:`gene_moments` of the same counts.
    """
    from skmisc.loess import loess

    n = moments.n_cells
    mean, fitted = moments.mean, np.zeros(moments.mean.size)
    varies = moments.variance > 0
    try:
        if varies.sum() < LEAST_FOR_TREND:
            raise ValueError(f"at least {LEAST_FOR_TREND} are needed")
        model = loess(np.log10(mean[varies]), np.log10(moments.variance[varies]), span=LOESS_SPAN, degree=2)
        model.fit()
    except ValueError as error:
        raise InputError(
            "datasets.<name>.genes.select",
            "counts to whose means and variances a trend can be fitted",
            f"{varies.sum()} genes that vary over {n} cells ({_words(error)})",
            "use select: min_cells, or more cells and genes",
        ) from error
    fitted[varies] = model.outputs.fitted_values
    expected = np.sqrt(10**fitted)
    ceiling = expected * np.sqrt(n) + mean

    total, squares = np.zeros(mean.size), np.zeros(mean.size)
    for block in blocks():
        clipped = np.minimum(block.data.astype(np.float64), ceiling[block.indices])
        total += np.bincount(block.indices, weights=clipped, minlength=mean.size)
        squares += np.bincount(block.indices, weights=clipped**2, minlength=mean.size)
    return (n * mean**2 + squares - 2 * total * mean) / ((n - 1) * expected**2)


def _words(error: Exception) -> str:
    """Message of an error of scikit-misc, which gives bytes."""
    first = error.args[0] if error.args else ""
    return first.decode() if isinstance(first, bytes) else str(first)
