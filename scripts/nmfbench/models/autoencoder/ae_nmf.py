"""AE-NMF with tied weights: encoder and decoder share the gene loadings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nmfbench.linalg import SparseRows
from nmfbench.models.autoencoder import card
from nmfbench.models.autoencoder.adam import Gradient
from nmfbench.models.autoencoder.estimator import Autoencoder
from nmfbench.models.autoencoder.exact.coordinate import TiedObjective
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.autoencoder.minibatch import BatchObjective, Evaluation, gram_of_columns
from nmfbench.models.card import OnDevice
from nmfbench.models.labels import FitData
from nmfbench.models.parameters import parameters
from nmfbench.rows.batches import Batch


class TiedBatches(BatchObjective):
    """``||X - H W||² / B + λ_W ||W||²`` with ``H = X Wᵀ``; projective NMF in minibatches.

    With ``A = Hᵀ H`` and ``G = W Wᵀ``, nothing of the shape of the batch's X is needed:
    ``||E||² = ||X||² - 2 ||H||² + <A, G>`` and ``∇_W ||E||² = 2 [A W + (H (G - 2 I))ᵀ X]``.
    """

    def gradients(self, X: SparseRows, batch: Batch, epoch: int) -> Iterator[Gradient]:
        W = self.W
        H = X.times(W)
        through_H = torch.addmm(H, H, W.T @ W, beta=-2)
        gradient = X.transposed_times(through_H, out=self._gradient_W)
        gradient.addmm_(W, H.T @ H)
        yield Gradient("W", gradient, batch.scale, 2 * self.penalty_W)

    def evaluate(self) -> Evaluation:
        G, W = gram_of_columns(self.W), self.W.to(self.sums_device)
        A = torch.zeros_like(G)
        for _, X in self.blocks():
            H = X.times(W).double()
            A.addmm_(H.T, H)
        squared_error = self.squared_norm - 2 * float(A.trace()) + float(torch.sum(A * G))
        return self.evaluation(squared_error)


@parameters(card.AENMF, OnDevice)
class AENMF(Autoencoder):
    """Autoencoding NMF with tied weights (projective NMF).

    Minimises, over non-negative W (k x genes),

    ``||X - H W||² / n + penalty_W ||W||²``  with the embedding  ``H = X Wᵀ``

    where n is the number of cells (of a batch, where minibatches train). Projective NMF: Yang & Oja 2010,
    doi:10.1109/TNN.2010.2041361.

    {parameters}
    """

    _model_name = "AE_NMF_no_cond_tied"

    def _batch_objective(self, data: FitData, W: torch.Tensor) -> TiedBatches:
        return TiedBatches(
            data.source,
            {"W": W},
            {"W": self.learning_rate},
            penalty_W=self.penalty_W,
            row_norm=self.row_norm,
        )

    def _objective(self, operator: Operator, cells: Cells, W: np.ndarray, U=None) -> TiedObjective:
        return TiedObjective(operator, W, penalty_W=self.penalty_W)

    def _decoder(self) -> Decoder:
        return Decoder(self.components_[None])

    def _published_settings(self) -> dict[str, Any]:
        return {
            "lambda_W": self.penalty_W,
            "lrW": self.learning_rate,
            "GLOBAL_SEED": self.seed_,
            "row_norm": self.row_norm,
        }
