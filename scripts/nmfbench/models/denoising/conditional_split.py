"""Conditional AE-NMF of split counts: told the donors, each half of a cell's counts from the other half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nmfbench.models.autoencoder.cae_nmf1 import CAENMF1
from nmfbench.models.autoencoder.cae_nmf2 import CAENMF2
from nmfbench.models.autoencoder.exact.coordinate import DonorObjective, TiedObjective
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import RowCells
from nmfbench.models.denoising import card
from nmfbench.models.denoising.conditional import AlikeInClusters, OwnLoadings
from nmfbench.models.denoising.split import AENMFSplit
from nmfbench.models.parameters import parameters


@parameters(card.AdditiveSplitNMF, card.OfCounts)
class CAENMF1Split(AlikeInClusters, AENMFSplit):
    """Conditional AE-NMF of split counts, model 1, with the donors alike in every cluster of cells.

    The molecules of each cell are dealt out at random to two halves A and B, as in ``ae_nmf_split``.
    Minimises, over non-negative W (k x genes) and U (conditions x genes),

    ``(||X_B - X_A Wᵀ W - C U||² + ||X_A - X_B Wᵀ W - C U||² + 4 Σ_g u_g ||w_g||²) / 2n``
    ``+ penalty_W ||W||² + penalty_U ||U||² + penalty_invariance / n · Σ_t Σ_c n_tc ||h̄_tc - h̄_t||²``

    with the embedding ``H = X Wᵀ`` of all counts, C the one-hot conditions, u_g as in ``ae_nmf_split``, h̄_tc
    the mean of the n_tc cells of condition c in cluster t and h̄_t that of the cluster. The clusters are the
    model's own, of the embedding that ``ae_nmf_split`` has, where the descent begins. `fit` and `transform`
    take counts, which must be whole numbers in `fit`. It is the form of ``ae_nmf_split`` that is told the
    donors; of the two files of docs/denoising.md ``cae_nmf1_common`` keeps more of the cell types on one and
    hardly less on the other, in half the time and from normalised values: it is the one to begin with.

    {parameters}
    """

    _model_name = "CAE_NMF1_split_counts"
    _without_clusters = "cae_nmf2_common"

    def _not_told(self, seed: int) -> AENMFSplit:
        shared = ("penalty_W", "init", "n_axes", "gram_memory_mb", "communality", "n_splits")
        given = {key: getattr(self, key) for key in (*shared, "target_sum", "log1p", "device")}
        model = AENMFSplit(self.n_components, **given, random_state=seed)
        model.gene_factors = self.gene_factors
        return model

    def _objective(
        self, operator: Operator, cells: RowCells, W: np.ndarray, U=None, **denoising: Any
    ) -> TiedObjective:
        counts, conditions = cells.data.source, cells.data.conditions
        embedded = RowCells(replace(cells.data, source=self._normalised(counts)))
        written = self._halves(counts).sums_of_means(conditions.codes, conditions.size)
        of_halves: dict[str, Any] = {"split": True, "unique": self._unique(operator), "written": written}
        return CAENMF1._objective(self, operator, embedded, W, U, **of_halves)


@parameters(card.OwnLoadingsSplitNMF, card.OfCounts)
class CAENMF2Split(OwnLoadings, AENMFSplit):
    """Conditional AE-NMF of split counts, model 2: every condition has loadings of its own.

    The molecules of each cell are dealt out at random to two halves A and B, as in ``ae_nmf_split``.
    Minimises, over non-negative W (k x genes) and U (conditions x k x genes),

    ``Σ_i (||B_i - A_i Wᵀ (W + U_c(i))||² + ||A_i - B_i Wᵀ (W + U_c(i))||²) / 2n``
    ``+ 2 Σ_c Σ_g u_cg w_g·(w_g + u_cg) / n + penalty_W ||W||² + penalty_U ||U||²``

    with the embedding ``H = X Wᵀ`` of all counts, c(i) the condition of cell i and u_cg (of two letters) the
    part of what the halves share of gene g's squares in the cells of condition c that no other gene shares.
    `fit` and `transform` take counts, which must be whole numbers in `fit`. ``cae_nmf2_common`` hides the
    donors as well in less time (docs/denoising.md).

    {parameters}
    """

    _model_name = "CAE_NMF2_split_counts"

    def _objective(
        self, operator: Operator, cells: RowCells, W: np.ndarray, U=None, **denoising: Any
    ) -> DonorObjective:
        return CAENMF2._objective(self, operator, cells, W, U, split=True, unique=self._unique(operator))
