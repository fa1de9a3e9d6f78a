"""What a fitted model keeps: posterior, effects, embedding, checks and scores."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from nmfbench.models.estimator import Embedding
from nmfbench.models.nb_hierarchical.cells import infer_cells
from nmfbench.models.nb_hierarchical.checks import LARGE_Z, cell_checks, gene_checks
from nmfbench.models.nb_hierarchical.finish import finish_shared
from nmfbench.models.nb_hierarchical.held_out import score
from nmfbench.models.nb_hierarchical.marginals import marginals, refined_axes
from nmfbench.models.nb_hierarchical.means import Means, density
from nmfbench.models.nb_hierarchical.pareto import LARGEST_GOOD_K, pareto_k
from nmfbench.models.nb_hierarchical.posterior import Posterior
from nmfbench.models.nb_hierarchical.residuals import PearsonResiduals, truncated_svd
from nmfbench.totals import cell_totals, entries_of

log = logging.getLogger(__name__)

LAST_PAIRS = 16
"""Pairs of draws behind the final ELBO; fewer where a pass over the counts is long."""


class Kept(Embedding):
    """Makes the attributes of a fit from the engine's last state."""

    def _keep(self, engine: Any, ready: Any, csr: Any, cell_names: Any, gene_names: Any) -> None:
        problem = engine.problem
        family = problem.family
        n, p = csr.shape
        loc, log_sd = finish_shared(family, engine.loc, engine.log_sd)
        posterior = Posterior(family, loc, log_sd)
        axes = refined_axes(self.settings_["marginals"], family)
        refined = marginals(problem, ready, posterior, axes) if axes else None
        self.posterior_ = Posterior(family, loc, log_sd, refined)
        self.cells_, self.genes_, self.effects_ = ready.cells, ready.genes, ready.effects
        self.length_, self.record_, self.size_ = ready.length, ready.record, ready.size
        self.names_ = tuple(
            [str(k) for k in range(size)] if names is None else [str(name) for name in names]
            for names, size in ((gene_names, p), (cell_names, n))
        )
        pairs = int(np.clip(4e8 // max(problem.likelihood.entries.nnz, 1), 2, LAST_PAIRS))
        fit, rest, self.elbo_se_ = problem.elbo(loc, log_sd, pairs, 1)
        self.elbo_ = fit + rest
        self.objective_ = -self.elbo_ / family.n_cells
        self.pareto_k_ = pareto_k(family, loc, log_sd, self.seed_)
        if self.pareto_k_ > LARGEST_GOOD_K:
            log.warning(
                "NBHierarchical: the posterior of the shared numbers is off (Pareto k = %.2f)", self.pareto_k_
            )
        self._keep_effects(ready, csr)
        self._embed(csr, ready)
        group = ready.group[ready.cells]
        of_fitted = Means(self.t_[ready.cells], self.means_.c, self.means_.log_alpha, group)
        self.gene_checks_ = gene_checks(of_fitted, ready.whole, self.seed_)
        self.cell_checks_ = cell_checks(of_fitted, ready.whole)
        self.share_of_large_z_ = float(np.mean(np.abs(self.gene_checks_["zeros_z"]) > LARGE_Z))
        self.held_out_, by_cell, self.held_out_log_likelihood_ = score(self, ready, csr)
        self.cell_held_out_ = np.full(n, np.nan)
        self.cell_held_out_[ready.cells] = by_cell
        totals = np.log(cell_totals(csr))
        spread = self.cell_effect_.std() * totals.std()
        self.depth_correlation_ = (
            float(np.mean((self.cell_effect_ - self.cell_effect_.mean()) * (totals - totals.mean())) / spread)
            if spread > 0
            else float("nan")
        )

    def _keep_effects(self, ready: Any, csr: Any) -> None:
        found = self.posterior_.effects()
        self.cell_scale_ = max(self.posterior_.globals()["sigma_cell"][0], 1e-3)
        self.gene_total_, self.gene_sd_ = (self._of_genes(x) for x in found.gene_total)
        log_alpha, sd = (np.broadcast_to(x, len(ready.genes)) for x in found.log_alpha)
        self.log_alpha_, self.log_alpha_sd_ = self._of_genes(log_alpha), self._of_genes(sd)
        a, effects = found.gene_total[0], found.effect[0]
        c = self.posterior_.family.gene_sides(a, log_alpha, effects, ready.length)
        n = csr.shape[0]
        self.cell_effect_, self.cell_sd_ = np.empty(n), np.empty(n)
        self.cell_effect_[ready.cells], self.cell_sd_[ready.cells] = found.cell_centred
        self.means_ = Means(np.zeros(0), c, log_alpha.copy(), np.zeros(0, np.int64))
        others = np.setdiff1d(np.arange(n), ready.cells)
        if len(others):
            self.cell_effect_[others], self.cell_sd_[others] = infer_cells(
                csr[others][:, ready.genes],
                ready.size[others],
                ready.group[others],
                self.means_,
                self._cell_prior(),
            )
        self.t_, self.group_ = self.cell_effect_ + ready.size, ready.group

    def _cell_prior(self) -> tuple[float, float]:
        return 0.0, self.cell_scale_

    def _embed(self, csr: Any, ready: Any) -> None:
        if len(ready.cells) == len(csr.indptr) - 1:
            kept = ready.whole  # no second copy of an atlas
        else:
            kept = csr if len(ready.genes) == csr.shape[1] else csr[:, ready.genes]
        means = Means(self.t_, self.means_.c, self.means_.log_alpha, ready.group)
        self.clip_ = float(np.sqrt(csr.shape[0]))
        residuals = PearsonResiduals(kept, means.t, means.c, means.alpha, means.group, self.clip_)
        _, V = truncated_svd(residuals, self.n_components, self.seed_)
        self.n_components_ = V.shape[1]
        self.embedding_ = residuals.times(V).astype(csr.dtype)
        self.components_ = np.zeros((V.shape[1], csr.shape[1]), dtype=csr.dtype)
        self.components_[:, ready.genes] = V.T
        found = density(means, kept)
        self.cell_density_ = found.cell / kept.shape[1]
        self.log_density_ = found.total / found.n_entries
        self.relative_error_ = relative_error(means, kept)
        depth = self.settings_["offset"]
        totals = cell_totals(csr)
        self.size_constant_ = (
            float(np.log(np.median(totals[ready.cells]))) if depth == "total" else float(ready.size[0])
        )

    def _of_genes(self, values: np.ndarray) -> np.ndarray:
        whole = np.full(self.n_features_in_, np.nan)
        whole[self.genes_] = values
        return whole


def relative_error(means: Means, counts: Any) -> float:
    """``||Y - mu||² / ||Y||²``, at the cost of the nonzeros."""
    squares, cross, expected = 0.0, 0.0, 0.0
    for rows, genes, y in entries_of(counts):
        mu = np.exp(means.t[rows] + means.c[means.group[rows], genes] + means.log_alpha[genes])
        squares += float(y @ y)
        cross += float(y @ mu)
    for number in range(len(means.c)):
        rate = np.exp(means.c[number] + means.log_alpha)
        t = means.t[means.group == number]
        expected += float(np.exp(2 * t).sum() * (rate @ rate))
    return (squares - 2 * cross + expected) / squares
