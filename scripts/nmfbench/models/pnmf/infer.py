"""Factors of new cells, the loadings fixed. A cell's factors do not depend on the cells beside it."""

from __future__ import annotations

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.models.pnmf.coordinate import LatentState, infer
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.draws import generator
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.stages import PolishStage

METHODS = ("vi", "map", "poisson", "nnls")
FIRST_VARIANCE = 0.1
_POLISH_STEPS = 200
_LEAST_SQUARES_STEPS = 100
_START = 6  # stream of random numbers


def embed_cells(
    counts: Counts,
    components: np.ndarray,
    scales: RateScales,
    method: str,
    *,
    mode: str,
    prior_variance: np.ndarray,
    max_iter: int,
    seed: int,
) -> np.ndarray:
    """Mean factors of cells, of shape (n, k); see :meth:`PNMF.transform`.

    Parameters
    ----------
    components : ndarray of shape (k, d)
    prior_variance : ndarray of shape (k,)
    mode, max_iter
        Those of the fit.
    """
    if method not in METHODS:
        raise InputError(
            "PNMF.transform: parameter method",
            f"one of {', '.join(map(repr, METHODS))}",
            repr(method),
            "set method accordingly",
        )
    W = torch.from_numpy(np.ascontiguousarray(components.T)).to(counts.device, counts.dtype)
    if method == "nnls":
        return least_squares_factors(counts, W, seed).cpu().numpy()
    if method in ("map", "poisson"):
        return poisson_factors(counts, W, scales).cpu().numpy()
    variance = torch.from_numpy(np.atleast_1d(prior_variance)).to(counts.device, counts.dtype)
    steps = min(_POLISH_STEPS, max_iter)
    state = infer_posterior(counts, W, mode, seed, scales=scales, prior_variance=variance, polish_steps=steps)
    return state.mean_factors().cpu().numpy()


def infer_posterior(
    counts: Counts,
    W: torch.Tensor,
    mode: str,
    seed: int,
    *,
    scales: RateScales | None = None,
    prior_variance: torch.Tensor | None = None,
    polish_steps: int = _POLISH_STEPS,
    max_iter: int = 200,
    tol: float = 1e-6,
    n_draws: int = 2,
    rate: float = 0.02,
) -> LatentState:
    """q of every cell for fixed W: coordinate ascent, then Adam on the evidence bound in the other modes.

    The draws of a step are the same for all cells, so that a cell's q is its own.
    """
    scales = RateScales() if scales is None else scales
    if prior_variance is None:
        prior_variance = torch.ones(W.shape[1], dtype=W.dtype, device=W.device)
    start = _proportional(counts, scales.of_cells(scales.weights(W)))
    mu = torch.log(start).expand(counts.shape[0], W.shape[1]).clone()
    state = LatentState(mu, torch.full_like(mu, FIRST_VARIANCE), W, prior_variance, scales)
    infer(counts, state, max_iter, tol)
    if mode != "lower-bound" and polish_steps:
        stage = PolishStage(
            counts, state, polish_steps, mode, seed, n_draws=n_draws, rate=rate, fixed_loadings=True
        )
        for t in range(polish_steps):
            stage.step(t)
    return state


def poisson_factors(
    counts: Counts, W: torch.Tensor, scales: RateScales | None = None, max_iter: int = 1000, tol: float = 1e-6
) -> torch.Tensor:
    """H that maximises the Poisson likelihood of each cell: ``H (X / H Wᵀ) W / w`` until it stands still."""
    scales = RateScales() if scales is None else scales
    weights = scales.of_cells(scales.weights(W)).expand(counts.shape[0], W.shape[1])
    H = _proportional(counts, weights).expand(weights.shape).clone()
    for block in counts.blocks:
        rows = block.rows
        moving = torch.ones((block.n_rows, 1), dtype=torch.bool, device=counts.device)
        for _ in range(max_iter):
            old = H[rows]
            q = block.quotients(block.rates(old, W), below=True)
            new = block.times(q, W).mul_(old).div_(weights[rows].clamp(min=1e-30))
            moved = (new - old).abs().amax(dim=1, keepdim=True)
            H[rows] = torch.where(moving, new, old)
            moving &= moved > tol * new.amax(dim=1, keepdim=True)
            if not moving.any():
                break
    return H


def least_squares_factors(counts: Counts, W: torch.Tensor, seed: int) -> torch.Tensor:
    """H by 100 multiplicative steps on the squared error, from a uniform start (for comparison)."""
    shape = (counts.shape[0], W.shape[1])
    H = 0.1 * torch.rand(shape, generator=generator(seed, _START), dtype=W.dtype).to(W.device)
    product = torch.cat([block.times(block.x, W) for block in counts.blocks])
    gram = W.T @ W
    for _ in range(_LEAST_SQUARES_STEPS):
        H = H * product / (H @ gram + 1e-8)
    return H


def _proportional(counts: Counts, weights: torch.Tensor) -> torch.Tensor:
    """The same value for every factor, such that a cell's rates add up to its counts; never zero."""
    totals = weights.sum(dim=1, keepdim=True).clamp(min=1e-30)
    return (counts.cell_sums()[:, None] / totals).clamp(min=1e-6)
