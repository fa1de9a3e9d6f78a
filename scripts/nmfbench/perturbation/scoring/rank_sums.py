"""Rank-sum tests of sparse groups against one control, gene by gene, without a dense matrix.

The zeros of a gene are one block of ties. The control's values of each gene are sorted once; a group costs
a search in them for each of its nonzeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from nmfbench.compiled import compiled


@dataclass(frozen=True)
class Control:
    """Control cells, ready to be compared with.

    Attributes
    ----------
    values, cumulative : ndarray
        Distinct nonzero values of each gene, ascending, and how many cells have them or less (nonzero).
    begins : ndarray of shape (genes + 1,)
        Where each gene begins in these.
    ties : ndarray of shape (genes,)
        Sum of t^3 - t over the runs of equal nonzero values.
    n : int
        Number of cells.
    """

    values: np.ndarray
    cumulative: np.ndarray
    begins: np.ndarray
    ties: np.ndarray
    n: int


def prepare(control: sparse.csr_matrix) -> Control:
    """Sort the values of control cells, csr_matrix of shape (cells, genes)."""
    columns = control.tocsc()
    size = len(columns.data)
    values, cumulative = np.empty(size, np.float32), np.empty(size, np.int64)
    begins, ties = np.zeros(columns.shape[1] + 1, np.int64), np.zeros(columns.shape[1])
    end = _sort_columns(columns.data, columns.indptr, values, cumulative, begins, ties)
    return Control(values[:end].copy(), cumulative[:end].copy(), begins, ties, control.shape[0])


def compare(
    group: sparse.csr_matrix, control: Control, *, ties: bool = True, continuity: bool = True
) -> np.ndarray:
    """Two-sided p values of the rank-sum test by its normal approximation.

    Parameters
    ----------
    group : csr_matrix of shape (cells, genes)
    control : Control
    ties, continuity : bool
        Correct the variance for ties; correct for continuity.

    Returns
    -------
    ndarray of shape (genes,)
        1 where all values are equal.
    """
    columns = group.tocsc()
    n_genes = columns.shape[1]
    U, tied = np.empty(n_genes), np.empty(n_genes)
    _compare(
        columns.data, columns.indptr, group.shape[0],
        control.values, control.cumulative, control.begins, control.ties, control.n, U, tied,
    )  # fmt: skip
    n1, n2 = group.shape[0], control.n
    n = n1 + n2
    mean = n1 * n2 / 2
    correction = tied / max(n * (n - 1), 1) if ties else 0.0
    variance = n1 * n2 / 12 * ((n + 1) - correction)
    deviation = np.maximum(np.abs(U - mean) - 0.5 * continuity, 0 if not continuity else -0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = deviation / np.sqrt(np.maximum(variance, 0))
    p = 2 * stats.norm.sf(z)
    return np.where(variance > 1e-12, np.minimum(p, 1.0), 1.0)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p values of one family, shape (tests,)."""
    if not len(p):
        return p.copy()
    order = np.argsort(p)
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    result = np.empty_like(p)
    result[order] = adjusted
    return result


@compiled()
def _sort_columns(data, indptr, values, cumulative, begins, ties):
    end = 0
    for gene in range(len(indptr) - 1):
        column = np.sort(data[indptr[gene] : indptr[gene + 1]])
        place = 0
        while place < len(column):
            stop = place
            while stop < len(column) and column[stop] == column[place]:
                stop += 1
            run = float(stop - place)
            ties[gene] += run * run * run - run
            values[end] = column[place]
            cumulative[end] = stop
            end += 1
            place = stop
        begins[gene + 1] = end
    return end


@compiled()
def _compare(data, indptr, n_group, values, cumulative, begins, control_ties, n_control, U, tied):
    for gene in range(len(indptr) - 1):
        column = np.sort(data[indptr[gene] : indptr[gene + 1]])
        first, last = begins[gene], begins[gene + 1]
        n_nonzero = cumulative[last - 1] if last > first else 0
        zeros_control = float(n_control - n_nonzero)
        zeros_group = float(n_group - len(column))
        total = 0.5 * zeros_group * zeros_control
        zeros = zeros_control + zeros_group
        t = control_ties[gene] + zeros * zeros * zeros - zeros
        place = 0
        while place < len(column):
            stop = place
            while stop < len(column) and column[stop] == column[place]:
                stop += 1
            run = float(stop - place)
            low, high = first, last  # the first distinct value that is not below
            while low < high:
                middle = (low + high) // 2
                if values[middle] < column[place]:
                    low = middle + 1
                else:
                    high = middle
            below = float(cumulative[low - 1]) if low > first else 0.0
            equal = float(cumulative[low]) - below if low < last and values[low] == column[place] else 0.0
            total += run * (zeros_control + below + 0.5 * equal)
            both = equal + run
            t += (both * both * both - both) - (equal * equal * equal - equal)
            place = stop
        U[gene] = total
        tied[gene] = t
