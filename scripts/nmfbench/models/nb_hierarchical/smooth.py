"""The dense block of the likelihood, ``F(c) = sum_i softplus(t_i + c)``, as a function of one number.

Whatever the dispersions, ``F`` depends on a gene through ``c_g`` alone. It is analytic with its nearest
singularities at a distance of pi from the real line, so that a polynomial through few Chebyshev points holds
it: the cost is points x (cells + genes) in place of cells x genes.

What is interpolated is not ``F`` but ``F(c) / softplus(c + r)`` with ``r = ln mean exp(t)``, a number between
the few cells' extremes and never near zero: the error is then relative for every gene, also for those far to
the left where ``F`` is a millionth of its largest value and is multiplied by a dispersion of a million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

TAIL = -15.0
"""Where every ``t_i + c_g`` is below this, three terms of the series of ``ln(1 + e^x)`` hold all digits."""
CELLS_AT_ONCE = 8192


def n_nodes(width: float) -> int:
    """Chebyshev points for a range of `width`: every sum is then right to 1e-10 of itself."""
    return 32 + math.ceil(2.5 * width)


def softplus(x: torch.Tensor) -> torch.Tensor:
    """``ln(1 + e^x)``, without the threshold of torch's own."""
    return -logsigmoid(-x)


@dataclass
class SmoothSums:
    """Sums over all cells and genes of one group of cells.

    Attributes
    ----------
    value : Tensor of shape (genes,)
        ``F(c_g)``.
    slope, bend : Tensor of shape (genes,)
        ``F'(c_g) = sum_i sigmoid(t_i + c_g)`` and ``F''(c_g)``.
    row_slope, row_bend : Tensor of shape (cells,)
        ``sum_g w_g sigmoid(t_i + c_g)`` and ``sum_g w_g sigmoid' (t_i + c_g)``.
    """

    value: torch.Tensor
    slope: torch.Tensor
    bend: torch.Tensor | None
    row_slope: torch.Tensor
    row_bend: torch.Tensor | None


def smooth_sums(t: torch.Tensor, c: torch.Tensor, weights: torch.Tensor, *, bend: bool = False) -> SmoothSums:
    """All sums of the dense block.

    Parameters
    ----------
    t : Tensor of shape (cells,), float64
    c, weights : Tensor of shape (genes,), float64
        `weights` are the dispersions alpha_g.
    bend : bool, default=False
        Whether second derivatives are wanted.
    """
    tail = c + t.max() < TAIL
    if bool(tail.any()):
        return _with_tail(t, c, weights, tail, bend)
    return _interpolated(t, c, weights, bend)


def _interpolated(t, c, weights, bend: bool) -> SmoothSums:
    centre = torch.logsumexp(t, 0) - math.log(len(t))
    basis, nodes = lagrange_basis(c)
    # cells x points, in blocks: sums over the cells at every point, and for every cell over the points
    totals = torch.zeros(3, len(nodes), dtype=t.dtype, device=t.device)
    shifted = c + centre
    sigma = torch.sigmoid(shifted)
    at_nodes = nodes + centre
    node_sigma = torch.sigmoid(at_nodes)
    row_weights = (basis.T @ (weights * sigma)) / node_sigma
    curved = sigma * torch.sigmoid(-shifted)
    node_curved = node_sigma * torch.sigmoid(-at_nodes)
    bend_weights = (basis.T @ (weights * curved)) / node_curved if bend else None
    row_slope = torch.empty_like(t)
    row_bend = torch.empty_like(t) if bend else None
    for start in range(0, len(t), CELLS_AT_ONCE):
        part = slice(start, start + CELLS_AT_ONCE)
        x = t[part, None] + nodes
        log_rest = logsigmoid(-x)  # ln(1 - sigmoid) = -softplus
        s = torch.exp(x + log_rest)
        totals[0] -= log_rest.sum(0)
        totals[1] += s.sum(0)
        row_slope[part] = s @ row_weights
        if bend:
            s *= torch.exp(log_rest)
            totals[2] += s.sum(0)
            row_bend[part] = s @ bend_weights
    value = (basis @ (totals[0] / softplus(at_nodes))) * softplus(shifted)
    slope = (basis @ (totals[1] / node_sigma)) * sigma
    second = (basis @ (totals[2] / node_curved)) * curved if bend else None
    return SmoothSums(value, slope, second, row_slope, row_bend)


def _with_tail(t, c, weights, tail, bend: bool) -> SmoothSums:
    """Genes in the far left by the series ``e^x - e^2x / 2 + e^3x / 3``, the others by interpolation."""
    top = t.max()
    powers = torch.stack([torch.exp(k * (t - top)) for k in (1, 2, 3)])
    x = torch.exp(c[tail] + top)
    terms = torch.stack([x, x**2, x**3]) * powers.sum(1)[:, None]
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=t.dtype, device=t.device)[:, None]
    orders = torch.tensor([1.0, 2.0, 3.0], dtype=t.dtype, device=t.device)[:, None]
    value, slope, second = torch.empty_like(c), torch.empty_like(c), torch.empty_like(c)
    value[tail] = (signs / orders * terms).sum(0)
    slope[tail] = (signs * terms).sum(0)
    second[tail] = (signs * orders * terms).sum(0)
    gene_powers = torch.stack([weights[tail] @ x**k for k in (1, 2, 3)])[:, None]
    row_slope = (signs * gene_powers * powers).sum(0)
    row_bend = (signs * orders * gene_powers * powers).sum(0)
    if not bool(tail.all()):
        rest = _interpolated(t, c[~tail], weights[~tail], bend)
        value[~tail], slope[~tail] = rest.value, rest.slope
        row_slope += rest.row_slope
        if bend:
            second[~tail] = rest.bend
            row_bend += rest.row_bend
    return SmoothSums(value, slope, second if bend else None, row_slope, row_bend if bend else None)


def lagrange_basis(c: torch.Tensor, n: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Lagrange polynomials of Chebyshev points about the range of `c`, at `c`.

    Parameters
    ----------
    c : Tensor of shape (genes,)
    n : int, optional
        Points; by default as many as the range needs (:func:`n_nodes`).

    Returns
    -------
    basis : Tensor of shape (genes, n)
        ``f(c_g) = sum_k basis[g, k] f(nodes[k])`` for a smooth f, by the barycentric formula.
    nodes : Tensor of shape (n,)
    """
    low, high = float(c.min()), float(c.max())
    pad = 1e-6 * max(1.0, high - low)
    low, high = low - pad, high + pad
    n = n_nodes(high - low) if n is None else n
    k = torch.arange(n, dtype=c.dtype, device=c.device)
    nodes = 0.5 * (low + high) + 0.5 * (high - low) * torch.cos(math.pi * k / (n - 1))
    signs = 1.0 - 2.0 * (k % 2)
    signs[0] *= 0.5
    signs[-1] *= 0.5
    gaps = c[:, None] - nodes
    met = gaps.abs() <= 1e-14 * (high - low)
    basis = signs / torch.where(met, torch.ones_like(gaps), gaps)
    basis /= basis.sum(1, keepdim=True)
    at_node = met.any(1)
    if bool(at_node.any()):
        basis[at_node] = met[at_node].to(c.dtype)
    return basis, nodes
