"""Coordinate ascent for the lower bound: closed-form steps, no learning rate, never downhill.

One sweep (docs/pnmf.md has the derivation): allocate the counts to the factors, maximise over q of each
cell, move the mean of every factor's logarithms into W (the likelihood stays, the divergence falls), and
take the multiplicative step of W. A cell's q depends on W alone, so that cells can be inferred one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.prior import gaussian_divergence
from nmfbench.models.pnmf.scales import RateScales

LARGEST_EXPONENT = 50.0
_LONGEST_STEP = 1.5
_ROUNDS, _LAST_ROUNDS = 5, 3


@dataclass
class LatentState:
    """Where a fit stands.

    Attributes
    ----------
    mu, v : Tensor of shape (n, k)
        Mean and variance of q.
    W : Tensor of shape (d, k)
    prior_variance : Tensor of shape (k,)
        s².
    scales : RateScales
    """

    mu: torch.Tensor
    v: torch.Tensor
    W: torch.Tensor
    prior_variance: torch.Tensor
    scales: RateScales

    @property
    def sigma(self) -> torch.Tensor:
        return self.v.sqrt()

    def mean_factors(self) -> torch.Tensor:
        """``A = exp(mu + v/2)``, of shape (n, k)."""
        return torch.exp((self.mu + self.v / 2).clamp_(max=LARGEST_EXPONENT))

    def divergence(self) -> float:
        """KL(q || prior)."""
        return float(gaussian_divergence(self.mu, self.sigma, self.prior_variance.double().sqrt()))

    def level(self) -> None:
        """Move the mean of each column of mu into W: the rates stay, the divergence falls."""
        means = self.mu.mean(dim=0, dtype=torch.float64).to(self.mu.dtype)
        self.mu -= means
        self.W *= torch.exp(means)


def latent_step(
    c: torch.Tensor, weight: torch.Tensor, mu: torch.Tensor, v: torch.Tensor, prior_variance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximise ``c mu - w e^(mu + v/2) - (mu² + v)/(2 s²) + ½ ln v`` for every cell and factor.

    Parameters
    ----------
    c : Tensor of shape (n, k)
        Counts allocated to the factor.
    weight : Tensor that broadcasts to (n, k)
        w, sum of the factor's loadings.
    mu, v : Tensor of shape (n, k)
        Where to begin.
    prior_variance : Tensor of shape (k,)

    Returns
    -------
    mu, v : Tensor of shape (n, k)
    """
    precision = 1 / prior_variance

    def rate() -> torch.Tensor:
        return torch.exp((mu + v / 2).clamp_(max=LARGEST_EXPONENT)).mul_(weight)

    for _ in range(_ROUNDS):
        v = rate().add_(precision).reciprocal_()
        expected = rate()
        slope = c - expected - mu * precision
        mu = mu + slope.div_(expected.add_(precision)).clamp_(-_LONGEST_STEP, _LONGEST_STEP)
    for _ in range(_LAST_ROUNDS):
        v = rate().add_(precision).reciprocal_()
    return mu, v


def sweep(
    counts: Counts, state: LatentState, *, relaxation: float = 1.0, learn_prior: bool = False
) -> tuple[float, float]:
    """One sweep over q, scale, W, and where there are any, multipliers and prior widths.

    Parameters
    ----------
    counts : Counts
    state : LatentState
        Updated in place.
    relaxation : float
        How far mu and ln W go, as a multiple of the step that cannot lower the bound. Steps of nearly twice
        the length take about half the sweeps, but may overshoot: the caller watches the bound.
    learn_prior : bool
        Whether s² is set to its maximum, ``mean_n(mu² + v)`` (empirical Bayes).

    Returns
    -------
    log_likelihood, divergence : float
        The parts of the lower bound **before** the sweep.
    """
    weights = state.scales.weights(state.W)
    before = state.mu.clone() if relaxation != 1 else None
    value = allocate_and_infer(counts, state, weights)
    if before is not None:
        state.mu += (relaxation - 1) * (state.mu - before)
    state.level()
    numerator = torch.zeros_like(state.W)
    for block in counts.blocks:
        H = torch.exp(state.mu[block.rows])
        q = block.quotients(block.rates(H, state.W), below=True)
        numerator += block.transposed(q, H)
    sums = state.scales.sums(state.mean_factors())
    denominator = state.scales.of_genes(sums).clamp(min=1e-30)
    ratio = numerator.div_(denominator)
    state.W.mul_(ratio if relaxation == 1 else ratio.pow_(relaxation)).clamp_(min=FLOOR)
    if state.scales.multipliers is not None:
        state.scales.update(sums, state.W)
    if learn_prior:
        state.prior_variance = (state.mu.square() + state.v).mean(dim=0, dtype=torch.float64).to(state.mu)
    return value


def allocate_and_infer(counts: Counts, state: LatentState, weights: torch.Tensor) -> tuple[float, float]:
    """One step of q for all cells; the parts of the lower bound before it."""
    divergence = state.divergence()
    value = _without_logarithms(counts, state, weights)
    for block in counts.blocks:
        rows = block.rows
        mu, v = state.mu[rows], state.v[rows]
        H = torch.exp(mu)
        r = block.rates(H, state.W)
        value += block.log_sum(r)
        c = block.times(block.quotients(r, below=True), state.W).mul_(H)
        cell_weights = state.scales.of_cells(weights, rows)
        state.mu[rows], state.v[rows] = latent_step(c, cell_weights, mu, v, state.prior_variance)
    return value, divergence


def lower_bound(counts: Counts, state: LatentState) -> tuple[float, float]:
    """The parts of the lower bound of the evidence: expected log-likelihood and divergence."""
    value = _without_logarithms(counts, state, state.scales.weights(state.W))
    for block in counts.blocks:
        value += block.log_sum(block.rates(torch.exp(state.mu[block.rows]), state.W))
    return value, state.divergence()


def _without_logarithms(counts: Counts, state: LatentState, weights: torch.Tensor) -> float:
    rates = float((state.scales.sums(state.mean_factors()).double() * weights.double()).sum())
    return state.scales.constant() - counts.log_factorials - rates


def infer(counts: Counts, state: LatentState, max_iter: int = 200, tol: float = 1e-6) -> None:
    """Maximise over q of every cell with W fixed; a cell stops on its own, whatever the others do.

    Parameters
    ----------
    counts : Counts
    state : LatentState
        Its `mu` and `v` are updated.
    max_iter : int
    tol : float
        A cell is done when no mu of it moved by more.
    """
    weights = state.scales.weights(state.W)
    for block in counts.blocks:
        rows = block.rows
        cell_weights = state.scales.of_cells(weights, rows)
        moving = torch.ones((block.n_rows, 1), dtype=torch.bool, device=counts.device)
        for _ in range(max_iter):
            mu, v = state.mu[rows], state.v[rows]
            H = torch.exp(mu)
            c = block.times(block.quotients(block.rates(H, state.W), below=True), state.W).mul_(H)
            new_mu, new_v = latent_step(c, cell_weights, mu, v, state.prior_variance)
            moved = (new_mu - mu).abs().amax(dim=1, keepdim=True)
            state.mu[rows] = torch.where(moving, new_mu, mu)
            state.v[rows] = torch.where(moving, new_v, v)
            moving &= moved > tol
            if not moving.any():
                break
