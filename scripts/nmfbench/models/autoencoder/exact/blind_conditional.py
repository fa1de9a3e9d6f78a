"""The objectives of the conditional models in which no gene is written from itself (docs/denoising.md)."""

from __future__ import annotations

import numpy as np

from nmfbench.models.autoencoder.exact.conditions import ConditionSums, ToldConditions
from nmfbench.models.autoencoder.exact.denoising import BlindObjective
from nmfbench.models.autoencoder.exact.donors import LoadingsOfDonors
from nmfbench.models.autoencoder.exact.kernels_blind import sweep_blind_donor_block
from nmfbench.models.autoencoder.exact.operators import Operator, gram


class AdditiveBlindObjective(ToldConditions, BlindObjective):
    """``||X - X (Wᵀ W - diag(Wᵀ W)) - C U||²/n + penalty_W ||W||² + penalty_U ||U||² + (invariance)/n``.

    Parameters
    ----------
    operator : Operator
        K = Xᵀ X, one group of cells.
    W : (k, genes) array
        Where to begin.
    U : (M, genes) array, optional
        Likewise; 0 where absent.
    conditions : ConditionSums
        Sums over groups of cells and conditions.
    penalty_W, penalty_U, penalty_invariance : float
        Per cell.
    centred : bool
        Whether the invariance term leaves out the own mean of a group of cells.

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
        conditions: ConditionSums,
        penalty_W: float,
        penalty_U: float,
        penalty_invariance: float = 0.0,
        centred: bool = True,
    ) -> None:
        BlindObjective.__init__(self, operator, W, penalty_W=penalty_W)
        self._tell(
            operator, U, conditions,
            penalty_U=penalty_U, penalty_invariance=penalty_invariance, centred=centred,
        )  # fmt: skip

    def evaluate(self) -> tuple[dict[str, float], float]:
        parts, relative_error = super().evaluate()
        added, told = self._evaluate_told()
        d = np.square(self.W, dtype=np.float64).sum(axis=1)
        added -= 2 * float(d @ (self.T * self.U).sum(axis=1, dtype=np.float64))
        del told["hsic"]
        parts["reconstruction"] += added / self.n
        return {**parts, **told}, relative_error + added / (self.operator.squared_norm or np.nan)

    def sweep(self, relax: float) -> None:
        kind = self.operator.dtype
        self._sums = [part.astype(kind) for part in (self.R, self.V, self.D)]
        super().sweep(relax)

    def _told(self, low: int, high: int) -> tuple:
        R, V, D = self._sums
        block = slice(low, high)
        P, Q = D[:0], self.N[:0, :0]
        if self.F.shape[1]:
            P, Q = self.F[block] @ D, self._penalty_block(low, high)
        return self.T[block], self.U[block], self.N, self.penalty_U * self.n, R, V, P, Q

    def _moved(self, low: int, high: int, delta: np.ndarray) -> None:
        self._sums[2] += self.F[low:high].T @ delta


class DonorBlindObjective(LoadingsOfDonors):
    """``Σ_c ||X_c - X_c (Wᵀ V_c - diag(Wᵀ V_c))||²/n + penalty_W ||W||² + penalty_U ||U||²``, V_c = W + U_c.

    Parameters
    ----------
    operator : Operator
        With one group of cells per donor.
    W : (k, genes) array
        Where to begin.
    U : (donors, k, genes) array, optional
        Likewise; 0 where absent.
    penalty_W, penalty_U : float
        Per cell.

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
    ) -> None:
        super().__init__(operator, W, U, penalty_W=penalty_W, penalty_U=penalty_U, n_donors=operator.n_groups)
        self.squares = self._squares()

    def refresh(self) -> None:
        self.image_W = self.image_V = self.weighted = None  # freed before the new ones are made
        self.image_W = self.operator.image(self.W)
        V = self.W + self.U
        self.image_V = self.operator.image(V)
        V *= (self.W * V).sum(axis=2, keepdims=True)
        self.weighted = self.operator.image(V)

    def evaluate(self) -> tuple[dict[str, float], float]:
        W = self.W
        self.A = self.image_W.inner(W)
        self.G = np.stack([gram(W + U) for U in self.U])
        d = np.stack([(W.astype(np.float64) * (W + U)).sum(axis=1) for U in self.U])
        error = (
            self.operator.squared_norm
            + float((self.A * self.G).sum())
            + float((self.squares * d * (2 + d)).sum())
        )
        for image in (self.image_V, self.weighted):
            error -= 2 * float(np.trace(self.image_W.cross(W, image), axis1=1, axis2=2).sum())
        return self._parts(error)

    def sweep(self, relax: float) -> None:
        kind, k, m = self.operator.dtype, self.W.shape[1], self.n_donors
        A, G = self.A.astype(kind), self.G.astype(kind)
        for low, high in self.blocks:
            delta_W = np.empty((high - low, k), kind)
            delta_V, weighted = np.empty((2, m, high - low, k), kind)
            U = np.ascontiguousarray(self.U[:, low:high])
            images = [image.columns(low, high) for image in (self.image_W, self.image_V, self.weighted)]
            sweep_blind_donor_block(
                self.W[low:high], U, *images, self.operator.diagonal_block(low, high), A, G,
                self.penalty_W * self.n, self.penalty_U * self.n, relax, delta_W, delta_V, weighted,
            )  # fmt: skip
            self.U[:, low:high] = U
            self.image_W.update(low, delta_W[None])
            self.image_V.update(low, delta_V)
            self.weighted.update(low, weighted)
