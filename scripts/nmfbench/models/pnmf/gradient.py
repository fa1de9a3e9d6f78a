"""Training by gradients: any map of W, optimiser, schedule and minibatch, and natural steps of q."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nmfbench.fitting.loop import DivergedError
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.draws import noise
from nmfbench.models.pnmf.likelihood import Terms, log_likelihood
from nmfbench.models.pnmf.optimisers import Optimiser
from nmfbench.models.pnmf.parameters import ConstrainedParameter
from nmfbench.models.pnmf.prior import LatentPrior
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.schedules import Constant, batch
from nmfbench.models.pnmf.stages import Stage, Value, evaluate, window_is_flat

_STEP, _CELLS, _GENES = 3, 4, 5  # streams of random numbers
_LONGEST_STEP = 1.5
_SMALLEST_SHARE = 1e-4
_NATURAL_STEP = 0.5  # ρ at the full learning rate; a schedule scales it as it scales the rate


@dataclass(frozen=True)
class GradientSettings:
    """How a gradient stage trains; the names are those of the estimator's parameters."""

    mode: str
    training_mode: str
    E: int
    optimizer: str
    learning_rate: float
    batch_size: int | None
    y_batch_size: int | None
    shuffle: bool
    scale_ll_D: bool
    eval_every: int
    patience: int
    warm_up: int


class GradientStage(Stage):
    """Stochastic steps on q's parameters and W.

    Parameters
    ----------
    counts : Counts
    prior : LatentPrior
        Holds q; any that offers marginals and gradients.
    W : ConstrainedParameter of shape (d, k)
    scales : RateScales
        Exposure alone.
    settings : GradientSettings
    schedule : Constant
    seed, steps : int
    """

    def __init__(
        self,
        counts: Counts,
        prior: LatentPrior,
        W: ConstrainedParameter,
        scales: RateScales,
        settings: GradientSettings,
        schedule: Constant,
        seed: int,
        steps: int,
    ) -> None:
        self.counts, self.prior, self.W, self.scales = counts, prior, W, scales
        # Clipped to zero in all factors, a gene with counts would have no gradient to come back by.
        W.floor = _SMALLEST_SHARE / W.shape[1]
        self.settings, self.schedule, self.seed, self.steps = settings, schedule, seed, steps
        self.natural = settings.training_mode == "natural"
        parameters: dict[str, torch.Tensor] = {}
        if W.mode != "multiplicative":
            parameters["W"] = W.raw
        if not self.natural:
            parameters |= {f"prior.{name}": p for name, p in prior.named_parameters()}
        self.optimiser = Optimiser(settings.optimizer, parameters) if parameters else None
        whole = settings.batch_size is None or settings.batch_size >= counts.shape[0]
        all_genes = settings.y_batch_size is None or settings.y_batch_size >= counts.shape[1]
        self.deterministic = settings.mode == "lower-bound" and whole and all_genes
        self._online = None
        if W.mode == "multiplicative" and not (whole and all_genes):
            self._online = _OnlineLoadings(W, scales.sums(self._mean_factors()))
        self.evaluations: list[float] = []

    def step(self, t: int) -> Value:
        s, (n, d) = self.settings, self.counts.shape
        cells = batch(n, s.batch_size, t, self.seed, shuffle=s.shuffle, kind=_CELLS)
        genes = batch(d, s.y_batch_size, t, self.seed, shuffle=s.shuffle, kind=_GENES)
        counts = self.counts if cells is None and genes is None else self.counts.select(cells, genes)
        scales = self.scales.select(cells, counts)
        rows, columns = (
            None if a is None else torch.as_tensor(a, device=counts.device) for a in (cells, genes)
        )
        with torch.no_grad():
            mu, sigma = (part.detach() for part in self.prior.marginals(rows))
            W = self.W.data if columns is None else self.W.data[columns]
            weights = self.scales.weights(self.W.data if s.scale_ll_D else W)
            divergence = float(self.prior.divergence(rows))
        terms = log_likelihood(
            counts,
            mu,
            sigma,
            W.detach(),
            s.mode,
            draws=noise(tuple(mu.shape), s.E, self.seed, _STEP, t, dtype=mu.dtype, device=mu.device),
            scales=scales,
            latent=True,
            loadings="ratio" if self.W.mode == "multiplicative" else "gradient",
            log_scale=d / counts.shape[1] if s.scale_ll_D else 1.0,
            weights=weights,
        )
        share = n / counts.shape[0]
        value = Value(
            share * terms.value,
            self.prior.divergence_weight(n, counts.shape[0]) * divergence,
            "lower" if s.mode == "lower-bound" else "evidence",
        )
        if not torch.isfinite(torch.tensor(value.elbo)):
            raise DivergedError(
                f"the ELBO at step {t + 1}",
                "a finite number",
                f"{value.elbo}",
                f"lower learning_rate (now {s.learning_rate:g}), or change optimizer (now {s.optimizer})",
            )
        self._apply(t, terms, mu, sigma, rows, columns, share)
        self.schedule.observe(value.elbo)
        return value

    def is_done(self, values, tol, absolute) -> bool:
        t, s = len(values), self.settings
        if absolute:
            return window_is_flat(values, tol, True)
        if self.deterministic:
            return t > s.warm_up and window_is_flat(values, tol, False)
        if t % s.eval_every:
            return False
        if t and t > len(self.evaluations) * s.eval_every:
            self.evaluations.append(self.evaluate().elbo)
        seen = self.evaluations[-1 - s.patience :]
        if t <= s.warm_up or len(seen) <= s.patience:
            return False
        return max(seen[1:]) - seen[0] < tol * abs(seen[0])

    def evaluate(self) -> Value:
        state = self.posterior()
        if self.settings.mode == "lower-bound":
            terms = log_likelihood(
                self.counts, state.mu, state.sigma, state.W, "lower-bound", scales=self.scales
            )
            return Value(terms.value, self._divergence(), "lower")
        return Value(evaluate(self.counts, state, self.seed).log_likelihood, self._divergence(), "evidence")

    @torch.no_grad()
    def posterior(self) -> LatentState:
        mu, sigma = self.prior.marginals()
        width = torch.as_tensor(getattr(self.prior, "scale_pf", 1.0), dtype=mu.dtype, device=mu.device)
        return LatentState(
            mu.clone(),
            sigma.square(),
            self.W.data.detach().clone(),
            width.expand(mu.shape[1]) ** 2,
            self.scales,
        )

    def state(self):
        arrays = {f"prior.{name}": p.detach().cpu().numpy() for name, p in self.prior.named_parameters()}
        arrays["W"] = self.W.raw.detach().cpu().numpy()
        if self.optimiser is not None:
            arrays |= self.optimiser.state()
        if self._online is not None:
            arrays |= self._online.state()
        return arrays, {"schedule": self.schedule.state(), "evaluations": self.evaluations}

    @torch.no_grad()
    def load_state(self, arrays, record) -> None:
        for name, parameter in self.prior.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[f"prior.{name}"]))
        self.W.raw.copy_(torch.from_numpy(arrays["W"]))
        if self.optimiser is not None:
            self.optimiser.load_state(arrays)
        if self._online is not None:
            self._online.load_state(arrays)
        self.schedule.load_state(record["schedule"])
        self.evaluations = list(record["evaluations"])

    def _apply(self, t: int, terms: Terms, mu, sigma, rows, columns, share: float) -> None:
        rate, momentum = self.schedule.at(t)
        damping = _NATURAL_STEP * rate / self.settings.learning_rate
        gradients: dict[str, torch.Tensor] = {}
        if self.natural:
            self._natural_step(damping, terms, mu, sigma, rows)
        else:
            weight = self.prior.divergence_weight(self.counts.shape[0], len(mu))
            own = self.prior.gradients(-share * terms.mu, -share * terms.sigma, weight, rows)
            gradients |= {f"prior.{name}": gradient for name, gradient in own.items()}
        if self.W.mode != "multiplicative":
            places = slice(None) if columns is None else columns
            gradients["W"] = self.W.raw_gradient(-share * terms.W, places)
        if gradients:
            of = {}
            if rows is not None and self.prior.rowwise:
                of = {name: rows for name in gradients if name != "W"}
            if columns is not None:
                of["W"] = columns
            self.optimiser.step(gradients, rate, momentum, of)
            self.W.project()
        if self.W.mode == "multiplicative":
            if self._online is None:
                self.W.multiplicative_update(terms.numerator, terms.denominator)
            else:
                self._online.update(t, terms, share, columns)

    def _natural_step(self, damping: float, terms: Terms, mu, sigma, rows) -> None:
        """The damped natural step that keeps the precision at least min(old, 1/s²).

        With the gradient g and the curvature ``c = -2 dLL/d(sigma²)``: precision ← (1-ρ) precision +
        ρ (1/s² + max(c, 0)), mu ← mu + ρ sigma² (g - mu/s²). For c >= 0 it is the natural-gradient step of
        the conjugate model (Khan & Rue 2023, JMLR 24:281). The step of mu is limited, as a noisy c may
        promise a variance that the gradient does not bear out.
        """
        precision = 1 / self.prior.scale_pf**2
        curvature = (-terms.sigma / sigma).clamp_(min=0.0)
        variance = 1 / ((1 - damping) / sigma.square() + damping * (precision + curvature))
        step = (variance * (terms.mu - mu * precision)).clamp_(-_LONGEST_STEP, _LONGEST_STEP)
        self.prior.set(mu + damping * step, variance.sqrt(), slice(None) if rows is None else rows)

    def _mean_factors(self) -> torch.Tensor:
        with torch.no_grad():
            mu, sigma = self.prior.marginals()
            return torch.exp(mu + sigma.square() / 2)

    def _divergence(self) -> float:
        with torch.no_grad():
            return float(self.prior.divergence())


