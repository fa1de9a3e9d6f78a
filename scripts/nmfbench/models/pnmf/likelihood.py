"""The expected log-likelihood of a Poisson factorisation and its exact gradients, from the nonzeros alone.

``F_nl ~ Normal(0, s²)``, ``X_nd ~ Poisson(Σ_l exp(F_nl) W_dl)``, ``q(F_nl) = Normal(mu_nl, sigma_nl²)``.
With
``A = exp(mu + sigma²/2)``, draws ``Hᵉ = exp(mu + sigma εᵉ)`` and ``C = Σ ln Γ(x + 1)``, the objectives are

    simple       (1/E) Σ_e Σ_nd [x ln (Hᵉ Wᵀ)_nd - (Hᵉ Wᵀ)_nd] - C
    expanded     (1/E) Σ_e Σ_nd  x ln (Hᵉ Wᵀ)_nd  -  Σ_nd (A Wᵀ)_nd - C
    lower-bound  Σ_nd x ln (exp(mu) Wᵀ)_nd  -  Σ_nd (A Wᵀ)_nd - C

A count of zero adds nothing to the logarithms, and the rates are summed by ``Σ_l (Σ_d W_dl)(Σ_n A_nl)``: the
zeros of X are never visited. The first two estimate the evidence bound without bias, the third lies below it
(Jensen's inequality; it is the bound of the Poisson-multinomial augmentation, Cemgil 2009,
doi:10.1155/2009/785152).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.scales import RateScales

MODES = ("simple", "expanded", "lower-bound")
PLAIN = RateScales()


@dataclass
class Terms:
    """An expected log-likelihood and what was computed with it.

    Attributes
    ----------
    value : float
        LL, every constant included.
    mu, sigma : Tensor of shape (n, k) or None
        Its gradients.
    W : Tensor of shape (d, k) or None
        Its gradient.
    numerator, denominator : Tensor or None
        Of the multiplicative update of W, shapes (d, k) and (d or 1, k).
    """

    value: float
    mu: torch.Tensor | None = None
    sigma: torch.Tensor | None = None
    W: torch.Tensor | None = None
    numerator: torch.Tensor | None = None
    denominator: torch.Tensor | None = None


def log_likelihood(
    counts: Counts,
    mu: torch.Tensor,
    sigma: torch.Tensor,
    W: torch.Tensor,
    mode: str,
    *,
    draws: Iterable[torch.Tensor] = (),
    scales: RateScales = PLAIN,
    latent: bool = False,
    loadings: str | None = None,
    log_scale: float = 1.0,
    weights: torch.Tensor | None = None,
) -> Terms:
    """LL of one of the three objectives, and as many of its derivatives as are asked for.

    Parameters
    ----------
    counts : Counts of shape (n, d)
    mu, sigma : Tensor of shape (n, k)
    W : Tensor of shape (d, k)
    mode : {"simple", "expanded", "lower-bound"}
    draws : iterable of Tensor of shape (n, k), or of any shape that broadcasts to it
        ε; not used by ``lower-bound``.
    scales : RateScales
    latent : bool
        Whether the gradients in mu and sigma are wanted.
    loadings : {None, "gradient", "ratio"}
        What is wanted for W: its gradient, or numerator and denominator of the multiplicative update.
    log_scale : float
        Weight of the sum over nonzeros, where `counts` holds a sample of the genes.
    weights : Tensor of shape (B or 1, k) or None
        ``RateScales.weights`` over all genes, where `counts` and `W` hold a sample of them.

    Returns
    -------
    Terms
    """
    weights = scales.weights(W) if weights is None else weights
    cell_weights = scales.of_cells(weights)
    A = None if mode == "simple" else torch.exp(mu + sigma.square() / 2)
    if mode == "lower-bound":
        draws = (None,)
    logs, n_draws, sums = 0.0, 0, 0.0
    on_mu = torch.zeros_like(mu) if latent else None
    on_sigma = torch.zeros_like(mu) if latent else None
    on_W = torch.zeros_like(W) if loadings else None
    for draw in draws:
        H = torch.exp(mu if draw is None else mu + sigma * draw)
        part, pull = _nonzeros(counts, H, W, on_W, latent, loadings)
        logs += part
        n_draws += 1
        if mode == "simple":
            sums = sums + scales.sums(H)
        if latent:
            pull = pull.mul_(log_scale)
            if mode == "simple":
                pull -= H * cell_weights
            on_mu += pull
            if draw is not None:
                on_sigma += pull.mul_(draw)
    sums = sums / n_draws if mode == "simple" else scales.sums(A)
    rates = float((sums.double() * weights.double()).sum())
    value = log_scale * (logs / n_draws - counts.log_factorials + scales.constant()) - rates
    terms = Terms(value)
    if latent:
        terms.mu, terms.sigma = on_mu.div_(n_draws), on_sigma.div_(n_draws)
        if mode != "simple":
            rate = A.mul_(cell_weights)
            terms.mu -= rate
            terms.sigma -= rate.mul_(sigma)
    if loadings == "gradient":
        terms.W = on_W.div_(n_draws) - scales.of_genes(sums)
    elif loadings == "ratio":
        terms.numerator, terms.denominator = on_W.div_(n_draws), scales.of_genes(sums)
    return terms


def multiplicative_step(W: torch.Tensor, terms: Terms) -> torch.Tensor:
    """``W numerator / (denominator + η)``, no less than the floor: never lowers the objective (MM)."""
    return (W * terms.numerator).div_(terms.denominator + FLOOR).clamp_(min=FLOOR)


def value_with_control(
    counts: Counts,
    mu: torch.Tensor,
    sigma: torch.Tensor,
    W: torch.Tensor,
    draws: Iterable[torch.Tensor],
    scales: RateScales = PLAIN,
) -> float:
    """The expanded LL with ``Σ_p (x/R̄)(Rᵉ - R̄)``, R̄ = A Wᵀ, taken off: the same mean, far less noise."""
    A = torch.exp(mu + sigma.square() / 2)
    slope = torch.empty_like(mu)
    for block in counts.blocks:
        rows = block.rows
        slope[rows] = block.times(block.quotients(block.rates(A[rows], W)), W)
    total, n_draws = 0.0, 0
    for draw in draws:
        H = torch.exp(mu + sigma * draw)
        logs = sum(b.log_sum(b.rates(H[b.rows], W)) for b in counts.blocks)
        total += logs - float((slope * (H - A)).sum(dtype=torch.float64))
        n_draws += 1
    weights = scales.weights(W)
    rates = float((scales.sums(A).double() * weights.double()).sum())
    return total / n_draws - counts.log_factorials + scales.constant() - rates


def poisson_deviance(counts: Counts, M: torch.Tensor, W: torch.Tensor) -> float:
    """``2 Σ_nd [x ln(x / r) - x + r]`` of ``M Wᵀ``; in the logarithm r is at least 1e-10."""
    total = 0.0
    for block in counts.blocks:
        r = block.rates(M[block.rows], W).clamp_(min=1e-10)
        x = block.x.double()
        total += float((torch.xlogy(x, x / r) - x).sum())
    return 2 * (total + float(M.sum(dim=0, dtype=torch.float64) @ W.sum(dim=0, dtype=torch.float64)))


def relative_error(counts: Counts, M: torch.Tensor, W: torch.Tensor, scales: RateScales = PLAIN) -> float:
    """``||X - R||² / ||X||²`` of the rates, by ``||X||² - 2 <X W, M> + <MᵀM, WᵀW>``: no rate is formed.

    Of the entries that are fitted.
    """
    squared = counts.squared_norm()
    if squared == 0:
        return float("nan")
    if scales.exposure is not None:
        M = M * scales.exposure[:, None]
    norm = 0.0
    if scales.donors is None:
        norm = float(((M.double().T @ M.double()) * (W.double().T @ W.double())).sum())
    else:
        for b, gamma in enumerate(scales.multipliers):
            part, own = M[scales.donors == b].double(), (W * gamma[:, None]).double()
            norm += float(((part.T @ part) * (own.T @ own)).sum())
    norm -= scales.hidden_squares(M, W)
    cross = 0.0
    for block in counts.blocks:
        x = block.x
        if scales.donors is not None:
            donor = scales.donors[block.rows].repeat_interleave(block.crow.diff())
            x = x * scales.multipliers[donor, block.col.long()]
        cross += float((block.times(x, W) * M[block.rows]).sum(dtype=torch.float64))
    return (squared - 2 * cross + norm) / squared


def _nonzeros(
    counts: Counts, H: torch.Tensor, W: torch.Tensor, on_W, latent: bool, loadings: str | None
) -> tuple[float, torch.Tensor | None]:
    """``Σ x ln r`` of one draw and ``H (Q W)``; adds ``Qᵀ H`` to `on_W`."""
    logs = 0.0
    pull = torch.empty_like(H) if latent else None
    for block in counts.blocks:
        rows = block.rows
        r = block.rates(H[rows], W)
        logs += block.log_sum(r)
        if latent or loadings == "gradient":
            q = block.quotients(r)
        if latent:
            pull[rows] = block.times(q, W)
        if loadings == "ratio":
            q = block.quotients(r, FLOOR, below=True)
        if loadings:
            on_W += block.transposed(q, H[rows])
    return logs, (pull.mul_(H) if latent else None)
