"""Independent marginals of a factor's entries, gamma or log-normal, and what is read off them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

SMALLEST_POINT = 1e-12
"""A most probable value of 0 could never leave it again."""


def point(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """The value of a point estimate."""
    return (numerator / denominator).clamp(min=SMALLEST_POINT)


@dataclass(frozen=True)
class Marginals:
    """The posterior of one factor, n x k, right of constant patterns.

    Attributes
    ----------
    family : {"gamma", "lognormal", "point"}
    first, second : Tensor of shape (n, k)
        Shape and rate, location and scale of the logarithm, or numerator and denominator of a number.
        `second` may have one row.
    fixed : Tensor of shape (n, f) or None
    """

    family: str
    first: torch.Tensor
    second: torch.Tensor
    fixed: torch.Tensor | None = None

    @property
    def n_fixed(self) -> int:
        return 0 if self.fixed is None else self.fixed.shape[1]

    def mean(self) -> torch.Tensor:
        """``E x``, of shape (n, f + k)."""
        if self.family == "gamma":
            return self._with_fixed(self.first / self.second)
        if self.family == "point":
            return self._with_fixed(point(self.first, self.second))
        return self._with_fixed((self.first + self.second**2 / 2).exp())

    def tilde(self) -> torch.Tensor:
        """``exp(E ln x)``, of shape (n, f + k)."""
        if self.family == "gamma":
            return self._with_fixed((torch.digamma(self.first) - self.second.log()).exp())
        if self.family == "point":
            return self.mean()
        return self._with_fixed(self.first.exp())

    def sd(self) -> torch.Tensor:
        """Standard deviations, of shape (n, f + k); 0 where constant."""
        if self.family == "gamma":
            return self._with_fixed(self.first.sqrt() / self.second, zero=True)
        if self.family == "point":
            return self._with_fixed(torch.zeros_like(self.first), zero=True)
        mean = (self.first + self.second**2 / 2).exp()
        return self._with_fixed(mean * torch.expm1(self.second**2).sqrt(), zero=True)

    def scaled(self, scale: torch.Tensor) -> Marginals:
        """Of the variables times `scale`, of shape (f + k,); the constant patterns stay as they are."""
        scale = scale[self.n_fixed :].to(self.first)
        if self.family != "lognormal":
            return replace(self, second=self.second / scale)
        return replace(self, first=self.first + scale.log())

    def per_row(self, size: torch.Tensor) -> Marginals:
        """Of the variables, and of what is constant, over `size`, of shape (n,)."""
        size = size.to(self.first)[:, None]
        fixed = None if self.fixed is None else self.fixed / size
        if self.family != "lognormal":
            return replace(self, second=self.second * size, fixed=fixed)
        return replace(self, first=self.first - size.log(), fixed=fixed)

    def rows(self, part: slice) -> Marginals:
        """Some of the rows."""
        second = self.second if len(self.second) == 1 else self.second[part]
        fixed = None if self.fixed is None else self.fixed[part]
        return replace(self, first=self.first[part], second=second, fixed=fixed)

    def copy(self) -> Marginals:
        """The same numbers in memory of their own, on the CPU."""
        fixed = None if self.fixed is None else self.fixed.cpu()
        first, second = (t.detach().to("cpu", copy=True) for t in (self.first, self.second))
        return replace(self, first=first, second=second, fixed=fixed)

    def kept(self) -> Marginals:
        """The same numbers in memory of their own, where they lie."""
        return replace(self, first=self.first.detach().clone(), second=self.second.detach().clone())

    def votes(self, draws: int, seed: int) -> np.ndarray:
        """Share of posterior draws in which each pattern is an entry's largest, of shape (n, f + k).

        Patterns are scaled to a mean of 1 over the rows first; otherwise the largest pattern of all would be
        the largest nearly everywhere.
        """
        rng = np.random.default_rng([seed, 0x707E5])
        level = self.mean().mean(0).clamp(min=1e-30).numpy()
        n = len(self.first)
        votes = np.zeros((n, len(level)), dtype=np.float32)
        for start in range(0, n, 4096):
            part = self.rows(slice(start, start + 4096))
            every = np.arange(len(part.first))
            for _ in range(draws):
                winner = (part.draw(rng) / level).argmax(axis=1)
                votes[start + every, winner] += 1
        return votes / draws

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of every entry, of shape (n, f + k)."""
        first, second = self.first.numpy(), self.second.numpy()
        if self.family == "gamma":
            values = rng.standard_gamma(first) / second
        elif self.family == "point":
            values = point(self.first, self.second).numpy()
        else:
            values = np.exp(first + second * rng.standard_normal(first.shape))
        return values if self.fixed is None else np.hstack([self.fixed.numpy(), values])

    def _with_fixed(self, learnt: torch.Tensor, zero: bool = False) -> torch.Tensor:
        if self.fixed is None:
            return learnt
        return torch.cat([torch.zeros_like(self.fixed) if zero else self.fixed, learnt], dim=1)


