"""PNMF as an estimator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.fitting.loop import Outcome, Run
from nmfbench.fitting.observer import Observer
from nmfbench.models.count_embedding import names_of
from nmfbench.models.limits import check_parameters, real
from nmfbench.models.parameters import parameters
from nmfbench.models.pnmf import card
from nmfbench.models.pnmf.build import build_stages, engine_of
from nmfbench.models.pnmf.counts import Counts, counts_of, device_of
from nmfbench.models.pnmf.engine import StagedFit
from nmfbench.models.pnmf.gradient import GradientStage
from nmfbench.models.pnmf.infer import embed_cells
from nmfbench.models.pnmf.masked import FittedCounts
from nmfbench.models.pnmf.prior import GaussianPrior, LatentPrior
from nmfbench.models.pnmf.results import FittedFactors
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.several import GAIN_THAT_IS_TOLD, gain_of_sweeps
from nmfbench.models.pnmf.spatial.coordinates import (
    check_spatial,
    place_cells,
    places_text,
    predicted_means,
)
from nmfbench.models.pnmf.stages import posterior_prior
from nmfbench.rows.memory import InMemoryRows

log = logging.getLogger(__name__)


@parameters(card.Details, card.PNMF, card.PNMFSpatial)
class PNMF(FittedFactors):
    """Poisson non-negative matrix factorisation with a Gaussian latent, by variational inference.

    ``F_nl ~ Normal(0, 1)``, ``X_nd ~ Poisson(s_n Σ_l exp(F_nl) W_dl)`` with non-negative loadings W, a point
    estimate, and ``q(F_nl) = Normal(mu_nl, sigma_nl²)`` for every cell and factor. Maximises

        ELBO = E_q[ln p(X | F, W)] - KL(q || prior)

    (``expanded``, ``simple``) or Jensen's bound on it (``lower-bound``), every constant included
    (:mod:`nmfbench.models.pnmf.likelihood`). Only the nonzeros of X are visited.

    {parameters}

    Attributes
    ----------
    components_ : ndarray of shape (k, d)
        ``Wᵀ``.
    elbo_ : float
        At the end; in Monte-Carlo modes by fixed antithetic draws with a control variate.
    n_iter_ : int
        Steps taken.
    history_ : list of dict
        A row for the start and each step.
    lr_history_ : list of float
    held_out_entries_ : list of dict or None
        With `mask_fraction`: nats per entry of what was left out, by stratum.
    converged_ : bool
    stop_reason_ : {"converged", "max_iter", "interrupted"}
    further_gain_ : float or None
        After gradient training: the share by which five exact sweeps would still raise the bound.
    prior_ : GaussianPrior, SVGP or LCGP
        Holds q.
    lengthscale_ : float
        With `spatial`.
    groups_ : ndarray or None
        Labels of the groups, in the order of their codes.
    log_factors_, factor_scale_ : ndarray of shape (n, k)
        mu and sigma.
    factors_, embedding_ : ndarray of shape (n, k)
        Posterior means of exp F, and the same as the parameter `embedding` says.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfbench.models import PNMF
    >>> rng = np.random.default_rng(0)
    >>> X = rng.poisson(np.exp(rng.normal(size=(60, 3))) @ rng.gamma(0.5, 2.0, (3, 25)))
    >>> model = PNMF(n_components=3, random_state=0)
    >>> factors = model.fit_transform(X)
    >>> factors.shape, model.components_.shape
    ((60, 3), (3, 25))
    >>> reconstruction = model.inverse_transform(factors)
    >>> bool(abs(reconstruction.mean() / X.mean() - 1) < 0.05)
    True
    >>> history, model = PNMF(3, mode="lower-bound", random_state=0).fit(X, return_history=True)
    >>> len(history) == model.n_iter_, bool(history[-1] > history[0])
    (True, True)
    >>> model = PNMF(2, spatial=True, num_inducing=20, lengthscale=2.0, max_iter=10, random_state=0)
    >>> xy = rng.uniform(0, 10, (60, 2))
    >>> model.fit(X, coordinates=xy).prior_type, model.transform(X, coordinates=xy).shape
    ('SVGP', (60, 2))
    """

    _conditional = False

    @property
    def prior_type(self) -> str:
        """The kind of prior that the parameters ask for."""
        return ("LCGP" if self.local else "SVGP") if self.spatial else "GaussianPrior"

    @property
    def lengthscale_(self) -> float:
        """The lengthscale at the end: the parameter, unless it was trained."""
        check_is_fitted(self)
        return self.prior_.kernel.lengthscale

    def fit(
        self,
        X,
        y=None,
        coordinates: Any = None,
        groups: Any = None,
        return_history: bool = False,
        callback: Callable[[PNMF, int, float], None] | None = None,
        callback_interval: int = 100,
        *,
        layer: str | None = None,
        conditions: Any = None,
        strata: Any = None,
        checkpoint: str | Path | None = None,
        fingerprint: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        progress: bool | None = None,
        observer: Observer | None = None,
        cell_names: Any = None,
        gene_names: Any = None,
    ):
        """Learn the loadings and the posterior of the factors.

        Parameters
        ----------
        X : CSR, CSC, dense or AnnData, of shape (n, d)
            Counts; not negative, whole numbers or not.
        y, strata : ignored
        coordinates : array-like of shape (n, dimensions)
            With `spatial`; of an AnnData ``obsm["spatial"]``, where they are not given.
        groups : array-like of shape (n,)
            Labels, with `multigroup`.
        return_history : bool, default=False
        callback : callable or None
            Called as ``callback(model, iteration, elbo)`` after the update of iterations 0,
            `callback_interval`, 2 `callback_interval` ...; the ELBO is that before the update.
        layer : str or None
            Of an AnnData: which layer; None: its X.
        conditions : array-like of shape (n,) or None
            Donors, for :class:`PNMFDonor`.
        checkpoint, fingerprint, should_stop, progress
            As in :meth:`nmfbench.models.autoencoder.estimator.Autoencoder.fit`, a step for an epoch.
        observer : Observer or None
            Told of every step; see :class:`nmfbench.fitting.observer.Observer`.
        cell_names, gene_names : sequence of str or None
            With `mask_fraction`: by which the entries that are held out are chosen; X's own where it is an
            AnnData or a DataFrame.

        Returns
        -------
        self, or (history, self) with `return_history`
            The history is a list of ELBOs, one for each step.
        """
        check_parameters(self)
        check_spatial(self)
        if self.spatial:
            engine_of(self)
            place_cells(self, X, coordinates, groups)
        device = device_of(self.device)
        cell_names, gene_names = names_of(X, cell_names, gene_names)
        X = self._check_input(counts_of(X, layer), reset=True)
        self._check_n_components(*X.shape)
        self._take_conditions(conditions, X.shape[0])
        self.device_ = str(device)
        called = self._caller(callback, callback_interval)
        fitted: FittedCounts | None = None

        def build(_: bool) -> StagedFit:
            nonlocal fitted
            fitted = FittedCounts.of(X, device, self.mask_fraction, self.seed_, cell_names, gene_names)
            self.mean_total_ = fitted.mean_total
            return StagedFit(
                build_stages(self, fitted.counts, fitted.masked(self._scales(fitted))),
                fitted.counts,
                max_iter=self.max_iter,
                tol=self.tol,
                absolute=self.tol_mode == "absolute",
                after_step=called,
            )

        outcome = self._fit(
            build,
            Run(checkpoint, should_stop, True if self.verbose else progress, observer),
            n_cells=X.shape[0],
            fingerprint=lambda: InMemoryRows(X, fingerprint).fingerprint() + self._conditions_text(),
        )
        self._keep(outcome)
        if outcome.stop_reason != "interrupted":
            self._embed_anew(fitted)
            self.held_out_entries_ = fitted.scores(outcome.engine.stage.posterior())
        self._tell_what_is_left(fitted.counts, outcome)
        if return_history:
            return [row["elbo"] for row in self.history_[1:]], self
        return self

    def transform(
        self, X, coordinates: Any = None, groups: Any = None, *, method="vi", layer=None
    ) -> np.ndarray:
        """Mean factors of cells, W fixed, as the parameter `embedding` says.

        Parameters
        ----------
        X : CSR, CSC, dense or AnnData, of shape (n, d)
            With `spatial` not looked at, and may be None.
        coordinates, groups : array-like of shape (n, dimensions) and (n,)
            With `spatial`: anywhere, and groups of the fit. What is given back is what the processes predict
            there.
        method : {"vi", "map", "poisson", "nnls"}, default="vi"
            ``vi``: q of every cell by the objective of the fit, ``exp(mu + sigma²/2)``. ``map`` or
            ``poisson``: the factors that maximise the Poisson likelihood alone. ``nnls``: 100 multiplicative
            steps on the squared error.
        layer : str or None

        Returns
        -------
        ndarray of shape (n, k)
        """
        check_is_fitted(self)
        if self.spatial:
            return self._scored(predicted_means(self, coordinates, groups))
        X = self._check_input(counts_of(X, layer), reset=False)
        counts = Counts(X, device_of(self.device))
        return self._embed(counts, RateScales.of(counts, self._exposure_of(counts)), method)

    def fit_transform(self, X, y=None, coordinates: Any = None, groups: Any = None, **fit_parameters):
        """Fit; then what is scored of it, of shape (n, k). `return_history` adds the history."""
        fitted = self.fit(X, y, coordinates, groups, **fit_parameters)
        if fit_parameters.get("return_history"):
            return fitted[0], self.embedding_
        return self.embedding_

    # ------------------------------------------------------------------------------------------------

    def _embed_anew(self, fitted: FittedCounts) -> None:
        """Where what is scored is not the posterior of the fit."""

    def _tell_what_is_left(self, counts: Counts, outcome: Outcome) -> None:
        """Warn where gradient training has ended far from an optimum, as its defaults do in minibatches."""
        self.further_gain_ = None
        stage = outcome.engine.stage
        if self.spatial or not isinstance(stage, GradientStage) or outcome.stop_reason == "interrupted":
            return
        self.further_gain_ = gain_of_sweeps(counts, stage.posterior())
        if self.further_gain_ > GAIN_THAT_IS_TOLD:
            log.warning(
                "%s: gradient training stopped (%s after %d steps) far from an optimum: five sweeps of "
                "coordinate ascent would raise the bound by another %.1f %%. Raise max_iter (now %d) or "
                "learning_rate (now %g), or leave out what asks for gradient training.",
                type(self).__name__, outcome.stop_reason, self.n_iter_, 100 * self.further_gain_,
                self.max_iter, self.learning_rate,
            )  # fmt: skip

    def _embed(self, counts: Counts, scales: RateScales, method: str) -> np.ndarray:
        of_the_fit = {"mode": self.mode, "max_iter": self.max_iter, "seed": self.seed_}
        variance = self.prior_variance_
        factors = embed_cells(counts, self.components_, scales, method, prior_variance=variance, **of_the_fit)
        return self._scored(factors)

    def _check_n_components(self, n: int, d: int) -> None:
        if self.init is not None and self.init.startswith("nndsvd"):
            self._check_rank(n, d)

    def _take_conditions(self, conditions: Any, n: int) -> None:
        """Keep what the conditional model needs of the cells' donors."""

    def _conditions_text(self) -> str:
        """What the fingerprint of the data adds for them, and for the places of the cells."""
        return places_text(self) if self.spatial else ""

    def _scales(self, fitted: FittedCounts) -> RateScales:
        return RateScales.of(fitted.counts, self._exposure_of(fitted.counts, fitted.totals))

    def _make_prior(self, mu: torch.Tensor, sigma: torch.Tensor, natural: bool) -> LatentPrior:
        """The prior of gradient training, with q at this start: where another prior takes its place."""
        return GaussianPrior.of(mu, sigma, natural=natural)

    def _exposure_of(self, counts: Counts, totals: np.ndarray | None = None) -> np.ndarray | None:
        if self.exposure is None:
            return None
        sums = counts.cell_sums().cpu().numpy() if totals is None else totals
        # A cell without counts says nothing about its size: take the mean one.
        return np.where(sums > 0, sums / max(self.mean_total_, 1e-30), 1.0)

    def _caller(self, callback, interval: int):
        if callback is None:
            return None
        if not real(1, whole=True).admits(interval):
            raise InputError(
                f"{type(self).__name__}.fit: callback_interval",
                "a whole number of at least 1",
                repr(interval),
                "set callback_interval accordingly",
            )

        def call(stage, number: int, elbo: float) -> None:
            if number % interval == 0:
                self.prior_ = posterior_prior(stage)
                callback(self, number, elbo)

        return call
