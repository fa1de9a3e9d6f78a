"""Marginals by quadrature: against brute force on a dense grid, and what a fit says by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import nbinom, norm

from nmfbench.models import NBHierarchical
from nmfbench.models.nb_hierarchical.axis_grid import Mixture, Tables, _densest, integrate
from nmfbench.models.nb_hierarchical.family import Family, Priors
from nmfbench.models.nb_hierarchical.finish import finish_shared
from nmfbench.models.nb_hierarchical.marginals import refined_axes
from nmfbench.models.nb_hierarchical.pareto import LARGEST_GOOD_K, pareto_k
from nmfbench.models.nb_hierarchical.posterior import Posterior

RNG = np.random.default_rng(0)


def skewed(grid, places, sds):
    """Log-likelihoods that are flat to the right, as those of log dispersions are."""
    x = (grid[:, None] - places) / sds
    return -np.logaddexp(0, -2 * x)


def brute_force(likelihood, mean_sd, scale):
    """Moments on a grid of (mean, ln sd) by sums over x: slow, and nothing is assumed of a shape."""
    x = np.linspace(-12, 12, 2401)
    values, total, moments = np.exp(likelihood(x)), [], []
    for mean in np.linspace(-4, 8, 33) if mean_sd else [0.0]:
        for log_sd in np.linspace(-4, 2.5, 53):
            sd = np.exp(log_sd)
            weights = norm.pdf(x, mean, sd)[:, None] * values * (x[1] - x[0])
            z = weights.sum(0)
            prior = norm.logpdf(mean, 0, mean_sd) if mean_sd else 0.0
            prior += norm.logpdf(sd, 0, scale) + log_sd
            total.append(np.log(z).sum() + prior)
            first = (x @ weights) / z
            moments.append((first, (x**2 @ weights) / z - first**2, mean, sd))
    w = np.exp(np.array(total) - max(total))
    w /= w.sum()
    first, variance, means, sds = (np.array(part) for part in zip(*moments, strict=True))
    mean = w @ first
    return mean, np.sqrt(w @ (variance + (first - mean) ** 2)), w @ means, w @ sds


@pytest.mark.parametrize("mean_sd", [1.5, None])
def test_an_axis_by_quadrature_is_that_of_brute_force(mean_sd):
    places, sds = RNG.normal(0.3, 0.8, 9), np.full(9, 0.7)
    grid = np.linspace(-12, 12, 321)
    found = integrate(Tables.of(grid, skewed(grid, places, sds)), mean_sd, 1.0)
    mean, sd, axis_mean, axis_sd = brute_force(lambda x: skewed(x, places, sds), mean_sd, 1.0)
    np.testing.assert_allclose(found.moments()[0], mean, atol=0.02)
    np.testing.assert_allclose(found.moments()[1], sd, rtol=0.02)
    shared = found.shared("cell")
    assert shared["sigma_cell"][0] == pytest.approx(axis_sd, rel=0.03)
    assert ("mu_cell" in shared) == (mean_sd is not None)
    if mean_sd is not None:
        assert shared["mu_cell"][0] == pytest.approx(axis_mean, abs=0.03)


def test_sharp_likelihoods_are_the_normals_that_they_are():
    """A number whose data are far sharper than its prior, beside one without data: both in closed form."""
    grid = np.linspace(-6, 6, 321)
    values = np.stack([-0.5 * ((grid - 1.03) / 0.05) ** 2, np.zeros_like(grid)], axis=1)
    log_z, first, variance = Tables.of(grid, values).moments(0.2, 0.9)
    assert first[0] == pytest.approx((1.03 * 0.81 + 0.2 * 0.0025) / 0.8125, abs=1e-4)
    assert variance[0] == pytest.approx(0.0025 * 0.81 / 0.8125, rel=1e-3)
    assert log_z[0] == pytest.approx(norm.logpdf(1.03, 0.2, 0.8125**0.5) - norm.logpdf(0, 0, 0.05), abs=1e-3)
    assert (log_z[1], first[1], variance[1]) == pytest.approx((0.0, 0.2, 0.81), abs=1e-6)


def test_moments_of_a_mixture_are_those_of_its_draws():
    weights = np.array([0.3, 0.7])
    mixture = Mixture(weights, np.array([0.0, 1.0]), np.log([0.2, 0.5]), RNG.normal(size=(2, 4)),
                      RNG.gamma(2.0, 0.2, (2, 4)), True)  # fmt: skip
    drawn = [mixture.draw("cell", RNG.random(), RNG.standard_normal(4)) for _ in range(20_000)]
    x = np.array([own for own, _ in drawn])
    for ours, theirs in (
        (mixture.moments(), (x.mean(0), x.std(0))),
        ((mixture.centred()[0], np.sqrt(mixture.centred()[1])), _centred(x)),
        (mixture.of_mean(), (x.mean(1).mean(), x.mean(1).var())),
    ):
        np.testing.assert_allclose(ours[0], theirs[0], atol=0.02)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=0.05)
    sigma = np.array([shared["sigma_cell"] for _, shared in drawn])
    assert mixture.shared("cell")["sigma_cell"][:2] == pytest.approx((sigma.mean(), sigma.std()), rel=0.02)


def test_intervals_of_a_mixture_hold_their_share_of_its_draws():
    mixture = Mixture(np.array([0.4, 0.6]), np.zeros(2), np.zeros(2), np.array([[0.0, 1.0], [3.0, 1.0]]),
                      np.array([[1.0, 4.0], [0.25, 4.0]]), True)  # fmt: skip
    low, high = mixture.intervals()
    x = np.array([mixture.draw("cell", RNG.random(), RNG.standard_normal(2))[0] for _ in range(20_000)])
    np.testing.assert_allclose(((x > low) & (x < high)).mean(0), 0.94, atol=0.02)
    np.testing.assert_allclose([low[1], high[1]], 1.0 + 2.0 * norm.ppf(0.97) * np.array([-1, 1]), atol=0.2)


def _centred(x):
    away = x - x.mean(1, keepdims=True)
    return away.mean(0), away.std(0)


def test_intervals_hold_their_share_and_are_the_shortest():
    x = np.linspace(-5, 9, 4001)
    weights = norm.pdf(x, 1.0, 0.7)
    low, high = _densest(x, weights / weights.sum())
    assert high - low == pytest.approx(2 * 0.7 * norm.ppf(0.97), abs=0.01)
    assert norm.cdf(high, 1.0, 0.7) - norm.cdf(low, 1.0, 0.7) == pytest.approx(0.94, abs=0.003)


@pytest.fixture(scope="module")
def few_counts():
    rng = np.random.default_rng(1)
    a, alpha = rng.normal(-0.7, 1.0, 14), np.exp(rng.normal(0.5, 0.7, 14))
    mu = np.exp(a) * np.ones((60, 1))
    X = rng.poisson(rng.gamma(alpha, mu / alpha)).astype(np.float64)
    X[X.sum(1) == 0, 0] = 1
    return sp.csr_matrix(X)


@pytest.fixture(scope="module")
def fitted(few_counts):
    return NBHierarchical(2, random_state=0, draws=0, offset="none", max_iter=60).fit(few_counts)


def test_a_fit_says_dispersions_by_quadrature_where_they_tell_little(fitted):
    posterior, family = fitted.posterior_, fitted.posterior_.family
    assert not family.forms["log_alpha"]
    assert list(posterior.refined) == refined_axes("auto", family) == ["cell", "log_alpha"]
    assert fitted.said_()["refined"] == "cell, log_alpha"
    plain, effects = Posterior(family, posterior.loc, posterior.log_sd), posterior.effects()
    np.testing.assert_allclose(effects.gene_total[0], plain.effects().gene_total[0], atol=5e-3)
    np.testing.assert_array_equal(fitted.log_alpha_sd_, effects.log_alpha[1])
    assert np.median(effects.log_alpha[1] / plain.effects().log_alpha[1]) > 1.03
    draws = list(posterior.draws(400, 0))
    for name, (mean, sd) in (("log_alpha", effects.log_alpha), ("cell", effects.cell)):
        x = np.concatenate([block[name] for block in draws])
        np.testing.assert_allclose(x.mean(0), mean, atol=5 * sd.max() / 20)
        np.testing.assert_allclose(np.median(x.std(0) / sd), 1.0, atol=0.1)
    sigma = np.concatenate([block["sigma_log_alpha"] for block in draws])
    assert sigma.mean() == pytest.approx(posterior.globals()["sigma_log_alpha"][0], rel=0.1)


def test_which_axes_are_refined(caplog):
    family, *_ = centred_family()
    assert refined_axes("auto", family) == []
    assert refined_axes("quadrature", family) == ["cell", "log_alpha"]
    free = replace(family, forms=family.forms | {"cell": False})
    assert refined_axes("auto", free) == ["cell"]
    assert refined_axes("mean_field", free) == []
    assert refined_axes("quadrature", replace(free, shared=True)) == ["cell"]
    assert refined_axes("auto", replace(free, n_cells=100_001)) == []
    assert "too many for quadrature" in caplog.text


def test_a_dispersion_by_quadrature_is_that_of_its_density(few_counts, fitted):
    """One gene given everything else: its density at a grid, the gene's effect summed over one too."""
    fit = fitted
    plain = Posterior(fit.posterior_.family, fit.posterior_.loc, fit.posterior_.log_sd)
    b, spread = fit.posterior_.effects().cell[0], fit.posterior_.effects().cell_centred[1]
    gene, mixture = 2, fit.posterior_.refined["log_alpha"]
    y = few_counts.toarray()[:, gene]
    x, a = np.linspace(-5, 9, 71), np.linspace(-4, 2, 41)
    mean, sd = (plain.globals()[name][0] for name in ("mu_gene", "sigma_gene"))
    value = np.empty((len(x), len(a)))
    for k, log_alpha in enumerate(x):
        size = np.exp(log_alpha)
        for j, effect in enumerate(a):
            parts = []
            for sign in (1.0, -1.0):
                mu = np.exp(effect + b + sign * spread)
                parts.append(nbinom.logpmf(y, size, size / (size + mu)).sum())
            value[k, j] = np.mean(parts) + norm.logpdf(effect, mean, sd)
    density = np.exp(value - value.max()).sum(1)
    point = int(mixture.weights.argmax())
    posterior = density * norm.pdf(x, mixture.means[point], np.exp(mixture.log_sds[point]))
    posterior /= posterior.sum()
    first = posterior @ x
    sd = (posterior @ (x - first) ** 2) ** 0.5
    assert mixture.first[point, gene] == pytest.approx(first, abs=0.06)
    assert mixture.variance[point, gene] ** 0.5 == pytest.approx(sd, rel=0.05)


