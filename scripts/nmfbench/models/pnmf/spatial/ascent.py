"""Natural-gradient ascent with sparse processes, without a learning rate to choose.

The objective's derivatives in the marginals of the cells are ``g = d/d mu`` and ``c = -2 d/d sigma²`` (of the
lower bound the expected counts of the factor, ``e = w exp(mu + sigma²/2)``). With A, the rows ``a_x`` of the
cells, a sweep takes for every factor

    precision of q   Λ ← (1 - ρ) Λ + ρ (I + Aᵀ diag(max(c, 0)) A)
    mean of q        m ← m + ρ (I + Aᵀ diag(max(e, e + g)) A)⁻¹ (Aᵀ g - m)

and the multiplicative step of W. The first is the natural-gradient step (Salimbeni, Eleftheriadis & Hensman
2018, PMLR 84:689), which keeps the precision at least that of the prior. In the second the larger of expected
and allocated counts bounds the step where a factor is far too small. ρ is halved while a step lowers the
objective, and grows after one that does not. On the lower bound a sweep is followed by Nesterov's momentum,
which is taken back where it lowers the bound. The evidence bound is compared on the draws of the step; their
noise is averaged out by a ρ that falls to nothing over the stage.
"""

from __future__ import annotations

import math

import torch

from nmfbench.models.pnmf.coordinate import LARGEST_EXPONENT, LatentState
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.draws import noise
from nmfbench.models.pnmf.likelihood import Terms, log_likelihood, multiplicative_step
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.spatial.svgp import SVGP
from nmfbench.models.pnmf.stages import OVERSHOT, Stage, Value, evaluate, window_is_flat

_LARGEST_STEP, _SMALLEST_STEP = 1.0, 1e-3
_GROWTH = 1.5
_DRAWS = 7  # stream of random numbers
_Q = ("mean", "raw_diagonal", "lower")
_TUNE_EVERY, _TUNE_FROM = 5, 40
_FIRST_TRIAL, _LARGEST_TRIAL, _SMALLEST_TRIAL = 0.2, 0.7, 1e-3  # steps of ln(lengthscale)


