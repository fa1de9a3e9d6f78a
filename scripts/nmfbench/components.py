"""Principal components of sparse cells, and the genes they are usually made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_ROWS = 4096
_EXACT_GENES = 5000  # more: Lanczos on the sparse matrix, where a Gram matrix would be large


def principal_components(X: csr_matrix, n_components: int, *, seed: int = 0) -> np.ndarray:
    """Coordinates of the cells on the leading principal components of their genes.

    Parameters
    ----------
    X : csr_matrix of shape (n_cells, n_genes)
        Log-normalised values.
    n_components : int
        At most so many; fewer where there are fewer cells or genes.
    seed : int
        Start of the iteration, with more than 5,000 genes; with fewer they are exact.

    Returns
    -------
    ndarray of float32, shape (n_cells, n_components)
        Each column's entry of largest loading is positive, so that signs repeat.
    """
    return placed(X, *principal_directions(X, n_components, seed=seed))


def principal_directions(X: csr_matrix, n_components: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the genes, shape (n_genes,), and directions, (n_genes, k); see :func:`principal_components`."""
    n, p = X.shape
    k = min(n_components, p, n - 1)
    mean = np.asarray(X.mean(axis=0), dtype=np.float64).ravel()
    vectors = _leading(X, mean, k) if p <= _EXACT_GENES else _iterated(X, k, seed)
    return mean, vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(k)])


def placed(X: csr_matrix, mean: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Coordinates of cells on directions, float32, a block of cells at a time."""
    found = np.empty((X.shape[0], vectors.shape[1]), dtype=np.float32)
    for start in range(0, X.shape[0], _ROWS):
        found[start : start + _ROWS] = X[start : start + _ROWS] @ vectors - mean @ vectors
    return found


def _leading(X: csr_matrix, mean: np.ndarray, k: int) -> np.ndarray:
    from scipy.linalg import eigh

    n, p = X.shape
    gram = np.zeros((p, p))
    for start in range(0, n, _ROWS):
        rows = X[start : start + _ROWS].toarray().astype(np.float64)
        gram += rows.T @ rows
    gram -= n * np.outer(mean, mean)
    return eigh(gram, subset_by_index=(p - k, p - 1))[1][:, ::-1]


def _iterated(X: csr_matrix, k: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    # a sparse matrix is centred implicitly
    return PCA(k, svd_solver="arpack", random_state=seed).fit(X).components_.T.astype(np.float64)


def variable_genes(X: csr_matrix, n_genes: int, *, n_bins: int = 20) -> np.ndarray:
    """Most variable genes of log-normalised cells, as scanpy's flavour ``seurat`` chooses them.

    The log of variance over mean, on the scale before the logarithm, is standardised among genes of about
    the same mean (Satija et al. 2015).

    Parameters
    ----------
    X : csr_matrix of shape (n_cells, n_genes_total)
        ``log1p`` of normalised counts.
    n_genes : int
        How many to choose.
    n_bins : int
        Groups of genes by their mean.

    Returns
    -------
    ndarray of int64, shape (n_genes,)
        Their positions, ascending.
    """
    import pandas as pd

    n, p = X.shape
    values = np.expm1(X.data.astype(np.float64))
    total = np.bincount(X.indices, weights=values, minlength=p)
    squares = np.bincount(X.indices, weights=values**2, minlength=p)
    mean = total / n
    variance = np.maximum(squares - n * mean**2, 0.0) / max(n - 1, 1)
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    with np.errstate(divide="ignore"):
        dispersion = np.where(dispersion == 0, np.nan, np.log(dispersion))
    bins = pd.cut(pd.Series(np.log1p(mean)), bins=n_bins, labels=False)
    grouped = pd.Series(dispersion).groupby(bins)
    centre, spread = grouped.transform("mean"), grouped.transform("std")
    # the only gene of a bin is one deviation above, as in scanpy
    alone = spread.isna() & centre.notna()
    standardised = np.where(alone, 1.0, (dispersion - centre) / spread)
    order = np.argsort(-np.nan_to_num(standardised, nan=-np.inf), kind="stable")
    return np.sort(order[:n_genes])
