"""Gamma priors whose few numbers are set in closed form from the posterior (empirical Bayes)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LARGEST_RATE = 1e8
"""A pattern that nothing uses has a rate that grows without end."""

SMALLEST_SHAPE, LARGEST_SHAPE = 1e-3, 1e4


@dataclass(frozen=True)
class Sums:
    """What a prior needs to know of a posterior of n x k entries, in double precision on the CPU.

    Attributes
    ----------
    n : int
        Rows.
    mean, log : Tensor of shape (k,)
        Sums over the rows of E x and of E ln x.
    entropy : float
        Entropy of all entries.
    """

    n: int
    mean: torch.Tensor
    log: torch.Tensor
    entropy: float


class GammaPrior:
    """Gamma(shape, rate) for each pattern; the exponential prior is that of shape 1.

    Parameters
    ----------
    k : int
        Patterns.
    shape : float
        The shape, or its start.
    learn_shape, learn_rate : {"fixed", "matrix", "pattern"}
        Whether a shape (rate) is kept, learnt for all patterns together, or for each: automatic relevance
        determination.
    rate : float
        The rate, or its start.
    """

    def __init__(self, k: int, shape: float, rate: float, learn_shape: str, learn_rate: str) -> None:
        self.shape = torch.full((k,), float(shape), dtype=torch.float64)
        self.rate = torch.full((k,), float(rate), dtype=torch.float64)
        self.learn_shape, self.learn_rate = learn_shape, learn_rate

    def update(self, sums: Sums) -> None:
        """Set what is learnt to its optimum given the posterior; the ELBO does not fall.

        The rate is ``shape n / Σ E x``; the shape solves ``psi(shape) = ln rate + mean of E ln x``.
        """
        if not len(self.shape):
            return
        if self.learn_rate != "fixed":
            expected, mean = self.shape * sums.n, sums.mean
            if self.learn_rate == "matrix":
                expected, mean = expected.sum().expand_as(expected), mean.sum().expand_as(mean)
            # Within bounds it is the best rate there too: the ELBO is concave in it.
            self.rate = (expected / mean.clamp(min=1e-300)).clamp(1 / LARGEST_RATE, LARGEST_RATE)
        if self.learn_shape != "fixed":
            target = self.rate.log() + sums.log / sums.n
            if self.learn_shape == "matrix":
                target = target.mean().expand_as(target)
            self.shape = inverse_digamma(target).clamp(SMALLEST_SHAPE, LARGEST_SHAPE)

    def divergence(self, sums: Sums) -> float:
        """KL divergence of the posterior from this prior."""
        a, b = self.shape, self.rate
        log_prior = sums.n * (a * b.log() - torch.lgamma(a)) + (a - 1) * sums.log - b * sums.mean
        return -float(log_prior.sum()) - sums.entropy


def inverse_digamma(y: torch.Tensor) -> torch.Tensor:
    """x > 0 of ``psi(x) = y``, by Newton's method from Minka's start (2000, Estimating a Dirichlet)."""
    x = torch.where(y >= -2.22, y.exp() + 0.5, -1 / (y - torch.digamma(torch.ones_like(y))))
    for _ in range(6):
        x = (x - (torch.digamma(x) - y) / torch.polygamma(1, x)).clamp(min=1e-10)
    return x
