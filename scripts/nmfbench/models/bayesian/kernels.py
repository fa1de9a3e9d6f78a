"""The compiled walk over the nonzeros: theta, the terms of the likelihood there, and their gradient."""

from __future__ import annotations

import math

from nmfbench.compiled import compiled

THETA_FLOOR = 1e-8
"""Smallest theta at a nonzero count: matters only where P Aᵀ underflows."""

LARGEST_FACTORIAL = 16
"""Counts up to this one use the rising factorial, larger ones the gamma function."""

LARGEST_THETA = 1e9
"""Beyond, a rising factorial of 16 factors could overflow."""

# The order of a sum over k may change (SIMD); NaN and infinity keep their meaning. Each row is summed by one
# thread, so results do not depend on their number.
_loop = compiled(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp"})


@_loop
def digamma(x):
    """The derivative of ln Gamma, for x > 0, to about 1e-12 of its size."""
    shift = 0.0
    while x < 10.0:
        shift += 1.0 / x
        x += 1.0
    y = 1.0 / (x * x)
    tail = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132 - y * 691 / 32760)))))
    return math.log(x) - 0.5 / x - tail - shift


@_loop
def walk(
    indptr, indices, counts, R, C, row_u, column_u, weights, relative, out, values, with_value, low, high
):
    """Terms of rows `low` to `high` at their nonzeros, and ``S(w) C``.

    Parameters
    ----------
    indptr, indices, counts : ndarray
        The counts in CSR; transposed, the same loop gives the genes' side.
    R, C : ndarray of shape (rows, k) and (columns, k)
        Factors; theta = R Cᵀ.
    row_u, column_u : ndarray of shape (rows,) and (columns,)
        Their product is the uncertainty of a zero, of the chi-squared term.
    weights : tuple of float
        Of the negative binomial, Poisson and chi-squared terms.
    relative : float
        The uncertainty of a count is at least this share of it.
    out : ndarray of shape (rows, k)
        Receives ``S(w) C``, w the derivative of the terms by theta.
    values : ndarray of shape (rows,), float64
        Receives the terms, if `with_value`.
    """
    nb, poisson, chi = weights
    k = R.shape[1]
    for i in range(low, high):
        r = R[i]
        o = out[i]
        for l in range(k):
            o[l] = 0
        total = 0.0
        product = 1.0  # of rising factorials, so that a logarithm is taken once for many
        for j in range(indptr[i], indptr[i + 1]):
            g = indices[j]
            c = C[g]
            dot = r[0] * c[0]
            for l in range(1, k):
                dot += r[l] * c[l]
            theta = max(float(dot), THETA_FLOOR)
            d = float(counts[j])
            w = 0.0
            if nb != 0.0:
                if d <= LARGEST_FACTORIAL and theta < LARGEST_THETA:
                    factorial = theta
                    slope = 1.0
                    for m in range(1, int(d)):
                        slope = slope * (theta + m) + factorial
                        factorial *= theta + m
                    w += nb * slope / factorial
                    if with_value:
                        product *= factorial
                        if product > 1e150 or product < 1e-150:
                            total += nb * math.log(product)
                            product = 1.0
                else:
                    w += nb * (digamma(d + theta) - digamma(theta))
                    if with_value:
                        total += nb * (math.lgamma(d + theta) - math.lgamma(theta))
            if poisson != 0.0:
                w += poisson * d / theta
                if with_value:
                    total += poisson * d * math.log(theta)
            if chi != 0.0:
                zero = row_u[i] * column_u[g]
                u = max(zero, relative * d)
                zero = 1.0 / (zero * zero)
                u = 1.0 / (u * u)
                w -= 2.0 * chi * ((theta - d) * u - zero * theta)
                if with_value:
                    total -= chi * ((theta - d) ** 2 * u - zero * theta * theta)
            for l in range(k):
                o[l] += w * c[l]
        values[i] = total + nb * math.log(product)


@_loop
def inner(indptr, indices, counts, R, C, values, low, high):
    """``values[i] = Σ_g counts_ig (R Cᵀ)_ig`` of rows `low` to `high`, R and C as in :func:`walk`."""
    k = R.shape[1]
    for i in range(low, high):
        r = R[i]
        total = 0.0
        for j in range(indptr[i], indptr[i + 1]):
            c = C[indices[j]]
            dot = r[0] * c[0]
            for l in range(1, k):
                dot += r[l] * c[l]
            total += float(counts[j]) * float(dot)
        values[i] = total
