"""What the two Bayesian estimators share: from parameters and counts to a posterior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.data.held_out import thin_counts
from nmfbench.device import resolve_device
from nmfbench.errors import InputError
from nmfbench.fitting.loop import Run
from nmfbench.fitting.observer import Observer
from nmfbench.models.bayesian.build import build_engine, build_problem, sizes_of, weights_of
from nmfbench.models.bayesian.card import MAX_ITER
from nmfbench.models.bayesian.cavi import Problem, infer_cells
from nmfbench.models.bayesian.counts import check_counts
from nmfbench.models.bayesian.device_counts import place_counts
from nmfbench.models.bayesian.engine import PosteriorFit
from nmfbench.models.bayesian.factor import GammaFactor, PointFactor
from nmfbench.models.bayesian.in_counts import cells_in_counts
from nmfbench.models.bayesian.patterns import check_together, gather
from nmfbench.models.bayesian.posterior import Marginals
from nmfbench.models.bayesian.prior import GammaPrior
from nmfbench.models.bayesian.results import Results
from nmfbench.models.bayesian.terms import (
    NegativeBinomialDensity,
    error_of_means,
    held_out_log_likelihood,
)
from nmfbench.models.count_embedding import names_of
from nmfbench.models.held_out_entries import HeldOutEntries
from nmfbench.models.limits import check_parameters
from nmfbench.renamed import told_value
from nmfbench.rows.memory import InMemoryRows

INFERENCE_STEPS, INFERENCE_TOL = 200, 1e-4
"""Updates of new cells, at most, and the change of a cell's factors that ends them."""


