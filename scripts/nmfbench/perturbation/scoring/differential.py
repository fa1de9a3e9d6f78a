"""Differentially expressed genes of each group against a control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.perturbation.scoring import rank_sums
from nmfbench.perturbation.scoring.cells import Normalised

EPSILON = 1e-2  # counts among target_sum: keeps fold changes of genes that one side lacks finite


@dataclass(frozen=True)
class Differential:
    """Tests of groups, all of shape (groups, genes).

    Attributes
    ----------
    p, q : ndarray
        p values, and adjusted within each group.
    log2_fold_change : ndarray
    """

    p: np.ndarray
    q: np.ndarray
    log2_fold_change: np.ndarray

    def significant(self, level: float) -> np.ndarray:
        """Mask of the DE genes at a false discovery rate."""
        return self.q < level


def test_groups(
    cells: Normalised,
    control: rank_sums.Control,
    means: np.ndarray,
    control_means: np.ndarray,
    *,
    ties: bool,
    continuity: bool,
    expressed_only: bool,
    fold_change: str,
    known_p: np.ndarray | None,
) -> Differential:
    """Test every group of `cells` against `control`.

    Parameters
    ----------
    means, control_means : ndarray of shape (groups, genes) and (genes,)
        What fold changes are taken of: means of normalised counts for ``epsilon``, means of log1p values
        for ``expm1`` and ``scanpy``.
    ties, continuity : bool
        See :func:`~nmfbench.perturbation.scoring.rank_sums.compare`.
    expressed_only : bool
        Leave genes that neither side has out of the family of tests; their q is 1.
    fold_change : {"epsilon", "expm1", "scanpy"}
    known_p : ndarray of shape (groups, genes) or None
        p values of the same tests, made before.
    """
    n_groups, n_genes = means.shape
    p, q = np.ones((n_groups, n_genes)), np.ones((n_groups, n_genes))
    for group in range(n_groups):
        if known_p is None:
            p[group] = rank_sums.compare(cells.rows(group), control, ties=ties, continuity=continuity)
        else:
            p[group] = known_p[group]
        tested = (means[group] > 0) | (control_means > 0) if expressed_only else np.ones(n_genes, dtype=bool)
        q[group, tested] = rank_sums.benjamini_hochberg(p[group, tested])
    return Differential(p, q, _FOLD_CHANGES[fold_change](means, control_means))


test_groups.__test__ = False  # no test of pytest's


def _with_epsilon(means: np.ndarray, control: np.ndarray) -> np.ndarray:
    return np.log2((means + EPSILON) / (control + EPSILON))


def _of_expm1(means: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Without an epsilon: infinite where one side is zero, 0 where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log2(np.expm1(means) / np.expm1(control))
    return np.where((means == 0) & (control == 0), 0.0, change)


def _as_scanpy(means: np.ndarray, control: np.ndarray) -> np.ndarray:
    return np.log2((np.expm1(means) + 1e-9) / (np.expm1(control) + 1e-9))


_FOLD_CHANGES = {"epsilon": _with_epsilon, "expm1": _of_expm1, "scanpy": _as_scanpy}
