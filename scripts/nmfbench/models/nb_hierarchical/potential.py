"""The joint density that NUTS samples, and its gradient by hand: a chain asks for some hundred thousand.

Its likelihood is written densely, apart from the exact engine.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import digamma, expit, gammaln

from nmfbench.models.nb_hierarchical.family import BOUND_SD, LOG_ALPHA_BOUNDS, Family
from nmfbench.models.nb_hierarchical.preparation import Prepared

FORMS = ("gene", "cell", "log_alpha")


class Potential:
    """Minus the log of the joint density of one panel.

    Parameters
    ----------
    family : Family
        Its forms are those of the coordinates. Without covariates.
    ready : Prepared
    """

    def __init__(self, family: Family, ready: Prepared) -> None:
        self.family = family
        self.y = ready.train.toarray().astype(np.float64)  # 0 where an entry is held out
        shown = np.ones(self.y.shape) if ready.mask is None else 1.0 - ready.mask.toarray()
        self.shown = shown.astype(np.float64)
        rows, self.genes = np.nonzero(self.y)
        self.nonzeros = self.y[rows, self.genes]
        self.constant = float(gammaln(self.nonzeros + 1).sum())
        self.size, self.length = ready.size[ready.cells][:, None], ready.length

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """At a vector of the family whose genes are ``a + mean b``."""
        return _Potential.apply(x, self)

    def effects(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``a + mean b``, ``b`` and ``ln alpha``."""
        a, b, log_alpha, _ = self.family.unfolded(x)
        return (a if self.family.forms["gene"] else a + b.mean()), b, log_alpha

    def evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The log density and its gradient."""
        family, gradient = self.family, np.zeros(len(x))
        a, b, log_alpha, _ = family.unfolded(x)
        if family.forms["gene"]:
            a = a - b.mean()
        value, by_a, by_b, by_alpha = self._likelihood(a, b, log_alpha)
        value += self._bounds(log_alpha, by_alpha)
        effects = {"gene": (a, by_a), "cell": (b, by_b), "log_alpha": (log_alpha, by_alpha)}
        at = {name: k for k, name in enumerate(family.globals)}
        shared, axes = family.split(x)
        centres = family.centres(shared)
        for name in FORMS:
            effect, by_effect = effects[name]
            if name not in family.axes:
                gradient[at["log_alpha"]] += by_effect[0]
                continue
            (mean, log_sd), place = centres[name], family.places[name]
            sd = np.exp(log_sd)
            if family.forms[name]:
                away = (effect - mean) / sd
                value -= 0.5 * away @ away + len(away) * log_sd
                by_effect = by_effect - away / sd
                of_mean, of_log_sd = away.sum() / sd, away @ away - len(away)
                gradient[place] = by_effect
                if name == "gene":  # the coordinate is a + mean b
                    effects["cell"][1][:] -= by_effect.sum() / len(b)
            else:
                z = axes[name]
                value -= 0.5 * z @ z
                of_mean, of_log_sd = by_effect.sum(), sd * (by_effect @ z)
                gradient[place] = sd * by_effect - z
            if f"mu_{name}" in at:
                gradient[at[f"mu_{name}"]] += of_mean
            gradient[at[f"log_sigma_{name}"]] += of_log_sd
        return value + self._globals(shared, at, gradient), gradient

    def _likelihood(self, a, b, log_alpha):
        """Value, and derivatives in a, b and ln alpha with the means held in the first two."""
        alpha = np.broadcast_to(np.exp(log_alpha), self.y.shape[1:])
        eta = a + b[:, None] + self.size + self.length - log_alpha
        zero = self.shown * np.logaddexp(0, eta)
        of_nonzeros = alpha[self.genes]
        value = (self.y * eta).sum() - ((self.y + alpha) * zero).sum() - self.constant
        value += (gammaln(self.nonzeros + of_nonzeros) - gammaln(of_nonzeros)).sum()
        by_eta = self.y - (self.y + alpha * self.shown) * expit(eta)
        rising = digamma(self.nonzeros + of_nonzeros) - digamma(of_nonzeros)
        by_a = by_eta.sum(0)
        by_alpha = alpha * (np.bincount(self.genes, rising, len(alpha)) - zero.sum(0)) - by_a
        return value, by_a, by_eta.sum(1), by_alpha.sum(keepdims=True) if self.family.shared else by_alpha

    @staticmethod
    def _bounds(log_alpha: np.ndarray, by_alpha: np.ndarray) -> float:
        low, high = LOG_ALPHA_BOUNDS
        beyond = np.maximum(log_alpha - high, 0) - np.maximum(low - log_alpha, 0)
        by_alpha -= beyond / BOUND_SD**2
        return -0.5 * float(beyond @ beyond) / BOUND_SD**2

    def _globals(self, shared, at: dict[str, int], gradient: np.ndarray) -> float:
        """Log prior of the shared numbers, positive ones in their logarithm, without its constants."""
        p, value = self.family.priors, 0.0
        normal = {"mu_gene": (p.gene_mean, p.gene_mean_sd), "mu_log_alpha": (0.0, p.log_alpha_mean_sd)}
        normal["mu_cell"] = (0.0, p.cell_mean_sd)
        half_normal = {"log_sigma_gene": p.gene_sd, "log_sigma_cell": p.cell_sd}
        half_normal["log_sigma_log_alpha"] = p.log_alpha_sd
        for name, k in at.items():
            x = float(shared[name])
            if name in normal:
                mean, sd = normal[name]
                value -= 0.5 * ((x - mean) / sd) ** 2
                gradient[k] -= (x - mean) / sd**2
            elif name in half_normal:
                square = math.exp(2 * x) / half_normal[name] ** 2
                value += x - 0.5 * square
                gradient[k] += 1 - square
            else:  # a half-Cauchy alpha
                square = math.exp(2 * x) / p.alpha_scale**2
                value += x - math.log1p(square)
                gradient[k] += 1 - 2 * square / (1 + square)
        return value


class _Potential(torch.autograd.Function):
    """Value and gradient as a step that Pyro differentiates."""

    @staticmethod
    def forward(ctx, x, potential):
        value, gradient = potential.evaluate(x.detach().numpy())
        ctx.save_for_backward(torch.from_numpy(gradient))
        return torch.tensor(-value, dtype=x.dtype)

    @staticmethod
    def backward(ctx, upstream):
        return -upstream * ctx.saved_tensors[0], None
