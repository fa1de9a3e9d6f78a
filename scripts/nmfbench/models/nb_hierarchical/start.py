"""Where a fit starts: the most probable effects by a few Newton sweeps, their spread from the curvature."""

from __future__ import annotations

from typing import Any

import numpy as np

from nmfbench.models.nb_hierarchical.family import Family
from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood, Terms
from nmfbench.totals import gene_totals

SWEEPS = 12
CLOSE = 0.02
"""Sweeps end when no effect moves by more than this share of its standard deviation, in the mean."""
LARGEST_STEP = 1.0
SMALLEST_SD = 1e-3


def moments(counts: Any, size: np.ndarray, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """First guesses from depth-corrected moments.

    Parameters
    ----------
    counts : csr of shape (cells, genes)
    size : ndarray of shape (cells,)
        Log size factors.
    kept : ndarray of shape (genes,) or None
        Share of the entries of each gene that are not held out.

    Returns
    -------
    a, log_alpha : ndarray of shape (genes,)
        ``ln((sum y + 1/2) / sum exp s)``, and the dispersion that explains the squares, within [-3, 6].
    """
    kept = np.ones(counts.shape[1]) if kept is None else kept
    factor = np.exp(size)
    mean = (gene_totals(counts) + 0.5) / (factor.sum() * kept)
    squared, weighted = gene_totals(counts, power=2), gene_totals(counts, factor)
    power = (factor**2).sum() * kept * mean**2
    excess = squared - 2 * mean * weighted + power - mean * factor.sum() * kept
    alpha = power / np.maximum(excess, 1e-6 * power)
    return np.log(mean), np.clip(np.log(alpha), -3.0, 6.0)


def newton_start(
    family: Family,
    likelihood: SplitLikelihood,
    size: np.ndarray,
    length: np.ndarray,
    a: np.ndarray,
    log_alpha: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A posterior in centred form near the optimum.

    Genes with their dispersions (which are orthogonal in the Fisher information), then cells, each by
    Newton's method for every one at once; means and sds of the axes from the effects and their variances.

    Parameters
    ----------
    family : Family
        Centred in every axis.
    size, length : ndarray of shape (cells,), (genes,)
        Offsets.
    a, log_alpha : ndarray
        First guesses; `log_alpha` of shape (genes,) or (1,).

    Returns
    -------
    loc, log_sd : ndarray
        The vector of the family.
    information : dict of str to ndarray
        What the data say about each effect of an axis.
    """
    a, log_alpha, b = a - length, log_alpha.copy(), np.zeros(family.n_cells)
    effects = np.zeros((family.design.shape[1], family.n_genes))
    sd = {"gene": max(np.std(a), 0.1), "cell": 0.3, "log_alpha": max(np.std(log_alpha), 0.3), "effect": 0.3}
    means = {"gene": float(np.mean(a)), "log_alpha": float(np.mean(log_alpha))}
    variance: dict[str, np.ndarray] = {}
    information: dict[str, np.ndarray] = {}
    for _ in range(SWEEPS):
        moved = []
        terms = _terms(family, likelihood, size, length, a, b, log_alpha, effects)
        information["gene"] = terms.c_information.sum(0)
        a, variance["gene"] = _step(a, terms.c.sum(0), terms.c_bend.sum(0), means["gene"], sd["gene"], moved)
        log_alpha, variance["log_alpha"], information["log_alpha"] = _dispersion_step(
            family, terms, log_alpha, means["log_alpha"], sd["log_alpha"], moved
        )
        if len(effects):
            gradient, bend = family.design.T @ terms.c, family.design.T @ terms.c_bend
            information["effect"] = (family.design.T @ terms.c_information).ravel()
            effects, variance["effect"] = _step(effects, gradient, bend, 0.0, sd["effect"], moved)
            sd["effect"] = _spread(effects, 0.0, variance["effect"])
        terms = _terms(family, likelihood, size, length, a, b, log_alpha, effects)
        information["cell"] = terms.t_information
        b, variance["cell"] = _step(b, terms.t, terms.t_bend, 0.0, sd["cell"], moved)
        a, b = a + b.mean(), b - b.mean()
        means["gene"] = float(a.mean())
        sd["gene"] = _spread(a, means["gene"], variance["gene"])
        sd["cell"] = _spread(b, 0.0, variance["cell"])
        if not family.shared:
            means["log_alpha"] = float(log_alpha.mean())
            sd["log_alpha"] = _spread(log_alpha, means["log_alpha"], variance["log_alpha"])
        if max(moved) < CLOSE:
            break
    values = {"gene": a, "cell": b, "log_alpha": log_alpha, "effect": effects.ravel()}
    return *_vector(family, values, variance, means, sd), information


def informed_forms(
    family: Family, loc: np.ndarray, log_sd: np.ndarray, information: dict[str, np.ndarray]
) -> dict[str, bool]:
    """``param: auto``: centred where the prior is wider than what one effect's data say of it.

    Half the effects of an axis know themselves better than their prior does where
    ``sigma > median I^(-1/2)``.
    """
    shared, _ = family.split(loc)
    return {
        name: bool(np.exp(log_scale) * np.sqrt(np.median(np.maximum(information[name], 1e-12))) > 1)
        for name, (_, log_scale) in family.centres(shared).items()
        if name in family.axes
    }


def information_at(
    family: Family, likelihood: SplitLikelihood, size: np.ndarray, length: np.ndarray, loc: np.ndarray
) -> dict[str, np.ndarray]:
    """What the data say about each effect of every axis, at the posterior's means."""
    a, b, log_alpha, effects = family.unfolded(loc)
    terms = _terms(family, likelihood, size, length, a, b, log_alpha, effects)
    found = {"gene": terms.c_information.sum(0), "cell": terms.t_information}
    found["log_alpha"] = _dispersion_information(family, terms)
    found["effect"] = (family.design.T @ terms.c_information).ravel()
    return found


def _terms(family, likelihood, size, length, a, b, log_alpha, effects):
    c = family.gene_sides(a, log_alpha, effects, length)
    return likelihood.evaluate(b + size, c, log_alpha, value=False, bend=True)


def _step(x, gradient, bend, mean, sd, moved):
    """One Newton step of every effect under its prior, and the variances."""
    precision = -bend + 1 / sd**2
    step = np.clip((gradient - (x - mean) / sd**2) / precision, -LARGEST_STEP, LARGEST_STEP)
    moved.append(float(np.mean(np.abs(step) * np.sqrt(precision))))
    return x + step, 1 / precision


def _dispersion_step(family, terms, log_alpha, mean, sd, moved):
    gradient = terms.log_alpha - _as_dispersions(family, terms.c.sum(0))
    information = _dispersion_information(family, terms)
    prior = 0.0 if family.shared else 1 / sd**2
    x, variance = _step(log_alpha, gradient, -(information + prior), mean, np.inf, moved)
    if prior:
        x -= np.clip((log_alpha - mean) * prior / (information + prior), -LARGEST_STEP, LARGEST_STEP)
    return np.clip(x, -6.0, 12.0), variance, information


def _dispersion_information(family: Family, terms: Terms) -> np.ndarray:
    """Minus the second derivative in ln alpha with the means held."""
    by_gene = terms.c_bend.sum(0) + 2 * terms.c_information.sum(0)
    return np.maximum(
        -(terms.log_alpha_bend + _as_dispersions(family, by_gene)), 1e-3
    )  # not concave everywhere


def _as_dispersions(family: Family, by_gene: np.ndarray) -> np.ndarray:
    return by_gene.sum(keepdims=True) if family.shared else by_gene


def _spread(x: np.ndarray, mean: float, variance: np.ndarray) -> float:
    return max(float(np.sqrt(np.mean((x - mean) ** 2 + variance))), SMALLEST_SD)


def _vector(family: Family, values, variance, means, sd) -> tuple[np.ndarray, np.ndarray]:
    loc, log_sd = np.zeros(family.size), np.zeros(family.size)
    for name, place in family.places.items():
        loc[place], log_sd[place] = values[name], 0.5 * np.log(variance[name].ravel())
    shift = 0.0
    if family.priors.cell_mean_sd is not None:
        # only the sum of the two means is known: their priors share it out
        ours, theirs = family.priors.cell_mean_sd**2, family.priors.gene_mean_sd**2
        shift = (means["gene"] - family.priors.gene_mean) * ours / (ours + theirs)
        loc[family.places["gene"]] -= shift
        loc[family.places["cell"]] += shift
    for k, name in enumerate(family.globals):
        axis = name.removeprefix("log_sigma_").removeprefix("mu_")
        if name == "log_alpha":
            loc[k], log_sd[k] = values["log_alpha"][0], 0.5 * np.log(variance["log_alpha"][0])
        elif name.startswith("log_sigma_"):
            loc[k], log_sd[k] = np.log(sd[axis]), -0.5 * np.log(2 * family.axes[axis])
        else:
            loc[k] = {"gene": means["gene"] - shift, "cell": shift}.get(axis, means.get(axis, 0.0))
            log_sd[k] = np.log(sd[axis]) - 0.5 * np.log(family.axes[axis])
    return loc, log_sd
