"""The likelihood of counts, exact, from the nonzeros and k-sized sums alone; differentiable by torch.

``theta = P Aᵀ``, p the chance that multiplies the counts, ``c = -ln(1 - p)``:

* negative binomial ``Σ [lnG(d + theta) - lnG(theta) - lnG(d + 1)] + Σ d ln p - Σ c theta``, of mean
  ``theta p / (1 - p)``;
* Poisson ``Σ [d ln theta - theta - lnG(d + 1)]``;
* chi-squared ``-Σ (theta - d)² / u²``, u the uncertainty, ``u_i v_g`` at zeros.

At zeros the first two are linear in theta and the third is a quadratic form, which is what makes the sums
over all cells x genes a matter of k x k numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from nmfbench.models.bayesian.counts import Weights
from nmfbench.models.bayesian.kernels import THETA_FLOOR
from nmfbench.models.bayesian.posterior import Marginals, Posterior
from nmfbench.models.hidden import HiddenEntries

BLOCK_NONZEROS = 2**16


@dataclass
class Probability:
    """p of the negative binomial: one number, one for each gene, or one for each donor.

    Attributes
    ----------
    by : {"all", "gene", "donor"}
    p : Tensor of shape (1,), (genes,) or (donors,), float64
    donors : Tensor of int of shape (cells,) or None
        The donor of each cell.
    """

    by: str
    p: torch.Tensor
    donors: torch.Tensor | None = None

    def cell_cost(self) -> torch.Tensor:
        """The part of c that depends on the cell, of shape (cells, 1) or (1, 1)."""
        c = -torch.log1p(-self.p)
        if self.by == "donor":
            return c[self.donors][:, None]
        return (c if self.by == "all" else torch.ones_like(c[:1]))[:, None]

    def gene_cost(self) -> torch.Tensor:
        """The part of c that depends on the gene, of shape (genes, 1) or (1, 1)."""
        if self.by == "gene":
            return -torch.log1p(-self.p)[:, None]
        return torch.ones((1, 1), dtype=self.p.dtype, device=self.p.device)

    def log_p_total(self, counts: Any) -> float:
        """Sum of d ln p over all counts."""
        if self.by == "gene":
            return float(counts.gene_totals @ self.p.cpu().log())
        if self.by == "donor":
            return float(counts.cell_totals @ self.p.cpu().log()[self.donors.cpu()])
        return float(counts.gene_totals.sum() * self.p.cpu().log()[0])

    def rows(self, index: Any) -> Probability:
        """The same for some of the cells."""
        return self if self.donors is None else Probability(self.by, self.p, self.donors[index])

    def update(self, counts: Any, P: torch.Tensor, A: torch.Tensor) -> None:
        """Set p to its best value, Σd / (Σd + Σtheta) over the cells and genes that share it."""
        P_sum, A_sum = column_sums(P).cpu(), column_sums(A).cpu()
        hidden = counts.hidden
        if self.by == "gene":
            total, theta = counts.gene_totals, A.cpu().double() @ P_sum.double()
            if hidden is not None:
                theta = theta - (A * hidden.of_genes(P.to(A))).sum(1).cpu().double()
        elif self.by == "donor":
            donors, n = self.donors.cpu(), len(self.p)
            total = torch.zeros(n, dtype=torch.float64).index_add_(0, donors, counts.cell_totals)
            theta = torch.zeros(n, dtype=torch.float64)
            of_cells = P.cpu().double() @ A_sum.double()
            if hidden is not None:
                of_cells = of_cells - (P.to(A) * hidden.of_cells(A)).sum(1).cpu().double()
            theta.index_add_(0, donors, of_cells)
        else:
            total, theta = counts.gene_totals.sum()[None], (P_sum @ A_sum)[None].double()
            if hidden is not None:
                theta = theta - hidden.inner(P.to(A), A).cpu().double()
        # Genes and donors without counts keep a p above 0, whose logarithm is finite.
        self.p = (total / (total + theta)).clamp(1e-6, 1 - 1e-6).to(self.p)

    def odds(self) -> torch.Tensor:
        """p / (1 - p), the mean count of a theta of 1."""
        return self.p / (1 - self.p)


def precise(x: torch.Tensor) -> torch.Tensor:
    """Double precision, where the device has it."""
    return x if x.device.type == "mps" else x.double()


def column_sums(factor: torch.Tensor) -> torch.Tensor:
    """Sums over the rows, in double precision where the device has it."""
    return factor.sum(0) if factor.device.type == "mps" else factor.sum(0, dtype=torch.float64)


class _Nonzeros(torch.autograd.Function):
    """The terms at the nonzeros. The gradient is made with the value: memory is that of P and A."""

    @staticmethod
    def forward(ctx, P, A, counts, weights):
        value, by_cell, by_gene = counts.walks(P, A, weights)
        ctx.save_for_backward(by_cell, by_gene)
        precise = P.dtype if P.device.type == "mps" else torch.float64
        return torch.tensor(value, dtype=precise, device=P.device)

    @staticmethod
    def backward(ctx, slope):
        by_cell, by_gene = ctx.saved_tensors
        return slope.to(by_cell.dtype) * by_cell, slope.to(by_gene.dtype) * by_gene, None, None


def log_likelihood(
    P: torch.Tensor, A: torch.Tensor, counts: Any, weights: Weights, probability: Probability
) -> torch.Tensor:
    """The weighted terms that depend on theta, summed over all cells and genes.

    Parameters
    ----------
    P : Tensor of shape (cells, k)
    A : Tensor of shape (genes, k)
    counts : CellCounts or DeviceCounts
    weights : Weights
    probability : Probability

    Returns
    -------
    Tensor
        A number, differentiable by P and A; :func:`constant` is what is left out.
    """
    value = _Nonzeros.apply(P, A, counts, weights)
    if weights.negative_binomial:
        cell, gene = (c.to(P) for c in (probability.cell_cost(), probability.gene_cost()))
        value = value - weights.negative_binomial * products(cell * P, gene * A, counts.hidden)
    if weights.poisson:
        value = value - weights.poisson * products(P, A, counts.hidden)
    if weights.chi_squared:
        cell_u, gene_u = (torch.as_tensor(u).to(P)[:, None] for u in weights.uncertainties(*counts.shape))
        scaled_P, scaled_A = P / cell_u, A / gene_u
        value = value - weights.chi_squared * ((scaled_P.T @ scaled_P) * (scaled_A.T @ scaled_A)).sum()
        if counts.hidden is not None:
            value = value + weights.chi_squared * counts.hidden.rates(scaled_P, scaled_A).square().sum()
    return value


def products(P: torch.Tensor, A: torch.Tensor, hidden: HiddenEntries | None) -> torch.Tensor:
    """``Σ_ig P_i·A_g`` over all cells x genes but the hidden entries; a number."""
    whole = column_sums(P) @ column_sums(A)
    return whole if hidden is None else whole - hidden.inner(P, A)


def constant(counts: Any, weights: Weights, probability: Probability) -> float:
    """The weighted terms that do not depend on theta."""
    terms = weights.negative_binomial + weights.poisson
    return weights.negative_binomial * probability.log_p_total(counts) - terms * counts.log_factorials


def chi_squared(P: torch.Tensor, A: torch.Tensor, counts: Any, weights: Weights) -> float:
    """``Σ (theta - d)² / u²`` over all cells and genes."""
    only = Weights(0.0, 0.0, 1.0, weights.cell_u, weights.gene_u, weights.relative)
    with torch.no_grad():
        return -float(log_likelihood(P, A, counts, only, Probability("all", torch.full((1,), 0.5))))


def expected_chi_squared(cells: Marginals, genes: Marginals, counts: Any, weights: Weights) -> float:
    """``E chi-squared`` under independent marginals, exactly: that of the means, and ``Σ Var theta / u²``.

    ``Var theta = Σ_k (E P² E A² - (E P)² (E A)²)`` has rank 2 k: where u is that of a zero, its weighted sum
    is one of products of column sums; the counts with a larger u are corrected one by one.
    """
    device = counts.device
    means = [side.mean().to(device) for side in (cells, genes)]
    u = [torch.from_numpy(part)[:, None] for part in weights.uncertainties(*counts.shape)]
    squares = [mean.cpu().double() ** 2 for mean in means]
    seconds = [
        square + side.sd().cpu().double() ** 2 for square, side in zip(squares, (cells, genes), strict=True)
    ]
    P_two, A_two = torch.cat([seconds[0], -squares[0]], 1), torch.cat([seconds[1], squares[1]], 1)
    P_scaled, A_scaled = P_two / u[0] ** 2, A_two / u[1] ** 2
    spread = float(P_scaled.sum(0) @ A_scaled.sum(0))
    if counts.hidden is not None:
        spread -= float(counts.hidden.rates(P_scaled.to(device), A_scaled.to(device)).sum())
    smallest = float(u[0].min() * u[1].min())
    if weights.relative:
        rows, columns, d = (
            torch.from_numpy(part) for part in counts.larger_than(smallest / weights.relative)
        )
        for part in torch.arange(len(d)).split(BLOCK_NONZEROS):
            i, g = rows[part].long(), columns[part].long()
            zero = (u[0][i] * u[1][g])[:, 0]
            larger = torch.maximum(zero, weights.relative * d[part].double())
            spread += float((larger**-2 - zero**-2) @ (P_two[i] * A_two[g]).sum(1))
    return chi_squared(*means, counts, weights) + spread


def relative_error(P: torch.Tensor, A: torch.Tensor, counts: Any) -> float:
    """``||D - P Aᵀ||² / ||D||²``."""
    if not counts.squares:
        return float("nan")
    gram = (precise(P).T @ precise(P)) * (precise(A).T @ precise(A))
    squares = float(gram.sum())
    if counts.hidden is not None:
        squares -= float(counts.hidden.rates(P, A).square().sum())
    return (counts.squares - 2 * counts.inner(P, A) + squares) / counts.squares


def error_of_means(posterior: Posterior, counts: Any, probability: Probability) -> float:
    """:func:`relative_error` of the expected counts, ``theta p / (1 - p)`` at the posterior means."""
    P, A = (side.mean().to(counts.device) for side in (posterior.cells, posterior.genes))
    odds = probability.odds().to(P)
    if probability.by == "gene":
        A = A * odds[:, None]
    else:
        P = P * (odds if probability.by == "all" else odds[probability.donors.to(odds.device)])[:, None]
    return relative_error(P, A, counts)


def gene_moments(P: torch.Tensor, A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of theta over the cells, for each gene: what dispersion diagnostics need."""
    P, A = P.double(), A.double()
    centred = P - P.mean(0)
    covariance = centred.T @ centred / len(P)
    return A @ P.mean(0), ((A @ covariance) * A).sum(1)


