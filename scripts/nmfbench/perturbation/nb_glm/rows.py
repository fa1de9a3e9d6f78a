"""Rows of training data: one for each target, or for each target and phase."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.perturbation.fold import Fold


@dataclass(frozen=True)
class Rows:
    """Sums of groups of cells.

    Attributes
    ----------
    target : ndarray of shape (rows,)
        Place of the target among the training targets.
    phase : ndarray of shape (rows,)
        0, 1, 2; all 0 where phases are not used.
    counts : ndarray of shape (rows, genes)
    size, size_squared, cells : ndarray of shape (rows,)
        Sums of the size factors and of their squares, and the number of cells.
    """

    target: np.ndarray
    phase: np.ndarray
    counts: np.ndarray
    size: np.ndarray
    size_squared: np.ndarray
    cells: np.ndarray

    @property
    def log_size(self) -> np.ndarray:
        """Offset of the sum of a group."""
        return np.log(np.maximum(self.size, 1e-12))

    @property
    def multiple(self) -> np.ndarray:
        """What theta is multiplied by for the sum of a group: ``S^2 / sum s^2``; n for equal size factors."""
        return self.size**2 / np.maximum(self.size_squared, 1e-300)


def concise_rows(fold: Fold, use_cycle: bool) -> Rows:
    """Sums of the training groups of a fold, by target and, with `use_cycle`, by phase.

    A phase without cells is no row.
    """
    sums, mask = fold.sums, fold.mask
    phase = sums.phase[mask] if use_cycle else np.zeros(int(mask.sum()), dtype=np.int64)
    keys = np.stack([sums.target[mask], phase], axis=1)
    groups, place = np.unique(keys, axis=0, return_inverse=True)
    place = place.ravel()

    def added(values: np.ndarray) -> np.ndarray:
        result = np.zeros((len(groups), *values.shape[1:]))
        np.add.at(result, place, values[mask])
        return result

    target = np.searchsorted(fold.trained.target, groups[:, 0])
    parts = (added(getattr(sums, name)) for name in ("counts", "size", "size_squared", "n"))
    return Rows(target, groups[:, 1], *parts)
