"""The labels of a batch on a card, as small dense matrices: fixed shapes, no sum in the order of threads."""

from __future__ import annotations

import torch

from nmfbench.models.autoencoder.penalties import Invariance
from nmfbench.rows.dense import DenseRows


class CardLabels:
    """What :class:`~nmfbench.models.autoencoder.batch_labels.BatchLabels` is, for a batch of fixed size.

    Places of the batch that no cell fills have no part in any sum. With one condition column, the group of a
    cell is made of the cells of the batch that have its type and condition, so Inv needs one matrix of cells
    x cells; with several it needs pseudo-inverses, and a step that has them cannot be recorded.

    Parameters
    ----------
    codes : Tensor of int64 of shape (cells, columns)
    size : int
    types : Tensor of int64 of shape (cells,) or None
    n_types : int
    there : Tensor of bool of shape (cells,)
        Whether a cell fills the place.
    dtype : torch.dtype
    centred : bool
    """

    def __init__(self, codes, size, types, n_types, there, dtype, *, centred: bool) -> None:
        self.codes, self.size, self.types, self.n_types = codes, size, types, n_types
        self.there, self.centred = there, centred
        self.C = torch.zeros((len(codes), size), dtype=dtype, device=codes.device)
        self.C.scatter_(1, codes, 1.0)  # columns of one cell are distinct
        self.C.mul_(there[:, None])

    def sums(self, H: torch.Tensor) -> torch.Tensor:
        """``Cᵀ H``."""
        return self.C.T @ H

    def spread(self, P: torch.Tensor) -> torch.Tensor:
        """``C P``."""
        return self.C @ P

    def together(self) -> torch.Tensor:
        """``Cᵀ C``."""
        return self.C.T @ self.C

    def add_rows(self, X: DenseRows, out: torch.Tensor) -> torch.Tensor:
        """Add ``Cᵀ X`` to `out`."""
        return out.addmm_(self.C.T, X.X)

    def invariance_half_gradient(self, H: torch.Tensor) -> torch.Tensor:
        """Half the gradient of Inv with respect to H."""
        if self.codes.shape[1] > 1:
            return self._by_projectors(H)
        same_type = self._same(self.types)
        cells = same_type.sum(dim=1, keepdim=True)
        same_group = same_type * self._same(self.codes[:, 0])
        result = (same_group @ H) / same_group.sum(dim=1, keepdim=True).clamp(min=1)
        if self.centred:
            result -= (same_type @ H) / cells.clamp(min=1)
        return torch.where((cells >= 2) & self.there[:, None], result, 0.0)

    def hsic_half_gradient(self, H: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """Half the gradient of HSIC with respect to H, given ``Cᵀ H``."""
        n = self.there.sum().to(H.dtype)
        shares = self.C.sum(dim=0) / n
        M = sums - shares[:, None] * H.sum(dim=0)
        return self.C @ M - shares @ M

    def _same(self, codes: torch.Tensor) -> torch.Tensor:
        """Which pairs of cells have the same code: cells x cells, of the embedding's kind."""
        both = (codes[:, None] == codes) & self.there[:, None] & self.there
        return both.to(self.C.dtype)

    def _by_projectors(self, H: torch.Tensor) -> torch.Tensor:
        there = self.there.nonzero()[:, 0]
        penalty = Invariance(
            self.types[there], self.codes[there], self.n_types, self.size, centred=self.centred
        )
        return torch.zeros_like(H).index_copy_(0, there, penalty.half_gradient(H[there]))
