"""AE-NMF with a blind spot: each gene from all others."""

from __future__ import annotations

import numpy as np

from nmfbench.models.autoencoder.exact.denoising import BlindObjective, start_of_blind
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.card import OnDevice
from nmfbench.models.denoising import card
from nmfbench.models.denoising.estimator import DenoisingAutoencoder
from nmfbench.models.parameters import parameters


@parameters(card.BlindNMF, OnDevice)
class AENMFBlind(DenoisingAutoencoder):
    """Autoencoding NMF in which no gene is written from itself.

    Minimises, over non-negative W (k x genes),

    ``||X - X (Wᵀ W - diag(Wᵀ W))||² / n + penalty_W ||W||²``;  the embedding is  ``H = X Wᵀ``

    of all genes, where n is the number of cells. A factor that is one gene writes nothing here. A predictor
    that does not see its target cannot profit from the target's noise: Batson and Royer 2019,
    arXiv:1901.11365.

    {parameters}
    """

    _model_name = "AE_NMF_blind_spot"

    def _objective(self, operator: Operator, cells: Cells, W: np.ndarray, U=None) -> BlindObjective:
        return BlindObjective(operator, W, penalty_W=self.penalty_W)

    def _start(self, operator: Operator, ridge: float) -> np.ndarray:
        return start_of_blind(operator, self.n_components, self.init, seed=self.seed_, ridge=ridge)