class AscentStage(Stage):
    """Sweeps over q and W.

    Parameters
    ----------
    counts : Counts
    prior : SVGP
        With full T and a kernel that is no parameter; holds q.
    W : Tensor of shape (d, k)
    scales : RateScales
    steps : int
    mode : {"lower-bound", "expanded", "simple"}
    n_draws, seed : int
        Draws of a step of the two Monte-Carlo modes, an even number.
    tune_lengthscale : bool
        Whether the lengthscale that maximises the bound is sought beside (lower bound alone). A longer and a
        shorter one are tried every fifth sweep, each with q's process kept and with q's whitened values kept;
        the best is taken where it raises the bound.
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
        tune_lengthscale: bool = False,
    ) -> None:
        self.counts, self.prior, self.W, self.scales, self.steps = counts, prior, W, scales, steps
        self.mode, self.n_draws, self.seed = mode, n_draws, seed
        self.by_schedule = mode != "lower-bound"
        self.tune_lengthscale = tune_lengthscale
        self.rho = 0.5
        self._bound, self._momentum, self._trial = -math.inf, 0, _FIRST_TRIAL
        self._safe = self._where()  # where the last sweep ended, before the momentum

    @torch.no_grad()
    def step(self, t: int) -> Value:
        prior = self.prior
        if self.tune_lengthscale and t >= _TUNE_FROM and t % _TUNE_EVERY == 0:
            self._tune()
        terms, marginals = self._terms(t, latent=True)
        value = self._value(terms)
        if self._overshot(value):
            self._back_to(self._safe)
            self._momentum = 0
            terms, marginals = self._terms(t, latent=True)
            value = self._value(terms)
        self._bound = value.elbo
        mu, sigma = marginals
        rates = torch.exp((mu + sigma.square() / 2).clamp_(max=LARGEST_EXPONENT))
        rates *= self.scales.of_cells(self.scales.weights(self.W))
        before = self._where()
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
        if self.mode == "lower-bound":
            self._hasten()
        return value

    def is_done(self, values, tol, absolute) -> bool:
        # by draws, the steps fall to nothing: ending early would leave them too large
        return self.mode == "lower-bound" and window_is_flat(values, tol, absolute)

    @torch.no_grad()
    def evaluate(self) -> Value:
        if self.mode != "lower-bound":
            likelihood = evaluate(self.counts, self.posterior(), self.seed).log_likelihood
            return Value(likelihood, float(self.prior.divergence()), self._kind)
        value = self._value(self._terms(0)[0])
        if self._overshot(value):  # the last momentum has not been looked at yet
            self._back_to(self._safe)
            value = self._value(self._terms(0)[0])
        return value

    @torch.no_grad()
    def posterior(self) -> LatentState:
        mu, sigma = self.prior.marginals()
        return LatentState(mu, sigma.square(), self.W, torch.ones_like(mu[0]), self.scales)

    def state(self):
        arrays = {f"now.{name}": value.cpu().numpy() for name, value in self._where().items()}
        arrays |= {f"safe.{name}": value.cpu().numpy() for name, value in self._safe.items()}
        record = {"rho": self.rho, "momentum": self._momentum, "trial": self._trial}
        record["bound"] = self._bound if math.isfinite(self._bound) else None
        return arrays, record | {"log_lengthscale": float(self.prior.kernel.log_lengthscale)}

    @torch.no_grad()
    def load_state(self, arrays, record) -> None:
        def stored(place: str) -> dict[str, torch.Tensor]:
            return {
                name: torch.from_numpy(arrays[f"{place}.{name}"]).to(self.W.device) for name in (*_Q, "W")
            }

        self.prior.set_log_lengthscale(record["log_lengthscale"])
        self._back_to(stored("now"))
        self._safe = stored("safe")
        self.rho, self._momentum, self._trial = record["rho"], record["momentum"], record["trial"]
        self._bound = -math.inf if record["bound"] is None else record["bound"]

    @property
    def _kind(self) -> str:
        return "lower" if self.mode == "lower-bound" else "evidence"

    def _value(self, terms: Terms) -> Value:
        return Value(terms.value, float(self.prior.divergence()), self._kind)

    def _overshot(self, value: Value) -> bool:
        return self._momentum > 0 and not value.elbo >= self._bound - OVERSHOT * abs(self._bound)

    def _where(self) -> dict[str, torch.Tensor]:
        """Copies of q's parameters and W."""
        return {**{name: getattr(self.prior, name).detach().clone() for name in _Q}, "W": self.W.clone()}

    def _back_to(self, where: dict[str, torch.Tensor]) -> None:
        for name in _Q:
            getattr(self.prior, name).copy_(where[name])
        self.W = where["W"].clone()

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
        for name in _Q:
            getattr(prior, name).copy_(before[name])
        T = prior.triangle().double()
        for l, (step, precision) in enumerate(targets):
            prior.mean[:, l] += (self.rho * step).to(prior.dtype)
            blend = self.rho * precision
            if self.rho < 1:
                blend = blend + (1 - self.rho) * torch.cholesky_inverse(T[l])
            prior.set_precision(l, blend)

    def _hasten(self) -> None:
        """Go on in the direction of the last sweep, in the means of q and in ln W."""
        ended = self._where()
        share = self._momentum / (self._momentum + 3)
        self.prior.mean += share * (ended["mean"] - self._safe["mean"])
        self.W = (ended["W"] * (ended["W"] / self._safe["W"]).pow_(share)).clamp_(min=FLOOR)
        self._momentum += 1
        self._safe = ended

    def _tune(self) -> None:
        """Take a longer or a shorter lengthscale where it raises the bound."""
        here, log_here = self._where(), float(self.prior.kernel.log_lengthscale)
        best, chosen = self._value(self._terms(0)[0]).elbo, None
        for step in (self._trial, -self._trial):
            for keep in (True, False):
                turn = self.prior.set_log_lengthscale(log_here + step, keep_process=keep)
                bound = self._value(self._terms(0)[0]).elbo
                if bound > best:
                    best, chosen = bound, (step, turn, self._where())
                self._back_to(here)
                self.prior.set_log_lengthscale(log_here)
        if chosen is None:
            self._trial = max(self._trial / 2, _SMALLEST_TRIAL)
            return
        step, turn, where = chosen
        self.prior.set_log_lengthscale(log_here + step)
        self._back_to(where)
        if turn is not None:  # the momentum's other end is of the same process
            self._safe = {**self._safe, **self.prior.turned(turn, self._safe)}
        self._trial = min(self._trial * _GROWTH, _LARGEST_TRIAL)