class _OnlineLoadings:
    """Multiplicative steps from minibatches: running sums of the allocated counts and of the factors.

    Online EM (Cappé & Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x) with step size (t + 2)^-0.6.
    """

    def __init__(self, W: ConstrainedParameter, sums: torch.Tensor) -> None:
        self.W = W
        self.sums = sums.expand(W.shape).clone()
        self.allocated = W.data * self.sums

    @torch.no_grad()
    def update(self, t: int, terms: Terms, share: float, columns) -> None:
        places = slice(None) if columns is None else columns
        size = (t + 2) ** -0.6
        found = share * self.W.data[places] * terms.numerator
        self.allocated[places] = (1 - size) * self.allocated[places] + size * found
        sums = share * terms.denominator.expand_as(found)
        self.sums[places] = (1 - size) * self.sums[places] + size * sums
        self.W.raw[places] = (self.allocated[places] / (self.sums[places] + FLOOR)).clamp_(min=FLOOR)

    def state(self) -> dict[str, Any]:
        return {"online.allocated": self.allocated.cpu().numpy(), "online.sums": self.sums.cpu().numpy()}

    def load_state(self, arrays) -> None:
        self.allocated.copy_(torch.from_numpy(arrays["online.allocated"]))
        self.sums.copy_(torch.from_numpy(arrays["online.sums"]))
