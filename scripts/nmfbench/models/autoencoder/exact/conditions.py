"""What the conditional models need of the cells besides K: sums over donors and cell types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.errors import InputError


@dataclass(frozen=True)
class ConditionSums:
    """Sums of the cells of each type over the stacked one-hot conditions C = [C¹ | C² | ...].

    Attributes
    ----------
    sums : (types, M, genes) array
        C_tᵀ X_t of each cell type t; M counts the categories of all condition columns.
    counts : (types, M, M) array
        C_tᵀ C_t: on its diagonal the cells of each category, off it those in two columns' categories at once.
    """

    sums: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        q, m = self.sums.shape[:2]
        if self.counts.shape != (q, m, m):
            raise InputError(
                "condition counts", f"an array of {(q, m, m)}", str(self.counts.shape), "gather them again"
            )

    @property
    def total(self) -> np.ndarray:
        """T = Cᵀ X, (M, genes)."""
        return self.sums.sum(axis=0)

    @property
    def overlap(self) -> np.ndarray:
        """N = Cᵀ C, (M, M); diagonal with one condition column."""
        return self.counts.sum(axis=0).astype(float)

    def n_columns(self, n_cells: int) -> int:
        """Number of condition columns: each cell stands once in each."""
        return round(float(np.trace(self.overlap)) / n_cells)

    def invariance_rows(self, n_cells: int, *, centred: bool = False) -> np.ndarray:
        """F with Inv(W) = ||W Fᵀ||² = Σ_t ||P_t H_t||², P_t the projector onto the conditions within type t.

        Parameters
        ----------
        n_cells : int
        centred : bool
            Take the type's own mean out first, so that only differences between conditions are penalised.

        Returns
        -------
        (rows, genes) float64 array
            Types of fewer than 2 cells contribute none.
        """
        columns = self.n_columns(n_cells)
        rows = [np.zeros((0, self.sums.shape[2]))]
        for sums, counts in zip(self.sums.astype(float), self.counts.astype(float), strict=True):
            size = np.trace(counts) / columns
            if size < 2:
                continue
            if centred:
                mean = sums.sum(axis=0) / columns / size
                sums = sums - np.diag(counts)[:, None] * mean
            values, vectors = np.linalg.eigh(counts)
            kept = values > 1e-9 * max(values.max(), 1.0)
            rows.append((vectors[:, kept] / np.sqrt(values[kept])).T @ sums)
        return np.concatenate(rows)

    def hsic_rows(self) -> np.ndarray:
        """T̃ = T - N x̄ᵀ, (M, genes), with HSIC(W) = ||W T̃ᵀ||²."""
        total, sizes = self.total.astype(float), np.diag(self.overlap)
        return total - sizes[:, None] * (total.sum(axis=0) / sizes.sum())


def sums_of_blocks(X, conditions: np.ndarray, types: np.ndarray | None = None) -> ConditionSums:
    """ConditionSums of a matrix held in memory.

    Parameters
    ----------
    X : (cells, genes) CSR matrix
    conditions : (cells,) or (cells, columns) int array
        Category codes, each column from 0.
    types : (cells,) int array, optional
        Cell type codes from 0.
    """
    import scipy.sparse as sp

    n = X.shape[0]
    codes = np.asarray(conditions, np.int64).reshape(n, -1)
    sizes = codes.max(axis=0) + 1
    codes = codes + np.concatenate([[0], np.cumsum(sizes)[:-1]])
    m, columns = int(sizes.sum()), codes.shape[1]
    rows = np.repeat(np.arange(n), columns)
    C = sp.csr_matrix((np.ones(n * columns), (rows, codes.ravel())), shape=(n, m))
    types = np.zeros(n, np.int64) if types is None else np.asarray(types, np.int64)
    parts = [types == t for t in range(int(types.max()) + 1)]
    return ConditionSums(
        sums=np.stack([np.asarray((C[part].T @ X[part].astype(np.float64)).todense()) for part in parts]),
        counts=np.stack(
            [np.asarray((C[part].T @ C[part]).todense()).round().astype(np.int64) for part in parts]
        ),
    )
