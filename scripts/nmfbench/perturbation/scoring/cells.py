"""Groups of cells that are scored: sparse counts, with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from nmfbench.compiled import compiled


@dataclass(frozen=True)
class Cells:
    """Counts of cells and the group of each.

    Attributes
    ----------
    counts : csr_matrix of shape (cells, genes)
        Raw counts.
    group : ndarray of shape (cells,)
        Number of the group in `names`; -1 is the control.
    names : list of str
    """

    counts: sparse.csr_matrix
    group: np.ndarray
    names: list[str]

    @property
    def totals(self) -> np.ndarray:
        """Counts of each cell, shape (cells,)."""
        return np.asarray(self.counts.sum(axis=1, dtype=np.float64)).ravel()

    def of(self, names: Sequence[str]) -> Cells:
        """The same cells with the groups in another order; groups that are not named are left out."""
        place = {name: number for number, name in enumerate(names)}
        renumbered = np.array([place.get(name, -2) for name in self.names] + [-1], dtype=np.int64)
        group = renumbered[self.group]
        kept = np.flatnonzero(group > -2)
        return Cells(self.counts[kept], group[kept], list(names))


@dataclass(frozen=True)
class Normalised:
    """log1p values of cells, sorted by group.

    Attributes
    ----------
    values : csr_matrix of shape (cells, genes), float32
    ends : ndarray of shape (groups + 2,)
        First row of the control, of each group, and the end.
    """

    values: sparse.csr_matrix
    ends: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """Cells of each group, shape (groups,)."""
        return np.diff(self.ends)[1:]

    @property
    def n_control(self) -> int:
        """Number of control cells."""
        return int(self.ends[1])

    def rows(self, group: int) -> sparse.csr_matrix:
        """The cells of a group; -1 is the control."""
        return self.values[self.ends[group + 1] : self.ends[group + 2]]

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and variance of the values and mean of their expm1; the control first, (groups + 1, genes)."""
        shape = (len(self.ends) - 1, self.values.shape[1])
        sums, squares, linear = (np.zeros(shape) for _ in range(3))
        arrays = (self.values.data, self.values.indices, self.values.indptr)
        _add(*arrays, self.ends, sums, squares, linear)
        n = np.maximum(np.diff(self.ends), 1)[:, None]
        mean = sums / n
        variance = np.maximum(squares / n - mean**2, 0) * n / np.maximum(n - 1, 1)
        return mean, variance, linear / n


def normalise(cells: Cells, target_sum: float) -> Normalised:
    """log1p of counts scaled to `target_sum`, float32, the cells sorted by group.

    A cell without counts stays one of zeros.
    """
    order = np.argsort(cells.group, kind="stable")
    totals = cells.totals[order]
    counts = cells.counts[order]
    scale = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    data = np.log1p((counts.data * np.repeat(scale, np.diff(counts.indptr))).astype(np.float32))
    values = sparse.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
    ends = np.searchsorted(cells.group[order], np.arange(-1, len(cells.names) + 1))
    return Normalised(values, ends)


@compiled()
def _add(data, indices, indptr, ends, sums, squares, linear):
    for group in range(len(ends) - 1):
        for row in range(ends[group], ends[group + 1]):
            for entry in range(indptr[row], indptr[row + 1]):
                column, value = indices[entry], np.float64(data[entry])
                sums[group, column] += value
                squares[group, column] += value * value
                linear[group, column] += np.expm1(value)
