"""Posterior-predictive checks at the posterior means: zeros, variances, tails; genes found in a cell, totals.

All but the 99th percentile are sums in closed form over smooth functions of one number, and cost points x
(cells + genes).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from nmfbench.models.nb_hierarchical.means import Means
from nmfbench.models.nb_hierarchical.smooth import lagrange_basis
from nmfbench.totals import cell_totals, entries_of

GENE_COLUMNS = (
    *("gene", "mean_observed", "mean_predicted", "zeros_observed", "zeros_predicted", "zeros_z"),
    *("variance_ratio_observed", "variance_ratio_predicted", "q99_observed", "q99_predicted"),
)
CELL_COLUMNS = (
    *("cell", "detected_observed", "detected_predicted", "detected_z"),
    *("total_observed", "total_predicted", "total_z"),
)
LARGE_Z = 3.0
SIMULATED_CELLS = 1000


def gene_checks(means: Means, counts: Any, seed: int) -> dict[str, np.ndarray]:
    """Columns of :data:`GENE_COLUMNS` but the names: shares of zeros, variance over mean, 99th percentile."""
    n, p = counts.shape
    sums, squares, nonzeros = np.zeros(p), np.zeros(p), np.zeros(p)
    for _, genes, y in entries_of(counts):
        sums += np.bincount(genes, weights=y, minlength=p)
        squares += np.bincount(genes, weights=y**2, minlength=p)
        nonzeros += np.bincount(genes, minlength=p)
    expected, second, zero, zero_variance = np.zeros(p), np.zeros(p), np.zeros(p), np.zeros(p)
    for number, rows in _groups(means):
        t, c = means.t[rows], means.c[number]
        rate = np.exp(c + means.log_alpha)
        expected += rate * np.exp(t).sum()
        second += rate**2 * np.exp(2 * t).sum() * (1 + 1 / means.alpha)
        nodes, weights = _quadrature(t)
        chance = np.exp(-means.alpha * np.logaddexp(0, nodes[:, None] + c))
        zero += weights @ chance
        zero_variance += weights @ (chance * (1 - chance))
    mean, mean_predicted = sums / n, expected / n
    observed = squares / n - mean**2
    predicted = (second + expected) / n - mean_predicted**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mean_observed": mean,
            "mean_predicted": mean_predicted,
            "zeros_observed": 1 - nonzeros / n,
            "zeros_predicted": zero / n,
            "zeros_z": (n - nonzeros - zero) / np.sqrt(np.maximum(zero_variance, 1e-12)),
            "variance_ratio_observed": observed / mean,
            "variance_ratio_predicted": predicted / mean_predicted,
            "q99_observed": _percentiles(counts),
            "q99_predicted": _simulated_percentiles(means, seed),
        }


def cell_checks(means: Means, counts: Any) -> dict[str, np.ndarray]:
    """Columns of :data:`CELL_COLUMNS` but the names: genes found, and totals."""
    n, p = counts.shape
    detected, variance = np.empty(n), np.empty(n)
    total, total_variance = np.empty(n), np.empty(n)
    for number, rows in _groups(means):
        t, c = means.t[rows], means.c[number]
        basis, nodes = _basis(t)
        chance = np.exp(-means.alpha * np.logaddexp(0, nodes[:, None] + c))
        detected[rows] = p - basis @ chance.sum(1)
        variance[rows] = basis @ (chance * (1 - chance)).sum(1)
        rate = np.exp(c + means.log_alpha)
        total[rows] = np.exp(t) * rate.sum()
        total_variance[rows] = total[rows] + np.exp(2 * t) * (rate**2 / means.alpha).sum()
    found = np.diff(counts.indptr)
    sums = cell_totals(counts)
    return {
        "detected_observed": found.astype(np.float64),
        "detected_predicted": detected,
        "detected_z": (found - detected) / np.sqrt(np.maximum(variance, 1e-12)),
        "total_observed": sums,
        "total_predicted": total,
        "total_z": (sums - total) / np.sqrt(total_variance),
    }


def _groups(means: Means):
    for number in range(len(means.c)):
        rows = np.flatnonzero(means.group == number)
        if len(rows):
            yield number, rows


def _basis(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A chance of zero is steeper than softplus: exp(-e^x) has its bad values at a distance of pi / 2.
    points = 48 + math.ceil(6 * float(np.ptp(t)))
    basis, nodes = lagrange_basis(torch.from_numpy(t), points)
    return basis.numpy(), nodes.numpy()


def _quadrature(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights with ``sum_i h(t_i) = sum_k w_k h(x_k)`` for a smooth h."""
    points = 48 + math.ceil(6 * float(np.ptp(t)))
    there = torch.from_numpy(t)
    edges = torch.stack([there.min(), there.max()])
    weights = None
    for start in range(0, len(t), 8192):
        # the same points in every block: the two ends are put in and taken out again
        block = torch.cat([edges, there[start : start + 8192]])
        basis, nodes = lagrange_basis(block, points)
        part = basis[2:].sum(0)
        weights = part if weights is None else weights + part
    return nodes.numpy(), weights.numpy()


def _percentiles(counts: Any) -> np.ndarray:
    """99th percentile of each gene (the smallest count that 99 % of the cells do not exceed)."""
    n = counts.shape[0]
    by_gene = counts.tocsc()
    wanted = int(np.ceil(0.99 * n)) - 1
    found = np.zeros(counts.shape[1])
    for g in range(counts.shape[1]):
        values = by_gene.data[by_gene.indptr[g] : by_gene.indptr[g + 1]]
        place = wanted - (n - len(values))
        if place >= 0:
            found[g] = np.partition(values, place)[place]
    return found


def _simulated_percentiles(means: Means, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 4])
    n = len(means.t)
    rows = np.sort(rng.permutation(n)[:SIMULATED_CELLS])
    repeats = -(-SIMULATED_CELLS // len(rows))
    rows = np.repeat(rows, repeats)
    found = np.empty(means.c.shape[1])
    for start in range(0, len(found), 256):
        genes = slice(start, start + 256)
        eta = means.t[rows, None] + means.c[means.group[rows], genes]
        alpha = means.alpha[genes]
        rate = rng.gamma(np.broadcast_to(alpha, eta.shape)) * np.exp(eta)
        drawn = rng.poisson(np.minimum(rate, 1e9))
        place = int(np.ceil(0.99 * len(rows))) - 1
        found[genes] = np.partition(drawn, place, axis=0)[place]
    return found
