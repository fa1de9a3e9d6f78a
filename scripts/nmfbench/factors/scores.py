"""What a factor means in genes: its scores, its spectrum, the variance it explains.

Follows Kotliar et al. 2019 (cNMF, doi:10.7554/eLife.43803): the score of a gene in a factor is its
coefficient in an ordinary least-squares regression of the z-scored counts per million on the usages of all
factors, without an intercept. It is in standard deviations of the gene for a unit of usage: a gene leads a
factor by being specific to it, not by being high everywhere, as with raw loadings.
"""

from __future__ import annotations

import numpy as np

from nmfbench.factors.moments import MILLION, FactorMoments
from nmfbench.least_squares import non_negative_least_squares

#: Directions of usage below this part of the largest (columns at unit length) count as not there.
COLLINEAR = 1e-10


def gene_scores(moments: FactorMoments) -> np.ndarray:
    """Coefficients of the z-scored counts per million on the usages, ``(HᵀH)⁺ HᵀZ``.

    Returns
    -------
    ndarray of shape (k, p)
        NaN for a factor that no cell uses and for a gene with the same value in all cells.
    """
    sd = moments.gene_sds
    varies = sd > 0
    # Hᵀ Z from sums alone: Z = (T - mean) / sd
    centred = moments.usage_products - np.outer(moments.gene_means, moments.usage_sums)
    z_products = np.divide(centred, sd[:, None], out=np.zeros_like(centred), where=varies[:, None])
    scores = _pseudo_inverse(moments.usage_gram) @ z_products.T
    scores[:, ~varies] = np.nan
    scores[np.diag(moments.usage_gram) <= 0] = np.nan
    return scores


def spectra(moments: FactorMoments) -> np.ndarray:
    """Counts per million of a cell that is one factor only: non-negative least squares of T on the shares.

    Returns
    -------
    ndarray of shape (k, p)
        NaN for a factor that no cell uses, and for all where the embedding has negative entries.
    """
    used = (np.diag(moments.share_gram) > 0) & (not moments.signed)
    found = np.full(moments.share_products.T.shape, np.nan)
    if used.any():
        gram = np.ascontiguousarray(moments.share_gram[np.ix_(used, used)])
        found[used] = non_negative_least_squares(gram, moments.share_products[:, used]).T
    return found


def explained_variance(moments: FactorMoments) -> dict[str, np.ndarray | float]:
    """Share of the variance of the normalised values that a linear regression on the usages explains.

    It depends on the embedding alone, not on how a model makes values from it, so that models compare.

    Returns
    -------
    dict
        ``alone`` of shape (k,): R² of a regression on this factor and an intercept, over all genes together.
        ``uniquely`` of shape (k,): how much R² falls when the factor is left out of the regression on all.
        ``all``: R² of the regression on all factors. NaN for factors that are the same in every cell; of
        factors that the others determine ``uniquely`` is 0.
    """
    n = moments.n_cells
    total = float(np.sum(moments.value_squares - moments.value_sums**2 / n))
    covariance = moments.usage_gram - np.outer(moments.usage_sums, moments.usage_sums) / n
    products = moments.value_products - np.outer(moments.value_sums, moments.usage_sums) / n
    variance = np.diag(covariance)
    varies = variance > 1e-10 * np.diag(moments.usage_gram)
    alone, uniquely = np.full((2, len(variance)), np.nan)
    if total <= 0 or not varies.any():
        return {"alone": alone, "uniquely": uniquely, "all": np.nan}
    products, covariance = products[:, varies], covariance[np.ix_(varies, varies)]
    alone[varies] = np.square(products).sum(axis=0) / variance[varies] / total
    inverse = _pseudo_inverse(covariance)
    coefficients = products @ inverse
    own = np.diag(inverse) * variance[varies]
    # of a factor that is a combination of others, the inverse on the rest says nothing
    defined = (own > 0) & _determined(covariance)
    lost = np.square(coefficients).sum(axis=0) / np.where(defined, np.diag(inverse), np.inf) / total
    uniquely[varies] = lost
    return {"alone": alone, "uniquely": uniquely, "all": float(np.sum(coefficients * products) / total)}


def _determined(gram: np.ndarray) -> np.ndarray:
    """Which columns are no combination of the others: those that the null directions do not touch."""
    scale = np.sqrt(np.diag(gram))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    null = vectors[:, values <= COLLINEAR * values[-1]]
    return np.square(null).sum(axis=1) < 1e-8


def _pseudo_inverse(gram: np.ndarray) -> np.ndarray:
    """Pseudo-inverse of a Gram matrix, on columns of unit length: the units of factors do not matter."""
    scale = np.sqrt(np.diag(gram))
    inverse_scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    unit = gram * np.outer(inverse_scale, inverse_scale)
    return np.linalg.pinv(unit, rcond=COLLINEAR, hermitian=True) * np.outer(inverse_scale, inverse_scale)


def per_million(spectrum: np.ndarray) -> np.ndarray:
    """Rows brought to a sum of one million; a row without any stays."""
    sums = spectrum.sum(axis=1, keepdims=True)
    return np.divide(spectrum * MILLION, sums, out=spectrum.copy(), where=sums > 0)
