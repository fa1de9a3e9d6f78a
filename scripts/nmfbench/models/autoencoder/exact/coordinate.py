"""The objectives of the tied models on sufficient statistics, each with a sweep of coordinate descent.

The equations are those of docs/models.md, the method that of docs/solvers.md.
"""

from __future__ import annotations

import numpy as np

from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact import kernels, kernels_donor
from nmfbench.models.autoencoder.exact.conditions import ConditionSums, ToldConditions
from nmfbench.models.autoencoder.exact.donors import LoadingsOfDonors
from nmfbench.models.autoencoder.exact.operators import Operator, gram


class TiedObjective(ToldConditions):
    """``||X - X Wᵀ W - C U||²/n + penalty_W ||W||² + penalty_U ||U||² + (invariance + hsic terms)/n``.

    That of ae_nmf, and with conditions that of cae_nmf1.

    Parameters
    ----------
    operator : Operator
        K = Xᵀ X, from `SparseOperator` or `GramOperator`.
    W : (k, genes) array
        Where to begin.
    U : (M, genes) array, optional
        Likewise; 0 where absent.
    conditions : ConditionSums, optional
        Sums over cell types and conditions.
    penalty_W, penalty_U, penalty_invariance, penalty_hsic : float
        Per cell.
    centred : bool
        Whether the invariance term leaves out the cell type's own mean.
    split : bool
        Whether the operator's two groups are the mean M and half the difference D of two halves of the
        counts. The objective is then that of either half written from the other, on average: K is
        ``MᵀM + DᵀD`` and ``4 ||W Dᵀ||²`` is added (docs/denoising.md).
    unique : (genes,) array, optional
        Sum of squares of each gene that it shares with no other one; ``2 Σ_g unique_g ||w_g||²`` is added, so
        that a factor earns nothing by writing it (docs/denoising.md).
    written : (M, genes) array, optional
        Cᵀ X where what is written is not what `conditions` sums: of split counts CᵀM, while the invariance
        is that of all counts.

    Attributes
    ----------
    W, U : (genes, k) and (genes, M) arrays
    """

    def __init__(
        self,
        operator: Operator,
        W: np.ndarray,
        U: np.ndarray | None = None,
        *,
        penalty_W: float,
        conditions: ConditionSums | None = None,
        penalty_U: float = 0.0,
        penalty_invariance: float = 0.0,
        penalty_hsic: float = 0.0,
        centred: bool = False,
        split: bool = False,
        unique: np.ndarray | None = None,
        written: np.ndarray | None = None,
    ) -> None:
        p, kind = operator.n_genes, operator.dtype
        self.operator, self.split = operator, split
        self.unique = None if unique is None else np.asarray(unique, kind)
        self.n = operator.n_cells
        self.W = np.ascontiguousarray(W.T, dtype=kind)
        self.penalty_W = float(penalty_W)
        if operator.n_groups != 1 + split:
            raise InputError(
                "operator", f"{1 + split} group(s) of rows", str(operator.n_groups),
                "give its groups as split says",
            )  # fmt: skip
        self._tell(
            operator, U, conditions,
            penalty_U=penalty_U, penalty_invariance=penalty_invariance, penalty_hsic=penalty_hsic,
            centred=centred,
        )  # fmt: skip
        if written is not None:
            self.T = np.ascontiguousarray(written.T, dtype=kind)
        size = operator.block_size
        self.blocks = [(a, min(a + size, p)) for a in range(0, p, size)]

    def refresh(self) -> None:
        self.image = None  # the old one is freed before the new one is made
        self.image = self.operator.image(self.W)

    def evaluate(self) -> tuple[dict[str, float], float]:
        W, n = self.W, self.n
        inner = self.image.inner(W)
        self.A, self.G = inner.sum(axis=0), gram(W)
        error = self.operator.squared_norm - 2 * np.trace(self.A) + float((self.A * self.G).sum())
        if self.split:
            error += 4 * float(np.trace(inner[1]))
        if self.unique is not None:
            error += 2 * float((self.unique * np.square(W, dtype=np.float64).sum(axis=1)).sum())
        parts = {"penalty_W": self.penalty_W * float(np.trace(self.G))}
        if self.conditional:
            added, told = self._evaluate_told()
            error, parts = error + added, parts | told
        return {"reconstruction": error / n, **parts}, error / (self.operator.squared_norm or np.nan)

    def sweep(self, relax: float) -> None:
        kind, k = self.operator.dtype, self.W.shape[1]
        A, G = self.A.astype(kind), self.G.astype(kind)
        R = V = D = np.zeros((0, k), kind)
        if self.conditional:
            R, V, D = self.R.astype(kind), self.V.astype(kind), self.D.astype(kind)
        U = self.T if self.U is None else self.U  # both empty
        P, Q = np.zeros((0, k), kind), np.zeros((0, 0), kind)
        for low, high in self.blocks:
            block = slice(low, high)
            delta = np.empty((high - low, k), kind)
            columns, K = self.image.columns(low, high), self.operator.diagonal_block(low, high)
            if self.F.shape[1]:
                F = self.F[block]
                P, Q = F @ D, self._penalty_block(low, high)
            for more, curvature in self._denoising(block, columns, K):
                P, Q = (P + more, Q + curvature) if len(Q) else (more, curvature)
            kernels.sweep_block(
                self.W[block], columns.sum(axis=0), K.sum(axis=0),
                A, G, self.penalty_W * self.n, relax, self.T[block], U[block], self.N,
                self.penalty_U * self.n, R, V, P, Q, delta,
            )  # fmt: skip
            self.image.update(low, delta[None])
            if self.F.shape[1]:
                D += F.T @ delta
            P, Q = P[:0], Q[:0, :0]

    def _denoising(self, block: slice, columns: np.ndarray, K: np.ndarray):
        """Quadratic penalties tr(W Z Wᵀ) of denoising: Z Wᵀ and Z of the block's genes."""
        if self.split:
            yield 4 * columns[1], 4 * K[1]
        if self.unique is not None:
            weight = 2 * self.unique[block]
            yield weight[:, None] * self.W[block], np.diag(weight)


