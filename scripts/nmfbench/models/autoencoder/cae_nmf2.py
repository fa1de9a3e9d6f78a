"""Conditional AE-NMF, model 2: loadings of its own for each condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.linalg import SparseRows
from nmfbench.models.autoencoder import card
from nmfbench.models.autoencoder.adam import Gradient
from nmfbench.models.autoencoder.card_layout import DonorTiles, Layout, donor_gradients
from nmfbench.models.autoencoder.conditional import ConditionalAutoencoder
from nmfbench.models.autoencoder.exact.coordinate import DonorObjective
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.autoencoder.minibatch import (
    BatchObjective,
    Evaluation,
    gram_of_columns,
    squared_norm,
)
from nmfbench.models.card import OnDevice
from nmfbench.models.labels import Conditions, FitData
from nmfbench.models.parameters import parameters
from nmfbench.models.start import start_conditions
from nmfbench.rows.batches import Batch, CardBatch
from nmfbench.rows.card import CardRows
from nmfbench.rows.dense import DenseRows


class LoadingsBatches(BatchObjective):
    """``||E||²/B + λ_W||W||² + λ_U||U||²`` with ``E_i = H_i (W + U_c(i)) - X_i``, sparse and exact.

    Per condition c of the batch, with ``V_c = W + U_c``, ``A_c = H_cᵀH_c``, ``Y_c = X_c V_cᵀ`` and
    ``G_c = V_c V_cᵀ``: ``D_c = A_c V_c - H_cᵀX_c``, ``∇_U_c ||E||² = 2 D_c``,
    ``∇_W ||E||² = 2 Σ_c [D_c + (H_c G_c - Y_c)ᵀ X_c]`` and
    ``||E||² = ||X||² - 2 Σ_c <H_c, Y_c> + Σ_c <A_c, G_c>``.

    A batch of one condition touches that condition's U and moments only. Its penalty on U_c is divided
    by the condition's share of the batches, so that the mean gradient of an epoch's batches is the
    gradient of the full objective.
    """

    def __init__(self, data: FitData, weights, rates, options: CAENMF2) -> None:
        super().__init__(
            data.source,
            weights,
            rates,
            penalty_W=options.penalty_W,
            row_norm=options.row_norm,
            stacked=frozenset({"U"}),
        )
        self.U = weights["U"]
        self.penalty_U = options.penalty_U
        self.codes = data.conditions.codes[:, 0]
        self._V = torch.empty_like(self.W)
        self._D = torch.empty_like(self.W)

    def gradients(
        self, X: SparseRows | DenseRows, batch: Batch | CardBatch, epoch: int
    ) -> Iterator[Gradient]:
        decay_U = 2 * self.penalty_U / batch.condition_share
        if isinstance(batch, CardBatch) and batch.donors is not None:
            donor_gradients(X.X, batch.donors, self.W, self.U, self._D_of_all, self._gradient_W)
            for c, D in enumerate(self._D_of_all):
                yield Gradient("U", D, batch.scale, decay_U, part=c)
            yield Gradient("W", self._gradient_W, batch.scale, 2 * self.penalty_W)
            return
        gradient = self._gradient_W.zero_()
        for c, cells in self._by_condition(X, batch):
            D = self._D.zero_() if cells is None else self._add_condition(cells, c, gradient)
            yield Gradient("U", D, batch.scale, decay_U, part=c)
        yield Gradient("W", gradient, batch.scale, 2 * self.penalty_W)

    def _by_condition(
        self, X: SparseRows | DenseRows, batch: Batch | CardBatch
    ) -> Iterator[tuple[int | torch.Tensor, SparseRows | DenseRows | None]]:
        """Each condition that the batch touches with its cells; None where it has none."""
        if batch.condition is not None:
            yield batch.condition, X
            return
        codes = self.codes[batch.rows]
        for c in range(len(self.U)):
            members = np.flatnonzero(codes == c)
            yield c, X.subset(members) if len(members) else None

    def layout(self, batch_size: int, by_condition: bool) -> Layout:
        return Layout(batch_size) if by_condition else DonorTiles(self.codes, len(self.U), batch_size)

    def put_on(self, rows: CardRows, layout: Layout) -> None:
        super().put_on(rows, layout)
        if isinstance(layout, DonorTiles):
            self._D_of_all = torch.empty_like(self.U)

    def _add_condition(self, X: SparseRows, c: int, gradient: torch.Tensor) -> torch.Tensor:
        """Add the cells X of condition c to the gradient of W; return D_c."""
        U = self.U.index_select(0, c)[0] if isinstance(c, torch.Tensor) else self.U[c]
        V = torch.add(self.W, U, out=self._V)
        H = X.times(self.W)
        D = torch.mm(V, H.T @ H, out=self._D)
        X.transposed_times(-H, out=D, accumulate=True)
        gradient += D
        through_H = torch.addmm(X.times(V), H, V.T @ V, beta=-1)
        X.transposed_times(through_H, out=gradient, accumulate=True)
        return D

    def _coded_blocks(self) -> Iterator[tuple[np.ndarray, SparseRows | DenseRows]]:
        if self.card is not None:
            yield from self.card.grouped_blocks(self.codes)
            return
        for start, X in self.blocks():
            yield self.codes[start : start + X.shape[0]], X

    def evaluate(self) -> Evaluation:
        m, _, k = self.U.shape
        A = torch.zeros((m, k, k), dtype=torch.float64, device=self.sums_device)
        overlap, W = A.new_zeros(()), self.W.to(self.sums_device)
        for codes, X in self._coded_blocks():
            for c in np.unique(codes):
                cells = X.subset(np.flatnonzero(codes == c))
                H = cells.times(W).double()
                A[c].addmm_(H.T, H)
                own = cells.times(self.U[c].to(self.sums_device)).double()
                overlap += torch.sum(H * (H + own))
        squared_error = self.squared_norm - 2 * float(overlap)
        norm_U = 0.0
        for c in range(m):
            norm_U += squared_norm(self.U[c])
            V = torch.add(self.W, self.U[c], out=self._V)
            squared_error += float(torch.sum(A[c] * gram_of_columns(V)))
        return self.evaluation(squared_error, penalty_U=self.penalty_U * norm_U)


@parameters(card.CAENMF2, OnDevice)
class CAENMF2(ConditionalAutoencoder):
    """Conditional AE-NMF, model 2: every condition has loadings of its own beside the shared ones.

    Minimises, over non-negative W (k x genes) and U (conditions x k x genes),

    ``Σ_i ||X_i - H_i (W + U_c(i))||² / n + penalty_W ||W||² + penalty_U ||U||²``

    with the embedding ``H = X Wᵀ`` and c(i) the condition of cell i.

    {parameters}
    """

    _own_loadings = True
    _model_name = "CNMF_2nd_donorOnly"

    def _check_conditions(self, conditions: Conditions) -> None:
        if len(conditions.names) > 1:
            raise InputError(
                "conditions of cae_nmf2",
                "one column",
                f"{len(conditions.names)}: {', '.join(conditions.names)}",
                "give one column (join several into one label), or use cae_nmf1",
            )

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U=None, **denoising: Any
    ) -> DonorObjective:
        return DonorObjective(operator, W, U, penalty_W=self.penalty_W, penalty_U=self.penalty_U, **denoising)

    def _condition_weights(self) -> np.ndarray:
        return self.condition_loadings_

    def _decoder(self) -> Decoder:
        return Decoder(self.components_ + self.condition_loadings_)

    @staticmethod
    def _arranged(U: np.ndarray) -> np.ndarray:
        # conditions x genes x k, a view of conditions x k x genes, as it is given out
        return np.ascontiguousarray(U.transpose(0, 2, 1)).transpose(0, 2, 1)

    def _batch_objective(self, data: FitData, W: torch.Tensor) -> LoadingsBatches:
        U = start_conditions((data.conditions.size, *W.shape), self.init, self.seed_, W)
        return LoadingsBatches(
            data, {"W": W, "U": U}, {"W": self.learning_rate, "U": self.learning_rate_U}, self
        )

    def _condition_part(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        overlaps = np.einsum("clg,lg->cl", self.condition_loadings_, self.components_)
        return lambda H, codes: H * overlaps[codes[:, 0]]

    def _condition_record(self) -> dict[str, Any]:
        return {
            "cond_cols": np.array(self.conditions_.names),
            "cond_categories": self.conditions_.categories[0],
            "m_donors": self.conditions_.size,
            "k": self.n_components_,
            "best_epoch": self.best_epoch_,
            "best_full_loss": self.objective_,
            "lambda_W": self.penalty_W,
            "lambda_U": self.penalty_U,
        }

    def _published_settings(self) -> dict[str, Any]:
        return {f"U_donor_k{self.n_components_}": self.condition_loadings_} if self.save_u else {}

    def _keep(self, weights: dict[str, np.ndarray]) -> None:
        super()._keep(weights)
        # conditions x k x genes, a view: the array itself may be the largest of the fit
        self.condition_loadings_ = weights["U"].transpose(0, 2, 1)
