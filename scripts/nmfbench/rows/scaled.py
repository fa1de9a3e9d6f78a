"""Genes on scales of their own: rows whose columns are multiplied, and never centred: zeros stay zeros."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from nmfbench.errors import InputError
from nmfbench.rows.memory import BLOCK_ROWS, InMemoryRows, RowSource


def gene_moments(source: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the cells of each gene's values and of their squares, (genes,) float64 each; one pass."""
    sums, squares = np.zeros((2, source.n_columns))
    for _, block in source.blocks():
        sums += np.bincount(block.indices, block.data, minlength=source.n_columns)
        squares += np.bincount(
            block.indices, np.square(block.data, dtype=np.float64), minlength=source.n_columns
        )
    return sums, squares


def gene_factors(scaling: str, sums: np.ndarray, squares: np.ndarray, n_cells: int) -> np.ndarray:
    """What each gene is multiplied with.

    Parameters
    ----------
    scaling : {"none", "unit_variance", "sqrt"}
        ``unit_variance``: one over the standard deviation; ``sqrt``: one over its square root, which leaves a
        gene's standard deviation at the root of what it was (Pareto scaling).
    sums, squares : (genes,) arrays
        Of :func:`gene_moments`.
    n_cells : int

    Returns
    -------
    (genes,) float32 array
        1 for a gene that does not vary. The standard deviation is that of the cells (divided by n).
    """
    if scaling == "none":
        return np.ones(len(sums), np.float32)
    if scaling not in ("unit_variance", "sqrt"):
        raise InputError("gene_scaling", "none, unit_variance or sqrt", scaling, "set one of the three")
    mean = sums / n_cells
    variance = squares / n_cells - mean**2
    varies = variance > 1e-9 * np.maximum(squares / n_cells, 1e-300)
    power = -0.5 if scaling == "unit_variance" else -0.25
    return np.where(varies, np.where(varies, variance, 1.0) ** power, 1.0).astype(np.float32)


def scale_columns(block, factors: np.ndarray):
    """A CSR block with its columns multiplied; index arrays are shared."""
    data = block.data * factors[block.indices].astype(block.data.dtype, copy=False)
    made = type(block)((data, block.indices, block.indptr), shape=block.shape)
    made.has_sorted_indices = True
    return made


class ScaledRows:
    """Rows of a source with their columns multiplied.

    Parameters
    ----------
    source : RowSource
    factors : (genes,) array
    """

    def __init__(self, source: RowSource, factors: np.ndarray) -> None:
        self.source, self.factors = source, factors
        self.n_rows, self.n_columns, self.nnz = source.n_rows, source.n_columns, source.nnz
        self.dtype, self.order = source.dtype, source.order

    def rows(self, indices: np.ndarray):
        """The rows `indices`, in that order, as CSR."""
        return scale_columns(self.source.rows(indices), self.factors)

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, object]]:
        """Pairs of the first row's number and the CSR block, covering all rows in order."""
        for start, block in self.source.blocks(size):
            yield start, scale_columns(block, self.factors)

    def fingerprint(self) -> str:
        """Of the source and the factors."""
        return scaled_fingerprint(self.source.fingerprint(), self.factors)


def scaled_fingerprint(text: str, factors: np.ndarray) -> str:
    """A fingerprint that changes with the factors too."""
    return f"{text} {hashlib.blake2b(np.ascontiguousarray(factors).data, digest_size=8).hexdigest()}"


def scaled_rows(source: RowSource, factors: np.ndarray) -> RowSource:
    """`source` with its columns multiplied: in memory where it is there, else as it is read."""
    if isinstance(source, InMemoryRows):
        return InMemoryRows(
            scale_columns(source.csr, factors), scaled_fingerprint(source.fingerprint(), factors)
        )
    return ScaledRows(source, factors)
