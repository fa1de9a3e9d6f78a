"""What objectives share in which every donor has loadings of its own, ``V_c = W + U_c``."""

from __future__ import annotations

import numpy as np

from nmfbench.models.autoencoder.exact.operators import Operator


class LoadingsOfDonors:
    """State of such an objective: loadings, ridges, and the blocks of genes that a sweep goes through.

    Parameters
    ----------
    operator : Operator
        Its groups of cells are those of donors.
    W : (k, genes) array
        Where to begin.
    U : (donors, k, genes) array or None
        Likewise; 0 where absent.
    penalty_W, penalty_U : float
        Per cell.
    n_donors : int

    Attributes
    ----------
    W, U : (genes, k) and (donors, genes, k) arrays
    """

    def __init__(
        self,
        operator: Operator,
        W: np.ndarray,
        U: np.ndarray | None,
        *,
        penalty_W: float,
        penalty_U: float,
        n_donors: int,
    ) -> None:
        p, kind = operator.n_genes, operator.dtype
        self.operator, self.n, self.n_donors = operator, operator.n_cells, n_donors
        self.W = np.ascontiguousarray(W.T, dtype=kind)
        shape = (n_donors, *self.W.shape)
        self.U = np.zeros(shape, kind) if U is None else np.ascontiguousarray(U.transpose(0, 2, 1), kind)
        self.penalty_W, self.penalty_U = float(penalty_W), float(penalty_U)
        size = operator.block_size
        self.blocks = [(low, min(low + size, p)) for low in range(0, p, size)]

    def _squares(self) -> np.ndarray:
        """Sums of squares of each gene in each of the operator's groups, (groups, genes), float64."""
        parts = [np.diagonal(self.operator.diagonal_block(*block), axis1=1, axis2=2) for block in self.blocks]
        return np.concatenate(parts, axis=1).astype(np.float64)

    def _parts(self, error: float) -> tuple[dict[str, float], float]:
        """Parts of the objective, per cell, and the relative error, from the sum of squared errors."""
        parts = {
            "reconstruction": error / self.n,
            "penalty_W": self.penalty_W * float(np.square(self.W, dtype=np.float64).sum()),
            "penalty_U": self.penalty_U * float(sum(np.square(U, dtype=np.float64).sum() for U in self.U)),
        }
        return parts, error / (self.operator.squared_norm or np.nan)
