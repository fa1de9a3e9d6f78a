"""The hierarchical negative binomial model written densely, and counts simulated from it."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from torch import distributions as dist


def simulate(n=300, p=100, seed=0, *, spread=0.4, shared=False):
    """Counts and the effects behind them: (csr, a, b, log_alpha)."""
    rng = np.random.default_rng(seed)
    a = rng.normal(-0.3, 1.2, p)
    b = rng.normal(0.0, spread, n)
    log_alpha = np.full(p, 0.6) if shared else rng.normal(0.6, 0.7, p)
    mu, alpha = np.exp(a + b[:, None]), np.exp(log_alpha)
    Y = rng.poisson(rng.gamma(np.broadcast_to(alpha, mu.shape)) * mu / alpha)
    Y[:, 0] = np.maximum(Y[:, 0], rng.random(n) < 0.5)  # no empty cell
    Y[Y.sum(1) == 0, 1] = 1
    return sp.csr_matrix(Y.astype(np.float32)), a, b, log_alpha


def log_density(Y, t, c, log_alpha, group, mask=None):
    """Sum over all entries that are not held out; tensors of float64, differentiable."""
    y = torch.from_numpy(np.asarray(Y, dtype=np.float64))
    eta = t[:, None] + c[torch.from_numpy(group)]
    alpha = torch.exp(log_alpha)
    softplus = torch.nn.functional.softplus(eta, threshold=60)
    value = (
        torch.lgamma(y + alpha) - torch.lgamma(alpha) - torch.lgamma(y + 1) + y * eta - (y + alpha) * softplus
    )
    return value.sum() if mask is None else value[torch.from_numpy(~mask)].sum()


def elbo_draw(family, loc, log_sd, noise, Y, size, length):
    """One draw's ELBO as a textbook has it: every prior an object, every axis's KL in closed form."""
    p = family.priors
    q = dist.Normal(loc, log_sd.exp())
    x = loc + log_sd.exp() * noise
    shared = {name: x[k] for k, name in enumerate(family.globals)}

    def half_normal(log_value, scale):
        return dist.HalfNormal(scale).log_prob(log_value.exp()) + log_value

    total = dist.Normal(p.gene_mean, p.gene_mean_sd).log_prob(shared["mu_gene"])
    total = total + half_normal(shared["log_sigma_gene"], p.gene_sd)
    total = total + half_normal(shared["log_sigma_cell"], p.cell_sd)
    if "mu_cell" in shared:
        total = total + dist.Normal(0.0, p.cell_mean_sd).log_prob(shared["mu_cell"])
    if family.shared:
        total = (
            total + dist.HalfCauchy(p.alpha_scale).log_prob(shared["log_alpha"].exp()) + shared["log_alpha"]
        )
    else:
        total = total + dist.Normal(0.0, p.log_alpha_mean_sd).log_prob(shared["mu_log_alpha"])
        total = total + half_normal(shared["log_sigma_log_alpha"], p.log_alpha_sd)
    n_globals = len(shared)
    total = total + dist.Normal(loc[:n_globals], log_sd[:n_globals].exp()).entropy().sum()
    values = {}
    for axis, place in family.places.items():
        mean, sd = shared.get(f"mu_{axis}", torch.tensor(0.0)), shared[f"log_sigma_{axis}"].exp()
        mine = dist.Normal(loc[place], log_sd[place].exp())
        prior = dist.Normal(mean, sd) if family.forms[axis] else dist.Normal(0.0, 1.0)
        total = total - dist.kl_divergence(mine, prior.expand(mine.batch_shape)).sum()
        values[axis] = x[place] if family.forms[axis] else mean + sd * x[place]
    log_alpha = shared["log_alpha"] if family.shared else values["log_alpha"]
    log_mu = values["gene"] + values["cell"][:, None] + size[:, None] + length
    counts = dist.NegativeBinomial(log_alpha.exp(), logits=log_mu - log_alpha)
    assert q.batch_shape == x.shape
    return total + counts.log_prob(torch.from_numpy(np.asarray(Y, dtype=np.float64))).sum()


def pearson(Y, mu, alpha, clip):
    return np.clip((Y - mu) / np.sqrt(mu + mu**2 / alpha), -clip, clip)


def log_pmf(y, mu, alpha):
    """Log density of counts, by SciPy."""
    from scipy.stats import nbinom

    return nbinom.logpmf(y, alpha, alpha / (alpha + mu))


def conditional_log_pmf(y, y_train, mu, alpha, f):
    """ln p(y | y_train) of the two parts of a thinned negative binomial, by the joint over the margin."""
    from scipy.special import gammaln

    # p(y, y_train) = integral of Poisson(f r) Poisson((1 - f) r) over r ~ Gamma(alpha, alpha / mu)
    def joint(test, train):
        rate = alpha / mu
        return (
            gammaln(alpha + test + train) - gammaln(alpha) - gammaln(test + 1) - gammaln(train + 1)
            + alpha * np.log(rate / (rate + 1)) - (test + train) * np.log(rate + 1)
            + test * math.log(f) + train * math.log(1 - f)
        )  # fmt: skip

    margin = log_pmf(y_train, mu * (1 - f), alpha)
    return joint(y, y_train) - margin
