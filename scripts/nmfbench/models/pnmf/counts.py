"""Counts of a Poisson factorisation on a device: blocks (:mod:`nmfbench.models.nonzeros`), and their sums."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from nmfbench.device import resolve_device
from nmfbench.errors import InputError
from nmfbench.models.nonzeros import Block, blocks_of
from nmfbench.totals import cell_totals, gene_totals

log = logging.getLogger(__name__)

FLOOR = 1e-8
"""A rate is not taken smaller than this inside a logarithm or a quotient."""


class PoissonBlock(Block):
    """A block, and what the Poisson likelihood asks of its nonzeros."""

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
        self.blocks = list(blocks_of(csr, self.device, block, PoissonBlock))
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
