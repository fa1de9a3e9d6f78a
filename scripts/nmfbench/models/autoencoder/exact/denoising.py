"""Objectives in which what is written has not been seen: of split counts, and of genes from other genes.

The equations, and why the plain objective is solved best by copying genes, are in docs/denoising.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.models.autoencoder.exact.kernels_blind import sweep_blind_block
from nmfbench.models.autoencoder.exact.operators import Operator, gram
from nmfbench.models.autoencoder.exact.start import start


class BlindObjective:
    """``||X - X (Wᵀ W - diag(Wᵀ W))||²/n + penalty_W ||W||²``: each gene from all others.

    Parameters
    ----------
    operator : Operator
        K = Xᵀ X, of all its groups of cells together.
    W : (k, genes) array
        Where to begin.
    penalty_W : float
        Per cell.

    Attributes
    ----------
    W : (genes, k) array
    """

    U: np.ndarray | None = None

    def __init__(self, operator: Operator, W: np.ndarray, *, penalty_W: float) -> None:
        self.operator, self.n = operator, operator.n_cells
        self.W = np.ascontiguousarray(W.T, dtype=operator.dtype)
        self.penalty_W = float(penalty_W)
        p, size = operator.n_genes, operator.block_size
        self.blocks = [(low, min(low + size, p)) for low in range(0, p, size)]
        diagonal = [np.diag(operator.diagonal_block(low, high).sum(axis=0)) for low, high in self.blocks]
        self.squares = np.concatenate(diagonal).astype(np.float64)

    def refresh(self) -> None:
        self.image = self.weighted = None  # the old ones are freed before the new ones are made
        self.image = self.operator.image(self.W)
        self.weighted = self.operator.image(self.W * _lengths(self.W)[:, None])

    def evaluate(self) -> tuple[dict[str, float], float]:
        W, total = self.W, self.operator.squared_norm
        self.A, self.G = self.image.inner(W).sum(axis=0), gram(W)
        d = np.square(W, dtype=np.float64).sum(axis=1)
        crossed = float(np.trace(self.image.cross(W, self.weighted).sum(axis=0)))
        error = total - 2 * float(np.trace(self.A)) + float((self.A * self.G).sum()) - 2 * crossed
        error += float((self.squares * d * (2 + d)).sum())
        parts = {"reconstruction": error / self.n, "penalty_W": self.penalty_W * float(d.sum())}
        return parts, error / (total or np.nan)

    def sweep(self, relax: float) -> None:
        A, G = self.A.astype(self.operator.dtype), self.G.astype(self.operator.dtype)
        for low, high in self.blocks:
            delta, weighted = np.empty((2, high - low, self.W.shape[1]), self.operator.dtype)
            images = [image.columns(low, high).sum(axis=0) for image in (self.image, self.weighted)]
            sweep_blind_block(
                self.W[low:high], *images, self.operator.diagonal_block(low, high).sum(axis=0), A, G,
                self.penalty_W * self.n, relax, *self._told(low, high), delta, weighted,
            )  # fmt: skip
            self.image.update(low, delta[None])
            self.weighted.update(low, weighted[None])
            self._moved(low, high, delta)

    def _told(self, low: int, high: int) -> tuple:
        """What the kernel is told of conditions and penalties of a block of genes: none here."""
        kind, k = self.operator.dtype, self.W.shape[1]
        none, sums, square = np.zeros((high - low, 0), kind), np.zeros((0, k), kind), np.zeros((0, 0), kind)
        return none, none, square, 0.0, sums, sums, sums, square

    def _moved(self, low: int, high: int, delta: np.ndarray) -> None:
        """Follow a change of W in a block of genes."""


@dataclass
class Shared:
    """What two halves of the counts share, ``(X_Aᵀ X_B + X_Bᵀ X_A) / 2``, as far as a start asks for it.

    Parameters
    ----------
    operator : Operator
        Its groups are the mean M and half the difference D of the halves, or the M of each donor and then the
        D of each: this is ``MᵀM - DᵀD`` of all together.
    """

    operator: Operator

    def __post_init__(self) -> None:
        self.n_cells, self.n_genes = self.operator.n_cells, self.operator.n_genes
        self.dtype = self.operator.dtype

    def product(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Operator`."""
        Wt = np.ascontiguousarray(W.T, dtype=self.dtype)
        columns = self.operator.image(Wt).columns(0, self.n_genes)
        half = len(columns) // 2
        S = columns[:half].sum(axis=0) - columns[half:].sum(axis=0)
        return np.ascontiguousarray(S.T), gram(Wt, S)


