"""What a step of conditional model 1 asks of the labels of its batch."""

from __future__ import annotations

import torch

from nmfbench.linalg import SparseRows
from nmfbench.models.autoencoder.penalties import Invariance, co_occurrence, group_sums, hsic_half_gradient


class BatchLabels:
    """The conditions and types of the cells of a batch, as indices.

    Parameters
    ----------
    codes : Tensor of int64 of shape (cells, columns)
        One-hot columns of the conditions, of `size` in all; C is the sum of the one-hots.
    size : int
    types : Tensor of int64 of shape (cells,) or None
    n_types : int
    centred : bool
        As in :class:`~nmfbench.models.autoencoder.penalties.Invariance`.
    """

    def __init__(
        self, codes: torch.Tensor, size: int, types: torch.Tensor | None, n_types: int, *, centred: bool
    ) -> None:
        self.codes, self.size = codes, size
        self.types, self.n_types, self.centred = types, n_types, centred

    def sums(self, H: torch.Tensor) -> torch.Tensor:
        """``Cᵀ H``."""
        return group_sums(H, self.codes, self.size)

    def spread(self, P: torch.Tensor) -> torch.Tensor:
        """``C P``."""
        return P[self.codes].sum(dim=1)

    def together(self) -> torch.Tensor:
        """``Cᵀ C``."""
        return co_occurrence(self.codes, self.size)[0]

    def add_rows(self, X: SparseRows, out: torch.Tensor) -> torch.Tensor:
        """Add ``Cᵀ X`` to `out`."""
        for column in self.codes.T.cpu().numpy():
            X.group_sums(column, out)
        return out

    def invariance_half_gradient(self, H: torch.Tensor) -> torch.Tensor:
        """Half the gradient of Inv with respect to H."""
        penalty = Invariance(self.types, self.codes, self.n_types, self.size, centred=self.centred)
        return penalty.half_gradient(H)

    def hsic_half_gradient(self, H: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """Half the gradient of HSIC with respect to H, given ``Cᵀ H``."""
        counts = torch.bincount(self.codes.reshape(-1), minlength=self.size).to(H.dtype)
        return hsic_half_gradient(H, self.codes, sums, counts / len(H))
