"""Log-likelihood of negative binomial counts about a rank-one log mean, exact, from the nonzeros alone.

With ``t_i = b_i + s_i``, ``c_g = a_g + l_g - ln alpha_g`` and ``eta_ig = t_i + c_g``,

    ln p(Y) =   sum_i t_i Y_i. + sum_g c_g Y_.g                                              (A) margins
              + sum_(g,v) n_gv [lgamma(v + alpha_g) - lgamma(alpha_g) - lgamma(v + 1)]       (B) histogram
              - sum_(y > 0) y_ig softplus(eta_ig)                                            (C) nonzeros
              - sum_g alpha_g F(c_g),   F(c) = sum_i softplus(t_i + c)                       (D) smooth

Effects of covariates give each group of cells a c of its own; (A), (C) and (D) are then summed over groups.
Entries that are held out (`mask`) are taken out of A, B and C beforehand, and out of D one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from nmfbench.models.nb_hierarchical.entries import Entries
from nmfbench.models.nb_hierarchical.kernels import rising_factorials
from nmfbench.models.nb_hierarchical.smooth import smooth_sums
from nmfbench.totals import cell_totals, gene_totals

_SMALL_COUNTS, _ENTRIES_AT_ONCE = 64, 1 << 24  # counts below the first are tallied in a table


@dataclass
class Terms:
    """The log-likelihood at a point, and its derivatives; float64 on the CPU.

    Attributes
    ----------
    value : float
        NaN where it was not asked for.
    t, c, log_alpha : ndarray of shape (cells,), (groups, genes), (dispersions,)
        First derivatives; that in ln alpha has c held.
    t_bend, c_bend, log_alpha_bend : ndarray or None
        Second derivatives, each in its own variable.
    t_information : ndarray of shape (cells,) or None
        Fisher information ``sum_g mu alpha / (mu + alpha)`` of each cell; None without second derivatives.
    c_information : ndarray of shape (groups, genes) or None
        The same of each gene.
    """

    value: float
    t: np.ndarray
    c: np.ndarray
    log_alpha: np.ndarray
    t_bend: np.ndarray | None = None
    c_bend: np.ndarray | None = None
    log_alpha_bend: np.ndarray | None = None
    t_information: np.ndarray | None = None
    c_information: np.ndarray | None = None


class SplitLikelihood:
    """The likelihood of one matrix of counts.

    Parameters
    ----------
    counts : csr_matrix or csr_array of shape (cells, genes)
        Whole numbers, no stored zeros, without the entries of `mask`.
    shared : bool
        One dispersion for all genes, or one for each.
    group : ndarray of shape (cells,) or None
        Group of each cell, 0 to n_groups - 1; None: one group.
    n_groups : int
    mask : csr of shape (cells, genes) or None
        Ones at the entries that are held out.
    device : torch.device
        Where sums over entries and (D) are taken.
    """

    def __init__(
        self,
        counts: Any,
        *,
        shared: bool = False,
        group: np.ndarray | None = None,
        n_groups: int = 1,
        mask: Any = None,
        device: torch.device | None = None,
    ) -> None:
        self.shape, self.shared, self.n_groups = counts.shape, shared, n_groups
        self.device = torch.device("cpu") if device is None else device
        group = np.zeros(counts.shape[0], dtype=np.int64) if group is None else group
        self.group = group
        self.cells_of = [np.flatnonzero(group == g) for g in range(n_groups)]
        self.cell_totals = cell_totals(counts)
        self.gene_totals = np.stack(
            [gene_totals(counts[rows]) for rows in self.cells_of] if n_groups > 1 else [gene_totals(counts)]
        )
        self.entries = Entries(counts, group, n_groups, self.device)
        self.mask = None if mask is None else Entries(mask, group, n_groups, self.device)
        self.n_entries = counts.shape[0] * counts.shape[1] - (0 if mask is None else int(mask.nnz))
        genes, values, numbers = count_histogram(counts)
        self.constant = -float(numbers @ gammaln(values + 1.0))
        if shared:
            values, inverse = np.unique(values, return_inverse=True)
            numbers = np.bincount(inverse, weights=numbers)
            genes = np.zeros(len(values), dtype=np.int64)
        self.histogram = genes, values, numbers

    def evaluate(
        self,
        t: np.ndarray,
        c: np.ndarray,
        log_alpha: np.ndarray,
        *,
        value: bool = True,
        bend: bool = False,
    ) -> Terms:
        """The log-likelihood and its derivatives.

        Parameters
        ----------
        t : ndarray of shape (cells,)
        c : ndarray of shape (groups, genes)
        log_alpha : ndarray of shape (genes,), or (1,) where it is shared
        value, bend : bool
            Whether the value, and second derivatives, are wanted.
        """
        alpha = np.exp(log_alpha)
        by_gene = np.broadcast_to(alpha, self.shape[1:])
        rising = np.zeros((3, len(alpha)))
        rising_factorials(*self.histogram, alpha, *rising)
        sums = self.entries.sums(t, c, value=value, bend=bend)
        dense, slope, bend_c, row_slope, row_bend = self._smooth(t, c, by_gene, bend)
        if self.mask is not None:
            held = self.mask.sums(t, c, by_gene, value=True, bend=bend)
            dense -= held.column_value
            slope -= held.column_slope
            row_slope -= held.row_slope
            if bend:
                bend_c -= held.column_bend
                row_bend -= held.row_bend
        by_alpha = dense if not self.shared else dense.sum(keepdims=True)
        terms = Terms(
            value=np.nan,
            t=self.cell_totals - sums.row_slope - row_slope,
            c=self.gene_totals - sums.column_slope - by_gene * slope,
            log_alpha=alpha * (rising[1] - by_alpha),
        )
        if value:
            terms.value = float(
                t @ self.cell_totals
                + (c * self.gene_totals).sum()
                + rising[0].sum()
                + self.constant
                - sums.column_value.sum()
                - alpha @ by_alpha
            )
        if bend:
            terms.t_bend = -(sums.row_bend + row_bend)
            terms.c_bend = -(sums.column_bend + by_gene * bend_c)
            terms.log_alpha_bend = terms.log_alpha + alpha**2 * rising[2]
            # mu alpha / (mu + alpha) = alpha sigmoid(eta)
            terms.t_information, terms.c_information = row_slope, by_gene * slope
        return terms

    def _smooth(self, t, c, alpha, bend: bool):
        """Block D of every group: F summed over groups, and its derivatives."""
        n, p = self.shape
        dense, slope = np.zeros(p), np.empty((self.n_groups, p))
        bend_c = np.empty((self.n_groups, p)) if bend else None
        row_slope, row_bend = np.empty(n), np.empty(n) if bend else None
        weights = self._there(alpha)
        for number, rows in enumerate(self.cells_of):
            sums = smooth_sums(self._there(t[rows]), self._there(c[number]), weights, bend=bend)
            dense += sums.value.cpu().numpy()
            slope[number] = sums.slope.cpu().numpy()
            row_slope[rows] = sums.row_slope.cpu().numpy()
            if bend:
                bend_c[number] = sums.bend.cpu().numpy()
                row_bend[rows] = sums.row_bend.cpu().numpy()
        return dense, slope, bend_c, row_slope, row_bend

    def _there(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


class _LogLikelihood(torch.autograd.Function):
    """The likelihood as a step of a computation that torch differentiates."""

    @staticmethod
    def forward(ctx, t, c, log_alpha, likelihood, value):
        terms = likelihood.evaluate(
            *(x.detach().numpy() for x in (t, c, log_alpha)),
            value=value,
        )
        ctx.save_for_backward(*(torch.from_numpy(x) for x in (terms.t, terms.c, terms.log_alpha)))
        return torch.tensor(terms.value if value else 0.0, dtype=t.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return *(gradient * x for x in ctx.saved_tensors), None, None


def log_likelihood(
    t: torch.Tensor, c: torch.Tensor, log_alpha: torch.Tensor, likelihood: SplitLikelihood, value: bool
) -> torch.Tensor:
    """The log-likelihood, differentiable; without `value` it is 0, its gradients are right all the same."""
    return _LogLikelihood.apply(t, c, log_alpha, likelihood, value)


def count_histogram(counts: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each gene has each count.

    Parameters
    ----------
    counts : csr of shape (cells, genes)

    Returns
    -------
    genes, values : ndarray of int64
        Ascending by gene, then by value.
    numbers : ndarray of float64
        Cells of the gene with that count.
    """
    p = counts.shape[1]
    small = np.zeros(p * _SMALL_COUNTS, dtype=np.int64)
    large = []
    for start in range(0, counts.nnz, _ENTRIES_AT_ONCE):
        part = slice(start, start + _ENTRIES_AT_ONCE)
        genes, values = counts.indices[part].astype(np.int64), counts.data[part].astype(np.int64)
        within = values < _SMALL_COUNTS
        small += np.bincount((genes * _SMALL_COUNTS + values)[within], minlength=len(small))
        large.append(np.stack([genes[~within], values[~within]], axis=1))
    keys = np.flatnonzero(small)
    rare, numbers = np.unique(
        np.concatenate([np.zeros((0, 2), np.int64), *large]), axis=0, return_counts=True
    )
    genes = np.concatenate([keys // _SMALL_COUNTS, rare[:, 0]])
    values = np.concatenate([keys % _SMALL_COUNTS, rare[:, 1]])
    order = np.lexsort((values, genes))
    return genes[order], values[order], np.concatenate([small[keys], numbers])[order].astype(np.float64)
