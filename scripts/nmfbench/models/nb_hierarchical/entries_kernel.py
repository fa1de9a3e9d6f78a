"""Compiled steps of ``engine: entries``: a few entries of the matrix, gradients of every parameter."""

from __future__ import annotations

import math

import numpy as np

from nmfbench.compiled import compiled

LOW_LOG_ALPHA, HIGH_LOG_ALPHA, BOUND_PRECISION = -6.0, 14.0, 4.0


@compiled(error_model="numpy")
def _count_at(indptr, indices, values, row, gene):  # pragma: no cover - compiled
    low, high = indptr[row], indptr[row + 1]
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < gene:
            low = middle + 1
        else:
            high = middle
    if low < indptr[row + 1] and indices[low] == gene:
        return float(values[low])
    return 0.0


@compiled(error_model="numpy")
def _digamma_difference(y, a):  # pragma: no cover - compiled
    """``psi(y + a) - psi(a)`` for a whole number y."""
    total, k = 0.0, 0
    while k < y and k < 8:
        total += 1.0 / (a + k)
        k += 1
    if y > 8:
        low, high = 1.0 / (a + 8), 1.0 / (a + y)
        total += math.log((a + y) / (a + 8)) - 0.5 * (high - low)
        for power, factor in ((2, 1.0 / 12), (4, -1.0 / 120), (6, 1.0 / 252), (8, -1.0 / 240)):
            total -= factor * (high**power - low**power)
    return total


@compiled(error_model="numpy")
def entry_gradient(
    rows, genes, loc, log_sd, noise, indptr, indices, values, size, length, scale, places, forms, priors,
    to_loc, to_log_sd,
):  # fmt: skip  # pragma: no cover - compiled
    """Gradient of one draw's estimate of the ELBO from the entries (rows, genes), weighted by `scale`.

    `places`: mu_gene, log_sigma_gene, mu_cell, log_sigma_cell, log_alpha, mu_log_alpha, log_sigma_log_alpha
    (-1: there is none), and the first numbers of genes, cells and dispersions (-1: shared). `forms`: whether
    genes, cells and dispersions are centred. `priors`: as :meth:`.EntriesEngine` puts them.
    """
    n, p = len(size), len(length)
    sd = np.exp(log_sd)
    x = loc + sd * noise
    g = np.zeros(len(loc))
    mu_g, ls_g, mu_c, ls_c, i_alpha, mu_la, ls_la = places[:7]
    first_gene, first_cell, first_alpha = places[7:]
    m_g, s_g = x[mu_g], math.exp(x[ls_g])
    m_c = 0.0 if mu_c < 0 else x[mu_c]
    s_c = math.exp(x[ls_c])
    m_a = s_a = 0.0
    if first_alpha >= 0:
        m_a, s_a = x[mu_la], math.exp(x[ls_la])
    for k in range(len(rows)):
        i, j = rows[k], genes[k]
        y = _count_at(indptr, indices, values, i, j)
        a, b = x[first_gene + j], x[first_cell + i]
        if not forms[0]:
            a = m_g + s_g * a
        if not forms[1]:
            b = m_c + s_c * b
        if first_alpha < 0:
            la = x[i_alpha]
        else:
            la = x[first_alpha + j]
            if not forms[2]:
                la = m_a + s_a * la
        alpha = math.exp(la)
        eta = a + b + size[i] + length[j] - la
        sigma = 1.0 / (1.0 + math.exp(-eta))
        soft = eta + math.log1p(math.exp(-eta)) if eta > 0 else math.log1p(math.exp(eta))
        by_mean = scale * (y - (y + alpha) * sigma)
        by_alpha = scale * alpha * (_digamma_difference(y, alpha) - soft) - by_mean
        if forms[0]:
            g[first_gene + j] += by_mean
        else:
            g[first_gene + j] += by_mean * s_g
            g[mu_g] += by_mean
            g[ls_g] += by_mean * s_g * x[first_gene + j]
        if forms[1]:
            g[first_cell + i] += by_mean
        else:
            g[first_cell + i] += by_mean * s_c
            if mu_c >= 0:
                g[mu_c] += by_mean
            g[ls_c] += by_mean * s_c * x[first_cell + i]
        if first_alpha < 0:
            g[i_alpha] += by_alpha
        elif forms[2]:
            g[first_alpha + j] += by_alpha
        else:
            g[first_alpha + j] += by_alpha * s_a
            g[mu_la] += by_alpha
            g[ls_la] += by_alpha * s_a * x[first_alpha + j]
    for j in range(p if first_alpha >= 0 else 0):
        k = first_alpha + j
        la = x[k] if forms[2] else m_a + s_a * x[k]
        beyond = max(la - HIGH_LOG_ALPHA, 0.0) + min(la - LOW_LOG_ALPHA, 0.0)
        if beyond != 0.0:
            pull = -BOUND_PRECISION * beyond
            if forms[2]:
                g[k] += pull
            else:
                g[k] += pull * s_a
                g[mu_la] += pull
                g[ls_la] += pull * s_a * x[k]
    # priors of the shared numbers, at their draw
    g[mu_g] -= (x[mu_g] - priors[0]) / priors[1] ** 2
    g[ls_g] += 1.0 - s_g**2 / priors[2] ** 2
    if mu_c >= 0:
        g[mu_c] -= x[mu_c] / priors[3] ** 2
    g[ls_c] += 1.0 - s_c**2 / priors[4] ** 2
    if first_alpha < 0:
        square = math.exp(2 * x[i_alpha]) / priors[5] ** 2
        g[i_alpha] += 1.0 - 2 * square / (1 + square)
        beyond = max(x[i_alpha] - HIGH_LOG_ALPHA, 0.0) + min(x[i_alpha] - LOW_LOG_ALPHA, 0.0)
        g[i_alpha] -= BOUND_PRECISION * beyond
    else:
        g[mu_la] -= x[mu_la] / priors[6] ** 2
        g[ls_la] += 1.0 - s_a**2 / priors[7] ** 2
    # what belongs to the axes given these, in closed form
    for axis in range(3):
        first = places[7 + axis]
        if first < 0:
            continue
        count = n if axis == 1 else p
        centre, spread = (m_g, s_g) if axis == 0 else ((m_c, s_c) if axis == 1 else (m_a, s_a))
        place_mu, place_ls = (mu_g, ls_g) if axis == 0 else ((mu_c, ls_c) if axis == 1 else (mu_la, ls_la))
        if forms[axis]:
            precision, shift, squares = 1.0 / spread**2, 0.0, 0.0
            for k in range(first, first + count):
                away = loc[k] - centre
                to_loc[k] = g[k] - away * precision
                to_log_sd[k] = g[k] * noise[k] * sd[k] - sd[k] ** 2 * precision + 1.0
                shift += away
                squares += away**2 + sd[k] ** 2
            if place_mu >= 0:
                g[place_mu] += shift * precision
            g[place_ls] += squares * precision - count
        else:
            for k in range(first, first + count):
                to_loc[k] = g[k] - loc[k]
                to_log_sd[k] = g[k] * noise[k] * sd[k] - sd[k] ** 2 + 1.0
    for q in range(7):
        k = places[q]
        if k >= 0:
            to_loc[k] = g[k]
            to_log_sd[k] = g[k] * noise[k] * sd[k] + 1.0


