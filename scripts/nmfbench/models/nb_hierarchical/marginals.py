"""Marginal posteriors of an axis by quadrature, where a normal for each number by itself is too narrow.

Where a cell or a gene says little of its effect, that effect and the sd of its axis move together, and a
posterior of independent normals has sds that are too small. Given mean and sd of the axis its effects are
nearly independent, each of one number x with a likelihood of its own:

    p(mu, sigma | y) ∝ p(mu, sigma) Π_u Z_u(mu, sigma),   Z_u = ∫ L_u(x) N(x | mu, sigma) dx

L_u is tabulated at Chebyshev points, Z_u and the moments of x are sums over 121 points, and (mu, sigma)
takes the points of a grid: integrated nested Laplace approximation (Rue, Martino & Chopin 2009,
doi:10.1111/j.1467-9868.2008.00700.x) of one axis. Of a cell, L_u is at the posterior means of all else. Of a
dispersion it is not, as the variance beyond Poisson would come out too small, like a variance without its
lost degrees of freedom: the gene's effect is integrated by Laplace's method, and the cells' are at their
means plus and minus their sds, which is the expected log-likelihood to third order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from nmfbench.models.held_out_entries import values_at
from nmfbench.models.nb_hierarchical.axis_grid import Mixture, Tables, integrate
from nmfbench.models.nb_hierarchical.family import BOUND_SD, LOG_ALPHA_BOUNDS, Priors
from nmfbench.models.nb_hierarchical.means import Means, density
from nmfbench.models.nb_hierarchical.posterior import Posterior

log = logging.getLogger(__name__)

POINTS = 41
POISSON = 9.0
"""Log dispersion beyond which a likelihood no longer changes."""
TABLE = 321
NEWTON_STEPS = 2
WIDE, WIDEST = 8.0, 2.0
"""A cell's effect is tabulated over so many of its sds on either side, of at most `WIDEST` each."""
MOST_UNITS = 100_000


def refined_axes(marginals: str, family: Any) -> list[str]:
    """Which axes the setting asks for: the non-centred ones (``auto``), all there can be, or none."""
    can = [name for name in ("cell", "log_alpha") if name in family.axes]
    if marginals == "mean_field":
        return []
    if marginals == "auto":
        can = [name for name in can if not family.forms[name]]
    for name in [name for name in can if family.axes[name] > MOST_UNITS]:
        log.warning(
            "marginals: %d numbers of axis %s are too many for quadrature: their sds are the mean field's",
            family.axes[name], name,
        )  # fmt: skip
        can.remove(name)
    return can


def marginals(problem: Any, ready: Any, posterior: Posterior, axes: list[str]) -> dict[str, Mixture]:
    """The posteriors of some axes.

    Parameters
    ----------
    problem : Problem
        Family, likelihood and offsets.
    ready : Prepared
        The counts of the fit.
    posterior : Posterior
        The mean field's.
    axes : list of str
        Of :func:`refined_axes`.
    """
    around = _Around.of(problem, ready, posterior)
    priors, found = problem.family.priors, {}
    if "cell" in axes:
        tables = around.of_cells()
        found["cell"] = integrate(tables, priors.cell_mean_sd, priors.cell_sd)
        around.cell_sd = np.sqrt(found["cell"].variance_of_centred())
    if "log_alpha" in axes:
        found["log_alpha"] = integrate(around.of_dispersions(), *_of_dispersions(priors))
    return found


def _of_dispersions(priors: Priors) -> tuple[float, float]:
    return priors.log_alpha_mean_sd, priors.log_alpha_sd


