"""The two penalties of conditional model 1, as functions of the embedding and the cells' labels."""

from __future__ import annotations

import torch

from nmfbench.linalg import double_device, moved


def group_sums(H: torch.Tensor, codes: torch.Tensor, size: int) -> torch.Tensor:
    """``Cᵀ H``: the rows of H summed for each of `size` one-hot columns.

    Parameters
    ----------
    H : Tensor of shape (n, k)
    codes : Tensor of int64 of shape (n, columns)
        The one-hot columns of each cell.
    size : int

    Returns
    -------
    Tensor of shape (size, k)
    """
    if H.is_cuda:  # adding by index is done there in any order of the threads
        return one_hot_sums(H, codes, size)
    sums = H.new_zeros((size, H.shape[1]))
    for column in codes.T:
        sums.index_add_(0, column, H)
    return sums


def one_hot_sums(H: torch.Tensor, codes: torch.Tensor, size: int) -> torch.Tensor:
    """The same by a product with the one-hots, whose sums have one order."""
    one_hot = H.new_zeros((len(H), size)).scatter_(1, codes, 1.0)  # columns of one cell are distinct
    return one_hot.T @ H


def co_occurrence(codes: torch.Tensor, size: int, types: torch.Tensor | None = None, n_types: int = 1):
    """``Cᵀ C`` of the cells of each type, in double precision: a Tensor of shape (n_types, size, size)."""
    counts = torch.zeros(n_types * size * size, dtype=torch.float64, device=double_device(codes.device))
    codes = codes.to(counts.device)
    ones = counts.new_ones(len(codes))
    base = 0 if types is None else types.to(counts.device) * (size * size)
    for a in codes.T:
        for b in codes.T:
            counts.index_add_(0, base + a * size + b, ones)
    return counts.view(n_types, size, size)


class Invariance:
    """``Inv = Σ_t || P_t H_t ||²``, P_t the projector onto the condition indicators of the cells of type t.

    With one condition column this is the sum over (type, condition) of ``||Σ rows of H||² / cells``.
    Types with fewer than two cells are left out.

    Parameters
    ----------
    types : Tensor of int64 of shape (n,)
    codes : Tensor of int64 of shape (n, columns)
        One-hot columns of the conditions.
    n_types, size : int
    centred : bool
        Project ``H_t`` less its mean: the conditions' means about the mean of the type.
    """

    def __init__(
        self, types: torch.Tensor, codes: torch.Tensor, n_types: int, size: int, *, centred: bool
    ) -> None:
        self.types, self.codes = types, codes
        self.n_types, self.size = n_types, size
        self.centred = centred
        self.cells = torch.bincount(types, minlength=n_types).to(double_device(types.device)).double()
        self.counted = self.cells >= 2
        together = co_occurrence(codes, size, types, n_types)
        together *= self.counted[:, None, None]
        if codes.shape[1] == 1:
            diagonal = together.diagonal(dim1=1, dim2=2)
            self.inverse = torch.where(diagonal > 0, 1 / diagonal.clamp(min=1), 0.0)
        else:
            self.inverse = torch.linalg.pinv(together, hermitian=True)

    def sums(self, H: torch.Tensor, start: int = 0) -> torch.Tensor:
        """``C_tᵀ H_t`` of the cells from number `start` on: a Tensor of shape (n_types, size, k)."""
        rows = slice(start, start + len(H))
        return group_sums(
            H, self.types[rows, None] * self.size + self.codes[rows], self.n_types * self.size
        ).view(self.n_types, self.size, -1)

    def value(self, sums: torch.Tensor) -> float:
        """Inv from the sums over all cells."""
        value = torch.sum(sums * self._solve(sums))
        if self.centred:
            totals = self._totals(sums)
            value = value - torch.sum(totals * self._means(totals))
        return float(value)

    def half_gradient(self, H: torch.Tensor) -> torch.Tensor:
        """Half the gradient of Inv with respect to H, of shape (n, k)."""
        sums = self.sums(H)
        solved = self._solve(sums)
        result = solved[self.types[:, None], self.codes].sum(dim=1)
        if self.centred:
            result -= self._means(self._totals(sums))[self.types]
        return result

    def _solve(self, sums: torch.Tensor) -> torch.Tensor:
        inverse = moved(self.inverse, sums.device, sums.dtype)
        return inverse[:, :, None] * sums if inverse.ndim == 2 else inverse @ sums

    def _totals(self, sums: torch.Tensor) -> torch.Tensor:
        # Each cell stands once in every condition column.
        return sums.sum(dim=1) / self.codes.shape[1]

    def _means(self, totals: torch.Tensor) -> torch.Tensor:
        weight = torch.where(self.counted, 1 / self.cells.clamp(min=1), 0.0)
        return moved(weight, totals.device, totals.dtype)[:, None] * totals


def centred_sums(sums: torch.Tensor, total: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """``C̃ᵀ H`` from ``Cᵀ H``, the column sums of H and the mean of C (shape (size,))."""
    return sums - shares[:, None] * total


def hsic_half_gradient(
    H: torch.Tensor, codes: torch.Tensor, sums: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """Half the gradient of ``HSIC = ||H̃ᵀ C̃||²`` with respect to H, of shape (n, k)."""
    M = centred_sums(sums, H.sum(dim=0), shares)
    return M[codes].sum(dim=1) - shares @ M