@compiled(error_model="numpy")
def entry_steps(
    steps, seed, batch, adam, rate, taken, loc, log_sd, moments, indptr, indices, values,
    mask_indptr, mask_indices, size, length, scale, places, forms, priors,
):  # fmt: skip  # pragma: no cover - compiled
    """Make some steps, in place; `moments` are Adam's two, or the last gradients' squares."""
    np.random.seed(seed)  # noqa: NPY002 - numba's own generator, which nothing else uses
    n, p = len(size), len(length)
    total = len(loc)
    noise, rows, genes = np.empty(total), np.empty(batch, np.int64), np.empty(batch, np.int64)
    gradient = np.empty((2, total))
    parameters = (loc, log_sd)
    window = moments.shape[1] - 1
    for step in range(steps):
        for k in range(total):
            noise[k] = np.random.standard_normal()  # noqa: NPY002
        k = 0
        while k < batch:
            place = np.random.randint(0, n * p)  # noqa: NPY002
            rows[k], genes[k] = place // p, place % p
            if len(mask_indices):
                low, high = mask_indptr[rows[k]], mask_indptr[rows[k] + 1]
                found = low + np.searchsorted(mask_indices[low:high], genes[k])
                if found < high and mask_indices[found] == genes[k]:
                    continue
            k += 1
        entry_gradient(
            rows, genes, loc, log_sd, noise, indptr, indices, values, size, length, scale, places, forms,
            priors, gradient[0], gradient[1],
        )  # fmt: skip
        number = taken + step + 1
        for side in range(2):
            values_of = parameters[side]
            for k in range(total):
                d = gradient[side, k]
                if adam:
                    m = moments[side, 0, k] = 0.9 * moments[side, 0, k] + 0.1 * d
                    v = moments[side, 1, k] = 0.999 * moments[side, 1, k] + 0.001 * d * d
                    m /= 1 - 0.9**number
                    v /= 1 - 0.999**number
                    values_of[k] += rate * m / (math.sqrt(v) + 1e-8)
                else:
                    slot = (number - 1) % window
                    moments[side, window, k] += d * d - moments[side, slot, k]
                    moments[side, slot, k] = d * d
                    values_of[k] += rate * d / math.sqrt(max(moments[side, window, k], 0.0) + 0.1)
