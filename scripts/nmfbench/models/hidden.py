"""Sums over the entries that a fit leaves out: what is to be taken off sums over all cells x genes.

Models of counts take the part of their likelihood that is there at every entry, zeros included, as products
of sums of factors, ``Σ_ig P_i·A_g = (Σ_i P_i)·(Σ_g A_g)``. Entries that are held out are in these sums, and
their rates are subtracted one by one: at the cost of entries held out times k, exactly. Their counts are not
in the nonzeros.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from nmfbench.errors import InputError

ELEMENTS_AT_ONCE = 2**24


class HiddenEntries:
    """Entries of cells x genes, and products with the ones that stand there.

    Parameters
    ----------
    mask : csr of shape (cells, genes)
        Stored where an entry is held out.
    device : torch.device
    """

    def __init__(self, mask: Any, device: torch.device) -> None:
        if device.type == "mps":
            raise InputError(
                "mask_fraction on an Apple GPU", "a device with sparse products", "'mps'", "set device: cpu"
            )
        self.mask, self.shape, self.device = mask, mask.shape, device
        self._by_cell = self._placed(mask)
        self._by_gene = self._placed(mask.T.tocsr())
        self.cells = torch.repeat_interleave(
            torch.arange(self.shape[0], device=device), self._by_cell[0].diff()
        )

    @property
    def genes(self) -> torch.Tensor:
        """Gene of each entry, in the order of the cells."""
        return self._by_cell[1]

    def rows(self, index: np.ndarray, device: torch.device | None = None) -> HiddenEntries:
        """Those of some of the cells."""
        return HiddenEntries(self.mask[index], self.device if device is None else device)

    def of_cells(self, A: torch.Tensor) -> torch.Tensor:
        """``Σ_g A_g`` over the hidden genes of each cell, of shape (cells, k)."""
        return _product(self._by_cell, A, self.shape)

    def of_genes(self, P: torch.Tensor) -> torch.Tensor:
        """``Σ_i P_i`` over the hidden cells of each gene, of shape (genes, k)."""
        return _product(self._by_gene, P, self.shape[::-1])

    def rates(self, P: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
        """``P_i·A_g`` of each entry, in the order of the cells, in double precision."""
        step = max(1, ELEMENTS_AT_ONCE // max(P.shape[1], 1))
        parts = zip(self.cells.split(step), self.genes.split(step), strict=True)
        found = [(P[i].double() * A[g].double()).sum(1) for i, g in parts]
        return torch.cat(found) if found else P.new_zeros(0, dtype=torch.float64)

    def inner(self, P: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
        """``Σ P_i·A_g`` over all of them; a number, differentiable by P and A."""
        return _Inner.apply(P, A, self)

    def _placed(self, csr: Any) -> tuple[torch.Tensor, torch.Tensor]:
        parts = (torch.from_numpy(part.astype(np.int64)) for part in (csr.indptr, csr.indices))
        return tuple(part.to(self.device) for part in parts)


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx, P, A, hidden):
        by_cell = hidden.of_cells(A.detach())
        ctx.save_for_backward(by_cell, hidden.of_genes(P.detach()))
        return (P.detach() * by_cell).sum(dtype=torch.float64)

    @staticmethod
    def backward(ctx, slope):
        return *(slope.to(part.dtype) * part for part in ctx.saved_tensors), None


def _product(places: tuple[torch.Tensor, torch.Tensor], dense: torch.Tensor, shape) -> torch.Tensor:
    crow, col = places
    with warnings.catch_warnings():
        # torch announces that its sparse layout is in beta; a test holds the products to dense ones.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support|Sparse invariant")
        ones = torch.ones(len(col), dtype=dense.dtype, device=dense.device)
        return torch.sparse_csr_tensor(crow, col, ones, size=tuple(shape)) @ dense
