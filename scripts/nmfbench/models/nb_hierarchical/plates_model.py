"""The model in Pyro, cells and genes subsampled together in two independent plates.

The same index tensors, taken from the plates, choose counts, offsets and effects; Pyro then weights genes by
G / genes of the batch, cells by N / cells of the batch, and the counts by both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from nmfbench.models.nb_hierarchical.family import BOUND_SD, LOG_ALPHA_BOUNDS, Family

SITES = {"gene": "a", "cell": "b", "log_alpha": "log_alpha"}


def block_of(counts: Any, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """A dense block of counts: CSR rows first, then columns; float64."""
    return torch.from_numpy(counts[rows][:, columns].toarray().astype(np.float64))


class HierarchicalModel:
    """The model as a Pyro program.

    Parameters
    ----------
    family : Family
        Without covariates.
    counts : csr of shape (cells, genes)
    mask : csr of the same shape or None
        Ones at the entries that are left out.
    size, length : Tensor of shape (cells,), (genes,)
    batch_cells, batch_genes : int
        Of a step.
    """

    def __init__(
        self,
        family: Family,
        counts: Any,
        mask: Any,
        size: torch.Tensor,
        length: torch.Tensor,
        batch_cells: int,
        batch_genes: int,
    ) -> None:
        self.family, self.counts, self.mask = family, counts, mask
        self.size, self.length = size, length
        self.batch_cells, self.batch_genes = batch_cells, batch_genes

    def plates(self, *_: Any) -> list[pyro.plate]:
        """Both plates, with new subsamples of the present sizes."""
        n, p = self.counts.shape
        cells = pyro.plate("cells", n, subsample_size=min(self.batch_cells, n), dim=-2)
        genes = pyro.plate("genes", p, subsample_size=min(self.batch_genes, p), dim=-1)
        return [cells, genes]

    def __call__(self) -> None:
        family, priors = self.family, self.family.priors
        x = {"mu_gene": pyro.sample("mu_gene", dist.Normal(_f(priors.gene_mean), _f(priors.gene_mean_sd)))}
        x["sigma_gene"] = pyro.sample("sigma_gene", dist.HalfNormal(_f(priors.gene_sd)))
        x["mu_cell"] = _f(0.0)
        if priors.cell_mean_sd is not None:
            x["mu_cell"] = pyro.sample("mu_cell", dist.Normal(_f(0.0), _f(priors.cell_mean_sd)))
        x["sigma_cell"] = pyro.sample("sigma_cell", dist.HalfNormal(_f(priors.cell_sd)))
        if family.shared:
            log_alpha = pyro.sample("alpha", dist.HalfCauchy(_f(priors.alpha_scale))).log()
            pyro.factor("alpha_bounds", _bounds(log_alpha))
        else:
            x["mu_log_alpha"] = pyro.sample(
                "mu_log_alpha", dist.Normal(_f(0.0), _f(priors.log_alpha_mean_sd))
            )
            x["sigma_log_alpha"] = pyro.sample("sigma_log_alpha", dist.HalfNormal(_f(priors.log_alpha_sd)))
        cells, genes = self.plates()
        with genes as gi:
            a = self._effect("gene", x)
            if not family.shared:
                log_alpha = self._effect("log_alpha", x)
                pyro.factor("alpha_bounds", _bounds(log_alpha))
        with cells as ci:
            b = self._effect("cell", x)
        rows, columns = ci.numpy(), gi.numpy()
        y = block_of(self.counts, rows, columns)
        log_mu = a + self.length[gi] + b + self.size[ci, None]
        total = torch.exp(log_alpha)
        counted = dist.NegativeBinomial(total_count=total, logits=log_mu - log_alpha)
        if self.mask is not None:
            counted = counted.mask(block_of(self.mask, rows, columns) == 0)
        with cells, genes:
            pyro.sample("y", counted, obs=y)

    def _effect(self, axis: str, x: dict[str, torch.Tensor]) -> torch.Tensor:
        mu, sigma = x[f"mu_{axis}"], x[f"sigma_{axis}"]
        if self.family.forms[axis]:
            return pyro.sample(SITES[axis], dist.Normal(mu, sigma))
        return mu + sigma * pyro.sample(SITES[axis], dist.Normal(torch.zeros_like(mu), 1.0))


def _f(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _bounds(log_alpha: torch.Tensor) -> torch.Tensor:
    low, high = LOG_ALPHA_BOUNDS
    beyond = torch.relu(log_alpha - high) + torch.relu(low - log_alpha)
    return -0.5 * beyond**2 / BOUND_SD**2
