"""The fitted means of counts, and log densities of counts about them, by gene and by cell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from nmfbench.models.nb_hierarchical.smooth import lagrange_basis, smooth_sums
from nmfbench.totals import entries_of


@dataclass(frozen=True)
class Means:
    """Counts of mean ``alpha_g exp(t_i + c_g)`` and dispersion alpha_g; Poisson where `poisson`.

    Attributes
    ----------
    t : ndarray of shape (cells,)
    c : ndarray of shape (groups, genes)
    log_alpha : ndarray of shape (genes,)
    group : ndarray of shape (cells,)
    poisson : bool
        Poisson counts of mean ``exp(t_i + c_g)``; `log_alpha` is then 0.
    """

    t: np.ndarray
    c: np.ndarray
    log_alpha: np.ndarray
    group: np.ndarray
    poisson: bool = False

    @property
    def alpha(self) -> np.ndarray:
        return np.exp(self.log_alpha)

    def scaled(self, log_factor: float) -> Means:
        """The same with every mean multiplied."""
        return replace(self, t=self.t + log_factor)

    def log_density(self, y: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Log density of counts `y` of the entries (rows, genes)."""
        eta = self.t[rows] + self.c[self.group[rows], genes]
        if self.poisson:
            return y * eta - np.exp(eta) - gammaln(y + 1)
        la = self.log_alpha[genes]
        a = np.exp(la)
        return gammaln(y + a) - gammaln(a) - gammaln(y + 1) + y * eta - (y + a) * np.logaddexp(0, eta)

    def zero_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Log density of zero at every entry, summed by gene and by cell."""
        p, n = self.c.shape[1], len(self.t)
        by_gene, by_cell = np.zeros(p), np.empty(n)
        for number in range(len(self.c)):
            rows = np.flatnonzero(self.group == number)
            t, c = self.t[rows], self.c[number]
            if self.poisson:
                by_gene -= np.exp(t).sum() * np.exp(c)
                by_cell[rows] = -np.exp(t) * np.exp(c).sum()
                continue
            tt, cc = torch.from_numpy(t), torch.from_numpy(c)
            by_gene -= self.alpha * smooth_sums(tt, cc, torch.ones_like(cc)).value.numpy()
            by_cell[rows] = -smooth_sums_of_rows(t, c, self.alpha)
        return by_gene, by_cell


def smooth_sums_of_rows(t: np.ndarray, c: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``sum_g w_g softplus(t_i + c_g)`` of every cell: block D with its sides exchanged."""
    # F is linear in weights only on the side that is summed over: sum at the points of t, then interpolate.
    centre = float(np.log(weights @ np.exp(c - c.max())) + c.max() - math.log(weights.sum()))
    basis, nodes = lagrange_basis(torch.from_numpy(t))
    nodes = nodes.numpy()
    at_nodes = np.logaddexp(0, nodes[:, None] + c) @ weights
    return (basis.numpy() @ (at_nodes / np.logaddexp(0, nodes + centre))) * np.logaddexp(0, t + centre)


@dataclass
class Density:
    """Log density of a matrix of counts, in parts.

    Attributes
    ----------
    gene_zero, gene_nonzero : ndarray of shape (genes,)
        Sums over the entries of each gene that are zero, and over the others.
    gene_nonzeros : ndarray of shape (genes,)
        How many are not zero.
    cell : ndarray of shape (cells,)
        Sums over all entries of each cell.
    n_entries : int
    """

    gene_zero: np.ndarray
    gene_nonzero: np.ndarray
    gene_nonzeros: np.ndarray
    cell: np.ndarray
    n_entries: int

    @property
    def total(self) -> float:
        return float(self.gene_zero.sum() + self.gene_nonzero.sum())


def density(means: Means, counts: Any) -> Density:
    """Log density of all entries of `counts`, at the cost of its nonzeros."""
    n, p = counts.shape
    zero, cell = means.zero_sums()
    nonzero, numbers = np.zeros(p), np.zeros(p)
    for rows, genes, y in entries_of(counts):
        value = means.log_density(y, rows, genes)
        as_zero = means.log_density(np.zeros_like(y), rows, genes)
        nonzero += np.bincount(genes, weights=value, minlength=p)
        zero -= np.bincount(genes, weights=as_zero, minlength=p)
        numbers += np.bincount(genes, minlength=p)
        cell += np.bincount(rows, weights=value - as_zero, minlength=n)
    return Density(zero, nonzero, numbers, cell, n * p)
