"""PNMF as an estimator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.observer import Observer
from nmfbench.models.limits import Limit, check_parameters, one_of, real, seed_from
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.fit import run_stages
from nmfbench.models.pnmf.fitted import FittedFactors
from nmfbench.models.pnmf.infer import embed_cells
from nmfbench.models.pnmf.inputs import counts_of, device_of
from nmfbench.models.pnmf.likelihood import MODES
from nmfbench.models.pnmf.optimisers import OPTIMISERS
from nmfbench.models.pnmf.parameters import LOADINGS_MODES
from nmfbench.models.pnmf.plan import build_stages, posterior_prior
from nmfbench.models.pnmf.prior import GaussianPrior, LatentPrior
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.schedules import SCHEDULES
from nmfbench.models.pnmf.spatial.places import (
    SPATIAL_LIMITS,
    check_spatial,
    place_cells,
    places_text,
    predicted_means,
)
from nmfbench.models.pnmf.start import INITS
from nmfbench.rows.memory import InMemoryRows


class PNMF(FittedFactors):
    """Poisson non-negative matrix factorisation with a Gaussian latent, by variational inference.

    ``F_nl ~ Normal(0, 1)``, ``X_nd ~ Poisson(s_n Σ_l exp(F_nl) W_dl)`` with non-negative loadings W, a point
    estimate, and ``q(F_nl) = Normal(mu_nl, sigma_nl²)`` for every cell and factor. Maximises

        ELBO = E_q[ln p(X | F, W)] - KL(q || prior)

    (``expanded``, ``simple``) or Jensen's bound on it (``lower-bound``), every constant included
    (:mod:`nmfbench.models.pnmf.likelihood`). Only the nonzeros of X are visited.

    Parameters
    ----------
    n_components : int, default=10
        Number of factors k.
    loadings_mode : {"projected", "softplus", "exp", "multiplicative"}, default="projected"
        How W is kept non-negative under gradient training. Coordinate ascent holds W itself.
    mode : {"expanded", "simple", "lower-bound"}, default="expanded"
    training_mode : {"standard", "natural"}, default="standard"
        ``natural``: damped natural-gradient steps of q, with gradient training of W.
    E : int, default=3
        Draws of a step of gradient training, in pairs ε, -ε; not used by ``lower-bound``.
    max_iter : int, default=200
        Steps, at most: of coordinate ascent and then of its polish, or of gradient training.
    tol : float, default=1e-6
        A relative gain of the ELBO. Over five sweeps, or over `patience` evaluations of a Monte-Carlo ELBO.
    learning_rate : float, default=0.01
    optimizer : {"Adam", "AdamW", "NAdam", "SGD", "RMSprop"}, default="Adam"
    random_state : int, RandomState, Generator or None
    verbose : bool, default=False
        A progress bar, whether or not stderr is a terminal.
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
    init : {"random", "nndsvd", "nndsvda", "nndsvdar", "k-means"} or None, default="random"
        See :func:`nmfbench.models.pnmf.initialize_factors`.
    scheduler : {"one_cycle", "plateau"} or None, default="one_cycle"
        Learning rates of gradient training.
    scheduler_patience, scheduler_factor, min_lr
        Of ``plateau``.
    scheduler_pct_start, scheduler_div_factor, scheduler_final_div_factor
        Of ``one_cycle``.
    batch_size, y_batch_size : int or None
        Cells and genes of a step of gradient training; None: all.
    shuffle : bool, default=True
        Whether each pass takes the cells (genes) in a new order.
    scale_ll_D : bool, default=True
        With `y_batch_size`: the sum over nonzeros is scaled to all genes, and the rates are those of all
        genes, exactly. False: the likelihood of the batch's genes as it is.
    engine : {"auto", "coordinate", "gradient"}, default="auto"
        ``coordinate``: closed-form coordinate ascent on the lower bound, then, for the other modes, Adam on
        their own objective from there. ``gradient``: the loop that the parameters from `loadings_mode` to
        `scale_ll_D` describe. ``auto``: coordinate, unless minibatches, ``natural``, another optimiser
        or a map of W (``softplus``, ``exp``) are asked for.
    tol_mode : {"relative", "absolute"}, default="relative"
        ``absolute``: stop where two neighbouring ELBOs differ by less than `tol`.
    exposure : {None, "total"}, default=None
        ``total``: s_n is the cell's sum over the mean sum. None: s_n = 1.
    learn_prior : bool, default=False
        Whether coordinate ascent also learns the prior's standard deviation of each factor.
    eval_every, patience : int, default=25, 3
        Steps between evaluations of a Monte-Carlo ELBO, and evaluations without a gain after which gradient
        training ends.
    spatial : bool, default=False
        Whether factors are Gaussian processes over the cells' coordinates; the parameters below are of these.
    local : bool, default=False
        False: sparse processes with inducing points (SVGP). True: every cell is an inducing point, and the
        prior is that of each cell given its `K` neighbours (LCGP); for more than some thousand cells with
        `batch_size`.
    multigroup : bool, default=False
        Whether `groups` (sections, say) have processes of their own that are correlated. It smooths across
        space within a group and takes no batch effect out.
    kernel : {"Matern32"}
    num_inducing : int, default=3000
        Of SVGP; with as many as there are cells or more, the cells themselves.
    lengthscale : float, default=1.0
        In the units of the coordinates.
    sigma : float, default=1.0
        Standard deviation of each process.
    group_diff_param : float, default=10.0
        How different the groups are: 0 one process for all, 10 as good as independent.
    jitter : float, default=1e-5
    train_lengthscale : bool, default=False
        Whether the lengthscale that raises the bound is sought, from `lengthscale` on.
    cholesky_mode : {"exp", "softplus"}, default="exp"
    diagonal_only : bool, default=False
        Whether q of the inducing values has a diagonal covariance (in the whitened values).
    inducing_allocation : {"proportional", "equal", "derived"}, default="proportional"
        How groups share the inducing points.
    K : int, default=50
        Neighbours of LCGP.
    precompute_knn : bool, default=True
        Whether they are found once and kept.
    neighbors : {"knn", "probabilistic"}, default="knn"
        The nearest, or drawn with chances in proportion to the covariance.
    scale_kl_NM : bool, default=False
        Whether the divergence of SVGP is multiplied by cells / inducing points. The objective is then no
        bound; for comparison with software that does it.

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
    converged_ : bool
    stop_reason_ : {"converged", "max_iter", "interrupted"}
    prior_ : GaussianPrior, SVGP or LCGP
        Holds q.
    lengthscale_ : float
        With `spatial`.
    groups_ : ndarray or None
        Labels of the groups, in the order of their codes.
    log_factors_, factor_scale_ : ndarray of shape (n, k)
        mu and sigma.

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
    _not_in_checkpoint: ClassVar[set[str]] = {"device", "verbose"}
    _limits: ClassVar[dict[str, Limit]] = FittedFactors._limits | {
        "loadings_mode": one_of(*LOADINGS_MODES),
        "mode": one_of(*MODES),
        "training_mode": one_of("standard", "natural"),
        "E": real(1, whole=True),
        "max_iter": real(1, whole=True),
        "tol": real(0),
        "learning_rate": real(0, above=True),
        "optimizer": one_of(*OPTIMISERS),
        "verbose": one_of(True, False),
        "init": one_of(*INITS, None),
        "scheduler": one_of(*SCHEDULES),
        "scheduler_patience": real(0, whole=True),
        "scheduler_factor": real(0, above=True),
        "min_lr": real(0),
        "scheduler_pct_start": real(0),
        "scheduler_div_factor": real(0, above=True),
        "scheduler_final_div_factor": real(0, above=True),
        "batch_size": real(1, whole=True).or_none(),
        "y_batch_size": real(1, whole=True).or_none(),
        "shuffle": one_of(True, False),
        "scale_ll_D": one_of(True, False),
        "engine": one_of("auto", "coordinate", "gradient"),
        "tol_mode": one_of("relative", "absolute"),
        "exposure": one_of(None, "total"),
        "learn_prior": one_of(True, False),
        "eval_every": real(1, whole=True),
        "patience": real(1, whole=True),
        **SPATIAL_LIMITS,
    }

    def __init__(
        self,
        n_components=10,
        *,
        loadings_mode="projected",
        mode="expanded",
        training_mode="standard",
        E=3,
        max_iter=200,
        tol=1e-6,
        learning_rate=0.01,
        optimizer="Adam",
        random_state=None,
        verbose=False,
        device="auto",
        init="random",
        scheduler="one_cycle",
        scheduler_patience=200,
        scheduler_factor=0.8,
        min_lr=1e-5,
        scheduler_pct_start=0.3,
        scheduler_div_factor=25.0,
        scheduler_final_div_factor=1e4,
        batch_size=None,
        y_batch_size=None,
        shuffle=True,
        scale_ll_D=True,
        engine="auto",
        tol_mode="relative",
        exposure=None,
        learn_prior=False,
        eval_every=25,
        patience=3,
        spatial=False,
        local=False,
        multigroup=False,
        kernel="Matern32",
        num_inducing=3000,
        lengthscale=1.0,
        sigma=1.0,
        group_diff_param=10.0,
        jitter=1e-5,
        train_lengthscale=False,
        cholesky_mode="exp",
        diagonal_only=False,
        inducing_allocation="proportional",
        K=50,
        precompute_knn=True,
        neighbors="knn",
        scale_kl_NM=False,
    ):
        self.n_components = n_components
        self.loadings_mode = loadings_mode
        self.mode = mode
        self.training_mode = training_mode
        self.E = E
        self.max_iter = max_iter
        self.tol = tol
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.random_state = random_state
        self.verbose = verbose
        self.device = device
        self.init = init
        self.scheduler = scheduler
        self.scheduler_patience = scheduler_patience
        self.scheduler_factor = scheduler_factor
        self.min_lr = min_lr
        self.scheduler_pct_start = scheduler_pct_start
        self.scheduler_div_factor = scheduler_div_factor
        self.scheduler_final_div_factor = scheduler_final_div_factor
        self.batch_size = batch_size
        self.y_batch_size = y_batch_size
        self.shuffle = shuffle
        self.scale_ll_D = scale_ll_D
        self.engine = engine
        self.tol_mode = tol_mode
        self.exposure = exposure
        self.learn_prior = learn_prior
        self.eval_every = eval_every
        self.patience = patience
        self.spatial = spatial
        self.local = local
        self.multigroup = multigroup
        self.kernel = kernel
        self.num_inducing = num_inducing
        self.lengthscale = lengthscale
        self.sigma = sigma
        self.group_diff_param = group_diff_param
        self.jitter = jitter
        self.train_lengthscale = train_lengthscale
        self.cholesky_mode = cholesky_mode
        self.diagonal_only = diagonal_only
        self.inducing_allocation = inducing_allocation
        self.K = K
        self.precompute_knn = precompute_knn
        self.neighbors = neighbors
        self.scale_kl_NM = scale_kl_NM

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

        Returns
        -------
        self, or (history, self) with `return_history`
            The history is a list of ELBOs, one for each step.
        """
        check_parameters(self, self._limits)
        check_spatial(self)
        if self.spatial:
            place_cells(self, X, coordinates, groups)
        device = device_of(self.device)
        X = self._check_input(counts_of(X, layer), reset=True)
        self._check_n_components(*X.shape)
        self._take_conditions(conditions, X.shape[0])
        counts = Counts(X, device)
        self.device_ = str(device)
        keeper, stored = None, None
        if checkpoint is not None:
            text = InMemoryRows(X, fingerprint).fingerprint() + self._conditions_text()
            keeper = Checkpoint(checkpoint, self._checkpoint_settings(), text)
            stored = keeper.load()
        self.seed_ = seed_from(self.random_state) if stored is None else stored[1]["seed"]
        self.mean_total_ = counts.total / counts.shape[0]
        scales = self._scales(counts)
        stages = build_stages(self, counts, scales)
        outcome = run_stages(
            stages,
            counts,
            name=type(self).__name__,
            total=self.max_iter * len(stages),
            tol=self.tol,
            absolute=self.tol_mode == "absolute",
            seed=self.seed_,
            checkpoint=keeper,
            stored=stored,
            should_stop=should_stop,
            progress=True if self.verbose else progress,
            after_step=self._caller(callback, callback_interval),
            observer=observer,
        )
        self._keep(outcome)
        if return_history:
            return [row["elbo"] for row in self.history_[1:]], self
        return self

    def transform(
        self, X, coordinates: Any = None, groups: Any = None, *, method="vi", layer=None
    ) -> np.ndarray:
        """Mean factors of cells, W fixed.

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
            return predicted_means(self, coordinates, groups)
        X = self._check_input(counts_of(X, layer), reset=False)
        counts = Counts(X, device_of(self.device))
        return embed_cells(self, counts, RateScales.of(counts, self._exposure_of(counts)), method)

    def fit_transform(self, X, y=None, coordinates: Any = None, groups: Any = None, **fit_parameters):
        """Fit; then the mean factors of the posterior, of shape (n, k). `return_history` adds the history."""
        fitted = self.fit(X, y, coordinates, groups, **fit_parameters)
        if fit_parameters.get("return_history"):
            return fitted[0], self.embedding_
        return self.embedding_

    # ------------------------------------------------------------------------------------------------

    def _check_n_components(self, n: int, d: int) -> None:
        if self.init is not None and self.init.startswith("nndsvd"):
            self._check_rank(n, d)

    def _take_conditions(self, conditions: Any, n: int) -> None:
        """Keep what the conditional model needs of the cells' donors."""

    def _conditions_text(self) -> str:
        """What the fingerprint of the data adds for them, and for the places of the cells."""
        return places_text(self) if self.spatial else ""

    def _scales(self, counts: Counts) -> RateScales:
        return RateScales.of(counts, self._exposure_of(counts))

    def _make_prior(self, mu: torch.Tensor, sigma: torch.Tensor, natural: bool) -> LatentPrior:
        """The prior of gradient training, with q at this start: where another prior takes its place."""
        return GaussianPrior.of(mu, sigma, natural=natural)

    def _exposure_of(self, counts: Counts) -> np.ndarray | None:
        if self.exposure is None:
            return None
        sums = counts.cell_sums().cpu().numpy()
        # A cell without counts says nothing about its size: take the mean one.
        return np.where(sums > 0, sums / max(self.mean_total_, 1e-30), 1.0)

    def _checkpoint_settings(self) -> dict[str, Any]:
        settings = {key: v for key, v in self.get_params().items() if key not in self._not_in_checkpoint}
        if not isinstance(self.random_state, (int, np.integer)):
            settings["random_state"] = "not a number"
        return {"model": type(self).__name__, **settings}

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