def test_without_information_an_axis_is_its_prior():
    flat = Tables.of(np.linspace(-12, 12, 321), np.zeros((321, 5)))
    shared = integrate(flat, 1.5, 1.0).shared("log_alpha")
    assert shared["sigma_log_alpha"][:2] == pytest.approx(
        ((2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5), rel=0.02
    )
    assert shared["mu_log_alpha"][:2] == pytest.approx((0.0, 1.5), abs=0.03)


def centred_family():
    family = Family(30, 20, False, Priors())
    rng = np.random.default_rng(3)
    loc, log_sd = rng.normal(0, 0.5, family.size), rng.normal(-1.5, 0.3, family.size)
    return family, loc, log_sd


def expected_elbo(family, loc, log_sd):
    """Prior and entropy, expected over all shared numbers by Gauss-Hermite sums: slow."""
    x, w = np.polynomial.hermite_e.hermegauss(7)
    total, at = 0.0, torch.from_numpy(loc)
    for axis in ("gene", "cell", "log_alpha"):  # each by its own two numbers; the others at their means
        names = [name for name in (f"mu_{axis}", f"log_sigma_{axis}") if name in family.globals]
        places = [family.globals.index(name) for name in names]
        for node in np.ndindex(*[len(x)] * len(places)):
            point = loc.copy()
            for place, k in zip(places, node, strict=True):
                point[place] += np.exp(log_sd[place]) * x[k]
            weight = np.prod([w[k] for k in node]) / (2 * np.pi) ** (len(node) / 2)
            total += weight * float(family.log_prior(at, torch.from_numpy(log_sd), torch.from_numpy(point)))
    middle = float(family.log_prior(at, torch.from_numpy(log_sd), at))
    return total - 2 * middle + float(family.entropy(torch.from_numpy(log_sd)))


def test_shared_numbers_end_at_the_optimum_of_the_elbo():
    family, loc, log_sd = centred_family()
    found = finish_shared(family, loc, log_sd)
    best = expected_elbo(family, *found)
    assert best > expected_elbo(family, loc, log_sd) + 1
    shared = range(len(family.globals))
    for part in (0, 1):
        np.testing.assert_array_equal(found[part][len(shared) :], (loc, log_sd)[part][len(shared) :])
        for k in shared:  # a step to either side of any of the numbers is none upwards
            for step in (0.05, -0.05):
                moved = [x.copy() for x in found]
                moved[part][k] += step * (np.exp(found[1][k]) if part == 0 else 1.0)
                assert expected_elbo(family, *moved) < best
    assert pareto_k(family, *found, 0) < LARGEST_GOOD_K
    free = replace(family, forms=dict.fromkeys(family.forms, False))
    np.testing.assert_array_equal(finish_shared(free, loc, log_sd)[0], loc)
