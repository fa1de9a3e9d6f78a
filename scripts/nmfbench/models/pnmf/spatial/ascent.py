"""Ascent of the lower bound with sparse processes: natural-gradient steps of q, no learning rate to choose.

With the counts c allocated to the factors, the bound of a factor is
``Σ_n (c_n mu_n - w_n e^(mu_n + v_n/2)) - KL``. With ``e_n = w_n e^(mu_n + v_n/2)``, ``g = c - e`` and A the
rows ``a_x`` of the cells, a sweep takes

    precision of q   Λ ← (1 - ρ) Λ + ρ (I + Aᵀ diag(e) A)
    mean of q        m ← m + ρ (I + Aᵀ diag(max(e, c)) A)⁻¹ (Aᵀ g - m)

and the multiplicative step of W. The first is the natural-gradient step (Salimbeni, Eleftheriadis & Hensman
2018, PMLR 84:689). In the second the larger of e and c, in place of e, bounds the step where a factor is far
too small; where the steps end, it is e again. ρ is halved while a step lowers the bound, and grows after one
that does not.
"""

from __future__ import annotations

import numpy as np
import torch

from nmfbench.models.pnmf.coordinate import LARGEST_EXPONENT, LatentState
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.likelihood import log_likelihood, multiplicative_step
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.spatial.svgp import SVGP
from nmfbench.models.pnmf.stages import Stage, Value, window_is_flat

_LARGEST_STEP, _SMALLEST_STEP = 1.0, 1e-3
_GROWTH = 1.5


class AscentStage(Stage):
    """Sweeps over q and W.

    Parameters
    ----------
    counts : Counts
    prior : SVGP
        With a fixed kernel and full T; holds q.
    W : Tensor of shape (d, k)
    scales : RateScales
    steps : int
    """

    def __init__(self, counts: Counts, prior: SVGP, W: torch.Tensor, scales: RateScales, steps: int) -> None:
        self.counts, self.prior, self.W, self.scales, self.steps = counts, prior, W, scales, steps
        self.rho = 0.5

    @torch.no_grad()
    def step(self, t: int) -> Value:
        prior = self.prior
        mu, sigma = prior.marginals()
        terms = log_likelihood(
            self.counts, mu, sigma, self.W, "lower-bound", scales=self.scales, latent=True, loadings="ratio"
        )
        value = Value(terms.value, float(prior.divergence()), "lower")
        rates = torch.exp((mu + sigma.square() / 2).clamp_(max=LARGEST_EXPONENT))
        rates *= self.scales.of_cells(self.scales.weights(self.W))
        before = prior.mean.clone(), prior.raw_diagonal.clone(), prior.lower.clone()
        targets = self._targets(terms.mu, rates)
        while True:
            self._move(before, targets)
            mu, sigma = prior.marginals()
            terms = log_likelihood(
                self.counts, mu, sigma, self.W, "lower-bound", scales=self.scales, loadings="ratio"
            )
            if terms.value - float(prior.divergence()) >= value.elbo or self.rho <= _SMALLEST_STEP:
                break
            self.rho /= 2
        self.rho = min(self.rho * _GROWTH, _LARGEST_STEP)
        self.W = multiplicative_step(self.W, terms)
        return value

    def is_done(self, values, tol, absolute) -> bool:
        return window_is_flat(values, tol, absolute)

    @torch.no_grad()
    def evaluate(self) -> Value:
        mu, sigma = self.prior.marginals()
        terms = log_likelihood(self.counts, mu, sigma, self.W, "lower-bound", scales=self.scales)
        return Value(terms.value, float(self.prior.divergence()), "lower")

    @torch.no_grad()
    def posterior(self) -> LatentState:
        mu, sigma = self.prior.marginals()
        return LatentState(mu, sigma.square(), self.W, torch.ones_like(mu[0]), self.scales)

    def state(self):
        arrays = {f"prior.{name}": p.detach().cpu().numpy() for name, p in self.prior.named_parameters()}
        return {**arrays, "W": self.W.cpu().numpy()}, {"rho": self.rho}

    @torch.no_grad()
    def load_state(self, arrays, record) -> None:
        for name, parameter in self.prior.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[f"prior.{name}"]))
        self.W = torch.from_numpy(np.array(arrays["W"])).to(self.W.device)
        self.rho = record["rho"]

    def _targets(self, slope: torch.Tensor, rates: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For every factor the step of m, and the precision that q's would go to, in double precision."""
        A = self.prior.of_cells().double()
        m = self.prior.mean.double()
        slope, rates = slope.double(), rates.double()
        eye = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        found = []
        for l in range(m.shape[1]):
            e = rates[:, l]
            bounded = torch.maximum(e, slope[:, l] + e)  # c = g + e
            newton = torch.linalg.cholesky(eye + A.T @ (bounded[:, None] * A))
            step = torch.cholesky_solve((A.T @ slope[:, l] - m[:, l])[:, None], newton)[:, 0]
            found.append((step, eye + A.T @ (e[:, None] * A)))
        return found

    def _move(self, before, targets) -> None:
        """q at the share ρ of the way from `before`."""
        prior = self.prior
        mean, raw_diagonal, lower = before
        prior.mean.copy_(mean)
        prior.raw_diagonal.copy_(raw_diagonal)
        prior.lower.copy_(lower)
        T = prior.triangle().double()
        for l, (step, precision) in enumerate(targets):
            prior.mean[:, l] += (self.rho * step).to(prior.dtype)
            blend = self.rho * precision
            if self.rho < 1:
                blend = blend + (1 - self.rho) * torch.cholesky_inverse(T[l])
            prior.set_precision(l, blend)
