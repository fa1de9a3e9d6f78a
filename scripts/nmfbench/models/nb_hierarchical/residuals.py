"""Pearson residuals ``(y - mu) / sqrt(mu + mu² / alpha)`` as an operator: nothing of cells x genes is dense.

At a zero count the residual is ``-sqrt(alpha_g sigmoid(t_i + c_g))``, a smooth function of one sum. So
``R = S - B M``: S has the nonzeros (the residual less what a zero would have), B Lagrange polynomials of
Chebyshev points in t at the cells, and M the function at those points for each gene.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import expit

from nmfbench.linalg import SparseRows
from nmfbench.models.nb_hierarchical.smooth import lagrange_basis
from nmfbench.totals import entries_of

_ENTRIES_AT_ONCE = 1 << 24
"""Products are taken in blocks of cells with so many nonzeros, each sorted by gene on the way."""


class PearsonResiduals:
    """Residuals of counts given t, c and alpha, clipped at +- sqrt(cells) where the count is not zero.

    Parameters
    ----------
    counts : csr of shape (cells, genes)
    t : ndarray of shape (cells,)
    c : ndarray of shape (groups, genes)
    alpha : ndarray of shape (genes,)
    group : ndarray of shape (cells,)
    clip : float
        Largest absolute residual.
    """

    def __init__(
        self, counts: Any, t: np.ndarray, c: np.ndarray, alpha: np.ndarray, group: np.ndarray, clip: float
    ) -> None:
        self.shape = counts.shape
        data = np.empty(counts.nnz, dtype=np.float32)
        stop = 0
        for rows, genes, y in entries_of(counts):
            part = slice(stop, stop := stop + len(y))
            sigma = expit(t[rows] + c[group[rows], genes])
            a = alpha[genes]
            # mu = alpha sigma / (1 - sigma) and mu + mu²/alpha = mu / (1 - sigma)
            zero = np.sqrt(a * sigma)
            whole = (y * (1 - sigma) - a * sigma) / zero
            data[part] = np.clip(whole, -clip, clip) + zero
        self.nonzeros = sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
        self._groups = []
        for number in range(len(c)):
            rows = np.flatnonzero(group == number)
            if not len(rows):
                continue
            there = torch.from_numpy(t[rows])
            centre = float(np.median(c[number]))
            basis, nodes = lagrange_basis(there, 24 + math.ceil(2 * float(np.ptp(t[rows]))))
            nodes = nodes.numpy()
            values = np.sqrt(alpha * expit(nodes[:, None] + c[number]))
            # relative to the function at a middle gene, which varies as much over the cells
            scale_nodes, scale = np.sqrt(expit(nodes + centre)), np.sqrt(expit(t[rows] + centre))
            self._groups.append((rows, basis.numpy() * scale[:, None], values / scale_nodes[:, None]))

    def _blocks(self):
        """Ranges of cells, and their rows of S as views."""
        S, start = self.nonzeros, 0
        while start < self.shape[0]:
            ahead = int(np.searchsorted(S.indptr, S.indptr[start] + _ENTRIES_AT_ONCE, side="right")) - 1
            stop = max(start + 1, min(ahead, self.shape[0]))
            part = slice(S.indptr[start], S.indptr[stop])
            indptr = S.indptr[start : stop + 1] - S.indptr[start]
            shape = (stop - start, self.shape[1])
            block = sp.csr_matrix((S.data[part], S.indices[part], indptr), shape=shape)
            block.has_sorted_indices = True  # as those of the counts; known, not looked for in every pass
            yield slice(start, stop), SparseRows(block)
            start = stop

    def times(self, V: np.ndarray) -> np.ndarray:
        """``R V`` of shape (cells, k)."""
        dense = torch.from_numpy(np.ascontiguousarray(V, dtype=np.float64))
        product = np.concatenate([block.times(dense).numpy() for _, block in self._blocks()])
        for rows, basis, values in self._groups:
            product[rows] -= basis @ (values @ V)
        return product

    def transposed_times(self, U: np.ndarray) -> np.ndarray:
        """``R' U`` of shape (genes, k)."""
        product = np.zeros((self.shape[1], U.shape[1]))
        for cells, block in self._blocks():
            dense = torch.from_numpy(np.ascontiguousarray(U[cells], dtype=np.float64))
            product += block.transposed_times(dense).numpy()
        for rows, basis, values in self._groups:
            product -= values.T @ (basis.T @ U[rows])
        return product


def truncated_svd(
    operator: PearsonResiduals, k: int, seed: int, *, extra: int = 10, tol: float = 1e-5, most: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Leading singular values and right vectors, by subspace iteration (Halko, Martinsson & Tropp 2011).

    Parameters
    ----------
    operator : PearsonResiduals
        Or anything with ``shape``, ``times`` and ``transposed_times``.
    k : int
    seed : int
    extra : int
        Further vectors.
    tol, most : float, int
        Passes in both directions end when the sum of the squared values rises by less than this share, or
        after so many.

    Returns
    -------
    values : ndarray of shape (k,)
    V : ndarray of shape (genes, k)
        Each with its largest entry positive.
    """
    n, p = operator.shape
    size = min(k + extra, n, p)
    V = np.random.default_rng([seed, 3]).standard_normal((p, size))
    captured = 0.0
    for turn in range(most):
        V, _ = np.linalg.qr(V)
        product = operator.times(V)
        values, vectors = np.linalg.eigh(product.T @ product)
        total = float(values[-k:].sum())
        if total - captured <= tol * total or turn == most - 1:
            break
        captured = total
        U, _ = np.linalg.qr(product)
        V = operator.transposed_times(U)
    order = np.argsort(values)[::-1][:k]
    V = V @ vectors[:, order]
    V *= np.where(V[np.abs(V).argmax(0), np.arange(V.shape[1])] < 0, -1.0, 1.0)
    return np.sqrt(np.maximum(values[order], 0.0)), V
