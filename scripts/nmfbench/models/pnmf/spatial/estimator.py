"""PNMF with factors that are smooth in space, under a name of its own."""

from __future__ import annotations

from nmfbench.models.parameters import parameters
from nmfbench.models.pnmf import card
from nmfbench.models.pnmf.estimator import PNMF


@parameters(card.Details, card.PNMFSpatial, card.PNMF, without=["spatial"])
class SpatialPNMF(PNMF):
    """``PNMF(spatial=True, exposure="total")``: factors are Gaussian processes over the cells' coordinates.

    ``F_l ~ GP(0, k)`` for every factor l in place of independent normal values, with a Matérn covariance k of
    smoothness 3/2; the likelihood is that of :class:`PNMF`. Trained by sweeps without space that find the
    factors, then by natural-gradient ascent of the lower bound (:mod:`nmfbench.models.pnmf.spatial.ascent`),
    then, where `mode` asks for the evidence bound, of that. Minibatches, other optimisers, `local` and
    what else has no closed form go from the first to gradient training.

    A process is smooth and cannot follow the depth of each cell, so `exposure` is ``"total"`` by default.

    {parameters}

    Attributes
    ----------
    components_, embedding_, log_factors_, factor_scale_, prior_, lengthscale_, ...
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

    spatial = True
