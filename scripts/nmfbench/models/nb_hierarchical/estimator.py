"""The hierarchical negative binomial model as an estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.fitting.loop import Run
from nmfbench.models.bayesian.counts import check_counts
from nmfbench.models.limits import check_parameters
from nmfbench.models.nb_hierarchical import card
from nmfbench.models.nb_hierarchical.build import build_engine, build_problem
from nmfbench.models.nb_hierarchical.card import TOL
from nmfbench.models.nb_hierarchical.cells import infer_cells
from nmfbench.models.nb_hierarchical.engine import VariationalFit
from nmfbench.models.nb_hierarchical.means import Means
from nmfbench.models.nb_hierarchical.preparation import prepare
from nmfbench.models.nb_hierarchical.residuals import PearsonResiduals
from nmfbench.models.nb_hierarchical.results import Results
from nmfbench.models.nb_hierarchical.settings import resolved
from nmfbench.models.parameters import parameters
from nmfbench.renamed import told_value
from nmfbench.totals import cell_totals


@parameters(card.Given, card.NBHierarchical)
class NBHierarchical(Results):
    """Counts as negative binomial about a gene effect plus a cell effect, with a posterior for both.

    ``ln mu_ig = a_g + b_i + s_i + l_g`` and ``y_ig ~ NB(mu_ig, alpha_g)``, of variance ``mu + mu² / alpha``,
    with known offsets s (depth) and l (length) and normal priors about common means. The posterior is a
    normal for every number; it maximises the ELBO, of which the exact engine takes value and gradient from
    the nonzeros alone (:mod:`nmfbench.models.nb_hierarchical.likelihood`).

    A rank-one log mean has no factors: the embedding is a truncated SVD of the Pearson residuals
    ``(y - mu) / sqrt(mu + mu² / alpha)``, what the model does not explain, and is signed. ``n_components``
    concerns it alone.

    {parameters}

    Attributes
    ----------
    embedding_ : ndarray of shape (cells, k)
        Residuals on the loadings.
    components_ : ndarray of shape (k, genes)
        Right singular vectors of the residuals; 0 for genes that were not fitted.
    gene_total_, gene_sd_ : ndarray of shape (genes,)
        ``a_g + mean b``, the identified gene effect; NaN for genes that were not fitted.
    cell_effect_, cell_sd_ : ndarray of shape (cells,)
        ``b_i - mean b``, the identified cell effect.
    log_alpha_ : ndarray of shape (genes,)
    posterior_ : Posterior
        Of the fitted cells and genes.
    history_ : list of dict
    elbo_, elbo_se_ : float
        At the end, with the standard error of its Monte-Carlo estimate.
    converged_, stop_reason_, n_iter_
        How the fit ended.
    """

    _not_in_checkpoint: ClassVar[set[str]] = {
        *("device", "verbose", "max_iter", "n_components", "draws", "draws_mb", "marginals"),
    }

    def fit(
        self,
        X,
        y=None,
        *,
        obs: Any = None,
        var: Any = None,
        cell_names: Any = None,
        gene_names: Any = None,
        conditions: Any = None,
        strata: Any = None,
        checkpoint: str | Path | None = None,
        fingerprint: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        observer: Any = None,
        progress: bool | None = None,
    ):
        """Learn the posterior.

        Parameters
        ----------
        X : CSR, CSC or dense of shape (cells, genes)
            Counts.
        y, conditions, strata : ignored
        obs, var : DataFrame or None
            Tables of cells and genes, for `depth_column`, `covariates` and `length_column`.
        cell_names, gene_names : sequence of str or None
            Random choices go by them; taken from X where it is a DataFrame.
        checkpoint, fingerprint, should_stop, progress, observer
            As in the other models.

        Returns
        -------
        self
        """
        check_parameters(self)
        settings = resolved(self)
        device = device_of(self.device)
        cell_names = getattr(X, "index", None) if cell_names is None else cell_names
        gene_names = getattr(X, "columns", None) if gene_names is None else gene_names
        csr = checked(self._check_input(X, reset=True))
        self._check_rank(*csr.shape)
        self.n_cells_in_ = csr.shape[0]
        self.device_, self.uses_labels_ = str(device), False
        self.uses_columns_ = settings["covariates"]
        tol = self.tol if isinstance(self.tol, Mapping) else {"elbo": self.tol}
        ready = None

        def build(resumed: bool) -> VariationalFit:
            nonlocal ready
            self.settings_ = settings | {"seed": self.seed_}
            ready = prepare(
                csr, settings, self.seed_, obs=obs, var=var, cell_names=cell_names, gene_names=gene_names
            )
            self._check_rank(len(ready.cells), len(ready.genes))
            problem = build_problem(ready, settings, self.seed_, device)
            ascent = build_engine(problem, ready, settings, resumed)
            return VariationalFit(
                ascent,
                max_iter=settings["max_iter"],
                stop_rule=settings["stop"],
                tol=told_value(tol, settings["stop"], TOL[settings["stop"]]),
                auto_forms=settings["param"] == "auto" and settings["engine"] == "exact",
                describe=lambda: self._describe(ascent, ready),
            )

        outcome = self._fit(
            build,
            Run(checkpoint, should_stop, True if self.verbose else progress, observer),
            n_cells=csr.shape[0] if self.n_cells is None else min(self.n_cells, csr.shape[0]),
            fingerprint=lambda: self._fingerprint(csr, fingerprint, obs, var),
        )
        self.seconds_, self.n_steps_ = outcome.seconds, outcome.engine.steps
        self.slope_, self.n_iter_ = outcome.engine.slope, max(1, self.n_iter_)
        if self.stop_reason_ != "interrupted":
            self._keep(outcome.engine.ascent, ready, csr, cell_names, gene_names)
        return self

    def transform(self, X) -> np.ndarray:
        """Residuals of new cells on the loadings, of shape (cells, k).

        A cell's effect is the most probable one given the genes', its depth its total over the median total
        of the fitted cells.
        """
        check_is_fitted(self)
        self._refuse_what_counts_do_not_tell()
        csr = check_counts(self._check_input(X, reset=False), "NBHierarchical")
        size = np.full(csr.shape[0], self.size_constant_)
        if self.settings_["offset"] == "total":
            totals = np.maximum(cell_totals(csr), 0.5)
            size = np.log(totals) - self.size_constant_
        csr = csr[:, self.genes_]
        b, _ = infer_cells(csr, size, np.zeros(len(size), np.int64), self.means_, self._cell_prior())
        means = Means(b + size, self.means_.c, self.means_.log_alpha, np.zeros(len(size), np.int64))
        residuals = PearsonResiduals(csr, means.t, means.c, means.alpha, means.group, self.clip_)
        return residuals.times(self.components_[:, self.genes_].T).astype(
            X.dtype if hasattr(X, "dtype") else float
        )


def device_of(name: str) -> torch.device:
    """Where sums over entries are taken: they need double precision, which an Apple GPU has not."""
    from nmfbench.device import resolve_device

    device = resolve_device(name)
    if device.type == "mps":
        raise InputError(
            "NBHierarchical: parameter device", "a device with double precision", "'mps'", "set device: cpu"
        )
    return device


def checked(csr: Any) -> Any:
    """The counts, if they are whole numbers; without stored zeros.

    Raises
    ------
    InputError
    """
    csr = check_counts(csr, "NBHierarchical")
    if csr.shape[0] < 2 or csr.shape[1] < 2:
        raise InputError(
            "NBHierarchical: counts",
            "at least two cells and two genes",
            f"{csr.shape[0]} cells x {csr.shape[1]} genes (n_samples = {csr.shape[0]})",
            "give more; effects are told apart by comparison",
        )
    return csr
