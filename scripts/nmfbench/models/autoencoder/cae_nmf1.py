"""Conditional AE-NMF, model 1: an additive profile for each condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from nmfbench.linalg import SparseRows, moved
from nmfbench.models.autoencoder import card
from nmfbench.models.autoencoder.adam import Gradient
from nmfbench.models.autoencoder.batch_labels import BatchLabels
from nmfbench.models.autoencoder.card_labels import CardLabels
from nmfbench.models.autoencoder.card_layout import Layout
from nmfbench.models.autoencoder.conditional import ConditionalAutoencoder
from nmfbench.models.autoencoder.exact.coordinate import TiedObjective
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.autoencoder.minibatch import (
    BatchObjective,
    Evaluation,
    gram_of_columns,
    squared_norm,
)
from nmfbench.models.autoencoder.penalties import Invariance, centred_sums, co_occurrence, group_sums
from nmfbench.models.card import OnDevice
from nmfbench.models.labels import FitData
from nmfbench.models.parameters import parameters
from nmfbench.models.start import start_conditions
from nmfbench.rows.batches import Batch, CardBatch
from nmfbench.rows.card import CardRows
from nmfbench.rows.memory import BLOCK_ROWS


class AdditiveBatches(BatchObjective):
    """``||X - HW - CU||²/B + λ_W||W||² + λ_U||U||² + (γ/B) Inv + (η/B) HSIC``, sparse and exact.

    With ``A = HᵀH``, ``G = WWᵀ``, ``R = CᵀH``, ``T = CᵀX``, ``K = CᵀC`` and ``P = U Wᵀ``:
    ``||E||² = ||X||² - 2||H||² + <A,G> + <KU,U> - 2<T,U> + 2<R,P>``,
    ``∇_U ||E||² = 2 [R W + K U - T]`` and ``∇_W ||E||² = 2 [A W + Rᵀ U + (H(G - 2I) + C P)ᵀ X]``.
    Both penalties depend on W through H alone, so that their gradients join the last product.
    """

    def __init__(self, data: FitData, weights, rates, options: CAENMF1) -> None:
        super().__init__(data.source, weights, rates, penalty_W=options.penalty_W, row_norm=options.row_norm)
        device = self.W.device
        self.U = weights["U"]
        self.penalty_U = options.penalty_U
        self.eta = options.penalty_hsic
        self.gamma = options.penalty_invariance if data.strata is not None else 0.0
        self.warmup = options.warmup_epochs
        self.centred = options.centred_invariance
        self.batch_size = min(options.batch_size, self.n_rows)
        self.closed_form = options.update_U == "closed_form"
        self.m = data.conditions.size
        self.columns = [slice(a, a + len(c)) for a, c in
                        zip(data.conditions.offsets, data.conditions.categories, strict=True)]  # fmt: skip
        # On the GPU for the batches; where sums are in double precision for the pass over all cells.
        self.codes = torch.from_numpy(data.conditions.codes).to(device)
        self.all_codes = self.codes.to(self.sums_device)
        self.types = None if data.strata is None else torch.from_numpy(data.strata).to(device)
        self.n_types = 0 if data.strata is None else int(data.strata.max()) + 1
        self.K = co_occurrence(self.all_codes, self.m)[0]
        self.T = self._condition_sums(data)
        self._K, self._T = (moved(a, device, self.W.dtype) for a in (self.K, self.T))
        self._all_cells = None
        if self.gamma:
            types = self.types.to(self.sums_device)
            self._all_cells = Invariance(types, self.all_codes, self.n_types, self.m, centred=self.centred)
        self._gradient_U = torch.empty_like(self.U)

    def gradients(self, X: SparseRows, batch: Batch, epoch: int) -> Iterator[Gradient]:
        if self.closed_form:
            self.solve_U()
        W, U = self.W, self.U
        labels = self._labels_of(batch)
        H = X.times(W)
        R = labels.sums(H)
        through_H = torch.addmm(H, H, W.T @ W, beta=-2)
        through_H += labels.spread(U @ W)
        if self.phase(epoch):
            through_H += self._penalty_half_gradient(H, R, labels)
        gradient = X.transposed_times(through_H, out=self._gradient_W)
        gradient.addmm_(W, H.T @ H).addmm_(U.T, R)
        if not self.closed_form:
            yield Gradient("U", self._gradient_of_U(X, labels, R), batch.scale, 2 * self.penalty_U)
        yield Gradient("W", gradient, batch.scale, 2 * self.penalty_W)

    def phase(self, epoch: int) -> int:
        return int(epoch >= self.warmup)

    def evaluate(self) -> Evaluation:
        if self.closed_form:
            self.solve_U()
        G, W = gram_of_columns(self.W), self.W.to(self.sums_device)
        U = self.U.to(self.sums_device).double()
        P = (self.U @ self.W).to(self.sums_device).double()
        k = len(G)
        A, R, total = torch.zeros_like(G), torch.zeros_like(P), G.new_zeros(k)
        by_type = G.new_zeros((self.n_types, self.m, k))
        for start, X in self.blocks():
            H = X.times(W).double()
            A.addmm_(H.T, H)
            R += group_sums(H, self.all_codes[start : start + len(H)], self.m)
            total += H.sum(dim=0)
            if self.gamma:
                by_type += self._all_cells.sums(H, start)
        squared_error = (
            self.squared_norm
            - 2 * float(A.trace())
            + float(torch.sum(A * G))
            + float(torch.sum((self.K @ U) * U))
            - 2 * float(torch.sum(self.T * U))
            + 2 * float(torch.sum(R * P))
        )
        parts = {"penalty_U": self.penalty_U * squared_norm(self.U)}
        parts["invariance"] = self.gamma / self.n_rows * self._all_cells.value(by_type) if self.gamma else 0.0
        M = centred_sums(R, total, self.K.diagonal() / self.n_rows)
        # HSIC grows with the square of the cells: this is the training loss's value at its batch size.
        parts["hsic"] = self.eta * self.batch_size / self.n_rows**2 * float(torch.sum(M * M))
        return self.evaluation(squared_error, **parts)

    def solve_U(self) -> None:
        """Set U to the minimiser of the full objective given W (and, in turn, the other columns' U).

        ``U = max(0, (T - R W) / (N + n λ_U))``: the cells enter through T and N alone, as R = T Wᵀ.
        """
        R = self._T @ self.W
        K = self._K
        for rows in self.columns:
            target = torch.addmm(self._T[rows], R[rows], self.W.T, alpha=-1)
            if len(self.columns) > 1:
                others = K[rows].clone()
                others[:, rows] = 0
                target.addmm_(others, self.U, alpha=-1)
            weight = K.diagonal()[rows, None] + self.n_rows * self.penalty_U
            torch.clamp(target.div_(weight.clamp(min=torch.finfo(K.dtype).tiny)), min=0, out=self.U[rows])

    def _gradient_of_U(self, X: SparseRows, labels: BatchLabels, R: torch.Tensor) -> torch.Tensor:
        K = moved(labels.together(), self.W.device, self.W.dtype)
        gradient = labels.add_rows(X, self._gradient_U.zero_())
        return gradient.neg_().addmm_(R, self.W.T).addmm_(K, self.U)

    def _penalty_half_gradient(self, H, R, labels: BatchLabels) -> torch.Tensor:
        result = torch.zeros_like(H)
        if self.gamma:
            result.add_(labels.invariance_half_gradient(H), alpha=self.gamma)
        if self.eta:
            result.add_(labels.hsic_half_gradient(H, R), alpha=self.eta)
        return result

    def put_on(self, rows: CardRows, layout: Layout) -> None:
        super().put_on(rows, layout)
        # a cell more, for the places of a batch that none fills
        self._codes = torch.cat([self.codes, torch.zeros_like(self.codes[:1])])
        self._types = (
            None if self.types is None else torch.cat([self.types, torch.zeros_like(self.types[:1])])
        )

    def _labels_of(self, batch: Batch | CardBatch) -> BatchLabels | CardLabels:
        if not isinstance(batch, Batch):
            there, dtype = batch.cells < self.n_rows, self.W.dtype
            types = None if self._types is None else self._types.index_select(0, batch.cells)
            codes = self._codes.index_select(0, batch.cells)
            return CardLabels(codes, self.columns, types, there, dtype, centred=self.centred)
        rows = torch.from_numpy(batch.rows)
        types = None if self.types is None else self.types[rows]
        return BatchLabels(self.codes[rows], self.m, types, self.n_types, centred=self.centred)

    def _condition_sums(self, data: FitData) -> torch.Tensor:
        # in memory, whatever the device: the same bits, in the order of the cells
        T = torch.zeros((self.m, self.W.shape[0]), dtype=torch.float64)
        for start, block in data.source.blocks(BLOCK_ROWS):
            for column in data.conditions.codes[start : start + block.shape[0]].T:
                SparseRows(block).group_sums(column, T)
        return T.to(self.sums_device)


@parameters(card.CAENMF1, OnDevice)
class CAENMF1(ConditionalAutoencoder):
    """Conditional AE-NMF, model 1: every condition adds a profile of its own.

    Minimises, over non-negative W (k x genes) and U (conditions x genes),

    ``||X - H W - C U||² / n + penalty_W ||W||² + penalty_U ||U||²``
    ``+ penalty_invariance / n · Inv + penalty_hsic · B / n² · HSIC``

    with the embedding ``H = X Wᵀ``, C the one-hot conditions, ``Inv = Σ_t ||P_t H_t||²`` over the cell
    types t (P_t projects onto the conditions of the type's cells) and ``HSIC = ||H̃ᵀ C̃||²`` of the
    column-centred H and C. A minibatch has its own B in place of n; the two penalties are off in
    the first `warmup_epochs` epochs of minibatches. Inv is off without `strata`.

    {parameters}
    """

    _model_name = "CNMF_1st_donor_only"

    def _batch_objective(self, data: FitData, W: torch.Tensor) -> AdditiveBatches:
        U = start_conditions((data.conditions.size, data.source.n_columns), self.init, self.seed_, W)
        rates = {"W": self.learning_rate}
        if self.update_U == "adam":
            rates["U"] = self.learning_rate_U
        return AdditiveBatches(data, {"W": W, "U": U}, rates, self)

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U=None, **denoising: Any
    ) -> TiedObjective:
        invariance = self.penalty_invariance if cells.has_types else 0.0
        return TiedObjective(
            operator,
            W,
            U,
            penalty_W=self.penalty_W,
            conditions=cells.condition_sums(by_type=invariance > 0),
            penalty_U=self.penalty_U,
            penalty_invariance=invariance,
            # HSIC as the minibatches weigh it, so that the objectives compare
            penalty_hsic=self.penalty_hsic * min(self.batch_size, cells.n_cells) / cells.n_cells,
            centred=bool(self.centred_invariance),
            **denoising,
        )

    def _condition_weights(self) -> np.ndarray:
        return self.condition_profiles_

    def _decoder(self) -> Decoder:
        return Decoder(self.components_[None], self.condition_profiles_)

    def _labels_in_the_loss(self) -> bool:
        return self.penalty_invariance > 0

    def _condition_part(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        profiles = self.condition_profiles_ @ self.components_.T
        return lambda H, codes: profiles[codes].sum(axis=1)

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm: ``W_concat_k{k}`` (genes x k) and ``U_concat_gene_k{k}`` (genes x conditions)."""
        return {
            **super().loadings(),
            f"U_concat_gene_k{self.n_components_}": self.condition_profiles_.T.copy(),
        }

    def _condition_record(self) -> dict[str, Any]:
        offsets = self.conditions_.offsets
        return {
            name: {"categories": categories, "size": len(categories), "offset": offset}
            for name, categories, offset in zip(
                self.conditions_.names, self.conditions_.categories, offsets, strict=True
            )
        }

    def _published_settings(self) -> dict[str, Any]:
        return {"best_epoch": self.best_epoch_, "best_full_loss": self.objective_}

    def _keep(self, weights: dict[str, np.ndarray]) -> None:
        super()._keep(weights)
        self.condition_profiles_ = weights["U"]
