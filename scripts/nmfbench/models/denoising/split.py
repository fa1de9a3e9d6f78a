"""AE-NMF of split counts: each half of a cell's counts from the other half."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.fitting.loop import Run
from nmfbench.models.autoencoder.embed import embed, times_blocks
from nmfbench.models.autoencoder.exact.coordinate import TiedObjective
from nmfbench.models.autoencoder.exact.denoising import start_of_halves, unique_squares
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells, RowCells
from nmfbench.models.denoising import card
from nmfbench.models.denoising.estimator import DenoisingAutoencoder
from nmfbench.models.denoising.halves import Halves
from nmfbench.models.labels import FitData
from nmfbench.models.parameters import parameters
from nmfbench.rows.memory import RowSource
from nmfbench.rows.normalised import NormalisedRows
from nmfbench.rows.scaled import ScaledRows, scaled_fingerprint
from nmfbench.statistics import Statistics


@parameters(card.SplitNMF, card.OfCounts)
class AENMFSplit(DenoisingAutoencoder):
    """Autoencoding NMF of split counts.

    The molecules of each cell are dealt out at random to two halves A and B, each normalised like a whole
    cell. Minimises, over non-negative W (k x genes),

    ``(||X_B - X_A Wᵀ W||² + ||X_A - X_B Wᵀ W||² + 4 Σ_g u_g ||w_g||²) / 2n + penalty_W ||W||²``

    with the embedding ``H = X Wᵀ`` of all counts, where n is the number of cells and u_g what gene g shares
    with no other gene (0 without ``communality``). What one half has by chance the other has not, so a factor
    that copies a gene copies its noise in vain. Splits by binomial thinning: Batson, Royer and Webber 2019,
    doi:10.1101/786269. `fit` and `transform` take counts, which must be whole numbers in `fit`.

    {parameters}
    """

    _model_name = "AE_NMF_split_counts"
    _rows_per_cell = 2
    _n_grams = 2
    gene_factors: np.ndarray | None = None
    """What each gene's normalised values are multiplied with, (genes,); 1 for all where None."""

    def fit_statistics(self, statistics: Statistics, **given: Any):
        """Refused: molecules are dealt out cell by cell, and sums have none."""
        raise InputError(
            f"{type(self).__name__}: a fit from statistics", "the counts of cells, which are split",
            f"sums of {statistics.n_cells} cells", "fit the cells, or take ae_nmf_common",
        )  # fmt: skip

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns; the normalisation is the model's own."""
        own = {"target_sum": self.target_sum, "libsize_log1p": self.log1p}
        return super().unstructured(**preparation | own)

    def _normalised(self, source: RowSource) -> RowSource:
        rows = NormalisedRows(source, self.target_sum, self.log1p)
        return rows if self.gene_factors is None else ScaledRows(rows, self.gene_factors)

    def _checkpoint_settings(self) -> dict[str, Any]:
        factors = self.gene_factors
        scaled = {} if factors is None else {"genes": scaled_fingerprint("scaled", factors)}
        return super()._checkpoint_settings() | scaled

    def _embed(self, source: RowSource) -> np.ndarray:
        return embed(self.components_, self._normalised(source))

    def _projected(self, source: RowSource, size: int) -> Iterator[tuple[int, np.ndarray]]:
        return times_blocks(self.components_, self._normalised(source), size)

    def _fit_cells(self, data: FitData, device: torch.device, run: Run) -> bool:
        route = self.solver_choice_.route
        self.device_ = str(device) if route == "gram" and device.type == "cuda" else "cpu"
        codes = data.conditions.codes[:, 0] if self._own_loadings else None
        self._fit_exact(
            RowCells(data),
            lambda: self._halves(data.source).operator(route, self.gram_memory_mb, self.device_, codes),
            run,
            lambda W: embed(W, self._normalised(data.source)),
            data.fingerprint,
        )
        return False

    def _halves(self, counts: RowSource) -> Halves:
        """Of the training seed, once that is there."""
        return Halves(counts, self.seed_, self.n_splits, self.target_sum, self.log1p, self.gene_factors)

    def _unique(self, operator: Operator) -> np.ndarray | None:
        """What each gene has of its sum of squares for itself, (genes,); None without `communality`."""
        if not self.communality:
            return None
        return unique_squares(operator, self._axes, seed=self.seed_, halves=True)

    def _objective(self, operator: Operator, cells: Cells, W: np.ndarray, U=None) -> TiedObjective:
        unique = self._unique(operator)
        return TiedObjective(operator, W, penalty_W=self.penalty_W, split=True, unique=unique)

    def _start(self, operator: Operator, ridge: float) -> np.ndarray:
        return start_of_halves(operator, self.n_components, self.init, seed=self.seed_, ridge=ridge)
