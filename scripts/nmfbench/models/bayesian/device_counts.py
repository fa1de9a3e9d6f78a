"""The same counts and products as :mod:`counts`, in torch, for GPUs.

The products are those of the Poisson factorisation (:mod:`nmfbench.models.nonzeros`); between them lie the
terms of each nonzero, of :mod:`device_terms`. Nothing is read back from the device but the value of a walk.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from nmfbench.models.bayesian.counts import CellCounts, Weights
from nmfbench.models.bayesian.device_terms import Terms, total_of
from nmfbench.models.hidden import HiddenEntries
from nmfbench.models.nonzeros import Block, GatheredBlock, block_size, cuts


class DeviceCounts:
    """Counts of cells x genes on a device of torch.

    Parameters
    ----------
    indptr, genes, values : Tensor
        Row pointers (int64), and gene (int32) and count of each nonzero in the order of the cells.
    shape : tuple of int
    borders : list of (int, int), optional
        First and last row of each block; by default one block.
    hidden : HiddenEntries or None
        As of :class:`CellCounts`.
    """

    def __init__(
        self,
        indptr,
        genes,
        values,
        shape: tuple[int, int],
        borders=None,
        hidden: HiddenEntries | None = None,
    ) -> None:
        self.indptr, self.genes, self.values = indptr, genes, values
        self.hidden = hidden
        self.shape = shape
        self.dtype, self.device = values.dtype, values.device
        self.borders = [(0, shape[0])] if borders is None else borders
        self.block_kind = GatheredBlock if self.device.type == "mps" else Block

    @classmethod
    def from_csr(cls, csr, device: torch.device, hidden: HiddenEntries | None = None) -> DeviceCounts:
        """Counts of a scipy matrix, copied to `device`."""
        parts = csr.indptr.astype(np.int64), csr.indices.astype(np.int32, copy=False), csr.data
        borders = cuts(csr.indptr, block_size(device))
        return cls(*(torch.from_numpy(part).to(device) for part in parts), csr.shape, borders, hidden)

    @cached_property
    def blocks(self) -> list[Block]:
        """The counts as the products take them."""
        ends = self.indptr[[border for pair in self.borders for border in pair]].tolist()
        found = []
        for (low, high), start, stop in zip(self.borders, ends[::2], ends[1::2], strict=True):
            crow = (self.indptr[low : high + 1] - start).int()
            parts = crow, self.genes[start:stop], self.values[start:stop]
            found.append(self.block_kind(slice(low, high), *parts, self.shape[1]))
        return found

    @cached_property
    def _terms(self) -> list[Terms]:
        return [Terms(block) for block in self.blocks]

    @cached_property
    def cell_totals(self) -> torch.Tensor:
        rows = torch.repeat_interleave(torch.arange(self.shape[0]), self.indptr.cpu().diff())
        return self._totals(rows, self.shape[0])

    @cached_property
    def gene_totals(self) -> torch.Tensor:
        return self._totals(self.genes.cpu(), self.shape[1])

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
        places = torch.nonzero(self.values > threshold)[:, 0]
        cells = torch.searchsorted(self.indptr, places, right=True) - 1
        return tuple(part.cpu().numpy() for part in (cells, self.genes[places].long(), self.values[places]))

    def rows(self, index: np.ndarray) -> DeviceCounts:
        """Some of the cells, taken on the device."""
        rows = torch.as_tensor(index, device=self.device)
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(self.indptr[rows] - indptr[:-1], lengths)
        places = torch.arange(len(shift), device=self.device) + shift
        hidden = None if self.hidden is None else self.hidden.rows(np.asarray(index))
        shape = len(index), self.shape[1]
        part = DeviceCounts(indptr, self.genes[places], self.values[places], shape, hidden=hidden)
        part.block_kind = self.block_kind
        return part

    def cells_walk(self, P, A, weights: Weights, with_value: bool = False) -> tuple[float, torch.Tensor]:
        """As :meth:`CellCounts.cells_walk`."""
        value, by_cell, _ = self._walk(P, A, weights, with_value, by_cell=True)
        return value, by_cell

    def genes_walk(self, P, A, weights: Weights, with_value: bool = False) -> tuple[float, torch.Tensor]:
        """As :meth:`CellCounts.genes_walk`."""
        value, _, by_gene = self._walk(P, A, weights, with_value, by_gene=True)
        return value, by_gene

    def walks(self, P, A, weights: Weights) -> tuple[float, torch.Tensor, torch.Tensor]:
        """As :meth:`CellCounts.walks`; the thetas are computed once for both sides."""
        return self._walk(P, A, weights, True, by_cell=True, by_gene=True)

    def inner(self, P, A) -> float:
        """As :meth:`CellCounts.inner`."""
        P, A = P.detach(), A.detach()
        total = 0.0
        for block in self.blocks:
            total += float(total_of(P[block.rows] * block.times(block.x, A)))
        return total

    def _totals(self, index: torch.Tensor, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64).index_add_(0, index, self.values.cpu().double())

    def _walk(self, P, A, weights, with_value, *, by_cell: bool = False, by_gene: bool = False):
        P, A = P.detach(), A.detach()
        uncertainties = None
        if weights.chi_squared:
            uncertainties = [
                torch.as_tensor(u, dtype=self.dtype, device=self.device)
                for u in weights.uncertainties(*self.shape)
            ]
        values, of_cells, of_genes = [], [], None
        for block, terms in zip(self.blocks, self._terms, strict=True):
            M = P[block.rows]
            w, value = terms.at(block.rates(M, A), weights, uncertainties, with_value)
            values.append(value)
            if by_cell:
                of_cells.append(block.times(w, A))
            if by_gene:
                part = block.transposed(w, M)
                of_genes = part if of_genes is None else of_genes.add_(part)
        total = float(torch.stack(values).sum()) if with_value else 0.0
        by_cells = None if not by_cell else of_cells[0] if len(of_cells) == 1 else torch.cat(of_cells)
        return total, by_cells, of_genes


def place_counts(csr, device: torch.device, hidden: HiddenEntries | None = None) -> CellCounts | DeviceCounts:
    """Counts where the work is done, and the entries that are no part of the likelihood."""
    return CellCounts(csr, hidden) if device.type == "cpu" else DeviceCounts.from_csr(csr, device, hidden)
