"""What the conditional models need of the cells besides K, and what the objectives of model 1 make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact.operators import Operator, gram


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


class ToldConditions:
    """What the objectives of model 1 share: the profiles U, and penalties ``||W Fᵀ||²`` on the loadings.

    Attributes
    ----------
    conditional : bool
        Whether there are conditions; without them every array here is empty and U is None.
    T, U : (genes, M) arrays
        Xᵀ C and the profiles.
    N : (M, M) array
        Cᵀ C.
    F : (genes, rows) array
        Of the invariance penalty (the first `n_inv` rows) and of HSIC, weights included.
    """

    W: np.ndarray
    n: int

    def _tell(
        self,
        operator: Operator,
        U: np.ndarray | None,
        conditions: ConditionSums | None,
        *,
        penalty_U: float,
        penalty_invariance: float,
        penalty_hsic: float = 0.0,
        centred: bool,
    ) -> None:
        p, kind = operator.n_genes, operator.dtype
        self.conditional, self.penalty_U = conditions is not None, float(penalty_U)
        self.T, self.N, self.U = np.zeros((p, 0), kind), np.zeros((0, 0), kind), None
        inv = hsic = np.zeros((0, p))
        if conditions is not None:
            if conditions.sums.shape[2] != p:
                raise InputError(
                    "condition sums", f"{p} genes, as in the operator", str(conditions.sums.shape[2]),
                    "gather both from the same cells",
                )  # fmt: skip
            self.T = np.ascontiguousarray(conditions.total.T, dtype=kind)
            self.N = conditions.overlap.astype(kind)
            if penalty_invariance > 0:
                inv = np.sqrt(penalty_invariance) * conditions.invariance_rows(
                    operator.n_cells, centred=centred
                )
            if penalty_hsic > 0:
                hsic = np.sqrt(penalty_hsic) * conditions.hsic_rows()
            self.U = np.zeros_like(self.T) if U is None else np.ascontiguousarray(U.T, dtype=kind)
        self.n_inv = inv.shape[0]
        self.F = np.ascontiguousarray(np.concatenate([inv, hsic]).T, dtype=kind)  # genes x rows
        self._penalty: dict[int, np.ndarray] = {}

    def _evaluate_told(self) -> tuple[float, dict[str, float]]:
        """What U adds to ``||X - X Wᵀ W||²``, and the penalties; keeps T Wᵀ, U Wᵀ and F Wᵀ."""
        W, T, U = self.W, self.T, self.U
        self.R, self.V, self.D = gram(T, W), gram(U, W), gram(self.F, W)
        UU = gram(U)
        added = float((self.N * UU).sum() + 2 * (self.R * self.V).sum() - 2 * np.trace(gram(T, U)))
        return added, {
            "penalty_U": self.penalty_U * float(np.trace(UU)),
            "invariance": float(np.square(self.D[: self.n_inv]).sum()) / self.n,
            "hsic": float(np.square(self.D[self.n_inv :]).sum()) / self.n,
        }

    def _penalty_block(self, low: int, high: int) -> np.ndarray:
        """F_bᵀ F_b of a block of genes, (b, b)."""
        if low not in self._penalty:
            self._penalty[low] = self.F[low:high] @ self.F[low:high].T
        return self._penalty[low]


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
