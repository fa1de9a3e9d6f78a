"""Conditional AE-NMF of common variance: told the donors, earning nothing by what a gene has for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.fitting.loop import Run
from nmfbench.models.autoencoder.cae_nmf1 import CAENMF1
from nmfbench.models.autoencoder.cae_nmf2 import CAENMF2
from nmfbench.models.autoencoder.embed import times_blocks
from nmfbench.models.autoencoder.exact.coordinate import DonorObjective, TiedObjective
from nmfbench.models.autoencoder.exact.denoising import unique_squares
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.autoencoder.solver_choice import SolverChoice
from nmfbench.models.card import OnDevice
from nmfbench.models.denoising import card
from nmfbench.models.denoising.common import AENMFCommon
from nmfbench.models.denoising.estimator import DenoisingAutoencoder
from nmfbench.models.labels import Conditions, FitData
from nmfbench.models.parameters import parameters
from nmfbench.rows.memory import RowSource
from nmfbench.statistics import Statistics


class AlikeInClusters(DenoisingAutoencoder, CAENMF1):
    """Model 1 whose clusters of cells are its own, of the embedding of the same model not told the donors."""

    batch_size, penalty_hsic, centred_invariance = 1, 0.0, True  # as cae_nmf1 has them; no keys of this one
    _without_clusters = ""
    """Another model, which is fitted from sums."""

    def _not_told(self, seed: int) -> DenoisingAutoencoder:
        """The model that is not told the donors, not fitted yet."""
        raise NotImplementedError

    def fit_statistics(self, statistics: Statistics, **given: Any):
        """Refused: the clusters are looked for among cells, and sums have none."""
        raise InputError(
            f"{type(self).__name__}: a fit from statistics", "cells, among which it finds clusters",
            f"sums of {statistics.n_cells} cells", f"fit the cells, or take {self._without_clusters}",
        )  # fmt: skip

    def _fit_cells(self, data: FitData, device: torch.device, run: Run) -> bool:
        self._first, clusters = None, None
        if self.penalty_invariance > 0:
            seed = int(self.random_state) if isinstance(self.random_state, (int, np.integer)) else 0
            first = self._not_told(seed)
            self._first = first.fit_rows(data.source, progress=False).components_
            values = self._normalised(data.source)
            H = np.concatenate([part for _, part in times_blocks(self._first, values)])
            clusters = clusters_of(H, self.n_clusters, seed)
        return super()._fit_cells(replace(data, strata=clusters), device, run)

    def _start(self, operator: Operator, ridge: float) -> np.ndarray:
        return super()._start(operator, ridge) if self._first is None else self._first

    def _decoder(self) -> Decoder:
        return CAENMF1._decoder(self)

    def _labels_in_the_loss(self) -> bool:
        return False


@parameters(card.AdditiveCommonNMF, OnDevice)
class CAENMF1Common(AlikeInClusters):
    """Conditional AE-NMF of common variance, model 1, with the donors alike in every cluster of cells.

    Minimises, over non-negative W (k x genes) and U (conditions x genes),

    ``(||X - X Wᵀ W - C U||² + 2 Σ_g u_g ||w_g||²) / n + penalty_W ||W||² + penalty_U ||U||²``
    ``+ penalty_invariance / n · Σ_t Σ_c n_tc ||h̄_tc - h̄_t||²``

    with the embedding ``H = X Wᵀ``, C the one-hot conditions, u_g as in ``ae_nmf_common``, h̄_tc the mean of
    the n_tc cells of condition c in cluster t and h̄_t that of the cluster. The clusters are the model's own,
    of the embedding that ``ae_nmf_common`` has: no cell type is asked for.

    {parameters}
    """

    _model_name = "CAE_NMF1_common_variance"
    _without_clusters = "cae_nmf2_common"

    def _not_told(self, seed: int) -> AENMFCommon:
        given = {key: getattr(self, key) for key in ("penalty_W", "init", "n_axes", "gram_memory_mb")}
        return AENMFCommon(self.n_components, **given, random_state=seed, device=self.device)

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U=None, **denoising: Any
    ) -> TiedObjective:
        unique = unique_squares(operator, self._axes, seed=self.seed_)
        return CAENMF1._objective(self, operator, cells, W, U, unique=unique)


def clusters_of(H: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """k-means clusters of cells by their factors, each with a standard deviation of 1.

    Parameters
    ----------
    H : (cells, k) array
    n_clusters : int
        At most so many; fewer where there are fewer than two cells for each.
    seed : int

    Returns
    -------
    (cells,) int64 array
    """
    from sklearn.cluster import KMeans

    H = H.astype(np.float64)
    sd = H.std(axis=0)
    scaled = (H - H.mean(axis=0)) / np.where(sd > 0, sd, 1)
    found = KMeans(max(1, min(n_clusters, len(H) // 2)), n_init=3, random_state=seed).fit_predict(scaled)
    return found.astype(np.int64)


class OwnLoadings(DenoisingAutoencoder, CAENMF2):
    """Model 2 by exact coordinate descent alone, with a Gram matrix for each donor."""

    def _choose_solver(self, source: RowSource, conditions: Conditions, device: torch.device) -> SolverChoice:
        return self._exact_route(source, device, self._n_grams * conditions.size, self.gram_memory_mb)

    def _decoder(self) -> Decoder:
        return CAENMF2._decoder(self)

    def _published_settings(self) -> dict[str, Any]:
        return CAENMF2._published_settings(self)


@parameters(card.OwnLoadingsCommonNMF, OnDevice)
class CAENMF2Common(OwnLoadings):
    """Conditional AE-NMF of common variance, model 2: every condition has loadings of its own.

    Minimises, over non-negative W (k x genes) and U (conditions x k x genes),

    ``(Σ_i ||X_i - H_i (W + U_c(i))||² + 2 Σ_c Σ_g u_cg w_g·(w_g + u_cg)) / n``
    ``+ penalty_W ||W||² + penalty_U ||U||²``

    with the embedding ``H = X Wᵀ``, c(i) the condition of cell i and u_cg the part of gene g's sum of squares
    in the cells of condition c that it shares with no other gene: of each condition the same share.

    {parameters}
    """

    _model_name = "CAE_NMF2_common_variance"

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U=None, **denoising: Any
    ) -> DonorObjective:
        unique = unique_squares(operator, self._axes, seed=self.seed_)
        return CAENMF2._objective(self, operator, cells, W, U, unique=unique)