class DonorObjective(LoadingsOfDonors):
    """``Σ_c ||X_c - X_c Wᵀ (W + U_c)||²/n + penalty_W ||W||² + penalty_U ||U||²``, that of cae_nmf2.

    Parameters
    ----------
    operator : Operator
        With one group of cells per donor; with `split` the means M_c of the halves of each donor, then half
        the differences D_c of each.
    W : (k, genes) array
        Where to begin.
    U : (donors, k, genes) array, optional
        Likewise; 0 where absent.
    penalty_W, penalty_U : float
        Per cell.
    unique : (genes,) array, optional
        Sum of squares of each gene, over all donors, that it shares with no other one. Each donor has of it
        what it has of the gene's squares, unique_cg; ``2 Σ_c Σ_g unique_cg w_g·(w_g + u_cg)`` is added.
    split : bool
        Whether the operator is that of two halves of the counts, each written from the other: K_c is
        ``M_cᵀM_c + D_cᵀD_c`` and ``4 Σ_c tr(W D_cᵀD_c V_cᵀ)`` is added, V_c = W + U_c (docs/denoising.md).
        What a donor has of a gene's squares is then what the halves share of it.

    Attributes
    ----------
    W, U : (genes, k) and (donors, genes, k) arrays
    """

    def __init__(
        self,
        operator: Operator,
        W: np.ndarray,
        U: np.ndarray | None = None,
        *,
        penalty_W: float,
        penalty_U: float,
        unique: np.ndarray | None = None,
        split: bool = False,
    ) -> None:
        n_donors = operator.n_groups // (1 + split)
        if operator.n_groups != n_donors * (1 + split):
            raise InputError(
                "operator", "two groups of rows for each donor", str(operator.n_groups),
                "give the means of the donors' halves, then their differences",
            )  # fmt: skip
        super().__init__(operator, W, U, penalty_W=penalty_W, penalty_U=penalty_U, n_donors=n_donors)
        self.split = split
        self.unique = None if unique is None else self._of_each_donor(np.asarray(unique, np.float64))

    def _of_each_donor(self, unique: np.ndarray) -> np.ndarray:
        """What each donor has of the genes' own squares, (donors, genes)."""
        squares = self._squares()
        if self.split:
            squares = np.maximum(squares[: self.n_donors] - squares[self.n_donors :], 0)
        return squares * (unique / np.maximum(squares.sum(axis=0), 1e-300))

    def refresh(self) -> None:
        self.image_W = self.image_V = None
        self.image_W = self.operator.image(self.W)
        V = self.W + self.U
        self.image_V = self.operator.image(np.concatenate([V, V]) if self.split else V)

    def _of_halves(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each donor, M'M + D'D and D'D, from sums of both for each; without halves the sums and none."""
        m = self.n_donors
        return (sums[:m] + sums[m:], sums[m:]) if self.split else (sums, sums[:0])

    def evaluate(self) -> tuple[dict[str, float], float]:
        self.A, _ = self._of_halves(self.image_W.inner(self.W))
        self.G = np.stack([gram(self.W + U) for U in self.U])
        cross = self.image_W.cross(self.W, self.image_V)
        cross, apart = (np.trace(part, axis1=1, axis2=2) for part in self._of_halves(cross))
        error = self.operator.squared_norm - 2 * cross.sum() + 4 * apart.sum()
        error = float(error + (self.A * self.G).sum())
        if self.unique is not None:
            W = self.W.astype(np.float64)
            error += 2 * sum(
                float(u @ (W * (W + U)).sum(axis=1)) for u, U in zip(self.unique, self.U, strict=True)
            )
        return self._parts(error)

    def sweep(self, relax: float) -> None:
        kind, k = self.operator.dtype, self.W.shape[1]
        A, G = self.A.astype(kind), self.G.astype(kind)
        for low, high in self.blocks:
            delta_W = np.empty((high - low, k), kind)
            delta_V = np.empty((self.n_donors, high - low, k), kind)
            U = np.ascontiguousarray(self.U[:, low:high])
            own = np.zeros((0, 0)) if self.unique is None else self.unique[:, low:high].copy()
            S, P = self._of_halves(self.image_W.columns(low, high))
            Y, apart = self._of_halves(self.image_V.columns(low, high))
            K, Q = self._of_halves(self.operator.diagonal_block(low, high))
            if self.split:
                P, Q, Y = 2 * P, 2 * Q, Y - 2 * apart
            kernels_donor.sweep_donor_block(
                self.W[low:high], U, S, Y, K, A, G,
                self.penalty_W * self.n, self.penalty_U * self.n, relax, own, P, Q, delta_W, delta_V,
            )  # fmt: skip
            self.U[:, low:high] = U
            self.image_W.update(low, delta_W[None])
            self.image_V.update(low, np.concatenate([delta_V, delta_V]) if self.split else delta_V)
