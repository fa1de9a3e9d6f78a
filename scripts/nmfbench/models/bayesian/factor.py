"""One factor (P or A) under the posterior: gamma variables, with constant patterns before them."""

from __future__ import annotations

import torch

from nmfbench.models.bayesian.posterior import Marginals
from nmfbench.models.bayesian.prior import GammaPrior, Sums

BLOCK_ROWS = 4096


class GammaFactor:
    """Independent Gamma(shape, rate) variables, n x k, right of constant patterns.

    Parameters
    ----------
    start : Tensor of shape (n, k)
        Where the learnt patterns begin.
    fixed : Tensor of shape (n, f) or None
        Constant patterns.
    prior : GammaPrior

    Attributes
    ----------
    shape : Tensor of shape (n, k)
    rate : Tensor of shape (n, k) or (1, k)
    mean, tilde : Tensor of shape (n, f + k)
        ``E x`` and ``exp(E ln x)``; both are x where it is constant.
    """

    def __init__(self, start: torch.Tensor, fixed: torch.Tensor | None, prior: GammaPrior) -> None:
        self.prior = prior
        self.n_fixed = 0 if fixed is None else fixed.shape[1]
        first = start if fixed is None else torch.cat([fixed, start], dim=1)
        self.mean, self.tilde = first.clone(), first.clone()
        # A vague posterior about the start, until the first update.
        self.shape = torch.ones_like(start)
        self.rate = 1 / start.clamp(min=1e-30)
        self.sums = self._summed()

    def posterior(self, statistics, cost, load, tilde) -> tuple[torch.Tensor, torch.Tensor]:
        """Shape and rate that maximise the ELBO given the other factor.

        Parameters
        ----------
        statistics : Tensor of shape (rows, f + k)
            The walk's ``S(w) tilde`` of the other factor.
        cost : Tensor of shape (rows, 1) or (1, 1)
            This side's part of c.
        load : Tensor of shape (f + k,)
            Sum of the other factor's means times its part of c.
        tilde : Tensor of shape (rows, f + k)
            This factor's own, with which the statistics were made.
        """
        f = self.n_fixed
        like = statistics
        shape = self.prior.shape.to(like) + tilde[:, f:] * statistics[:, f:]
        rate = self.prior.rate.to(like) + cost.to(like) * load[f:].to(like)
        return shape, rate

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
        total = {name: torch.zeros(k, dtype=torch.float64) for name in ("mean", "log")}
        entropy = 0.0
        for start in range(0, n, BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            shape = precise(self.shape[part])
            rate = precise(self.rate if len(self.rate) == 1 else self.rate[part])
            psi, log_rate = torch.digamma(shape), rate.log()
            self.mean[part, self.n_fixed :] = shape / rate
            self.tilde[part, self.n_fixed :] = (psi - log_rate).exp()
            entropies = shape - log_rate + torch.lgamma(shape) + (1 - shape) * psi
            total["mean"] += (shape / rate).sum(0).double().cpu()
            total["log"] += (psi - log_rate).sum(0).double().cpu()
            entropy += float(entropies.sum().double() if entropies.device.type != "mps" else entropies.sum())
        return Sums(n, total["mean"], total["log"], entropy)

    def marginals(self) -> Marginals:
        """The posterior, not copied."""
        return Marginals(
            "gamma", self.shape, self.rate, self.mean[:, : self.n_fixed] if self.n_fixed else None
        )

    def divergence(self) -> float:
        """KL divergence of the posterior from the prior."""
        return self.prior.divergence(self.sums)


def precise(x: torch.Tensor) -> torch.Tensor:
    """Double precision, where the device has it."""
    return x if x.device.type == "mps" else x.double()
