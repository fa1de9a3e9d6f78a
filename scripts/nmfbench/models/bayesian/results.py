"""Names under which a Bayesian fit is kept, and what its attributes hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.fitting.loop import Outcome
from nmfbench.models.bayesian.in_counts import cells_in_counts, genes_in_counts
from nmfbench.models.bayesian.in_use import patterns_in_use, reliability
from nmfbench.models.bayesian.posterior import Marginals, Posterior
from nmfbench.models.bayesian.terms import (
    Probability,
    chi_squared,
    error_of_means,
    expected_chi_squared,
    gene_moments,
)
from nmfbench.models.count_embedding import CountEmbedding, in_form

log = logging.getLogger(__name__)


class Results(CountEmbedding):
    """Attributes and published keys; learnt patterns stand after the constant ones."""

    _model_name = ""

    @property
    def embedding_key_(self) -> str:
        """The key of :meth:`embeddings` that is scored."""
        check_is_fitted(self)
        return ("post_best_P" if self.post_full_P_steps else "best_P") + self._suffix

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm, cells x ., by the published keys, and the posterior's spread and votes."""
        check_is_fitted(self)
        first, fixed = self._first_learnt, self.given_.cells
        best, last = self._cells_in_counts(self.posterior_), self._cells_in_counts(self.last_)
        keys = {
            "best_P": best.mean().numpy()[:, first:],
            "last_P": last.mean().numpy()[:, first:],
            "sd_P": best.sd().numpy()[:, first:],
        }
        if self.marker_draws:
            keys["markers_P"] = best.votes(self.marker_draws, self.seed_)
        if fixed is not None:
            keys |= {"fixed_P": fixed, "best_P_total": best.mean().numpy()}
        if self.post_full_P_steps:
            keys["post_best_P"] = self.post_cells_.mean().numpy()[:, first:]
        keys = self._with_scored(keys)
        return {key: np.ascontiguousarray(value, dtype=self.embedding_.dtype) for key, value in keys.items()}

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm, genes x ., by the published keys, and the posterior's spread and votes."""
        check_is_fitted(self)
        best, last = self._genes_in_counts(self.posterior_), self._genes_in_counts(self.last_)
        first, fixed = best.n_fixed, self.given_.genes
        keys = {}
        if self.n_components:
            keys = {
                "best_A": best.mean().numpy()[:, first:],
                "last_A": last.mean().numpy()[:, first:],
                "sd_A": best.sd().numpy()[:, first:],
            }
        if self.marker_draws:
            keys["markers_A"] = best.votes(self.marker_draws, self.seed_ + 1)
        if fixed is not None:
            keys |= {"fixed_A": fixed, "best_A_total": best.mean().numpy()}
        return {key: np.ascontiguousarray(value, dtype=self.embedding_.dtype) for key, value in keys.items()}

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns: rates and shapes of the priors, p, the loss and every setting.

        Parameters
        ----------
        **preparation
            How X was made, as the published files say it.
        """
        check_is_fitted(self)
        history = {name: np.array([row[name] for row in self.history_]) for name in ("step", "objective")}
        settings = {
            name: value if isinstance(value, (int, float, str)) else type(value).__name__
            for name, value in self.get_params().items()
            if value is not None
        }
        return {
            "model_name": self._model_name,
            "k_rank": self.n_components_,
            **preparation,
            "reliability_P": self.reliability_,
            "scale_P": self.rates_P_.numpy(),
            "scale_A": self.rates_A_.numpy(),
            "loc_P": self.shapes_P_.numpy(),
            "loc_A": self.shapes_A_.numpy(),
            "NB_probs": self.probability_.p.numpy(),
            "fixed_patterns": list(self.given_.patterns),
            "donors": [] if self.given_.donor_names is None else list(self.given_.donor_names),
            "loss": history,
            "runtime (seconds)": self.seconds_,
            "best_chisq": self.chi_squared_,
            "expected_chisq": self.expected_chi_squared_,
            "best_epoch": self.best_epoch_,
            "held_out_log_likelihood": self.held_out_log_likelihood_,
            "settings": {**settings, "seed": self.seed_, "device_used": self.device_},
        }

    def expected_values(self, X, rows: slice) -> np.ndarray:
        """Counts ``theta p / (1 - p)`` at the posterior means; see :meth:`Embedding.expected_values`."""
        check_is_fitted(self)
        theta = self.posterior_.cells.mean()[rows].double() @ self.posterior_.genes.mean().double().T
        found, p = theta.numpy(), self.probability_
        odds = p.odds().numpy()
        if self.sizes_ is not None:
            found *= self.sizes_[rows, None]
        return found * (odds[p.donors[rows].numpy()][:, None] if p.by == "donor" else odds)

    def transform_state(self) -> dict[str, Any]:
        """The posterior of the genes' side, the prior of the cells', and the chances p."""
        genes, p = self.posterior_.genes, self.probability_
        fixed = {} if genes.fixed is None else {"genes_fixed": genes.fixed.numpy()}
        return {
            "family": genes.family,
            "genes_first": genes.first.numpy(),
            "genes_second": genes.second.numpy(),
            **fixed,
            "rates_P": self.rates_P_.numpy(),
            "shapes_P": self.shapes_P_.numpy(),
            "p": p.p.numpy(),
            "p_by": p.by,
            "mean_total": float(self.mean_total_),
            "in_use": self.in_use_,
            "in_counts": True,
            "of_training_cells": self.given_.cells is not None or p.by == "donor",
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        tensors = {
            name: torch.from_numpy(np.asarray(state[name]))
            for name in ("genes_first", "genes_second", "genes_fixed", "rates_P", "shapes_P", "p")
            if name in state
        }
        genes = Marginals(
            str(state["family"]), tensors["genes_first"], tensors["genes_second"], tensors.get("genes_fixed")
        )
        self.posterior_ = SimpleNamespace(genes=genes)
        self.rates_P_, self.shapes_P_ = tensors["rates_P"], tensors["shapes_P"]
        # younger than some stored fits, of which all patterns are scored
        self.in_use_ = np.asarray(state.get("in_use", np.ones(len(self.rates_P_))), dtype=bool)
        self.probability_ = Probability(str(state["p_by"]), tensors["p"])
        if bool((tensors["p"] != 0.5).any()) and "in_counts" not in state:
            raise KeyError(
                "in_counts"
            )  # its factors are those of theta, another unit than new cells would get
        self.mean_total_ = float(state.get("mean_total", np.nan))  # needed with exposure, which is younger
        # patterns or chances of the training cells: transform then refuses
        self.given_ = SimpleNamespace(cells=True if state["of_training_cells"] else None)

    @property
    def _suffix(self) -> str:
        return super()._suffix + ("" if self.scored_patterns == "all" else "_in_use")

    def _scored(self, factors: np.ndarray) -> np.ndarray:
        if self.scored_patterns == "all":
            return super()._scored(factors)
        kept = self.in_use_[-factors.shape[1] :]
        scored = np.zeros_like(factors)
        scored[:, kept] = in_form(factors[:, kept], self._units()[-factors.shape[1] :][kept], self.embedding)
        return scored

    def _find_in_use(self, counts: np.ndarray) -> None:
        """Of the learnt patterns of the cells, whose factors in counts, (cells, k), are given."""
        cells, first = self.posterior_.cells, self._first_learnt
        self.reliability_ = reliability(cells)[first:]
        totals = counts.sum(axis=0, dtype=np.float64)
        self.in_use_ = patterns_in_use(self.reliability_, totals * self._units()[first:])
        if self.scored_patterns == "in_use" and not self.in_use_.any():
            log.warning("%s: no pattern tells cells apart, what is scored is 0 throughout", self._model_name)

    @property
    def _first_learnt(self) -> int:
        """Column of P where the embedding begins: after the constant cell patterns."""
        return self.posterior_.cells.n_fixed

    def _cells_in_counts(self, posterior: Posterior) -> Marginals:
        return cells_in_counts(posterior.cells, posterior.genes, self._probability_of(posterior))

    def _genes_in_counts(self, posterior: Posterior) -> Marginals:
        return genes_in_counts(posterior.genes, self._probability_of(posterior), posterior.cells.n_fixed)

    def _probability_of(self, posterior: Posterior) -> Probability:
        """The p that a posterior was found with."""
        return replace(self.probability_, p=posterior.learnt["p"].double())

    def _keep(self, outcome: Outcome, given) -> None:
        inference, best = outcome.engine.inference, outcome.engine.best
        problem = inference.problem
        self.given_ = given
        size = None if self.sizes_ is None else torch.from_numpy(self.sizes_)
        fitted = best.identified()  # cells times their sizes: theta is P Aᵀ
        self.posterior_ = fitted.per_exposure(size)
        self.last_ = inference.posterior().copy().identified().per_exposure(size)
        learnt = self.posterior_.learnt
        self.rates_P_, self.rates_A_ = learnt["rate_P"], learnt["rate_A"]
        self.shapes_P_, self.shapes_A_ = learnt["shape_P"], learnt["shape_A"]
        old = problem.probability
        donors = None if old.donors is None else old.donors.cpu()
        self.probability_ = Probability(old.by, learnt["p"].double(), donors)
        P, A = fitted.cells.mean(), fitted.genes.mean()
        self.components_ = np.ascontiguousarray(self._genes_in_counts(self.posterior_).mean().numpy().T)
        self.n_components_ = self.components_.shape[0]
        counts = self._cells_in_counts(self.posterior_).mean().numpy()[:, self._first_learnt :]
        self._find_in_use(counts)
        self.embedding_ = self._scored(np.ascontiguousarray(counts))
        self.seconds_ = outcome.seconds
        score = outcome.best_row.get("held_out_log_likelihood", np.nan)
        self.held_out_log_likelihood_ = None if np.isnan(score) else score
        device = problem.counts.device
        self.chi_squared_ = chi_squared(P.to(device), A.to(device), problem.counts, problem.weights)
        self.expected_chi_squared_ = expected_chi_squared(
            fitted.cells, fitted.genes, problem.counts, problem.weights
        )
        self.relative_error_ = error_of_means(fitted, problem.counts, self.probability_)

    def _describe(self, posterior: Posterior, problem) -> dict[str, Any]:
        """What a watcher is shown of a posterior (:class:`nmfbench.fitting.observer.Observer`)."""
        posterior = posterior.copy().identified()
        P, A = posterior.cells.mean(), posterior.genes.mean()
        size = None if self.sizes_ is None else torch.from_numpy(self.sizes_)
        cells = posterior.per_exposure(size).cells
        mean, variance = gene_moments(P, A)
        place = problem.counts.device
        odds = problem.probability.odds().cpu().numpy()
        return {
            # of donors each has its own, which the genes' means over all cells do not show
            **({} if problem.probability.by == "donor" else {"mean_scale": odds}),
            "cell_factors": cells.mean().numpy(),
            "gene_factors": A.numpy().T,
            "cell_factors_sd": cells.sd().numpy(),
            "gene_factors_sd": posterior.genes.sd().numpy().T,
            "prior_rates_P": posterior.learnt["rate_P"].numpy(),
            "prior_rates_A": posterior.learnt["rate_A"].numpy(),
            "chi_squared": chi_squared(P.to(place), A.to(place), problem.counts, problem.weights),
            "gene_mean": mean.numpy(),
            "gene_variance": variance.numpy(),
        }
