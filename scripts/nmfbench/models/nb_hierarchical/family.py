"""The model's priors and its mean-field posterior: one vector of unconstrained numbers, and their ELBO.

    a_g ~ N(mu_gene, sigma_gene)                      gene effects
    b_i ~ N(mu_cell, sigma_cell)                      cell effects; mu_cell is 0 unless it is asked for
    ln alpha_g ~ N(mu_log_alpha, sigma_log_alpha)     dispersions, or one alpha ~ HalfCauchy
    d_gl ~ N(0, sigma_effect)                         effect of level l of a covariate on gene g

Every number has a Gaussian posterior of its own, positive ones in their logarithm. An axis (genes, cells,
dispersions, effects) is either centred (the Gaussian is that of ``a_g``) or non-centred (that of
``z_g = (a_g - mu) / sigma``); what belongs to an axis given its mean and sd is integrated in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood, log_likelihood

AXES = ("gene", "cell", "log_alpha", "effect")
LOG_ALPHA_BOUNDS = (-6.0, 14.0)
BOUND_SD = 0.5
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Priors:
    """Priors of the few numbers that all genes or cells share.

    Attributes
    ----------
    gene_mean, gene_mean_sd : float
        Normal prior of mu_gene.
    gene_sd, cell_sd, log_alpha_sd, effect_sd : float
        Scales of the half-normal priors of the sigmas.
    cell_mean_sd : float or None
        Normal prior about 0 of mu_cell; None: mu_cell is 0.
    log_alpha_mean_sd : float
        Normal prior about 0 of mu_log_alpha.
    alpha_scale : float
        Scale of the half-Cauchy prior of a shared alpha.
    """

    gene_mean: float = 0.0
    gene_mean_sd: float = 3.0
    gene_sd: float = 2.0
    cell_mean_sd: float | None = None
    cell_sd: float = 1.0
    log_alpha_mean_sd: float = 1.5
    log_alpha_sd: float = 1.0
    effect_sd: float = 1.0
    alpha_scale: float = 2.0


PUBLISHED_PRIORS = Priors(gene_mean=2.0, gene_mean_sd=1.0, gene_sd=1.0, cell_mean_sd=1.0)


@dataclass(frozen=True)
class Family:
    """Where each number stands in the vector, and what the ELBO is.

    Attributes
    ----------
    n_cells, n_genes : int
    shared : bool
        One dispersion for all genes.
    priors : Priors
    design : ndarray of shape (groups, effects), float64
        Which effects each group of cells has; no columns without covariates.
    forms : dict of str to bool
        Whether an axis is centred.
    """

    n_cells: int
    n_genes: int
    shared: bool
    priors: Priors
    design: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))
    forms: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(AXES, True))

    @property
    def axes(self) -> dict[str, int]:
        """The axes there are, and how many numbers each has."""
        sizes = {"gene": self.n_genes, "cell": self.n_cells}
        if not self.shared:
            sizes["log_alpha"] = self.n_genes
        if self.design.shape[1]:
            sizes["effect"] = self.design.shape[1] * self.n_genes
        return sizes

    @property
    def globals(self) -> list[str]:
        """Names of the shared numbers as they stand in the vector: positive ones in their logarithm."""
        names = ["mu_gene", "log_sigma_gene"]
        names += ["mu_cell"] if self.priors.cell_mean_sd is not None else []
        names += ["log_sigma_cell"]
        names += ["log_alpha"] if self.shared else ["mu_log_alpha", "log_sigma_log_alpha"]
        return names + (["log_sigma_effect"] if self.design.shape[1] else [])

    @property
    def places(self) -> dict[str, slice]:
        """Slice of the vector of every axis."""
        places, start = {}, len(self.globals)
        for name, size in self.axes.items():
            places[name] = slice(start, start + size)
            start += size
        return places

    @property
    def size(self) -> int:
        return len(self.globals) + sum(self.axes.values())

    def split(self, x):
        """Globals by name and axes by name, of a vector (tensor or ndarray)."""
        shared = {name: x[k] for k, name in enumerate(self.globals)}
        return shared, {name: x[place] for name, place in self.places.items()}

    def centres(self, shared: dict) -> dict[str, tuple]:
        """Mean and ln sd of every axis, from the globals by name."""
        zero = 0.0
        return {
            "gene": (shared["mu_gene"], shared["log_sigma_gene"]),
            "cell": (shared.get("mu_cell", zero), shared["log_sigma_cell"]),
            "log_alpha": (shared.get("mu_log_alpha", zero), shared.get("log_sigma_log_alpha", zero)),
            "effect": (zero, shared.get("log_sigma_effect", zero)),
        }

    def unfolded(self, x):
        """``(a, b, ln alpha, d)`` at a vector: what the likelihood sees, whatever the forms.

        Shapes (genes,), (cells,), (genes,) or (1,), and (effects, genes).
        """
        shared, axes = self.split(x)
        centres = self.centres(shared)
        exp = torch.exp if isinstance(x, torch.Tensor) else np.exp
        found = {}
        for name, values in axes.items():
            mean, log_sd = centres[name]
            found[name] = values if self.forms[name] else mean + exp(log_sd) * values
        log_alpha = x[self.globals.index("log_alpha")].reshape(1) if self.shared else found["log_alpha"]
        effects = (
            found["effect"].reshape(-1, self.n_genes) if "effect" in found else x[:0].reshape(0, self.n_genes)
        )
        return found["gene"], found["cell"], log_alpha, effects

    def gene_sides(self, a, log_alpha, effects, length_offset):
        """c of every group of cells, shape (groups, genes)."""
        c = (a + length_offset - log_alpha).reshape(1, -1)
        if not self.design.shape[1]:
            return c
        design = torch.from_numpy(self.design) if isinstance(a, torch.Tensor) else self.design
        return c + design @ effects

    def elbo(
        self,
        loc: torch.Tensor,
        log_sd: torch.Tensor,
        noise: torch.Tensor,
        likelihood: SplitLikelihood,
        size: torch.Tensor,
        length: torch.Tensor,
        *,
        value: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One draw's estimate of the ELBO: the likelihood, and the rest.

        Parameters
        ----------
        loc, log_sd : Tensor of shape (size,)
            The posterior.
        noise : Tensor of shape (size,)
            Standard normal numbers.
        likelihood : SplitLikelihood
        size, length : Tensor of shape (cells,), (genes,)
            Offsets.
        value : bool
            Whether the likelihood's value is wanted beside its gradient.
        """
        x = loc + torch.exp(log_sd) * noise
        a, b, log_alpha, effects = self.unfolded(x)
        c = self.gene_sides(a, log_alpha, effects, length)
        fit = log_likelihood(b + size, c, log_alpha, likelihood, value)
        return fit, self.log_prior(loc, log_sd, x) + self.entropy(log_sd)

    def entropy(self, log_sd: torch.Tensor) -> torch.Tensor:
        return log_sd.sum() + len(log_sd) * (0.5 + _HALF_LOG_2PI)

    def log_prior(self, loc: torch.Tensor, log_sd: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Expected log prior; over the axes in closed form, over the globals at their draw in `x`."""
        shared, _ = self.split(x)
        _, locs = self.split(loc)
        _, log_sds = self.split(log_sd)
        centres = self.centres(shared)
        total = self._globals_prior(shared)
        for name, mean in locs.items():
            variance = torch.exp(2 * log_sds[name])
            centre, log_scale = centres[name]
            if not self.forms[name]:
                centre, log_scale = 0.0, 0.0
            squares = ((mean - centre) ** 2 + variance).sum()
            scale = torch.exp(torch.as_tensor(-2.0 * log_scale, dtype=loc.dtype))
            total = total - 0.5 * squares * scale - len(mean) * (log_scale + _HALF_LOG_2PI)
        _, _, log_alpha, _ = self.unfolded(x)
        low, high = LOG_ALPHA_BOUNDS
        beyond = torch.relu(log_alpha - high) + torch.relu(low - log_alpha)
        return total - 0.5 * (beyond**2).sum() / BOUND_SD**2

    def _globals_prior(self, shared: dict[str, torch.Tensor]) -> torch.Tensor:
        p = self.priors
        total = _normal(shared["mu_gene"] - p.gene_mean, p.gene_mean_sd)
        total = total + _half_normal(shared["log_sigma_gene"], p.gene_sd)
        total = total + _half_normal(shared["log_sigma_cell"], p.cell_sd)
        if p.cell_mean_sd is not None:
            total = total + _normal(shared["mu_cell"], p.cell_mean_sd)
        if self.shared:
            total = total + _half_cauchy(shared["log_alpha"], p.alpha_scale)
        else:
            total = total + _normal(shared["mu_log_alpha"], p.log_alpha_mean_sd)
            total = total + _half_normal(shared["log_sigma_log_alpha"], p.log_alpha_sd)
        if "log_sigma_effect" in shared:
            total = total + _half_normal(shared["log_sigma_effect"], p.effect_sd)
        return total

    def reformed(
        self,
        loc: np.ndarray,
        log_sd: np.ndarray,
        forms: dict[str, bool],
        information: dict[str, np.ndarray],
    ) -> tuple[Family, np.ndarray, np.ndarray]:
        """The same posterior, as nearly as its family allows, in other forms.

        Parameters
        ----------
        loc, log_sd : ndarray of shape (size,)
        forms : dict of str to bool
        information : dict of str to ndarray
            What the data say about each effect of an axis. In the non-centred form a step of the mean moves
            all effects at once, so that its sd is that of all data together.
        """
        loc, log_sd = loc.copy(), log_sd.copy()
        shared, _ = self.split(loc)
        for name, (mean, log_scale) in self.centres(shared).items():
            if name not in self.axes or forms[name] == self.forms[name]:
                continue
            place, n = self.places[name], self.axes[name]
            if forms[name]:
                loc[place] = mean + np.exp(log_scale) * loc[place]
                of_mean, of_sd = log_scale - 0.5 * math.log(n), -0.5 * math.log(2 * n)
            else:
                weights = information[name]
                of_mean = -0.5 * math.log(weights.sum() + 1e-12)
                of_sd = -0.5 * math.log((weights * (loc[place] - mean) ** 2).sum() + 2.0)
                loc[place] = (loc[place] - mean) * np.exp(-log_scale)
            log_sd[place] += log_scale if forms[name] else -log_scale
            for key, log_spread in ((f"mu_{name}", of_mean), (f"log_sigma_{name}", of_sd)):
                if key in self.globals:
                    log_sd[self.globals.index(key)] = log_spread
        return replace(self, forms=dict(forms)), loc, log_sd


def _normal(difference: torch.Tensor, sd: float) -> torch.Tensor:
    return -0.5 * (difference / sd) ** 2 - math.log(sd) - _HALF_LOG_2PI


def _half_normal(log_x: torch.Tensor, scale: float) -> torch.Tensor:
    """ln density of x in its logarithm."""
    return log_x - 0.5 * torch.exp(2 * log_x) / scale**2 + 0.5 * math.log(2 / math.pi) - math.log(scale)


def _half_cauchy(log_x: torch.Tensor, scale: float) -> torch.Tensor:
    """ln density of x in its logarithm."""
    return log_x + math.log(2 / (math.pi * scale)) - torch.log1p(torch.exp(2 * log_x) / scale**2)
