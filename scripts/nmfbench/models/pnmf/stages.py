"""The stages of a fit: coordinate ascent, and the Adam that follows it where the evidence bound is sought."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nmfbench.models.pnmf.coordinate import LatentState, lower_bound, sweep
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.draws import noise
from nmfbench.models.pnmf.likelihood import log_likelihood, multiplicative_step, value_with_control
from nmfbench.models.pnmf.optimisers import Optimiser
from nmfbench.models.pnmf.prior import GaussianPrior, LatentPrior, gaussian_divergence

WINDOW = 5
RELAXATION = 1.7
OVERSHOT = 1e-8  # share of the bound by which it may fall before a long step is taken back
_EVALUATION_DRAWS = 8
_PAIR, _EVALUATION = 1, 2  # streams of random numbers


@dataclass(frozen=True)
class Value:
    """An ELBO in its two parts, and whether it is Jensen's bound or an estimate of the evidence bound.

    Attributes
    ----------
    log_likelihood, divergence : float
    kind : {"lower", "evidence"}
    """

    log_likelihood: float
    divergence: float
    kind: str

    @property
    def elbo(self) -> float:
        return self.log_likelihood - self.divergence


class Stage:
    """A part of a fit, taken step by step.

    Attributes
    ----------
    steps : int
        How many at most.
    by_schedule : bool
        Whether it always takes them all: whether the fit converged was then decided before it.
    """

    steps: int
    by_schedule = False

    def step(self, t: int) -> Value:
        """Take step number t (from 0); the value **before** it."""
        raise NotImplementedError

    def is_done(self, values: Sequence[float], tol: float, absolute: bool) -> bool:
        """Whether the ELBOs before the steps so far say that it has converged."""
        raise NotImplementedError

    def evaluate(self) -> Value:
        """The value where the stage stands, comparable between fits of one mode."""
        raise NotImplementedError

    def posterior(self) -> LatentState:
        """Where the stage stands."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and numbers that decide all further steps."""
        raise NotImplementedError

    def load_state(self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Take them back."""
        raise NotImplementedError


def window_is_flat(values: Sequence[float], tol: float, absolute: bool) -> bool:
    """Whether the last steps of a monotone sequence gained less than `tol`, of its size or in itself.

    A relative test looks back over five steps; an absolute one compares two neighbours.
    """
    if absolute:
        return len(values) > 1 and abs(values[-1] - values[-2]) < tol
    return len(values) > WINDOW and values[-1] - values[-1 - WINDOW] < tol * abs(values[-1])


class CoordinateStage(Stage):
    """Sweeps of coordinate ascent with long steps; one that lowered the bound is taken back."""

    def __init__(self, counts: Counts, state: LatentState, steps: int, *, learn_prior: bool = False) -> None:
        self.counts, self.now, self.steps = counts, state, steps
        self.learn_prior = learn_prior
        self._safe = _copied(state)
        self._bound = -math.inf

    def step(self, t: int) -> Value:
        before = _copied(self.now)
        parts = sweep(self.counts, self.now, relaxation=RELAXATION, learn_prior=self.learn_prior)
        bound = parts[0] - parts[1]
        if not bound >= self._bound - OVERSHOT * abs(self._bound):
            self.now = _copied(self._safe)
            parts = sweep(self.counts, self.now, learn_prior=self.learn_prior)
            bound = parts[0] - parts[1]
        else:
            self._safe = before
        self._bound = bound
        return Value(*parts, "lower")

    def is_done(self, values, tol, absolute) -> bool:
        return window_is_flat(values, tol, absolute)

    def evaluate(self) -> Value:
        # The last long step has not been looked at yet.
        parts = lower_bound(self.counts, self.now)
        if parts[0] - parts[1] < self._bound - OVERSHOT * abs(self._bound):
            self.now = _copied(self._safe)
            sweep(self.counts, self.now, learn_prior=self.learn_prior)
            parts = lower_bound(self.counts, self.now)
        return Value(*parts, "lower")

    def posterior(self) -> LatentState:
        return self.now

    def state(self):
        arrays = {**_arrays(self.now, "now"), **_arrays(self._safe, "safe")}
        return arrays, {"bound": self._bound if math.isfinite(self._bound) else None}

    def load_state(self, arrays, record) -> None:
        _load(self.now, arrays, "now")
        _load(self._safe, arrays, "safe")
        self._bound = -math.inf if record["bound"] is None else record["bound"]


class PolishStage(Stage):
    """Adam on mu and ln sigma from a lower bound's optimum: antithetic pairs, multiplicative steps of W.

    Jensen's bound makes sigma too small; a few hundred steps on the evidence bound itself mend that.
    """

    by_schedule = True
    betas = 0.9, 0.99

    def __init__(
        self,
        counts: Counts,
        state: LatentState,
        steps: int,
        mode: str,
        seed: int,
        *,
        n_draws: int = 2,
        rate: float = 0.02,
        fixed_loadings: bool = False,
    ) -> None:
        self.counts, self.now, self.steps, self.mode, self.seed = counts, state, steps, mode, seed
        self.n_draws, self.rate, self.fixed_loadings = n_draws, rate, fixed_loadings
        self.parameters = {"mu": state.mu, "log_sigma": state.v.log().div_(2)}
        self.optimiser = Optimiser("Adam", self.parameters, *self.betas)

    def step(self, t: int) -> Value:
        now, mu = self.now, self.now.mu
        sigma = self.parameters["log_sigma"].exp()
        terms = log_likelihood(
            self.counts,
            mu,
            sigma,
            now.W,
            self.mode,
            draws=self._noise(_PAIR, t, n_draws=self.n_draws),
            scales=now.scales,
            latent=True,
            loadings=None if self.fixed_loadings else "ratio",
        )
        value = Value(terms.value, self._divergence(sigma), "evidence")
        on_mu = mu / now.prior_variance - terms.mu
        on_log = sigma.square() / now.prior_variance - 1 - terms.sigma * sigma
        rate = self.rate * (1 + math.cos(math.pi * t / self.steps)) / 2
        if not self.fixed_loadings:
            if now.scales.multipliers is not None:
                now.scales.update(now.scales.sums(torch.exp(mu + sigma.square() / 2)), now.W)
            now.W = multiplicative_step(now.W, terms)
        self.optimiser.step({"mu": on_mu, "log_sigma": on_log}, rate)
        now.v = self.parameters["log_sigma"].mul(2).exp_()
        return value

    def is_done(self, values, tol, absolute) -> bool:
        return False  # its rate falls to nothing over its steps: ending early would leave it too high

    def evaluate(self) -> Value:
        self.now.level()
        return evaluate(self.counts, self.now, self.seed)

    def posterior(self) -> LatentState:
        return self.now

    def state(self):
        return {**_arrays(self.now, "now"), **self._log_sigma(), **self.optimiser.state()}, {}

    def load_state(self, arrays, record) -> None:
        _load(self.now, arrays, "now")
        self.parameters["mu"] = self.optimiser.parameters["mu"] = self.now.mu
        self.parameters["log_sigma"].copy_(torch.from_numpy(arrays["log_sigma"]))
        self.optimiser.load_state(arrays)

    def _log_sigma(self) -> dict[str, np.ndarray]:
        return {"log_sigma": self.parameters["log_sigma"].cpu().numpy()}

    def _divergence(self, sigma: torch.Tensor) -> float:
        return float(gaussian_divergence(self.now.mu, sigma, self.now.prior_variance.double().sqrt()))

    def _noise(self, *stream: int, n_draws: int):
        mu = self.now.mu
        # With fixed loadings every cell is a problem of its own: its draws must not depend on its place.
        shape = (1, mu.shape[1]) if self.fixed_loadings else tuple(mu.shape)
        return noise(shape, n_draws, self.seed, *stream, dtype=mu.dtype, device=mu.device)


def evaluate(counts: Counts, state: LatentState, seed: int) -> Value:
    """The evidence bound by antithetic draws with a control variate; the draws are always the same."""
    shape = tuple(state.mu.shape)
    draws = noise(shape, _EVALUATION_DRAWS, seed, _EVALUATION, dtype=state.mu.dtype, device=state.mu.device)
    value = value_with_control(counts, state.mu, state.sigma, state.W, draws, state.scales)
    return Value(value, state.divergence(), "evidence")


def posterior_prior(stage: Stage) -> LatentPrior:
    """The prior object that holds q where a stage stands."""
    if hasattr(stage, "prior"):
        return stage.prior
    state = stage.posterior()
    width = state.prior_variance.sqrt()
    scale = float(width[0]) if bool((width == width[0]).all()) else width
    return GaussianPrior.of(state.mu, state.sigma, scale)


def _copied(state: LatentState) -> LatentState:
    scales = state.scales
    if scales.multipliers is not None:  # update() puts a new tensor in its place: a shallow copy is enough
        scales = scales.copy()
    return replace(state, mu=state.mu.clone(), v=state.v.clone(), W=state.W.clone(), scales=scales)


def _arrays(state: LatentState, name: str) -> dict[str, np.ndarray]:
    arrays = {"mu": state.mu, "v": state.v, "W": state.W, "prior_variance": state.prior_variance}
    if state.scales.multipliers is not None:
        arrays["multipliers"] = state.scales.multipliers
    return {f"{name}.{key}": value.detach().cpu().numpy() for key, value in arrays.items()}


def _load(state: LatentState, arrays: Mapping[str, np.ndarray], name: str) -> None:
    def stored(key: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"{name}.{key}"]).to(state.mu.device)

    state.mu, state.v, state.W = stored("mu"), stored("v"), stored("W")
    state.prior_variance = stored("prior_variance")
    if state.scales.multipliers is not None:
        state.scales.multipliers = stored("multipliers")