@dataclass
class _Around:
    """Everything that the likelihood of one number takes for given."""

    problem: Any
    ready: Any
    a: np.ndarray
    b: np.ndarray
    log_alpha: np.ndarray
    effects: np.ndarray
    cell_sd: np.ndarray
    gene_centre: tuple[float, float]
    held: tuple[np.ndarray, np.ndarray] | None

    @classmethod
    def of(cls, problem: Any, ready: Any, posterior: Posterior) -> _Around:
        found, shared = posterior.effects(), posterior.globals()
        held = None if ready.mask is None else values_at(ready.whole, ready.mask)[:2]
        return cls(
            problem, ready, found.gene[0], found.cell[0],
            np.broadcast_to(found.log_alpha[0], problem.family.n_genes).copy(), found.effect[0],
            found.cell_centred[1],
            (shared["mu_gene"][0], shared["sigma_gene"][0]), held,
        )  # fmt: skip

    def of_cells(self) -> Tables:
        """Likelihoods of the cells' effects."""
        size = self.problem.size.numpy()
        terms = self._terms(self.a, self.log_alpha)
        wide = WIDE * np.minimum(1 / np.sqrt(np.maximum(terms.t_information, 1e-12)), WIDEST)
        points = _points((self.b - wide).min(), (self.b + wide).max())
        values = [self._density(x + size, self.a, self.log_alpha)[1] for x in points]
        return Tables.of(*_fine(points, np.array(values)))

    def of_dispersions(self) -> Tables:
        """Likelihoods of the genes' log dispersions, the genes' effects integrated."""
        t = self.b + self.problem.size.numpy()
        mean, sd = self.gene_centre
        points, values, a = _points(LOG_ALPHA_BOUNDS[0] - 2 * BOUND_SD, POISSON), [], self.a
        for x in points:
            log_alpha = np.full(len(a), x)
            for _ in range(NEWTON_STEPS):
                precision, slope = self._gene_curvature(a, log_alpha)
                a = a + np.clip(slope / precision, -1.0, 1.0)
            precision, _ = self._gene_curvature(a, log_alpha)
            value = 0.5 * sum(self._density(t + s * self.cell_sd, a, log_alpha)[0] for s in (1.0, -1.0))
            values.append(value - 0.5 * ((a - mean) / sd) ** 2 - 0.5 * np.log(precision))
        grid, table = _fine(points, np.array(values), LOG_ALPHA_BOUNDS[1] + 2 * BOUND_SD)
        low, high = LOG_ALPHA_BOUNDS
        beyond = np.maximum(grid - high, 0) + np.maximum(low - grid, 0)
        return Tables.of(grid, table - 0.5 * (beyond / BOUND_SD)[:, None] ** 2)

    def _gene_curvature(self, a: np.ndarray, log_alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        terms = self._terms(a, log_alpha)
        mean, sd = self.gene_centre
        precision = np.maximum(-terms.c_bend.sum(0), 0) + 1 / sd**2
        return precision, terms.c.sum(0) - (a - mean) / sd**2

    def _terms(self, a: np.ndarray, log_alpha: np.ndarray) -> Any:
        t = self.b + self.problem.size.numpy()
        given = log_alpha[:1] if self.problem.family.shared else log_alpha
        return self.problem.likelihood.evaluate(t, self._sides(a, log_alpha), given, value=False, bend=True)

    def _density(self, t: np.ndarray, a: np.ndarray, log_alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density of what is fitted, by gene and by cell."""
        means = Means(t, self._sides(a, log_alpha), log_alpha, self.ready.group[self.ready.cells])
        found = density(means, self.ready.train)
        by_gene, by_cell = found.gene_zero + found.gene_nonzero, found.cell
        if self.held is not None:  # in these sums they are zeros that were seen
            rows, genes = self.held
            zeros = means.log_density(np.zeros(len(rows)), rows, genes)
            by_gene = by_gene - np.bincount(genes, weights=zeros, minlength=len(by_gene))
            by_cell = by_cell - np.bincount(rows, weights=zeros, minlength=len(by_cell))
        return by_gene, by_cell

    def _sides(self, a: np.ndarray, log_alpha: np.ndarray) -> np.ndarray:
        return self.problem.family.gene_sides(a, log_alpha, self.effects, self.problem.length.numpy())


def _points(low: float, high: float) -> np.ndarray:
    """Chebyshev points, descending."""
    return 0.5 * (low + high) + 0.5 * (high - low) * np.cos(np.pi * np.arange(POINTS) / (POINTS - 1))


def _fine(points: np.ndarray, values: np.ndarray, end: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Values at an even grid by the polynomial through the points; from the last one to `end` as there."""
    low, high = points[-1], points[0]
    grid = np.linspace(low, high if end is None else end, TABLE)
    scaled = np.clip((2 * grid - low - high) / (high - low), -1.0, 1.0)
    at_points = (2 * points - low - high) / (high - low)
    coefficients = np.linalg.solve(chebyshev.chebvander(at_points, POINTS - 1), values)
    return grid, chebyshev.chebvander(scaled, POINTS - 1) @ coefficients
