"""Slow, readable twins of the solvers' formulas: dense, double precision, straight from the definitions."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch


def one_hot(codes: np.ndarray) -> np.ndarray:
    """Stacked one-hots [C¹ | C² | ...] of (cells, columns) codes."""
    codes = np.asarray(codes).reshape(len(codes), -1)
    return np.concatenate([np.eye(column.max() + 1)[column] for column in codes.T], axis=1)


def tied(X, W, lambda_W):
    """||X - X Wᵀ W||²/n + λ_W ||W||²."""
    return ((X - X @ W.T @ W) ** 2).sum() / len(X) + lambda_W * (W**2).sum()


def additive(X, W, U, codes, types, lambda_W, lambda_U, gamma, eta, centred=False):
    """Objective of model 1, term by term."""
    C = torch.as_tensor(one_hot(codes))
    H = X @ W.T
    parts = {
        "reconstruction": ((X - H @ W - C @ U) ** 2).sum() / len(X),
        "penalty_W": lambda_W * (W**2).sum(),
        "penalty_U": lambda_U * (U**2).sum(),
    }
    invariance = 0.0
    for t in np.unique(types):
        rows = types == t
        if rows.sum() < 2:
            continue
        Ct, Ht = C[rows], H[rows]
        if centred:
            Ht = Ht - Ht.mean(dim=0)
        invariance = invariance + ((Ct @ torch.linalg.pinv(Ct) @ Ht) ** 2).sum()
    parts["invariance"] = gamma * invariance / len(X)
    cross = (H - H.mean(dim=0)).T @ (C - C.mean(dim=0))
    parts["hsic"] = eta * (cross**2).sum() / len(X)
    return parts


def closed_form_profiles(T, N, W, ridge, passes=1):
    """U of model 1 given W: max(0, (T - T Wᵀ W) / (N + ridge)), ridge λ_U n.

    Where N = CᵀC is not diagonal (several condition columns), its rows are solved in turn, `passes` times.
    """
    rest, scale = T - T @ W.T @ W, np.diag(N) + ridge
    between = N - np.diag(np.diag(N))
    U = np.zeros_like(rest)
    for _ in range(passes):
        for c in range(len(U)):
            U[c] = np.maximum(rest[c] - between[c] @ U, 0) / scale[c]
    return U


def donor_loadings(X, W, U, donors, lambda_W, lambda_U):
    """Objective of model 2, donor by donor."""
    error = 0.0
    for c in range(len(U)):
        rows = X[donors == c]
        error = error + ((rows - rows @ W.T @ (W + U[c])) ** 2).sum()
    return error / len(X) + lambda_W * (W**2).sum() + lambda_U * (U**2).sum()


def coordinate_sweep(value, W: np.ndarray) -> np.ndarray:
    """Each entry of W in turn (gene by gene) to the minimum of `value` along it, others fixed.

    The objective along an entry is a polynomial of degree four: five values determine it.
    """
    W = W.copy()
    steps = np.linspace(-1.0, 1.0, 5)
    for gene in range(W.shape[1]):
        for j in range(W.shape[0]):
            origin = W[j, gene]
            values = []
            for t in steps:
                W[j, gene] = origin + t
                values.append(value(W))
            coefficients = np.polyfit(steps, values, 4)
            roots = np.roots(np.polyder(coefficients))
            candidates = [max(float(r.real), -origin) for r in roots if abs(r.imag) < 1e-7] + [0.0]
            best = min(candidates, key=lambda t: np.polyval(coefficients, t))
            W[j, gene] = origin + best
    return W


def counts(n_cells=60, n_genes=25, seed=0, density=0.3) -> sp.csr_matrix:
    """Random non-negative sparse data, float64."""
    rng = np.random.default_rng(seed)
    dense = rng.gamma(1.0, 1.0, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < density)
    return sp.csr_matrix(dense)


def planted(n_cells=300, n_genes=60, rank=4, seed=0):
    """Data that a tied model explains exactly: factors with genes of their own, each row of unit norm.

    Returns
    -------
    X : (cells, genes) CSR matrix
    W : (rank, genes) array
    """
    rng = np.random.default_rng(seed)
    W = np.zeros((rank, n_genes))
    for gene in range(n_genes):
        W[gene % rank, gene] = rng.gamma(2.0) + 0.1
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    H = rng.gamma(1.0, 1.0, (n_cells, rank)) * (rng.random((n_cells, rank)) < 0.6)
    return sp.csr_matrix(H @ W), W


def matched_correlation(found: np.ndarray, true: np.ndarray) -> float:
    """Smallest correlation of the true rows with the found rows they are matched to."""
    from scipy.optimize import linear_sum_assignment

    table = np.corrcoef(true, found)[: len(true), len(true) :]
    rows, columns = linear_sum_assignment(-np.nan_to_num(table))
    return float(table[rows, columns].min())
