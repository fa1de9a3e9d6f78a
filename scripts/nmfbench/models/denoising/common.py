"""AE-NMF of common variance: a factor earns nothing by what one gene has for itself."""

from __future__ import annotations

import numpy as np

from nmfbench.models.autoencoder.exact.coordinate import TiedObjective
from nmfbench.models.autoencoder.exact.denoising import unique_squares
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.card import OnDevice
from nmfbench.models.denoising import card
from nmfbench.models.denoising.estimator import DenoisingAutoencoder
from nmfbench.models.parameters import parameters


@parameters(card.CommonNMF, OnDevice)
class AENMFCommon(DenoisingAutoencoder):
    """Autoencoding NMF of common variance.

    Minimises, over non-negative W (k x genes),

    ``(||X - X Wᵀ W||² + 2 Σ_g u_g ||w_g||²) / n + penalty_W ||W||²``;  the embedding is  ``H = X Wᵀ``

    where n is the number of cells and u_g the part of gene g's sum of squares that it shares with no other
    gene, by principal axis factoring. That is the expected error of cells whose genes' own parts, noise
    included, were drawn anew. It stands to ``ae_nmf`` as factor analysis to principal components.

    {parameters}
    """

    _model_name = "AE_NMF_common_variance"

    def _objective(self, operator: Operator, cells: Cells, W: np.ndarray, U=None) -> TiedObjective:
        unique = unique_squares(operator, self._axes, seed=self.seed_)
        return TiedObjective(operator, W, penalty_W=self.penalty_W, unique=unique)
