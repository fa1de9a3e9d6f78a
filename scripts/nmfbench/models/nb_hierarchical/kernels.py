"""Compiled loops over the nonzeros: sums of ``sigmoid(t_i + c_g)`` and the like, and rising factorials."""

from __future__ import annotations

import math

import numpy as np

from nmfbench.compiled import compiled

BLOCK = 256
"""Entries that are taken together: their exponentials are then one loop that the compiler vectorises."""

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_MAGIC = 6755399441055744.0  # 1.5 * 2^52: adding it leaves a whole number in the lowest bits
_SMALLEST, _LARGEST = -708.0, 708.0


@compiled(nogil=True, error_model="numpy", inline="always")
def _exponentials(x, bits, n):  # pragma: no cover - compiled
    """Replace x[:n] by its exponentials; `bits` is the same memory seen as int64 of another buffer."""
    scale = bits.view(np.float64)
    for k in range(n):
        v = min(max(x[k], _SMALLEST), _LARGEST)
        scale[k] = v * _LOG2E + _MAGIC
        power = scale[k] - _MAGIC
        r = v - power * _LN2_HIGH - power * _LN2_LOW
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        x[k] = p * r + 1.0
    for k in range(n):
        bits[k] = (bits[k] << 52) + (np.int64(1023) << 52)
    for k in range(n):
        x[k] *= scale[k]


@compiled(nogil=True, error_model="numpy")
def entry_sums(
    indptr, indices, values, group, t, c, weights, borders, want,
    row_sigma, row_curvature, column_sigma, column_softplus, column_curvature,
    low, high,
):  # fmt: skip  # pragma: no cover - compiled
    """Sums over stored entries, of the chunks `low` to `high` of cells; see :func:`~.entries.entry_sums`."""
    x, buffer = np.empty(BLOCK), np.empty(BLOCK, dtype=np.int64)
    for chunk in range(low, high):
        for i in range(borders[chunk], borders[chunk + 1]):
            g, ti, total, curved = group[i], t[i], 0.0, 0.0
            start = indptr[i]
            while start < indptr[i + 1]:
                n = min(np.int64(BLOCK), np.int64(indptr[i + 1] - start))
                for k in range(n):
                    x[k] = ti + c[g, indices[start + k]]
                _exponentials(x, buffer, n)
                for k in range(n):
                    j = indices[start + k]
                    y = values[start + k]
                    e = x[k]
                    sigma = e / (1.0 + e)
                    total += y * weights[j] * sigma
                    column_sigma[chunk, g, j] += y * sigma
                    if want & 1:
                        column_softplus[chunk, j] += y * math.log1p(e)
                    if want & 2:
                        bend = y * sigma / (1.0 + e)
                        curved += weights[j] * bend
                        column_curvature[chunk, g, j] += bend
                start += n
            row_sigma[i] = total
            if want & 2:
                row_curvature[i] = curved


@compiled(nogil=True, error_model="numpy", inline="always")
def _stirling(x):  # pragma: no cover - compiled
    """``lgamma(x) - (x - 1/2) ln x + x - ln(2 pi) / 2`` for x of at least 8."""
    z = 1.0 / (x * x)
    series = z * (1.0 / 1260.0 - z * (1.0 / 1680.0 - z * (1.0 / 1188.0 - z * 691.0 / 360360.0)))
    return (1.0 / 12.0 - z * (1.0 / 360.0) + z * series) / x


@compiled(nogil=True, error_model="numpy", inline="always")
def _digamma_rest(x):  # pragma: no cover - compiled
    """``psi(x) - ln x`` for x of at least 8."""
    z = 1.0 / (x * x)
    series = 1.0 / 252.0 - z * (1.0 / 240.0 - z * (1.0 / 132.0 - z * 691.0 / 32760.0))
    return -0.5 / x - z * (1.0 / 12.0 - z * (1.0 / 120.0 - z * series))


@compiled(nogil=True, error_model="numpy", inline="always")
def _trigamma(x):  # pragma: no cover - compiled
    """``psi'(x)`` for x of at least 8."""
    z = 1.0 / (x * x)
    return (1.0 + 0.5 / x + z * (1.0 / 6.0 - z * (1.0 / 30.0 - z * (1.0 / 42.0 - z / 30.0)))) / x


@compiled(nogil=True, error_model="numpy")
def rising_factorials(parameter, values, counts, alpha, value, first, second):  # pragma: no cover - compiled
    """Add ``n [lgamma(v + alpha) - lgamma(alpha)]`` and its two derivatives in alpha to the arrays.

    Up to v = 16 as a product of ``alpha + j``, beyond by Stirling's series on both sides after eight factors:
    no difference of two large numbers is taken, whatever alpha.
    """
    for row in range(len(values)):
        j, v, n = parameter[row], values[row], counts[row]
        a = alpha[j]
        product, slope, bend = 1.0, 0.0, 0.0
        terms = v if v <= 16 else 8
        log_sum = 0.0
        for k in range(terms):
            product *= a + k
            slope += 1.0 / (a + k)
            bend -= 1.0 / ((a + k) * (a + k))
            if product > 1e250 or product < 1e-250:
                log_sum += math.log(product)
                product = 1.0
        log_sum += math.log(product)
        if v > 16:
            low, high = a + 8.0, a + v
            gap = v - 8.0
            log_sum += (
                (low - 0.5) * math.log1p(gap / low)
                + gap * math.log(high)
                - gap
                + (_stirling(high) - _stirling(low))
            )
            slope += math.log1p(gap / low) + (_digamma_rest(high) - _digamma_rest(low))
            bend += _trigamma(high) - _trigamma(low)
        value[j] += n * log_sum
        first[j] += n * slope
        second[j] += n * bend
