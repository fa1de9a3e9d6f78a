"""Losses by entry, as functions of the log mean: those that were published and that of sums.

`theta` is the size of the negative binomial of each entry; losses without one ignore it. Terms that do not
depend on the mean are left out of those that are minimised (theta is fixed), which also keeps float32 from
subtracting large log gammas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
MU_BOUNDS = (1e-10, 1e7)


def _mean(log_mu: Tensor) -> Tensor:
    return log_mu.exp().clamp(*MU_BOUNDS)


def mse(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """(mu - y)^2: a handful of genes decide it."""
    return (_mean(log_mu) - y) ** 2


def mse_log1p(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """(log1p mu - log1p y)^2."""
    return (torch.log1p(_mean(log_mu)) - torch.log1p(y)) ** 2


def mse_anscombe(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """Squared difference of Anscombe's root, 2 sqrt(x + 3/8)."""
    return 4 * ((_mean(log_mu) + 0.375).sqrt() - (y + 0.375).sqrt()) ** 2


def poisson(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """mu - y log(mu + 1e-8)."""
    mu = _mean(log_mu)
    return mu - y * (mu + 1e-8).log()


def poisson_deviance(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """2 [y log(y / mu) - (y - mu)]."""
    mu = _mean(log_mu)
    return 2 * (torch.xlogy(y, y) - y * mu.log() - y + mu)


def negative_binomial(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """Negative log-likelihood of NB(mu, theta) without the terms in y and theta alone.

    With eta = log mu - log theta: ``(y + theta) softplus(eta) - y eta``.
    """
    eta = log_mu.clamp(-23.0, 16.1) - theta.log()
    return (y + theta) * softplus(eta) - y * eta


def negative_binomial_deviance(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """2 [y log(y / mu) - (y + theta) log((y + theta) / (mu + theta))]."""
    mu = _mean(log_mu)
    ratio = torch.log1p((mu - y) / (y + theta))  # log((mu + theta) / (y + theta))
    return 2 * (torch.xlogy(y, y) - y * mu.log() + (y + theta) * ratio)


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "mse_log1p": mse_log1p,
    "mse_ans": mse_anscombe,
    "pois": poisson,
    "pois_dev": poisson_deviance,
    "nb": negative_binomial,
    "nb_dev": negative_binomial_deviance,
    "nb_sums": negative_binomial,
}
"""By the published names; ``nb_sums`` is given sums, their offsets and theta times S^2 / sum s^2."""


def log_likelihood(log_mu: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """The whole log-likelihood of NB(mu, theta), for reports; to be given float64."""
    constant = torch.lgamma(y + theta) - torch.lgamma(theta) - torch.lgamma(y + 1)
    return constant - negative_binomial(log_mu, y, theta)
