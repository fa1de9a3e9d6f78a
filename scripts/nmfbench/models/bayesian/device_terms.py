"""The terms of the likelihood at the nonzeros of a block in torch, the formulas of :func:`~.kernels.walk`."""

from __future__ import annotations

from functools import cached_property

import torch

from nmfbench.models.bayesian.counts import Weights
from nmfbench.models.bayesian.kernels import LARGEST_FACTORIAL, THETA_FLOOR
from nmfbench.models.nonzeros import Block


class Terms:
    """Value and derivative of each nonzero's terms.

    The negative binomial's are a sum over j < d, ``Σ_j 1 / (theta + j)``. Sorted by d, the nonzeros that have
    a j-th part are the first ones: a count of 1 costs one part and not sixteen, and nothing is compared.

    Parameters
    ----------
    block : Block
    """

    def __init__(self, block: Block) -> None:
        self.block = block

    def at(
        self, theta: torch.Tensor, weights: Weights, uncertainties, with_value: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Derivatives by theta, of shape (nonzeros,), and the sum of the terms, a tensor on the device.

        Parameters
        ----------
        theta : Tensor of shape (nonzeros,)
            Changed.
        weights : Weights
        uncertainties : pair of Tensor, or None
            Of all cells and of all genes; for chi-squared alone.
        with_value : bool
        """
        theta = theta.clamp_(min=THETA_FLOOR)
        d, w = self.block.x, None
        value = _zero(theta)
        if weights.negative_binomial:
            w, value = self._log_rising(theta, with_value)
            w, value = w.mul_(weights.negative_binomial), value * weights.negative_binomial
        if weights.poisson:
            slope = weights.poisson * d / theta
            w = slope if w is None else w.add_(slope)
            if with_value:
                value = value + weights.poisson * total_of(d * theta.log())
        if weights.chi_squared:
            slope, part = self._chi_squared(theta, weights, uncertainties, with_value)
            w = slope if w is None else w.add_(slope)
            value = value + part
        return torch.zeros_like(theta) if w is None else w, value if with_value else None

    @cached_property
    def _by_count(self) -> tuple[torch.Tensor, list[int]]:
        """Places of the nonzeros from the largest count, and how many are above 0, 1, ... of them."""
        counts, order = torch.sort(self.block.x, descending=True, stable=True)
        above = torch.arange(LARGEST_FACTORIAL + 1, dtype=counts.dtype, device=counts.device)
        return order.int(), torch.searchsorted(-counts, -above).tolist()

    @cached_property
    def _large(self) -> torch.Tensor:
        """The counts whose parts are too many to add up, largest first."""
        order, ends = self._by_count
        return self.block.x[order[: ends[LARGEST_FACTORIAL]]]

    def _log_rising(self, theta: torch.Tensor, with_value: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """``psi(d + theta) - psi(theta)``, and the sum of ``ln Gamma(d + theta) - ln Gamma(theta)``."""
        order, ends = self._by_count
        t = theta[order]
        slope, value = t.reciprocal(), _zero(theta)
        many = ends[LARGEST_FACTORIAL]
        if with_value:
            value = value + total_of(t[many:].log())
        for j in range(1, LARGEST_FACTORIAL):
            if ends[j] == many:
                break
            part = t[many : ends[j]] + j
            if with_value:
                value = value + total_of(part.log())
            slope[many : ends[j]] += part.reciprocal_()
        if many:
            # In double precision, on the CPU where the device has none: these are few.
            place = "cpu" if theta.device.type == "mps" else theta.device
            x, n = t[:many].to(place).double(), self._large.to(place).double()
            slope[:many] = (torch.digamma(n + x) - torch.digamma(x)).to(slope)
            if with_value:
                value = value + (torch.lgamma(n + x) - torch.lgamma(x)).sum().to(value)
        w = torch.empty_like(slope)
        w[order] = slope
        return w, value

    def _chi_squared(self, theta, weights, uncertainties, with_value) -> tuple[torch.Tensor, torch.Tensor]:
        block, (cell_u, gene_u) = self.block, uncertainties
        d, zero_u = block.x, cell_u[block.rows][block.cells] * gene_u[block.col]
        zero = zero_u**-2
        u = torch.maximum(zero_u, weights.relative * d) ** -2
        slope = -2 * weights.chi_squared * ((theta - d) * u - zero * theta)
        value = _zero(theta)
        if with_value:
            value = value - weights.chi_squared * total_of((theta - d) ** 2 * u - zero * theta**2)
        return slope, value


def _zero(like: torch.Tensor) -> torch.Tensor:
    """A sum of nothing, in double precision where the device has it."""
    return torch.zeros((), dtype=_sum_type(like), device=like.device)


def total_of(values: torch.Tensor) -> torch.Tensor:
    """A sum in double precision, where the device has it."""
    return values.sum(dtype=_sum_type(values))


def _sum_type(like: torch.Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64