class BayesianNMF(Results):
    """Counts as negative binomial about ``theta = P A``, with a posterior for every entry of P and A."""

    _not_in_checkpoint: ClassVar[set[str]] = {"device", "verbose", "max_iter", "marker_draws"}

    def fit(
        self,
        X,
        y=None,
        *,
        conditions: Any = None,
        strata: Any = None,
        cell_names: Any = None,
        gene_names: Any = None,
        checkpoint: str | Path | None = None,
        fingerprint: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        observer: Observer | None = None,
        progress: bool | None = None,
    ):
        """Learn the posterior.

        Parameters
        ----------
        X : CSR, CSC or dense of shape (cells, genes)
            Counts, float32 or float64 (kept).
        y, strata : ignored
            Cell types are not used.
        conditions : array-like of shape (cells,), Series, DataFrame of one column or None
            Donors, for ``fixed_samples="donors"`` and ``learn_probs="donor"``; else ignored.
        cell_names, gene_names : sequence of str or None
            To align `fixed_samples` and `fixed_genes` by; taken from X where it is a DataFrame.
        checkpoint, fingerprint, should_stop, progress
            As in :meth:`nmfbench.models.autoencoder.estimator.Autoencoder.fit`.
        observer : Observer or None
            Told how the fit goes; the fit is the same with and without it.

        Returns
        -------
        self
        """
        check_parameters(self)
        check_together(self)
        device = resolve_device(self.device)
        cell_names, gene_names = names_of(X, cell_names, gene_names)
        csr = check_counts(self._check_input(X, reset=True), type(self).__name__)
        self._check_rank(*csr.shape)
        given = gather(self, csr.shape[0], conditions, cell_names, gene_names)
        self.device_, self.uses_labels_, self.uses_conditions_ = str(device), False, given.donors is not None
        self.mean_total_ = csr.sum(dtype=np.float64) / csr.shape[0]
        train, entries = csr, None

        def build(_: bool) -> PosteriorFit:
            nonlocal train, entries
            test, scorer, totals = None, None, None
            if self.held_out_fraction:
                train, test = thin_counts(csr, self.held_out_fraction, self.seed_)
            if self.mask_fraction:
                entries = HeldOutEntries.of(csr, self.mask_fraction, self.seed_, cell_names, gene_names)
                train, totals = entries.train, entries.totals()
                self.mean_total_ = float(totals.mean())
            self.sizes_ = sizes_of(self, train, totals=totals)
            problem = build_problem(self, train, given, device, None if entries is None else entries.mask)
            if test is not None:
                scorer = self._scorer(problem, place_counts(test, device), device)
            inference = build_engine(self, problem, train, given, device)
            most = told_value(self.max_iter, self.inference, MAX_ITER[self.inference])
            return PosteriorFit(
                inference,
                epochs=inference.epochs_of(most) if self.inference == "svi" else most,
                tol=self.tol,
                patience=self.patience,
                relative_error=lambda q: error_of_means(q, problem.counts, problem.probability),
                describe=lambda q: self._describe(q, problem),
                held_out=scorer,
            )

        outcome = self._fit(
            build,
            Run(checkpoint, should_stop, True if self.verbose else progress, observer),
            n_cells=csr.shape[0],
            fingerprint=lambda: InMemoryRows(csr, fingerprint).fingerprint() + given.fingerprint(),
        )
        self._keep(outcome, given)
        if entries is not None and self.stop_reason_ != "interrupted":
            self.held_out_entries_ = entries.scores(self._density())
        if self.post_full_P_steps:
            mask = None if entries is None else entries.mask
            full = build_problem(self, train, given, torch.device("cpu"), mask)
            full.probability = self.probability_
            self.post_cells_ = self._infer(full, given.cells, self.sizes_, self.post_full_P_steps, 0.0)
            self.post_cells_ = cells_in_counts(self.post_cells_, self.posterior_.genes, self.probability_)
            self.embedding_ = self._scored(self.post_cells_.mean().numpy()[:, self._first_learnt :])
        return self

    def transform(self, X) -> np.ndarray:
        """Posterior means of new cells' factors given the genes', of shape (cells, k), as `embedding` says.

        The problem is concave: they are found by the closed-form updates whatever `inference` is.
        """
        check_is_fitted(self)
        if self.given_.cells is not None or self.probability_.by == "donor":
            raise InputError(
                f"{type(self).__name__}: transform",
                "a model without patterns or chances that belong to the training cells",
                "fixed_samples or learn_probs='donor'",
                "take embedding_, or fit without them",
            )
        csr = check_counts(self._check_input(X, reset=False), type(self).__name__)
        counts = place_counts(csr, torch.device("cpu"))
        problem = Problem(counts, weights_of(self), self.probability_)
        sizes = sizes_of(self, csr, self.mean_total_)
        cells = self._infer(problem, None, sizes, INFERENCE_STEPS, INFERENCE_TOL)
        cells = cells_in_counts(cells, self.posterior_.genes, self.probability_)
        return self._scored(cells.mean().numpy())

    # What a model adds ------------------------------------------------------------------------------

    def _priors(self, k_cells: int, k_genes: int) -> tuple[GammaPrior, GammaPrior]:
        """Priors of P and A, at their starts."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------

    def _check_rank(self, n: int, p: int) -> None:
        if self.n_components:
            super()._check_rank(n, p)

    def _infer(
        self,
        problem: Problem,
        fixed: np.ndarray | None,
        sizes: np.ndarray | None,
        max_iter: int,
        tol: float,
    ) -> Marginals:
        """The cells' posterior given the genes', whose mean counts are the patterns' (gene sums of 1)."""
        counts, genes = problem.counts, self.posterior_.genes
        dtype = counts.dtype
        prior = GammaPrior(len(self.rates_P_), 1.0, 1.0, "fixed", "fixed")
        prior.shape, prior.rate = self.shapes_P_, self.rates_P_
        genes = Marginals(genes.family, *(t if t is None else t.to(dtype) for t in _parts(genes)))
        level = counts.cell_totals[:, None] / genes.mean().shape[1] + 1e-3
        start = level.expand(-1, len(prior.rate)).to(dtype).clone()
        size = None if sizes is None else torch.from_numpy(sizes)[:, None].to(dtype)
        given = None if fixed is None else torch.from_numpy(fixed).to(dtype)
        given = given if given is None or size is None else given * size
        cells = (PointFactor if genes.family == "point" else GammaFactor)(start, given, prior, size)
        infer_cells(problem, cells, genes, max_iter=max_iter, tol=tol)
        return cells.marginals() if size is None else cells.marginals().per_row(size[:, 0])

    def _density(self) -> NegativeBinomialDensity:
        """What the posterior means expect of the training cells."""
        cells = self.posterior_.cells
        if self.sizes_ is not None:
            cells = cells.per_row(torch.from_numpy(1 / self.sizes_))
        return NegativeBinomialDensity(cells.mean(), self.posterior_.genes.mean(), self.probability_)

    def _scorer(self, problem: Problem, test: Any, device: torch.device) -> Callable[[Any], float]:
        """From a posterior to the held-out log-likelihood per entry."""

        def score(posterior):
            P, A = posterior.cells.mean().to(device), posterior.genes.mean()
            return held_out_log_likelihood(P, A, test, self.held_out_fraction, problem.probability)

        return score

    def _checkpoint_settings(self) -> dict[str, Any]:
        settings = super()._checkpoint_settings()
        if self.scored_patterns == "all":  # as in checkpoints from before there was a choice
            del settings["scored_patterns"]
        for name in ("fixed_genes", "fixed_samples"):  # their content is in the fingerprint of the data
            settings[name] = settings[name] if isinstance(settings[name], str) else settings[name] is not None
        return settings


def _parts(marginals: Marginals) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return marginals.first, marginals.second, marginals.fixed
