"""Starting loadings, scaled so that the first reconstruction has the scale of the data."""

from __future__ import annotations

import numpy as np

from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact.operators import Operator, gram

_EXTRA = 10  # vectors beyond k in the subspace iteration (Halko, Martinsson and Tropp 2011)


def check_rank(n_components: int, n_cells: int, n_genes: int) -> None:
    """Refuse a rank the data cannot carry."""
    if not 1 <= n_components <= min(n_cells, n_genes):
        raise InputError(
            "rank",
            f"a number from 1 to {min(n_cells, n_genes)}, the smaller of {n_cells} cells and {n_genes} genes",
            str(n_components),
            "set a smaller rank, or keep more genes",
        )


def leading_eigenvectors(operator: Operator, n_components: int, *, seed: int = 0, n_iter: int = 4):
    """Eigenvectors of K = Xᵀ X with the largest eigenvalues, by subspace iteration.

    Returns
    -------
    vectors : (n_components, genes) array
        Orthonormal rows; the larger entries of each are positive (its cubes have a positive sum), so that
        rounding, hence the number of threads, cannot turn one round.
    values : (n_components,) float64 array
        Eigenvalues, that is squared singular values of X, falling.
    """
    rng = np.random.default_rng(seed)
    width = min(n_components + _EXTRA, operator.n_genes)
    Q = rng.standard_normal((operator.n_genes, width)).astype(operator.dtype)
    for _ in range(n_iter):
        Q = np.linalg.qr(Q)[0]
        Q = operator.product(Q.T)[0].T
    Q = np.linalg.qr(Q)[0]
    values, rotation = np.linalg.eigh(operator.product(Q.T)[1])
    largest = np.argsort(values)[::-1][:n_components]
    vectors = (Q @ rotation[:, largest].astype(Q.dtype)).T
    vectors = np.where((vectors**3).sum(axis=1, keepdims=True) < 0, -vectors, vectors)
    return np.ascontiguousarray(vectors), np.maximum(values[largest], 0.0)


def nndsvd_of_gram(operator: Operator, n_components: int, *, seed: int = 0) -> np.ndarray:
    """Of each leading eigenvector, the half (positive or negative) that carries more of the data.

    NNDSVD (Boutsidis and Gallopoulos 2008) weighs the halves with the left singular vectors; here ||X vᵀ||²
    does, which the Gram matrix gives too.

    Returns
    -------
    (n_components, genes) array
        Rows of unit norm, not yet scaled to the data.
    """
    vectors, _ = leading_eigenvectors(operator, n_components, seed=seed)
    halves = np.stack([np.maximum(vectors, 0), np.maximum(-vectors, 0)])
    energy = np.stack([np.diag(operator.product(half)[1]) for half in halves])
    W = np.where((energy[0] >= energy[1])[:, None], halves[0], halves[1])
    norm = np.linalg.norm(W, axis=1, keepdims=True)
    empty = norm[:, 0] <= 1e-6  # k above the numerical rank: noise, so that the row can grow
    if empty.any():
        rng = np.random.default_rng(seed + 1)
        W[empty] = rng.uniform(size=(int(empty.sum()), W.shape[1]))
        norm = np.linalg.norm(W, axis=1, keepdims=True)
    return W / norm


def random_start(operator: Operator, n_components: int, *, seed: int = 0) -> np.ndarray:
    """Positive halves of random rotations of the leading eigenvectors, for runs that differ by seed.

    A start of independent uniform entries makes every factor the mean profile, a saddle that takes dozens of
    sweeps to leave; rotating within the leading subspace keeps the factors apart.

    Returns
    -------
    (n_components, genes) array
        Rows of unit norm, not yet scaled to the data.
    """
    vectors, values = leading_eigenvectors(operator, n_components, seed=seed)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((n_components, n_components)))[0]
    W = np.maximum((rotation * values**0.25).astype(vectors.dtype) @ vectors, 0)
    return W / np.maximum(np.linalg.norm(W, axis=1, keepdims=True), 1e-12)


def scaled(operator: Operator, W: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """a W with the factor a > 0 at which the objective of the tied model is smallest.

    Along a, the objective is tr K - 2 a² tr A + a⁴ <A, G> + ridge a² ||W||².
    """
    A = operator.product(W)[1]
    G = gram(np.ascontiguousarray(W.T))
    square = (np.trace(A) - 0.5 * ridge * np.trace(G)) / max(float((A * G).sum()), 1e-300)
    # a penalty above the data's scale leaves nothing to explain: keep a small, positive start
    return W * W.dtype.type(np.sqrt(max(square, 1e-6)))


def start(operator: Operator, n_components: int, init, *, seed: int = 0, ridge: float = 0.0) -> np.ndarray:
    """Loadings to begin with.

    Parameters
    ----------
    init : {"nndsvd", "random"} or (n_components, genes) array
        An array is taken as it is.
    ridge : float
        Penalty on W times the number of cells.

    Returns
    -------
    (n_components, genes) array
    """
    check_rank(n_components, operator.n_cells, operator.n_genes)
    if not isinstance(init, str):
        W = np.array(init, dtype=operator.dtype)
        if W.shape != (n_components, operator.n_genes) or not np.isfinite(W).all() or (W < 0).any():
            raise InputError(
                "init", f"non-negative finite loadings of {n_components} x {operator.n_genes}",
                f"an array of {W.shape}, smallest value {W.min(initial=np.inf)}", "give other loadings",
            )  # fmt: skip
        return W
    starts = {"nndsvd": nndsvd_of_gram, "random": random_start}
    if init not in starts:
        raise InputError("init", f"one of {', '.join(starts)}, or an array", init, "choose one of these")
    return scaled(operator, starts[init](operator, n_components, seed=seed), ridge)
