"""Counts on a device, and the three products that Poisson factorisation needs of them.

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

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from nmfbench.device import resolve_device
from nmfbench.errors import InputError
from nmfbench.totals import cell_totals, gene_totals

log = logging.getLogger(__name__)

FLOOR = 1e-8
"""A rate is not taken smaller than this inside a logarithm or a quotient."""

NONZEROS_OF_A_BLOCK = 2**19
_NONZEROS_ON_A_GPU = 2**29


def sparse_csr(crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]):
    """A CSR tensor of parts known to be in order."""
    with warnings.catch_warnings():
        # torch announces that its sparse layout is in beta; the tests hold it to dense products.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support|Sparse invariant checks")
        return torch.sparse_csr_tensor(crow, col, values, size=shape)


@dataclass(frozen=True)
class Block:
    """Neighbouring cells: their counts x, sorted by cell, and how to walk through them by gene.

    Attributes
    ----------
    rows : slice
        Which cells of the whole.
    crow, col, x : Tensor
        CSR parts of shape (rows + 1,), (nonzeros,) and (nonzeros,).
    by_gene : tuple of Tensor
        ``crow`` and ``col`` of the transpose, and where each of its nonzeros stands in ``x``.
    n_genes : int
    """

    rows: slice
    crow: torch.Tensor
    col: torch.Tensor
    x: torch.Tensor
    by_gene: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    n_genes: int

    @property
    def n_rows(self) -> int:
        return len(self.crow) - 1

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

    def quotients(self, r: torch.Tensor, eta: float = 0.0, *, below: bool = False) -> torch.Tensor:
        """``x / (r + eta)``; where r is under the floor 0, or (`below`) x over no less than the floor."""
        if below:
            return self.x / (r + eta).clamp_(min=FLOOR)
        q = self.x / (r + eta)
        return q.masked_fill_(r < FLOOR, 0.0)

    def log_sum(self, r: torch.Tensor) -> float:
        """``Σ_p x_p ln max(r_p, floor)`` in double precision."""
        return float(r.clamp(min=FLOOR).log_().mul_(self.x).sum(dtype=torch.float64))


class Counts:
    """Counts of n cells and d genes, ready for products.

    Parameters
    ----------
    csr : csr_matrix or csr_array of shape (n, d)
        Not negative, float32 or float64; column indices ascend within a row.
    device : str or torch.device
    block : int or None
        Nonzeros of a block, about.
    """

    def __init__(self, csr, device: str | torch.device = "cpu", block: int | None = None) -> None:
        self.csr = csr
        self.shape = csr.shape
        self.device = torch.device(device)
        self.dtype = torch.float64 if csr.dtype == np.float64 else torch.float32
        if block is None:
            block = NONZEROS_OF_A_BLOCK if self.device.type == "cpu" else _NONZEROS_ON_A_GPU
        self.blocks = [self._block(a, b) for a, b in _cuts(csr.indptr, block)]
        self.total = float(csr.data.sum(dtype=np.float64))

    @property
    def log_factorials(self) -> float:
        """``Σ_p ln Γ(x_p + 1)``, in double precision."""
        if not hasattr(self, "_log_factorials"):
            parts = (self.csr.data[i : i + 2**20] for i in range(0, self.csr.nnz, 2**20))
            self._log_factorials = float(sum(gammaln(part.astype(np.float64) + 1).sum() for part in parts))
        return self._log_factorials

    @property
    def mean(self) -> float:
        return self.total / (self.shape[0] * self.shape[1])

    def cell_sums(self) -> torch.Tensor:
        """Sum of each cell, of shape (n,)."""
        return self._tensor(cell_totals(self.csr))

    def gene_sums(self) -> torch.Tensor:
        """Sum of each gene, of shape (d,)."""
        return self._tensor(gene_totals(self.csr))

    def select(self, cells: np.ndarray | None, genes: np.ndarray | None) -> Counts:
        """The counts of some cells and some genes."""
        part = self.csr if cells is None else self.csr[cells]
        if genes is not None:
            part = part[:, genes]
            part.sort_indices()
        return Counts(part, self.device)

    def squared_norm(self) -> float:
        """``||X||²`` in double precision."""
        if not hasattr(self, "_squared_norm"):
            self._squared_norm = float(np.einsum("i,i->", self.csr.data, self.csr.data, dtype=np.float64))
        return self._squared_norm

    def _tensor(self, values) -> torch.Tensor:
        values = np.asarray(values, dtype=self.csr.dtype).ravel()
        return torch.from_numpy(values).to(self.device)

    def _block(self, low: int, high: int) -> Block:
        start, stop = self.csr.indptr[low], self.csr.indptr[high]
        crow = (self.csr.indptr[low : high + 1] - start).astype(np.int32)
        col = self.csr.indices[start:stop].astype(np.int32, copy=False)
        x = self.csr.data[start:stop]
        place, tcrow, tcol = _by_gene(crow, col, self.shape[1])
        crow, col, x, tcrow, tcol, place = (
            torch.from_numpy(np.ascontiguousarray(a)).to(self.device)
            for a in (crow, col, x, tcrow, tcol, place)
        )
        return Block(slice(low, high), crow, col, x, (tcrow, tcol, place), self.shape[1])


def _cuts(indptr: np.ndarray, size: int) -> list[tuple[int, int]]:
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


def counts_of(X: Any, layer: str | None = None) -> Any:
    """The matrix of an AnnData (its X or a layer); anything else as it is.

    Raises
    ------
    InputError
        If there is no such layer, or a layer is named and X is not an AnnData.
    """
    if not (hasattr(X, "layers") and hasattr(X, "obs_names")):
        if layer is not None:
            raise InputError("parameter layer", "None, as X is no AnnData", repr(layer), "leave layer out")
        return X
    if layer is None:
        return X.X
    if layer not in X.layers:
        raise InputError(
            "parameter layer", f"one of {', '.join(X.layers) or '(none)'}", repr(layer), "name another"
        )
    return X.layers[layer]


def device_of(name: str) -> torch.device:
    """The device that `name` asks for; the CPU in place of Metal, which has no double precision."""
    device = resolve_device(name)
    if device.type == "mps":
        log.info("device: Metal has no double precision; Poisson factorisation takes the CPU")
        return torch.device("cpu")
    return device
