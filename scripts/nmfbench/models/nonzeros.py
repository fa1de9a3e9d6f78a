"""Three products that models of counts need of a sparse matrix: at its nonzeros, with it, with its transpose.

With M (cells x k), W (genes x k) and a number q for every nonzero of X (Q: X's pattern with the values q):

    rates        r_p = M_n . W_d  at the nonzeros p = (n, d)
    times        Q W   (cells x k)
    transposed   Qᵀ M  (genes x k)

Nothing of the size nonzeros x k or cells x genes is allocated. The cells lie in blocks, so that what belongs
to the nonzeros of a block stays in the processor's cache between the products; on a GPU a block is as large
as 32-bit indices allow. Of the ways measured (docs/pnmf.md), torch's sampled product and its sparse
products, on a CPU those of MKL, were two to ten times faster than compiled loops that fuse the three.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch

NONZEROS_OF_A_BLOCK = 2**19
NONZEROS_ON_A_GPU = 2**29
ELEMENTS_AT_ONCE = 2**26
"""Gathered factor entries in memory at once, where there are no sparse products: 256 MiB."""


def sparse_csr(crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]):
    """A CSR tensor of parts known to be in order."""
    with warnings.catch_warnings():
        # torch announces that its sparse layout is in beta; the tests hold it to dense products.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support|Sparse invariant checks")
        return torch.sparse_csr_tensor(crow, col, values, size=shape)


class Block:
    """Neighbouring cells: their counts x, sorted by cell, and how to walk through them by gene.

    Parameters
    ----------
    rows : slice
        Which cells of the whole.
    crow, col, x : Tensor
        CSR parts of shape (rows + 1,), (nonzeros,) and (nonzeros,), the indices of 32 bits.
    n_genes : int
    by_gene : tuple of Tensor, optional
        :attr:`by_gene`, where it is known.
    """

    def __init__(
        self,
        rows: slice,
        crow: torch.Tensor,
        col: torch.Tensor,
        x: torch.Tensor,
        n_genes: int,
        by_gene: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.rows, self.crow, self.col, self.x, self.n_genes = rows, crow, col, x, n_genes
        if by_gene is not None:
            self.by_gene = by_gene

    @property
    def n_rows(self) -> int:
        return len(self.crow) - 1

    @cached_property
    def by_gene(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``crow`` and ``col`` of the transpose, and where each of its nonzeros stands in ``x``."""
        ordered, place = torch.sort(self.col, stable=True)
        borders = torch.arange(self.n_genes + 1, dtype=self.col.dtype, device=self.col.device)
        crow = torch.searchsorted(ordered, borders, out_int32=True)
        return crow, self.cells[place], place.int()

    @cached_property
    def cells(self) -> torch.Tensor:
        """The row of each nonzero, counted from the block's first."""
        rows = torch.arange(self.n_rows, dtype=torch.int32, device=self.crow.device)
        return torch.repeat_interleave(rows, self.crow.diff())

    def rates(self, M: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """``M_n . W_d`` at the nonzeros; M holds the cells of the block alone."""
        pattern = sparse_csr(self.crow, self.col, self.x, (self.n_rows, self.n_genes))
        return torch.sparse.sampled_addmm(pattern, M, W.T, beta=0.0).values()

    def times(self, q: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """``Q W`` of shape (rows, k)."""
        return sparse_csr(self.crow, self.col, q, (self.n_rows, self.n_genes)) @ W

    def transposed(self, q: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
        """``Qᵀ M`` of shape (genes, k)."""
        crow, col, place = self.by_gene
        return sparse_csr(crow, col, q[place], (self.n_genes, self.n_rows)) @ M


class GatheredBlock(Block):
    """The same on a device without sparse products (Metal): rows of factors are gathered, some at a time."""

    def rates(self, M: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """As of a :class:`Block`."""
        r = torch.empty_like(self.x)
        for part in self._chunks(W.shape[1]):
            r[part] = (M[self.cells[part]] * W[self.col[part]]).sum(1)
        return r

    def times(self, q: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        """As of a :class:`Block`."""
        return self._sums(q, self.cells, self.col, W, self.n_rows)

    def transposed(self, q: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
        """As of a :class:`Block`."""
        return self._sums(q, self.col, self.cells, M, self.n_genes)

    def _sums(self, q, into, of, dense: torch.Tensor, size: int) -> torch.Tensor:
        out = torch.zeros((size, dense.shape[1]), dtype=dense.dtype, device=dense.device)
        for part in self._chunks(dense.shape[1]):
            out.index_add_(0, into[part], q[part, None] * dense[of[part]])
        return out

    def _chunks(self, k: int) -> Iterator[slice]:
        step = max(1, ELEMENTS_AT_ONCE // max(k, 1))
        return (slice(start, start + step) for start in range(0, len(self.x), step))


def block_size(device: torch.device) -> int:
    """About how many nonzeros a block has on a device."""
    return NONZEROS_OF_A_BLOCK if device.type == "cpu" else NONZEROS_ON_A_GPU


def blocks_of(
    csr: Any, device: torch.device, size: int | None = None, kind: type[Block] = Block
) -> Iterator[Block]:
    """Blocks of a SciPy matrix, on a device; the transposes are made on the host.

    Parameters
    ----------
    csr : csr_matrix or csr_array of shape (cells, genes)
        Column indices ascend within a row.
    device : torch.device
    size : int or None
        Nonzeros of a block, about; None: what suits the device.
    kind : type of Block
    """
    for low, high in cuts(csr.indptr, block_size(device) if size is None else size):
        start, stop = csr.indptr[low], csr.indptr[high]
        crow = (csr.indptr[low : high + 1] - start).astype(np.int32)
        col = csr.indices[start:stop].astype(np.int32, copy=False)
        place, tcrow, tcol = _by_gene(crow, col, csr.shape[1])
        crow, col, x, tcrow, tcol, place = (
            torch.from_numpy(np.ascontiguousarray(a)).to(device)
            for a in (crow, col, csr.data[start:stop], tcrow, tcol, place)
        )
        yield kind(slice(low, high), crow, col, x, csr.shape[1], (tcrow, tcol, place))


def cuts(indptr: np.ndarray, size: int) -> list[tuple[int, int]]:
    """Borders of blocks of about `size` nonzeros, at least one row each."""
    n = len(indptr) - 1
    wanted = np.arange(size, indptr[-1] + size, size)
    borders = np.unique(np.concatenate([[0], np.searchsorted(indptr, wanted, side="right") - 1, [n]]))
    return list(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True))


def _by_gene(crow: np.ndarray, col: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the nonzeros sorted by gene, and CSR parts of the transpose."""
    import scipy.sparse as sp

    places = sp.csr_array((np.arange(len(col), dtype=np.int32), col, crow), shape=(len(crow) - 1, n_genes))
    turned = places.tocsc()
    return turned.data, turned.indptr.astype(np.int32), turned.indices.astype(np.int32)
