"""Conditional AE-NMF with a blind spot: told the donors, and each gene from all others."""

from __future__ import annotations

from typing import Any

import numpy as np

from nmfbench.models.autoencoder.exact.blind_conditional import AdditiveBlindObjective, DonorBlindObjective
from nmfbench.models.autoencoder.exact.denoising import start_of_blind
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.card import OnDevice
from nmfbench.models.denoising import card
from nmfbench.models.denoising.blind import AENMFBlind
from nmfbench.models.denoising.conditional import AlikeInClusters, OwnLoadings
from nmfbench.models.parameters import parameters


@parameters(card.AdditiveBlindNMF, OnDevice)
class CAENMF1Blind(AlikeInClusters):
    """Conditional AE-NMF with a blind spot, model 1, with the donors alike in every cluster of cells.

    Minimises, over non-negative W (k x genes) and U (conditions x genes),

    ``||X - X (Wᵀ W - diag(Wᵀ W)) - C U||² / n + penalty_W ||W||² + penalty_U ||U||²``
    ``+ penalty_invariance / n · Σ_t Σ_c n_tc ||h̄_tc - h̄_t||²``

    with the embedding ``H = X Wᵀ``, C the one-hot conditions, h̄_tc the mean of the n_tc cells of condition c
    in cluster t and h̄_t that of the cluster. The clusters are the model's own, of the embedding that
    ``ae_nmf_blind`` has: no cell type is asked for.

    {parameters}
    """

    _model_name = "CAE_NMF1_blind_spot"
    _without_clusters = "cae_nmf2_blind"

    def _not_told(self, seed: int) -> AENMFBlind:
        given = {key: getattr(self, key) for key in ("penalty_W", "init", "gram_memory_mb")}
        return AENMFBlind(self.n_components, **given, random_state=seed, device=self.device)

    def _start(self, operator: Operator, ridge: float) -> np.ndarray:
        if self._first is not None:
            return self._first
        return start_of_blind(operator, self.n_components, self.init, seed=self.seed_, ridge=ridge)

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U=None, **denoising: Any
    ) -> AdditiveBlindObjective:
        invariance = self.penalty_invariance if cells.has_types else 0.0
        return AdditiveBlindObjective(
            operator,
            W,
            U,
            penalty_W=self.penalty_W,
            conditions=cells.condition_sums(by_type=invariance > 0),
            penalty_U=self.penalty_U,
            penalty_invariance=invariance,
        )


@parameters(card.OwnLoadingsBlindNMF, OnDevice)
class CAENMF2Blind(OwnLoadings):
    """Conditional AE-NMF with a blind spot, model 2: every condition has loadings of its own.

    Minimises, over non-negative W (k x genes) and U (conditions x k x genes),

    ``Σ_c ||X_c - X_c (Wᵀ V_c - diag(Wᵀ V_c))||² / n + penalty_W ||W||² + penalty_U ||U||²``

    with the embedding ``H = X Wᵀ``, X_c the cells of condition c and ``V_c = W + U_c``: each gene is written
    from all others, by the loadings that it has in its condition.

    {parameters}
    """

    _model_name = "CAE_NMF2_blind_spot"

    def _start(self, operator: Operator, ridge: float) -> np.ndarray:
        return start_of_blind(operator, self.n_components, self.init, seed=self.seed_, ridge=ridge)

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U=None, **denoising: Any
    ) -> DonorBlindObjective:
        return DonorBlindObjective(operator, W, U, penalty_W=self.penalty_W, penalty_U=self.penalty_U)
