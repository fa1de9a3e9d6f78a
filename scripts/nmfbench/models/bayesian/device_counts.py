"""The same counts and product as :mod:`counts`, in torch, for GPUs."""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np
import torch

from nmfbench.models.bayesian.counts import CellCounts, Weights
from nmfbench.models.bayesian.kernels import LARGEST_FACTORIAL, LARGEST_THETA, THETA_FLOOR

ELEMENTS_AT_ONCE = 2**26
"""Gathered factor entries in memory at once: 256 MiB in single precision."""


class DeviceCounts:
    """Counts of cells x genes on a device of torch.

    Parameters
    ----------
    indptr, cells, genes, values : Tensor
        Row pointers, and cell, gene and count of each nonzero in the order of the cells.
    shape : tuple of int
    """

    def __init__(self, indptr, cells, genes, values, shape: tuple[int, int]) -> None:
        self.indptr, self.cells, self.genes, self.values = indptr, cells, genes, values
        self.shape = shape
        self.dtype, self.device = values.dtype, values.device
        self.sparse_products = self.device.type != "mps"

    @classmethod
    def from_csr(cls, csr, device: torch.device) -> DeviceCounts:
        """Counts of a scipy matrix, copied to `device`."""
        indptr = torch.from_numpy(csr.indptr.astype(np.int64))
        cells = torch.repeat_interleave(torch.arange(csr.shape[0]), indptr.diff())
        parts = indptr, cells, torch.from_numpy(csr.indices.astype(np.int64)), torch.from_numpy(csr.data)
        return cls(*(part.to(device) for part in parts), csr.shape)

    @cached_property
    def cell_totals(self) -> torch.Tensor:
        return self._totals(self.cells, self.shape[0])

    @cached_property
    def gene_totals(self) -> torch.Tensor:
        return self._totals(self.genes, self.shape[1])

    @cached_property
    def log_factorials(self) -> float:
        """Sum of ln d! over all counts."""
        return float(torch.lgamma(self.values.cpu().double() + 1).sum())

    @cached_property
    def squares(self) -> float:
        """Sum of d² over all counts."""
        return float(self.values.cpu().double().square().sum())

    def larger_than(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`CellCounts.larger_than`."""
        large = self.values > threshold
        return tuple(part[large].cpu().numpy() for part in (self.cells, self.genes, self.values))

    def rows(self, index: np.ndarray) -> DeviceCounts:
        """Some of the cells, taken on the device."""
        rows = torch.as_tensor(index, device=self.device)
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        cells = torch.repeat_interleave(torch.arange(len(index), device=self.device), lengths)
        places = torch.arange(len(cells), device=self.device) - indptr[cells] + self.indptr[rows][cells]
        return DeviceCounts(
            indptr, cells, self.genes[places], self.values[places], (len(index), self.shape[1])
        )

    def cells_walk(self, P, A, weights: Weights, with_value: bool = False) -> tuple[float, torch.Tensor]:
        """As :meth:`CellCounts.cells_walk`."""
        value, w = self._at_nonzeros(P, A, weights, with_value)
        return value, self._product(w, self.cells, self.genes, A.detach(), self.shape[0])

    def genes_walk(self, P, A, weights: Weights, with_value: bool = False) -> tuple[float, torch.Tensor]:
        """As :meth:`CellCounts.genes_walk`."""
        value, w = self._at_nonzeros(P, A, weights, with_value)
        order = self._order
        return value, self._product(w[order], self.genes[order], self.cells[order], P.detach(), self.shape[1])

    def inner(self, P, A) -> float:
        """As :meth:`CellCounts.inner`."""
        products = self._product(self.values, self.cells, self.genes, A.detach(), self.shape[0])
        return float((P.detach() * products).sum(0).cpu().double().sum())

    @cached_property
    def _order(self) -> torch.Tensor:
        return torch.sort(self.genes, stable=True).indices

    def _totals(self, index: torch.Tensor, size: int) -> torch.Tensor:
        values, index = self.values.cpu().double(), index.cpu()
        return torch.zeros(size, dtype=torch.float64).index_add_(0, index, values)

    def _chunks(self, k: int):
        step = max(1, ELEMENTS_AT_ONCE // max(k, 1))
        return (slice(start, start + step) for start in range(0, len(self.values), step))

    def _at_nonzeros(self, P, A, weights, with_value) -> tuple[float, torch.Tensor]:
        """The terms, and their derivative by theta, of shape (nonzeros,)."""
        P, A = P.detach(), A.detach()
        cell_u, gene_u = (
            torch.as_tensor(u, dtype=self.dtype, device=self.device)
            for u in weights.uncertainties(*self.shape)
        )
        w, value = torch.empty_like(self.values), 0.0
        for part in self._chunks(P.shape[1]):
            cells, genes, d = self.cells[part], self.genes[part], self.values[part]
            theta = (P[cells] * A[genes]).sum(1).clamp_(min=THETA_FLOOR)
            zero_u = (cell_u[cells] * gene_u[genes]) if weights.chi_squared else None
            w[part], terms = _terms(theta, d, zero_u, weights, with_value)
            if with_value:
                value += float(terms.cpu().double().sum())
        return value, w

    def _product(self, w, rows, columns, dense, size: int) -> torch.Tensor:
        """Sums over the nonzeros of each row, of shape (size, k); `rows` ascend."""
        if not self.sparse_products:
            out = torch.zeros((size, dense.shape[1]), dtype=dense.dtype, device=self.device)
            for part in self._chunks(dense.shape[1]):
                out.index_add_(0, rows[part], w[part, None] * dense[columns[part]])
            return out
        starts = torch.searchsorted(rows, torch.arange(size + 1, device=self.device))
        with warnings.catch_warnings():
            # torch announces that its sparse layout is in beta and unchecked; the tests hold it to ours.
            warnings.filterwarnings("ignore", "Sparse CSR tensor support|Sparse invariant", UserWarning)
            return torch.sparse_csr_tensor(starts, columns, w, size=(size, len(dense))) @ dense


def _terms(theta, d, zero_u, weights: Weights, with_value: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Derivative and value at each nonzero, the formulas of :func:`~.kernels.walk`."""
    w, value = torch.zeros_like(theta), torch.zeros_like(theta) if with_value else None
    if weights.negative_binomial:
        slope, log_ratio = _log_rising(theta, d, with_value)
        w += weights.negative_binomial * slope
        if with_value:
            value += weights.negative_binomial * log_ratio
    if weights.poisson:
        w += weights.poisson * d / theta
        if with_value:
            value += weights.poisson * d * theta.log()
    if weights.chi_squared:
        zero = zero_u**-2
        u = torch.maximum(zero_u, weights.relative * d) ** -2
        w -= 2 * weights.chi_squared * ((theta - d) * u - zero * theta)
        if with_value:
            value -= weights.chi_squared * ((theta - d) ** 2 * u - zero * theta**2)
    return w, value


def _log_rising(theta, d, with_value: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``psi(d + theta) - psi(theta)`` and ``ln Gamma(d + theta) - ln Gamma(theta)``."""
    slope, log_ratio = 1 / theta, theta.log() if with_value else theta
    large = (d > LARGEST_FACTORIAL) | (theta >= LARGEST_THETA)
    for j in range(1, int(min(d.max().item(), LARGEST_FACTORIAL)) if len(d) else 0):
        counted = (d > j).to(theta.dtype)
        slope = slope + counted / (theta + j)
        if with_value:
            log_ratio = log_ratio + counted * (theta + j).log()
    if large.any():
        # In double precision, on the CPU where the device has none: these are few.
        place = "cpu" if theta.device.type == "mps" else theta.device
        x, n = theta[large].to(place).double(), d[large].to(place).double()
        slope[large] = (torch.digamma(n + x) - torch.digamma(x)).to(slope)
        if with_value:
            log_ratio[large] = (torch.lgamma(n + x) - torch.lgamma(x)).to(log_ratio)
    return slope, log_ratio


def place_counts(csr, device: torch.device) -> CellCounts | DeviceCounts:
    """Counts where the work is done."""
    return CellCounts(csr) if device.type == "cpu" else DeviceCounts.from_csr(csr, device)