@dataclass(frozen=True)
class Posterior:
    """Both factors, and what was learnt beside them.

    Attributes
    ----------
    cells, genes : Marginals
    learnt : dict of str to Tensor
        ``shape_P``, ``rate_P``, ``shape_A``, ``rate_A`` of the priors, by pattern, and ``p``.
    """

    cells: Marginals
    genes: Marginals
    learnt: dict[str, torch.Tensor]

    @classmethod
    def of(cls, cells: Marginals, genes: Marginals, priors: Any, probability: Any) -> Posterior:
        """With the present priors of both factors, and p."""
        names = (("P", priors[0]), ("A", priors[1]))
        learnt = {f"shape_{name}": prior.shape for name, prior in names}
        learnt |= {f"rate_{name}": prior.rate for name, prior in names}
        return cls(cells, genes, learnt | {"p": probability.p})

    def copy(self) -> Posterior:
        """On the CPU, in memory of its own."""
        learnt = {name: value.to("cpu", copy=True) for name, value in self.learnt.items()}
        return Posterior(self.cells.copy(), self.genes.copy(), learnt)

    def kept(self) -> Posterior:
        """In memory of its own, each part where it lies: nothing travels."""
        learnt = {name: value.clone() for name, value in self.learnt.items()}
        return Posterior(self.cells.kept(), self.genes.kept(), learnt)

    def gene_gram(self, odds: torch.Tensor | None = None) -> np.ndarray | None:
        """Inner products of the gene factors' means, at sums of 1 as they are kept.

        Of learnt patterns alone; None where all are given. `odds` are those of a p for each gene, of shape
        (genes,): the factors are kept in counts.
        """
        W = self.genes.mean()[:, max(self.cells.n_fixed, self.genes.n_fixed) :].detach()
        if not W.shape[1]:
            return None
        W = W if odds is None else W * odds.to(W)[:, None]
        scale = W.sum(0).clamp(min=1e-30).double()
        return ((W.T @ W).double() / torch.outer(scale, scale)).cpu().numpy()

    def per_exposure(self, size: torch.Tensor | None) -> Posterior:
        """With the cells' factors over their sizes; as it is where these are None."""
        return self if size is None else replace(self, cells=self.cells.per_row(size))

    def identified(self) -> Posterior:
        """The same theta with gene factors that sum to 1.

        (P, A) and (P s, A / s) are one model. With sums of 1, a cell's factors are the counts that each
        pattern accounts for. A pattern with a constant side stays as it was given.
        """
        scale = self.genes.mean().sum(0).clamp(min=1e-30)
        scale[: max(self.cells.n_fixed, self.genes.n_fixed)] = 1
        learnt = dict(self.learnt)
        learnt["rate_P"] = learnt["rate_P"] / scale[self.cells.n_fixed :].to(learnt["rate_P"])
        learnt["rate_A"] = learnt["rate_A"] * scale[self.genes.n_fixed :].to(learnt["rate_A"])
        return Posterior(self.cells.scaled(scale), self.genes.scaled(1 / scale), learnt)
