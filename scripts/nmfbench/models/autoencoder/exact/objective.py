"""The three objectives and their gradients, from statistics alone.

Used by the gradient methods of the comparison and, against automatic differentiation, by the tests. The
coordinate solver evaluates the same expressions from what it keeps up to date.
"""

from __future__ import annotations

import numpy as np

from nmfbench.models.autoencoder.exact.conditions import ConditionSums
from nmfbench.models.autoencoder.exact.operators import Operator, gram


def tied(operator: Operator, W: np.ndarray, lambda_W: float) -> tuple[float, float, np.ndarray]:
    """Objective of ae_nmf: ||X - X Wᵀ W||²/n + λ_W ||W||².

    Parameters
    ----------
    W : (k, genes) array

    Returns
    -------
    objective : float
        Per cell.
    squared_error : float
        ||E||².
    gradient : (k, genes) array
        (2/n) [A W + (G - 2I) S] + 2 λ_W W.
    """
    S, A = operator.product(W)
    G = gram(np.ascontiguousarray(W.T))
    error = operator.squared_norm - 2 * np.trace(A) + float((A * G).sum())
    n = operator.n_cells
    left = A / n + lambda_W * np.eye(len(A))
    right = (G - 2 * np.eye(len(G))) / n
    gradient = 2 * (left.astype(W.dtype) @ W + right.astype(W.dtype) @ S)
    return error / n + lambda_W * float(np.trace(G)), error, gradient


def additive(
    operator: Operator,
    W: np.ndarray,
    U: np.ndarray,
    conditions: ConditionSums,
    *,
    lambda_W: float,
    lambda_U: float,
    gamma: float = 0.0,
    eta: float = 0.0,
    centred: bool = False,
) -> tuple[dict[str, float], float, np.ndarray, np.ndarray]:
    """Objective of cae_nmf1, with its gradients.

    Parameters
    ----------
    W, U : (k, genes) and (M, genes) arrays

    Returns
    -------
    parts : dict
        reconstruction, penalty_W, penalty_U, invariance and hsic, per cell.
    squared_error : float
        ||E||².
    gradient_W, gradient_U : (k, genes) and (M, genes) arrays
    """
    n = operator.n_cells
    S, A = operator.product(W)
    G = gram(np.ascontiguousarray(W.T))
    T, N = conditions.total.astype(W.dtype), conditions.overlap
    R, V = T @ W.T, U @ W.T
    error = operator.squared_norm - 2 * np.trace(A) + float((A * G).sum())
    error += float((N * (U @ U.T)).sum() - 2 * (T * U).sum() + 2 * (R * V).sum())
    eye = np.eye(len(A), dtype=W.dtype)
    gradient_W = A.astype(W.dtype) @ W + (G.astype(W.dtype) - 2 * eye) @ S + R.T @ U + V.T @ T
    gradient_U = R @ W + N.astype(W.dtype) @ U - T
    parts = {
        "reconstruction": error / n,
        "penalty_W": lambda_W * float(np.square(W).sum()),
        "penalty_U": lambda_U * float(np.square(U).sum()),
    }
    rows = {
        "invariance": np.sqrt(gamma) * conditions.invariance_rows(n, centred=centred),
        "hsic": np.sqrt(eta) * conditions.hsic_rows(),
    }
    for name, F in rows.items():
        D = W @ F.T.astype(W.dtype)
        parts[name] = float(np.square(D).sum()) / n
        gradient_W = gradient_W + D @ F.astype(W.dtype)
    return (
        parts,
        error,
        2 * gradient_W / n + 2 * lambda_W * W,
        2 * gradient_U / n + 2 * lambda_U * U,
    )


def donor_loadings(
    operator: Operator, W: np.ndarray, U: np.ndarray, *, lambda_W: float, lambda_U: float
) -> tuple[dict[str, float], float, np.ndarray, np.ndarray]:
    """Objective of cae_nmf2, with its gradients.

    Parameters
    ----------
    operator : Operator
        With one group per donor.
    W, U : (k, genes) and (donors, k, genes) arrays

    Returns
    -------
    parts : dict
        reconstruction, penalty_W and penalty_U, per cell.
    squared_error : float
        ||E||².
    gradient_W, gradient_U : (k, genes) and (donors, k, genes) arrays
    """
    n, p = operator.n_cells, operator.n_genes
    V = W + U
    Wt, Vt = np.ascontiguousarray(W.T), np.ascontiguousarray(V.transpose(0, 2, 1))
    image_W, image_V = operator.image(Wt), operator.image(Vt)
    S = image_W.columns(0, p).transpose(0, 2, 1)
    Y = image_V.columns(0, p).transpose(0, 2, 1)
    A = image_W.inner(Wt)
    G = np.stack([gram(v) for v in Vt])
    error = operator.squared_norm + float((A * G).sum())
    error -= 2 * float(np.trace(image_W.cross(Wt, image_V), axis1=1, axis2=2).sum())
    D = A.astype(W.dtype) @ V - S
    gradient_W = (D + G.astype(W.dtype) @ S - Y).sum(axis=0)
    parts = {
        "reconstruction": error / n,
        "penalty_W": lambda_W * float(np.square(W).sum()),
        "penalty_U": lambda_U * float(np.square(U).sum()),
    }
    return parts, error, 2 * gradient_W / n + 2 * lambda_W * W, 2 * D / n + 2 * lambda_U * U