def held_out_log_likelihood(
    P: torch.Tensor, A: torch.Tensor, test: Any, fraction: float, probability: Probability
) -> float:
    """Log-likelihood of thinned counts, per entry of cells x genes, zeros included.

    A negative binomial count of chance p, thinned, is one of the same theta and of odds p / (1 - p) times the
    share kept; training saw the share 1 - `fraction`.

    Parameters
    ----------
    P, A : Tensor of shape (cells, k), (genes, k)
        Posterior means.
    test : CellCounts or DeviceCounts
        What was set aside.
    fraction : float
        The share set aside.
    probability : Probability
        Of the training counts.
    """
    odds = probability.odds() * fraction / (1 - fraction)
    thinned = Probability(probability.by, odds / (1 + odds), probability.donors)
    with torch.no_grad():
        value = float(log_likelihood(P, A, test, Weights(), thinned)) + constant(test, Weights(), thinned)
    return value / (test.shape[0] * test.shape[1])


@dataclass(frozen=True)
class NegativeBinomialDensity:
    """Counts as negative binomial about ``theta = P Aᵀ``, of size theta and chance p.

    Attributes
    ----------
    P, A : Tensor of shape (cells, k), (genes, k)
    probability : Probability
    """

    P: torch.Tensor
    A: torch.Tensor
    probability: Probability

    def log_density(self, y: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Log density of counts `y` of the entries (rows, genes); theta is at least the fit's floor."""
        i, g = (torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in (rows, genes))
        P, A = self.P.cpu().double(), self.A.cpu().double()
        parts = zip(i.split(BLOCK_NONZEROS), g.split(BLOCK_NONZEROS), strict=True)
        theta = torch.cat([(P[a] * A[b]).sum(1) for a, b in parts]).clamp_(min=THETA_FLOOR).numpy()
        p = self.probability.p.cpu().double()
        if self.probability.by == "all":
            p = p[0].numpy()
        else:
            p = p[g if self.probability.by == "gene" else self.probability.donors.cpu()[i]].numpy()
        return gammaln(y + theta) - gammaln(theta) - gammaln(y + 1) + theta * np.log1p(-p) + y * np.log(p)
