"""What the denoising estimators share: the exact solver alone, and its route."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from nmfbench.models.autoencoder.estimator import Autoencoder
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.solver_choice import SolverChoice, choose_solver
from nmfbench.models.autoencoder.with_batches import WithBatches
from nmfbench.models.denoising.least_squares import ChosenEmbedding
from nmfbench.models.labels import Conditions
from nmfbench.rows.memory import RowSource


class DenoisingAutoencoder(ChosenEmbedding, Autoencoder):
    """An embedding ``H = X Wᵀ``, or by least squares, whose W is found by exact coordinate descent alone."""

    # it is made when the descent is over
    _not_in_checkpoint: ClassVar[set[str]] = Autoencoder._not_in_checkpoint | {"embedding"}
    _rows_per_cell = 1  # of the matrix that the descent goes through

    def _choose_solver(self, source: RowSource, conditions: Conditions, device: torch.device) -> SolverChoice:
        return self._exact_route(source, device, 0, self.gram_memory_mb / self._n_grams)

    def _exact_route(
        self, source: RowSource, device: torch.device, groups: int, memory_mb: float
    ) -> SolverChoice:
        """How the exact solver goes through the cells, with a Gram matrix for each of `groups`, or one."""
        rows = self._rows_per_cell
        return choose_solver(
            rows * source.n_rows,
            source.n_columns,
            rows * source.nnz,
            self.n_components,
            100,
            groups,
            memory_mb,
            str(device),
            in_memory=hasattr(source, "csr"),
            solver="statistics",
            stays_there=self._n_grams == 1,  # halves are gathered as statistics are
        )

    _n_grams = 1

    def _normalised(self, source: RowSource) -> RowSource:
        """The cells of `source`, which is as `fit` was given, as they are embedded."""
        return source

    @property
    def _axes(self) -> int:
        """Axes of what genes share."""
        return min(self.n_axes, self.n_components)

    def _minibatch_only(self) -> list[str]:
        return []

    def _tol(self, solver: str) -> float:
        return self.tol

    def _check_solver(self) -> None:
        pass

    def _checkpoint_settings(self) -> dict[str, Any]:
        return super(WithBatches, self)._checkpoint_settings()

    def _decoder(self) -> Decoder:
        return Decoder(self.components_[None])

    def _published_settings(self) -> dict[str, Any]:
        return {"lambda_W": self.penalty_W, "GLOBAL_SEED": self.seed_}
