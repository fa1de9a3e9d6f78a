"""PNMF with factors that are smooth in space, as an estimator."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.models.limits import Limit, check_parameters, one_of, real
from nmfbench.models.pnmf.coordinate import LARGEST_EXPONENT
from nmfbench.models.pnmf.estimator import PNMF
from nmfbench.models.pnmf.spatial.inducing import ALLOCATIONS
from nmfbench.models.pnmf.spatial.neighbours import NEIGHBOURS
from nmfbench.models.pnmf.spatial.plan import check_points, engine_of
from nmfbench.models.pnmf.spatial.svgp import CHOLESKY_MODES

_OWN = {
    "local": False,
    "multigroup": False,
    "kernel": "Matern32",
    "num_inducing": 3000,
    "lengthscale": 1.0,
    "sigma": 1.0,
    "group_diff_param": 10.0,
    "jitter": 1e-5,
    "train_lengthscale": False,
    "cholesky_mode": "exp",
    "diagonal_only": False,
    "inducing_allocation": "proportional",
    "K": 50,
    "precompute_knn": True,
    "neighbors": "knn",
    "scale_kl_NM": False,
}


class SpatialPNMF(PNMF):
    """PNMF whose factors are Gaussian processes over the coordinates of the cells.

    ``F_l ~ GP(0, k)`` for every factor l in place of independent normal values, with a Matérn covariance k of
    smoothness 3/2; the likelihood is that of :class:`PNMF`. Trained by sweeps without space that find the
    factors, then by natural-gradient ascent of the lower bound (:mod:`nmfbench.models.pnmf.spatial.ascent`),
    then, where `mode` asks for the evidence bound, of that. Minibatches, other optimisers, `local` and
    what else has no closed form go from the first to gradient training.

    A process is smooth and cannot follow the depth of each cell, so `exposure` is ``"total"`` by default.

    Parameters
    ----------
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
    n_components, mode, exposure, ...
        As in :class:`PNMF`.

    Attributes
    ----------
    prior_ : SVGP or LCGP
        Holds q.
    lengthscale_ : float
    groups_ : ndarray or None
        Labels of the groups, in the order of their codes.
    components_, embedding_, log_factors_, factor_scale_, ...
        As in :class:`PNMF`.

    Examples
    --------
    >>> import numpy as np
    >>> from nmfbench.models.pnmf.spatial.estimator import SpatialPNMF
    >>> rng = np.random.default_rng(0)
    >>> xy = rng.uniform(0, 10, (80, 2))
    >>> rates = np.exp(np.sin(xy)) @ rng.gamma(0.5, 2.0, (2, 30))
    >>> model = SpatialPNMF(2, mode="lower-bound", lengthscale=3.0, max_iter=20, random_state=0)
    >>> model.fit(rng.poisson(rates), coordinates=xy).embedding_.shape
    (80, 2)
    >>> model.transform(None, [[5.0, 5.0]]).shape
    (1, 2)
    """

    _spatial = True
    _limits: ClassVar[dict[str, Limit]] = PNMF._limits | {
        "local": one_of(True, False),
        "multigroup": one_of(True, False),
        "kernel": one_of("Matern32"),
        "num_inducing": real(1, whole=True),
        "lengthscale": real(0, above=True),
        "sigma": real(0, above=True),
        "group_diff_param": real(-1e9),
        "jitter": real(0, above=True),
        "train_lengthscale": one_of(True, False),
        "cholesky_mode": one_of(*CHOLESKY_MODES),
        "diagonal_only": one_of(True, False),
        "inducing_allocation": one_of(*ALLOCATIONS),
        "K": real(1, whole=True),
        "precompute_knn": one_of(True, False),
        "neighbors": one_of(*NEIGHBOURS),
        "scale_kl_NM": one_of(True, False),
    }
    groups_: np.ndarray | None = None

    def __init__(self, n_components=10, **parameters):
        own = {name: parameters.pop(name, default) for name, default in _OWN.items()}
        super().__init__(n_components, **{"exposure": "total", **parameters})
        for name, value in own.items():
            setattr(self, name, value)

    @property
    def prior_type(self) -> str:
        """The kind of prior that the parameters ask for."""
        return "LCGP" if self.local else "SVGP"

    @property
    def lengthscale_(self) -> float:
        """The lengthscale at the end: the parameter, unless it was trained."""
        check_is_fitted(self)
        return self.prior_.kernel.lengthscale

    def fit(self, X, y=None, coordinates: Any = None, groups: Any = None, *positional, **others):
        """Learn the loadings and the processes.

        Parameters
        ----------
        X : CSR, CSC, dense or AnnData, of shape (n, d)
        coordinates : array-like of shape (n, dimensions)
            Of an AnnData ``obsm["spatial"]``, where they are not given.
        groups : array-like of shape (n,)
            Labels, with `multigroup`.
        y, positional, others
            As in :meth:`PNMF.fit`.

        Returns
        -------
        self, or (history, self) with `return_history`
        """
        check_parameters(self, self._limits)
        self._check_together()
        if coordinates is None and "spatial" in (getattr(X, "obsm", None) or {}):
            coordinates = X.obsm["spatial"]
        if self.multigroup and groups is not None:
            self.groups_ = np.unique(np.asarray(groups).astype(str))
        self._points = check_points(self, coordinates, groups, _rows(X))
        return super().fit(X, y, coordinates, groups, *positional, **others)

    def transform(self, X, coordinates: Any = None, groups: Any = None) -> np.ndarray:
        """Mean factors ``exp(mu + sigma²/2)`` that the processes predict at any coordinates.

        Parameters
        ----------
        X : ignored, may be None
            The counts of new cells are not looked at.
        coordinates : array-like of shape (n, dimensions)
        groups : array-like of shape (n,)
            Labels of the fit, with `multigroup`.

        Returns
        -------
        ndarray of shape (n, k)
        """
        if coordinates is None:
            check_points(self, coordinates, groups, None)  # refuses
        mu, sigma = self.predict_factors(coordinates, groups)
        return torch.exp((mu + sigma.square() / 2).clamp(max=LARGEST_EXPONENT)).cpu().numpy()

    def predict_factors(
        self, coordinates: Any = None, groups: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of every process, both of shape (n, k).

        Parameters
        ----------
        coordinates : array-like of shape (n, dimensions) or None
            Anywhere; None: the cells of the fit.
        groups : array-like of shape (n,) or None
            Labels of the fit, with `multigroup`.
        """
        check_is_fitted(self)
        with torch.no_grad():
            if coordinates is None:
                return self.prior_.marginals()
            points = check_points(self, coordinates, groups, None)
            return self.prior_.predict(points.to(self.prior_.mean.device))

    def _check_together(self) -> None:
        name = type(self).__name__
        if self.training_mode == "natural":
            raise InputError(
                f"{name}: parameter training_mode",
                "'standard' (Natural gradient steps of the processes are taken by engine 'coordinate')",
                repr(self.training_mode),
                "leave training_mode out",
            )
        if self.learn_prior:
            raise InputError(f"{name}: parameter learn_prior", "False", "True", "set sigma, or leave it out")
        if self.local and self.num_inducing != _OWN["num_inducing"]:
            warnings.warn("num_inducing is not used with local=True", UserWarning, stacklevel=3)
        engine_of(self)

    def _group_codes(self, labels: np.ndarray) -> np.ndarray:
        labels = labels.astype(str)
        codes = np.searchsorted(self.groups_, labels).clip(max=len(self.groups_) - 1)
        if (unknown := self.groups_[codes] != labels).any():
            raise InputError(
                f"{type(self).__name__}: groups",
                f"groups of the fit: {', '.join(self.groups_)}",
                labels[unknown][0],
                "predict for these alone",
            )
        return codes

    def _conditions_text(self) -> str:
        parts = [self._points.xy.numpy().tobytes()]
        if self._points.groups is not None:
            parts.append(self._points.groups.numpy().tobytes())
        return " " + hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _rows(X: Any) -> int | None:
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _signature() -> inspect.Signature:
    """Of PNMF's constructor and the parameters added here, for scikit-learn and the workflow."""
    base = inspect.signature(PNMF.__init__).parameters
    base = {**base, "exposure": base["exposure"].replace(default="total")}
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=default) for name, default in _OWN.items()]
    return inspect.Signature([*base.values(), *more])


SpatialPNMF.__init__.__signature__ = _signature()
SpatialPNMF.fit.__signature__ = inspect.signature(PNMF.fit)
