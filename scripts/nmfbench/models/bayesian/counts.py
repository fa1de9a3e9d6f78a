"""Counts by cell and by gene, and the one product that inference needs of them, on the CPU and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import gammaln

from nmfbench.linalg import run_ranges
from nmfbench.models.bayesian.kernels import inner, walk
from nmfbench.models.hidden import HiddenEntries
from nmfbench.totals import cell_totals, gene_totals


@dataclass(frozen=True)
class Weights:
    """How much each term of the likelihood counts, and the uncertainties of the chi-squared term.

    Attributes
    ----------
    negative_binomial, poisson, chi_squared : float
        Factors of the terms.
    cell_u, gene_u : ndarray of shape (cells,), (genes,) or None
        The uncertainty of a zero count is ``cell_u[i] gene_u[g]``; None is 0.3 and 1.
    relative : float
        The uncertainty of a count is at least this share of it.
    """

    negative_binomial: float = 1.0
    poisson: float = 0.0
    chi_squared: float = 0.0
    cell_u: np.ndarray | None = None
    gene_u: np.ndarray | None = None
    relative: float = 0.1

    def uncertainties(self, n_cells: int, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
        """`cell_u` and `gene_u`, filled in."""
        cell_u = np.full(n_cells, 0.3) if self.cell_u is None else np.asarray(self.cell_u, dtype=np.float64)
        gene_u = np.ones(n_genes) if self.gene_u is None else np.asarray(self.gene_u, dtype=np.float64)
        return cell_u, gene_u

    def rows(self, index: np.ndarray) -> Weights:
        """The same for some of the cells."""
        return self if self.cell_u is None else Weights(**{**self.__dict__, "cell_u": self.cell_u[index]})


class CellCounts:
    """Counts of cells x genes on the CPU.

    Parameters
    ----------
    csr : csr_matrix or csr_array of shape (cells, genes)
        Counts, positive where stored.
    hidden : HiddenEntries or None
        Entries that are no part of the likelihood; `csr` has no counts there.

    Notes
    -----
    Both orders of the nonzeros are kept, 16 bytes a nonzero in single precision: a walk by gene is then the
    same loop as one by cell, and no intermediate of one number a nonzero is needed.
    """

    def __init__(self, csr, hidden: HiddenEntries | None = None) -> None:
        self.csr, self.hidden = csr, hidden
        self.shape = csr.shape
        self.dtype = torch.from_numpy(csr.data[:0]).dtype
        self.device = torch.device("cpu")

    @cached_property
    def by_gene(self):
        """The transpose, in CSR."""
        return sp.csr_matrix(self.csr.T)

    @cached_property
    def cell_totals(self) -> torch.Tensor:
        return torch.from_numpy(cell_totals(self.csr))

    @cached_property
    def gene_totals(self) -> torch.Tensor:
        return torch.from_numpy(gene_totals(self.csr))

    @cached_property
    def log_factorials(self) -> float:
        """Sum of ln d! over all counts."""
        return float(gammaln(self.csr.data.astype(np.float64) + 1).sum())

    @cached_property
    def squares(self) -> float:
        """Sum of d² over all counts."""
        return float(np.square(self.csr.data, dtype=np.float64).sum())

    def larger_than(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cell, gene and count of the counts above a threshold."""
        places = np.flatnonzero(self.csr.data > threshold)
        cells = np.searchsorted(self.csr.indptr, places, side="right") - 1
        return cells, self.csr.indices[places], self.csr.data[places]

    def rows(self, index: np.ndarray) -> CellCounts:
        """Some of the cells."""
        return CellCounts(self.csr[index], None if self.hidden is None else self.hidden.rows(index))

    def cells_walk(
        self, P: torch.Tensor, A: torch.Tensor, weights: Weights, with_value: bool = False
    ) -> tuple[float, torch.Tensor]:
        """The terms at the nonzeros (0 unless `with_value`), and ``S(w) A``, of shape (cells, k)."""
        return _walk(self.csr, P, A, weights, with_value, *weights.uncertainties(*self.shape))

    def genes_walk(
        self, P: torch.Tensor, A: torch.Tensor, weights: Weights, with_value: bool = False
    ) -> tuple[float, torch.Tensor]:
        """The terms at the nonzeros (0 unless `with_value`), and ``S(w)ᵀ P``, of shape (genes, k)."""
        cell_u, gene_u = weights.uncertainties(*self.shape)
        return _walk(self.by_gene, A, P, weights, with_value, gene_u, cell_u)

    def walks(
        self, P: torch.Tensor, A: torch.Tensor, weights: Weights
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """The terms at the nonzeros, ``S(w) A`` and ``S(w)ᵀ P``."""
        value, by_cell = self.cells_walk(P, A, weights, True)
        return value, by_cell, self.genes_walk(P, A, weights)[1]

    def inner(self, P: torch.Tensor, A: torch.Tensor) -> float:
        """``Σ d (P Aᵀ)`` over the nonzeros."""
        P, A = P.detach().contiguous(), A.detach().contiguous()
        values = np.zeros(len(P))
        arrays = self.csr.indptr, self.csr.indices, self.csr.data, P.numpy(), A.numpy(), values
        run_ranges(inner, _cuts(self.csr), *arrays)
        return float(values.sum())


def _cuts(csr) -> np.ndarray:
    """Borders of as many ranges of rows as there are threads, with about the same number of nonzeros."""
    cuts = np.searchsorted(csr.indptr, np.linspace(0, csr.nnz, torch.get_num_threads() + 1))
    cuts[0], cuts[-1] = 0, csr.shape[0]
    return cuts


def _walk(csr, R, C, weights, with_value, row_u, column_u) -> tuple[float, torch.Tensor]:
    R, C = R.detach().contiguous(), C.detach().contiguous()
    out = torch.empty_like(R)
    values = np.zeros(len(R))
    cuts = _cuts(csr)
    factors = (weights.negative_binomial, weights.poisson, weights.chi_squared)
    arrays = csr.indptr, csr.indices, csr.data, R.numpy(), C.numpy(), row_u, column_u
    run_ranges(
        walk, cuts, *arrays, tuple(map(float, factors)), weights.relative, out.numpy(), values, with_value
    )
    return float(values.sum()), out


def check_counts(csr, who: str):
    """`csr` without stored zeros, after a look at whether its values are counts.

    Raises
    ------
    InputError
        If a value is not a whole number.
    """
    from nmfbench.errors import InputError

    wrong = csr.data != np.rint(csr.data)
    if wrong.any():
        place = int(wrong.argmax())
        cell = int(np.searchsorted(csr.indptr, place, side="right")) - 1
        raise InputError(
            f"{who}: X",
            "counts: whole numbers of at least 0, neither normalised nor logarithms",
            f"{int(wrong.sum())} values that are not whole, the first {csr.data[place]:g} "
            f"(cell {cell}, gene {int(csr.indices[place])})",
            "give the raw counts",
        )
    if not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    return csr
