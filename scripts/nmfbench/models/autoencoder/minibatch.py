"""What the autoencoding models share in minibatches: weights, Adam, the pass over all cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nmfbench.linalg import SparseRows, double_device
from nmfbench.models.autoencoder.adam import Adam, Gradient
from nmfbench.models.autoencoder.card_layout import Layout
from nmfbench.models.start import unit_factors
from nmfbench.rows.batches import Batch
from nmfbench.rows.card import CardRows
from nmfbench.rows.dense import DenseRows
from nmfbench.rows.memory import BLOCK_ROWS, RowSource

GENES_PER_SUM, NUMBERS_PER_SUM = 2048, 65_536
"""How much is summed in single precision before it joins a double-precision sum."""


@dataclass(frozen=True)
class Evaluation:
    """The full objective over all cells.

    Attributes
    ----------
    parts : dict of str to float
        Its terms, weighted, in the order of the history's columns; they add up to the objective.
    relative_error : float
        ``||E||² / ||X||²``.
    """

    parts: dict[str, float]
    relative_error: float

    @property
    def objective(self) -> float:
        return math.fsum(self.parts.values())


class BatchObjective:
    """Weights, optimiser and data of one fit; a model adds its gradients and its objective.

    Dense factors are stored genes x k, so that a gene's k numbers are neighbours.

    Parameters
    ----------
    source : RowSource
        All cells.
    weights : dict of str to Tensor
        ``"W"`` (genes x k), and what else the model has.
    rates : dict of str to float
        Adam's learning rate of each weight array.
    penalty_W : float
    row_norm : bool
        Whether every factor is brought to unit norm after each step.
    stacked : frozenset of str
        Weight arrays whose parts are updated one at a time.
    """

    def __init__(
        self,
        source: RowSource,
        weights: dict[str, torch.Tensor],
        rates: dict[str, float],
        *,
        penalty_W: float,
        row_norm: bool,
        stacked: frozenset[str] = frozenset(),
    ) -> None:
        self.source = source
        self.card: CardRows | None = None
        self.n_rows = source.n_rows
        self.W = weights["W"]
        self.penalty_W = penalty_W
        self.row_norm = row_norm
        self.sums_device = double_device(self.W.device)
        self._weights = weights
        self.rates = rates
        self.adams = {name: Adam(weights[name], stacked=name in stacked) for name in rates}
        self._gradient_W = torch.empty_like(self.W)
        self.squared_norm = sum(SparseRows(block).squared_norm() for _, block in source.blocks(BLOCK_ROWS))

    # What a model adds ------------------------------------------------------------------------------

    def gradients(self, X: SparseRows | DenseRows, batch: Batch, epoch: int) -> Iterator[Gradient]:
        """The batch's gradients, each at the weights from before the step."""
        raise NotImplementedError

    def evaluate(self) -> Evaluation:
        """The full objective at the present weights, all cells, sums in double precision."""
        raise NotImplementedError

    def layout(self, batch_size: int, by_condition: bool) -> Layout:
        """Where the cells of batches lie on a card; `by_condition`: each has cells of one condition."""
        return Layout(batch_size)

    def phase(self, epoch: int) -> int:
        """A number that changes where a step of `epoch` has other terms than those before it."""
        return 0

    # What the epochs ask for -------------------------------------------------------------------------

    def step(self, batch: Batch, epoch: int, rate: float) -> None:
        """One update of all weights that the batch touches."""
        for g in self.gradients(self.rows(batch.rows), batch, epoch):
            adam = self.adams[g.name]
            adam.step(g.tensor, rate * self.rates[g.name], scale=g.scale, decay=g.decay, part=g.part)
        self.finish_step()

    def finish_step(self) -> None:
        """What follows the updates of a step."""
        if self.row_norm:
            unit_factors(self.W)

    def put_on(self, rows: CardRows, layout: Layout) -> None:
        """Take the cells from `rows`, on the weights' device, from now on, and batches laid out so."""
        self.card = rows

    def bytes_to_come(self) -> int:
        """Bytes that the fit still takes for copies of the weights: the best, and one while recording."""
        return sum(t.nbytes for t in (*self._weights.values(), *self.changing()))

    def changing(self) -> list[torch.Tensor]:
        """Every tensor that a step changes and the next one reads."""
        adams = self.adams.values()
        return [*self._weights.values(), *(t for adam in adams for t in (adam.mean, adam.square))]

    def weights(self) -> dict[str, np.ndarray]:
        return {name: w.cpu().numpy() for name, w in self._weights.items()}

    def copied_weights(self, into: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A copy of the weights where they lie, in the tensors of a former one where there is one."""
        for name, w in self._weights.items():
            into[name] = into[name].copy_(w) if name in into else w.clone()
        return into

    def set_weights(self, arrays: dict[str, np.ndarray]) -> None:
        for name, w in self._weights.items():
            w.copy_(torch.from_numpy(arrays[name]))

    def moments(self) -> dict[str, np.ndarray]:
        return {key: value for name, adam in self.adams.items() for key, value in adam.state(name).items()}

    def set_moments(self, arrays: dict[str, np.ndarray]) -> None:
        for name, adam in self.adams.items():
            adam.load_state(name, arrays)

    # Shared arithmetic ------------------------------------------------------------------------------

    def rows(self, indices: np.ndarray) -> SparseRows:
        """The cells `indices` on the weights' device."""
        return SparseRows(self.source.rows(indices), self.W.device)

    def blocks(self) -> Iterator[tuple[int, SparseRows | DenseRows]]:
        """All cells in order, where sums are in double precision: the first row's number and the block."""
        if self.card is not None:
            yield from self.card.blocks()
            return
        for start, block in self.source.blocks(BLOCK_ROWS):
            yield start, SparseRows(block, self.sums_device)

    def evaluation(self, squared_error: float, **parts: float) -> Evaluation:
        """The objective from ``||E||²`` over all cells and the other terms."""
        shared = {
            "reconstruction": squared_error / self.n_rows,
            "penalty_W": self.penalty_W * squared_norm(self.W),
        }
        relative = squared_error / self.squared_norm if self.squared_norm else float("nan")
        return Evaluation({**shared, **parts}, relative)


def gram_of_columns(W: torch.Tensor) -> torch.Tensor:
    """``Wᵀ W`` of a genes x k array in double precision, without a double-precision copy of it."""
    total = torch.zeros((W.shape[1], W.shape[1]), dtype=torch.float64, device=double_device(W.device))
    for part in W.split(GENES_PER_SUM):
        total += (part.T @ part).to(total.device)
    return total


def squared_norm(W: torch.Tensor) -> float:
    """``||W||²``, summed as in :func:`gram_of_columns`."""
    dots = [torch.dot(part, part) for part in W.reshape(-1).split(NUMBERS_PER_SUM)]
    return sum(torch.stack(dots).tolist())  # read from a card once