def unique_squares(
    operator: Operator, n_components: int, *, seed: int = 0, n_iter: int = 10, halves: bool = False
) -> np.ndarray:
    """What of each gene's (shared) sum of squares it has in common with no other gene.

    Principal axis factoring, as in factor analysis: the leading axes of C are sought with what they leave of
    each gene taken off its diagonal, in turns, from a diagonal of zeros. C is XᵀX of all groups together, or
    with `halves` what these share.

    Parameters
    ----------
    operator : Operator
    n_components : int
        Axes.
    seed : int
    n_iter : int
        Turns, each of two products.
    halves : bool
        Whether the operator's groups are the means and half the differences of halves of the counts.

    Returns
    -------
    (genes,) float64 array
        From 0 to the diagonal of C.
    """
    shared = Shared(operator) if halves else operator
    size, p = operator.block_size, operator.n_genes
    blocks = [operator.diagonal_block(low, min(low + size, p)) for low in range(0, p, size)]
    parts = [np.diagonal(block, axis1=1, axis2=2).astype(np.float64) for block in blocks]
    if halves:
        half = operator.n_groups // 2
        parts = [np.concatenate([part[:half], -part[half:]]) for part in parts]
    diagonal = np.concatenate([part.sum(axis=0) for part in parts])
    diagonal = np.maximum(diagonal, 0)
    common = np.zeros_like(diagonal)
    rng = np.random.default_rng(seed)
    V = np.linalg.qr(rng.standard_normal((p, min(n_components + 10, p))))[0]

    def product(V: np.ndarray) -> np.ndarray:
        found = shared.product(V.T.astype(operator.dtype))[0].T.astype(np.float64)
        return found - (diagonal - common)[:, None] * V

    for _ in range(n_iter):
        V = np.linalg.qr(product(V))[0]
        small = V.T @ product(V)
        values, rotation = np.linalg.eigh((small + small.T) / 2)
        leading = np.argsort(values)[::-1][:n_components]
        axes = V @ rotation[:, leading]
        common = np.clip(np.square(axes) @ np.maximum(values[leading], 0), 0, diagonal)
    return diagonal - common


def start_of_halves(operator: Operator, n_components: int, init, *, seed: int, ridge: float) -> np.ndarray:
    """Loadings to begin with, from what the halves share; see :func:`start`."""
    shared = Shared(operator)
    if not isinstance(init, str):
        return start(operator, n_components, init, seed=seed, ridge=ridge)
    W = start(shared, n_components, init, seed=seed, ridge=ridge)
    # along a, -2 a² tr W C Wᵀ + a⁴ <W K Wᵀ, W Wᵀ> + ridge a² ||W||²
    G = gram(np.ascontiguousarray(W.T))
    linear = float(np.trace(shared.product(W)[1])) - 0.5 * ridge * float(np.trace(G))
    square = linear / max(float((operator.product(W)[1] * G).sum()), 1e-300)
    return W * W.dtype.type(np.sqrt(max(square, 1e-6)))


def start_of_blind(operator: Operator, n_components: int, init, *, seed: int, ridge: float) -> np.ndarray:
    """Loadings to begin with, of the scale at which the blind objective is smallest; see :func:`start`."""
    W = start(operator, n_components, init, seed=seed, ridge=ridge)
    if not isinstance(init, str):
        return W
    objective = BlindObjective(operator, W, penalty_W=0.0)
    objective.refresh()
    d, linear = _lengths(objective.W), float(np.trace(operator.product(W)[1]))
    linear -= float((objective.squares * d).sum())
    quartic = objective.evaluate()[0]["reconstruction"] * objective.n - operator.squared_norm + 2 * linear
    square = (linear - 0.5 * ridge * float(d.sum())) / max(quartic, 1e-300)
    return W * W.dtype.type(np.sqrt(max(square, 1e-6)))


def _lengths(W: np.ndarray) -> np.ndarray:
    """||w_g||² of each gene, (genes,)."""
    return np.square(W).sum(axis=1)
