"""Natural-gradient ascent with sparse processes, without a learning rate to choose.

The objective's derivatives in the marginals of the cells are ``g = d/d mu`` and ``c = -2 d/d sigma²`` (of the
lower bound the expected counts of the factor, ``e = w exp(mu + sigma²/2)``). With A, the rows ``a_x`` of the
cells, a sweep takes for every factor

    precision of q   Λ ← (1 - ρ) Λ + ρ (I + Aᵀ diag(max(c, 0)) A)
    mean of q        m ← m + ρ (I + Aᵀ diag(max(e, e + g)) A)⁻¹ (Aᵀ g - m)

and the multiplicative step of W. The first is the natural-gradient step (Salimbeni, Eleftheriadis & Hensman
2018, PMLR 84:689), which keeps the precision at least that of the prior. In the second the larger of expected
and allocated counts bounds the step where a factor is far too small. ρ is halved while a step lowers the
objective, and grows after one that does not. The evidence bound is compared on the draws of the step; their
noise is averaged out by a ρ that falls to nothing over the stage.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from nmfbench.models.pnmf.coordinate import LARGEST_EXPONENT, LatentState
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.draws import noise
from nmfbench.models.pnmf.likelihood import Terms, log_likelihood, multiplicative_step
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.spatial.svgp import SVGP
from nmfbench.models.pnmf.stages import Stage, Value, evaluate, window_is_flat

_LARGEST_STEP, _SMALLEST_STEP = 1.0, 1e-3
_GROWTH = 1.5
_DRAWS = 7  # stream of random numbers


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
    mode : {"lower-bound", "expanded", "simple"}
    n_draws, seed : int
        Draws of a step of the two Monte-Carlo modes, an even number.
    """

    def __init__(
        self,
        counts: Counts,
        prior: SVGP,
        W: torch.Tensor,
        scales: RateScales,
        steps: int,
        *,
        mode: str = "lower-bound",
        n_draws: int = 4,
        seed: int = 0,
    ) -> None:
        self.counts, self.prior, self.W, self.scales, self.steps = counts, prior, W, scales, steps
        self.mode, self.n_draws, self.seed = mode, n_draws, seed
        self.by_schedule = mode != "lower-bound"
        self.rho = 0.5

    @torch.no_grad()
    def step(self, t: int) -> Value:
        prior = self.prior
        terms, marginals = self._terms(t, latent=True)
        value = Value(terms.value, float(prior.divergence()), self._kind)
        mu, sigma = marginals
        rates = torch.exp((mu + sigma.square() / 2).clamp_(max=LARGEST_EXPONENT))
        rates *= self.scales.of_cells(self.scales.weights(self.W))
        before = prior.mean.clone(), prior.raw_diagonal.clone(), prior.lower.clone()
        targets = self._targets(terms.mu, rates, (-terms.sigma / sigma).clamp_(min=0.0))
        if self.mode != "lower-bound":
            self.rho = min(self.rho, (1 + math.cos(math.pi * t / self.steps)) / 2)
        while True:
            self._move(before, targets)
            terms, _ = self._terms(t)
            if terms.value - float(prior.divergence()) >= value.elbo or self.rho <= _SMALLEST_STEP:
                break
            self.rho /= 2
        self.rho = min(self.rho * _GROWTH, _LARGEST_STEP)
        self.W = multiplicative_step(self.W, terms)
        return value

    @property
    def _kind(self) -> str:
        return "lower" if self.mode == "lower-bound" else "evidence"

    def _terms(self, t: int, *, latent: bool = False) -> tuple[Terms, tuple[torch.Tensor, torch.Tensor]]:
        """The likelihood where q stands, by the draws of step t."""
        mu, sigma = self.prior.marginals()
        draws = ()
        if self.mode != "lower-bound":
            shape = tuple(mu.shape)
            draws = noise(shape, self.n_draws, self.seed, _DRAWS, t, dtype=mu.dtype, device=mu.device)
        terms = log_likelihood(
            *(self.counts, mu, sigma, self.W, self.mode),
            draws=draws,
            scales=self.scales,
            latent=latent,
            loadings="ratio",
        )
        return terms, (mu, sigma)

    def is_done(self, values, tol, absolute) -> bool:
        # by draws, the steps fall to nothing: ending early would leave them too large
        return self.mode == "lower-bound" and window_is_flat(values, tol, absolute)

    @torch.no_grad()
    def evaluate(self) -> Value:
        if self.mode != "lower-bound":
            likelihood = evaluate(self.counts, self.posterior(), self.seed).log_likelihood
            return Value(likelihood, float(self.prior.divergence()), self._kind)
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

    def _targets(
        self, slope: torch.Tensor, rates: torch.Tensor, curvature: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For every factor the step of m, and the precision that q's would go to, in double precision."""
        A = self.prior.of_cells().double()
        m = self.prior.mean.double()
        slope, rates, curvature = slope.double(), rates.double(), curvature.double()
        eye = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        found = []
        for l in range(m.shape[1]):
            bounded = torch.maximum(rates[:, l], slope[:, l] + rates[:, l])
            newton = torch.linalg.cholesky(eye + A.T @ (bounded[:, None] * A))
            step = torch.cholesky_solve((A.T @ slope[:, l] - m[:, l])[:, None], newton)[:, 0]
            found.append((step, eye + A.T @ (curvature[:, l, None] * A)))
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
