"""Non-negative least squares from sums alone: a Gram matrix and the products with it."""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled

_SWEEPS, _TOLERANCE = 20_000, 1e-10


def non_negative_least_squares(
    gram: np.ndarray, products: np.ndarray, *, max_sweeps: int = _SWEEPS
) -> np.ndarray:
    """Rows x >= 0 that minimise ``x G xᵀ - 2 x b``, one for each row b of `products`.

    Cyclic coordinate descent from 0, in coordinates in which G has a diagonal of 1. There a step of a sweep
    is the residual of the Karush-Kuhn-Tucker conditions in that coordinate; a row is left when none is more
    than 1e-10 of the row's largest coordinate. No row knows of the others: the same row has the same numbers
    in whatever block it comes. Rows that are not there after `max_sweeps`, as of columns that are nearly the
    same, go to the active set of Lawson and Hanson (1974), as ``scipy.optimize.nnls`` has it.

    Parameters
    ----------
    gram : ndarray of shape (k, k)
        Symmetric, without negative eigenvalues.
    products : ndarray of shape (n, k)
    max_sweeps : int
        Of coordinate descent.

    Returns
    -------
    ndarray of float64, shape (n, k)
        0 where `gram` has a 0 on its diagonal.
    """
    gram, products = np.asarray(gram, np.float64), np.asarray(products, np.float64)
    scale = np.sqrt(np.diag(gram))
    scale = np.where(scale > 0, scale, 1.0)
    unit = np.ascontiguousarray(gram / np.outer(scale, scale))
    targets = np.ascontiguousarray(products / scale)
    found, reached = _descend(unit, targets, max_sweeps, _TOLERANCE)
    if not reached.all():
        found[~reached] = _active_set(unit, targets[~reached])
    return found / scale


def _active_set(gram: np.ndarray, products: np.ndarray) -> np.ndarray:
    """The same by SciPy, which takes a matrix R with RᵀR = G and targets that have these products with it."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(gram)
    there = values > 1e-14 * values[-1]
    roots = np.sqrt(values[there])
    R, targets = roots[:, None] * vectors[:, there].T, (products @ vectors[:, there]) / roots
    return np.stack([nnls(R, target, maxiter=30 * len(gram))[0] for target in targets])


@compiled(nogil=True)
def _descend(gram, products, max_iter, tol):
    p, k = products.shape
    found, reached = np.zeros((p, k)), np.zeros(p, np.bool_)
    gradient = np.empty(k)
    for row in range(p):
        x = found[row]
        for j in range(k):
            gradient[j] = -products[row, j]
        for _ in range(max_iter):
            largest, moved = 0.0, 0.0
            for j in range(k):
                new = max(x[j] - gradient[j], 0.0)
                step = new - x[j]
                if step != 0.0:
                    x[j] = new
                    for l in range(k):
                        gradient[l] += step * gram[j, l]
                moved = max(moved, abs(step))
                largest = max(largest, x[j])
            if moved <= tol * largest:
                reached[row] = True
                break
    return found, reached
