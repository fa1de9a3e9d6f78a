"""The labels of a batch on a card, as small dense matrices: fixed shapes, no sum in the order of threads."""

from __future__ import annotations

import torch

from nmfbench.rows.dense import DenseRows

_NONE = 1e-12
"""The square of what is left of an indicator below which nothing is."""


class CardLabels:
    """What :class:`~nmfbench.models.autoencoder.batch_labels.BatchLabels` is, for a batch of fixed size.

    Places of the batch that no cell fills have no part in any sum. With one condition column, the group of a
    cell is made of the cells of the batch that have its type and condition, so Inv needs one matrix of cells
    x cells. With several, what the other columns add to the one with most values is made orthogonal to it and
    in itself (:func:`projectors`): what the pseudo-inverses give, without decompositions, which no recorded
    step can have.

    Parameters
    ----------
    codes : Tensor of int64 of shape (cells, columns)
    columns : sequence of slice
        The one-hot columns of each condition column.
    types : Tensor of int64 of shape (cells,) or None
    there : Tensor of bool of shape (cells,)
        Whether a cell fills the place.
    dtype : torch.dtype
    centred : bool
    """

    def __init__(self, codes, columns, types, there, dtype, *, centred: bool) -> None:
        self.codes, self.columns, self.types = codes, columns, types
        self.there, self.centred = there, centred
        self.C = torch.zeros((len(codes), columns[-1].stop), dtype=dtype, device=codes.device)
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
        same_type = self._same(self.types)
        cells = same_type.sum(dim=1, keepdim=True)
        largest = max(self.columns, key=lambda column: column.stop - column.start)
        same_group = same_type * self._same(self.codes[:, self.columns.index(largest)])
        sizes = same_group.sum(dim=1, keepdim=True).clamp(min=1)
        result = (same_group @ H) / sizes
        others = [self.C[:, column] for column in self.columns if column is not largest]
        if others:
            added = torch.cat(others, dim=1).double()
            added -= (same_group.double() @ added) / sizes
            result += projectors(added, same_type.double()).to(H.dtype) @ H
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


def projectors(R: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Projector onto the columns of R within each group of rows, by the same calls whatever the numbers.

    Gram-Schmidt, whose few calls for each column are small. A column that depends on those before it becomes
    zero in its group: rounding leaves about 1e-30 of the square of what was an indicator, and one that does
    not depend on them keeps far more than :data:`_NONE`.

    Parameters
    ----------
    R : Tensor of float64 of shape (rows, columns)
        In each group, what is left of indicators (0 and 1) after others were projected out.
    same : Tensor of float64 of shape (rows, rows)
        1 where two rows are of the same group, else 0.

    Returns
    -------
    Tensor of float64 of shape (rows, rows)
        0 where two rows are of different groups.
    """
    orthogonal, scaled = [], []
    for _ in range(R.shape[1]):
        r = R[:, :1]
        products = same @ (r * R)  # of this column with itself and the later ones, in the row's own group
        squares = products[:, :1]
        orthogonal.append(r)
        scaled.append(r * ((squares > _NONE) / squares.clamp(min=_NONE)))
        R = torch.addcmul(R[:, 1:], scaled[-1], products[:, 1:], value=-1)
    return (torch.cat(scaled, dim=1) @ torch.cat(orthogonal, dim=1).T) * same
