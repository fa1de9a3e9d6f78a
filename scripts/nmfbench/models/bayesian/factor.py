"""One factor (P or A) under the posterior: gamma variables, with constant patterns before them."""

from __future__ import annotations

import torch

from nmfbench.models.bayesian.posterior import Marginals, point
from nmfbench.models.bayesian.prior import GammaPrior, Sums
from nmfbench.models.bayesian.terms import precise

BLOCK_ROWS = 4096
ENTRIES_AT_ONCE = 2**24
"""Of a block of rows on a GPU, where many small blocks would each wait for the launch of a dozen kernels."""


class GammaFactor:
    """Independent Gamma(shape, rate) variables, n x k, right of constant patterns.

    Parameters
    ----------
    start : Tensor of shape (n, k)
        Where the learnt patterns begin.
    fixed : Tensor of shape (n, f) or None
        Constant patterns.
    prior : GammaPrior
    exposure : Tensor of shape (n, 1) or None
        Sizes s of the rows. The variables are then s x with x from the prior, so that a rate of the prior is
        one over s of theirs; `fixed` holds what is constant times s.

    Attributes
    ----------
    shape : Tensor of shape (n, k)
    rate : Tensor of shape (n, k) or (1, k)
    mean, tilde : Tensor of shape (n, f + k)
        ``E x`` and ``exp(E ln x)``; both are x where it is constant.
    """

    family = "gamma"

    def __init__(
        self,
        start: torch.Tensor,
        fixed: torch.Tensor | None,
        prior: GammaPrior,
        exposure: torch.Tensor | None = None,
    ) -> None:
        self.prior, self.exposure = prior, exposure
        self.n_fixed = 0 if fixed is None else fixed.shape[1]
        first = start if fixed is None else torch.cat([fixed, start], dim=1)
        self.mean, self.tilde = first.clone(), first.clone()
        # A vague posterior about the start, until the first update.
        self.shape = torch.ones_like(start)
        self.rate = 1 / start.clamp(min=1e-30)
        self.sums = self._summed()

    def posterior(self, statistics, cost, load, tilde, rows=slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """Shape and rate that maximise the ELBO given the other factor.

        Parameters
        ----------
        statistics : Tensor of shape (rows, f + k)
            The walk's ``S(w) tilde`` of the other factor.
        cost : Tensor of shape (rows, 1) or (1, 1)
            This side's part of c.
        load : Tensor of shape (f + k,) or (rows, f + k)
            Sum of the other factor's means times its part of c, over what is fitted of a row.
        tilde : Tensor of shape (rows, f + k)
            This factor's own, with which the statistics were made.
        rows
            Which they are; by default all.
        """
        f = self.n_fixed
        like = statistics
        shape = self.prior.shape.to(like) + tilde[:, f:] * statistics[:, f:]
        own = self.prior.rate.to(like)
        if self.exposure is not None:
            own = own / self.exposure[rows].to(like)
        return shape, own + cost.to(like) * load[..., f:].to(like)

    def update(self, statistics, cost, load) -> None:
        """Move all rows to the optimum."""
        if self.shape.shape[1]:
            self.shape, self.rate = self.posterior(statistics, cost, load, self.tilde)
            self.refresh()

    def refresh(self) -> None:
        """Mean, tilde and sums of the present shape and rate."""
        self.sums = self._summed()

    def _summed(self) -> Sums:
        n, k = self.shape.shape
        place = _where_sums_lie(self.shape)
        mean_total, log_total = (torch.zeros(k, dtype=torch.float64, device=place) for _ in range(2))
        entropy = torch.zeros((), dtype=torch.float64, device=place)
        rows = _rows_at_once(self.shape)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            shape = precise(self.shape[part])
            rate = precise(self.rate if len(self.rate) == 1 else self.rate[part])
            mean, log, tilde, entropies = self._moments(shape, rate)
            self.mean[part, self.n_fixed :] = mean
            self.tilde[part, self.n_fixed :] = tilde
            if self.exposure is not None:  # the prior is that of x = (s x) / s
                size = precise(self.exposure[part])
                mean, log = mean / size, log - size.log()
                entropies = entropies - size.log() if self.family == "gamma" else entropies
            mean_total += mean.sum(0).to(place).double()
            log_total += log.sum(0).to(place).double()
            entropy += entropies.sum().to(place).double()
        return Sums(n, mean_total.cpu(), log_total.cpu(), float(entropy))

    def _moments(self, shape, rate) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """``E x``, ``E ln x``, ``exp(E ln x)`` and the entropy of each entry."""
        psi, log_rate = torch.digamma(shape), rate.log()
        entropies = shape - log_rate + torch.lgamma(shape) + (1 - shape) * psi
        return shape / rate, psi - log_rate, (psi - log_rate).exp(), entropies

    def marginals(self) -> Marginals:
        """The posterior, not copied."""
        return Marginals(
            self.family, self.shape, self.rate, self.mean[:, : self.n_fixed] if self.n_fixed else None
        )

    def divergence(self) -> float:
        """KL divergence of the posterior from the prior."""
        return self.prior.divergence(self.sums)


class PointFactor(GammaFactor):
    """The most probable values, in place of a posterior: each entry is ``shape / rate``.

    The update is the ascent's with the posterior's mode for its moments: the log-density of counts and
    factors never falls where the priors' shapes are at least 1 (their density has no pole at 0).
    """

    family = "point"

    def posterior(self, statistics, cost, load, tilde, rows=slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """Numerator and denominator of the values that raise the density given the other factor."""
        shape, rate = super().posterior(statistics, cost, load, tilde, rows)
        return (shape - 1).clamp(min=0), rate

    def _moments(self, shape, rate) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        value = point(shape, rate)
        return value, value.log(), value, torch.zeros_like(value)


def _rows_at_once(factor: torch.Tensor) -> int:
    """Rows of a block of the sums over a factor."""
    if factor.device.type == "cpu":
        return BLOCK_ROWS
    return max(BLOCK_ROWS, ENTRIES_AT_ONCE // max(1, factor.shape[1]))


def _where_sums_lie(factor: torch.Tensor) -> torch.device:
    """The factor's device, but on Metal the CPU: sums are added up in double precision."""
    return torch.device("cpu") if factor.device.type == "mps" else factor.device
