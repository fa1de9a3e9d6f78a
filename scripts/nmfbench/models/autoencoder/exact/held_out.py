"""How loadings do on cells that they were not fitted to, from the statistics of those cells alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.models.autoencoder.exact.conditions import ConditionSums
from nmfbench.models.autoencoder.exact.operators import GramOperator, gram


@dataclass(frozen=True)
class Decoder:
    """How a model writes a cell: as a mixture of loadings, and a profile of its conditions.

    Attributes
    ----------
    V : (groups, k, genes) array
        Loadings of each group of cells; one group where all share them.
    U : (M, genes) array or None
        Profile that each condition adds to its cells.
    """

    V: np.ndarray
    U: np.ndarray | None = None


def hidden_gene_errors(
    operator: GramOperator,
    gene_squares: np.ndarray,
    decoder: Decoder,
    folds: np.ndarray,
    conditions: ConditionSums | None = None,
) -> np.ndarray:
    """Squared error of hidden genes, predicted in each cell from its other genes, relative to their size.

    The genes of one fold are hidden, the cell's mixture is the least-squares one for the genes seen, and the
    loadings then say the hidden ones: ``M = V_s⁺ V_h`` and ``||X_h - X_s M||²``, which depends on the cells
    through XᵀX alone. Bi-cross-validation (Owen and Perry 2009, doi:10.1214/08-AOAS227) with the rows taken
    by other cells. The error of a model that reconstructs a cell from all its genes can only fall with the
    rank; this one rises where further factors follow noise.

    Parameters
    ----------
    operator : GramOperator
        Of the cells, with as many groups as `decoder.V`.
    gene_squares : (genes,) array
        Diagonal of XᵀX of all cells.
    decoder : Decoder
    folds : (genes,) int array
        Fold of each gene.
    conditions : ConditionSums, optional
        Of the same cells, where the decoder has profiles.

    Returns
    -------
    (folds,) float64 array
        ||X_h - X_s M||² / ||X_h||² of each fold.
    """
    p = operator.n_genes
    n_folds = int(folds.max()) + 1
    V = np.asarray(decoder.V, np.float64)
    errors = np.zeros(n_folds)
    for fold in range(n_folds):
        hidden = np.flatnonzero(folds == fold)
        seen = folds != fold
        P = np.zeros((len(V), p, V.shape[1]))
        for c, loadings in enumerate(V):
            visible = loadings[:, seen]
            P[c, seen] = visible.T @ np.linalg.pinv(visible @ visible.T, rcond=1e-8, hermitian=True)
        Q = operator.image(P.astype(operator.dtype)).columns(0, p).astype(np.float64)
        size = float(gene_squares[hidden].sum())
        error = size
        if decoder.U is not None:
            U, T, N = (
                np.asarray(decoder.U, np.float64),
                conditions.total.astype(np.float64),
                conditions.overlap,
            )
            through_U = U @ P[0]
            Q[0] += U.T @ (N @ through_U - T @ P[0]) - T.T @ through_U
            hidden_U = U[:, hidden]
            error += float((N @ hidden_U * hidden_U).sum() - 2 * (T[:, hidden] * hidden_U).sum())
        for c, loadings in enumerate(V):
            wanted = loadings[:, hidden]
            error -= 2 * float((wanted * Q[c, hidden].T).sum())
            error += float((gram(P[c], Q[c]) * (wanted @ wanted.T)).sum())
        errors[fold] = error / size if size else np.nan
    return errors


def gene_folds(n_genes: int, n_folds: int) -> np.ndarray:
    """Fold of each gene, at random and the same for every fit; shape (genes,)."""
    return np.random.default_rng(0).permutation(np.arange(n_genes) % n_folds)


def matched_correlations(loadings: list[np.ndarray]) -> np.ndarray:
    """How far fits agree: the mean correlation of their factors, matched one to one.

    Parameters
    ----------
    loadings : list of (k, genes) arrays
        Of the fits.

    Returns
    -------
    (fits, fits) float64 array
        Symmetric, 1 on the diagonal; factors are matched such that the sum of correlations is largest
        (Hungarian algorithm). A constant factor has correlation 0 with all.
    """
    from scipy.optimize import linear_sum_assignment

    rows = []
    for W in loadings:
        centred = W - W.mean(axis=1, keepdims=True, dtype=np.float64)
        norm = np.linalg.norm(centred, axis=1, keepdims=True)
        rows.append(np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0))
    found = np.eye(len(rows))
    for a in range(len(rows)):
        for b in range(a):
            together = rows[a] @ rows[b].T
            one, other = linear_sum_assignment(together, maximize=True)
            found[a, b] = found[b, a] = float(together[one, other].mean())
    return found
