"""What the autoencoding models share in minibatches: weights, Adam, the pass over all cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from nmfbench.compiled import compiled_loop
from nmfbench.linalg import SparseRows, double_device, even_cuts, run_ranges
from nmfbench.models.start import unit_factors
from nmfbench.rows.batches import Batch
from nmfbench.rows.memory import BLOCK_ROWS, RowSource

GENES_PER_SUM, NUMBERS_PER_SUM = 2048, 65_536
"""How much is summed in single precision before it joins a double-precision sum."""

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
_SMALLEST_RANGE = 16_384


@dataclass(frozen=True)
class Gradient:
    """A gradient ``scale * tensor + decay * weights``, ready to be applied.

    Attributes
    ----------
    name : str
        The weight array.
    tensor : Tensor
        A buffer that the next gradient may overwrite.
    scale, decay : float
    part : int
        The part of a stacked array that it belongs to.
    """

    name: str
    tensor: torch.Tensor
    scale: float
    decay: float
    part: int = 0


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
        self.n_rows = source.n_rows
        self.W = weights["W"]
        self.penalty_W = penalty_W
        self.row_norm = row_norm
        self.sums_device = double_device(self.W.device)
        self._weights = weights
        self._rates = rates
        self._adam = {name: Adam(weights[name], stacked=name in stacked) for name in rates}
        self._gradient_W = torch.empty_like(self.W)
        self.squared_norm = sum(SparseRows(block).squared_norm() for _, block in source.blocks(BLOCK_ROWS))

    # What a model adds ------------------------------------------------------------------------------

    def gradients(self, X: SparseRows, batch: Batch, epoch: int) -> Iterator[Gradient]:
        """The batch's gradients, each at the weights from before the step."""
        raise NotImplementedError

    def evaluate(self) -> Evaluation:
        """The full objective at the present weights, all cells, sums in double precision."""
        raise NotImplementedError

    def phase(self, epoch: int) -> int:
        """A number that changes where a step of `epoch` has other terms than those before it."""
        return 0

    # What the epochs ask for -------------------------------------------------------------------------

    def step(self, batch: Batch, epoch: int, rate: float) -> None:
        """One update of all weights that the batch touches."""
        for g in self.gradients(self.rows(batch.rows), batch, epoch):
            adam = self._adam[g.name]
            adam.step(g.tensor, rate * self._rates[g.name], scale=g.scale, decay=g.decay, part=g.part)
        if self.row_norm:
            unit_factors(self.W)

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
        return {key: value for name, adam in self._adam.items() for key, value in adam.state(name).items()}

    def set_moments(self, arrays: dict[str, np.ndarray]) -> None:
        for name, adam in self._adam.items():
            adam.load_state(name, arrays)

    # Shared arithmetic ------------------------------------------------------------------------------

    def rows(self, indices: np.ndarray) -> SparseRows:
        """The cells `indices` on the weights' device."""
        return SparseRows(self.source.rows(indices), self.W.device)

    def blocks(self) -> Iterator[tuple[int, SparseRows]]:
        """All cells in order, where sums are in double precision: the first row's number and the block."""
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
    return sum(float(torch.dot(part, part)) for part in W.reshape(-1).split(NUMBERS_PER_SUM))


@compiled_loop
def _step(weights, gradient, mean, square, c, low, high):
    scale, decay, keep1, add1, keep2, add2, rate, root, epsilon = c
    for i in range(low, high):
        w = weights[i]
        g = scale * gradient[i] + decay * w
        m = keep1 * mean[i] + add1 * g
        v = keep2 * square[i] + add2 * g * g
        mean[i] = m
        square[i] = v
        w -= rate * m / (np.sqrt(v) / root + epsilon)
        weights[i] = max(w, 0)


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) with weight decay and clipping, in one pass over the memory.

    Moments of one non-negative weight array, or of a stack of them with a step count each.

    Parameters
    ----------
    weights : Tensor
        The array to be updated in place, or (`stacked`) a stack of such arrays.
    stacked : bool, default=False
        Whether the first axis numbers parts that are updated one at a time. A part's moments and count
        advance only in its own steps.
    """

    def __init__(self, weights: torch.Tensor, stacked: bool = False) -> None:
        self.weights = weights
        self.stacked = stacked
        self.mean = torch.zeros_like(weights)
        self.square = torch.zeros_like(weights)
        self.steps = np.zeros(weights.shape[0] if stacked else 1, dtype=np.int64)

    def step(
        self, gradient: torch.Tensor, rate: float, *, scale: float = 1.0, decay: float = 0.0, part: int = 0
    ) -> None:
        """One step along ``scale * gradient + decay * weights``, then clip at 0.

        `gradient` may be overwritten. `part` is the part to update of a stack.
        """
        self.steps[part] += 1
        count = int(self.steps[part])
        w, m, v = (a[part] if self.stacked else a for a in (self.weights, self.mean, self.square))
        rate = rate / (1 - BETA1**count)
        root = sqrt(1 - BETA2**count)
        if w.device.type == "cpu":
            constants = np.array(
                [scale, decay, BETA1, 1 - BETA1, BETA2, 1 - BETA2, rate, root, EPSILON], dtype=w.numpy().dtype
            )
            arrays = (a.reshape(-1).numpy() for a in (w, gradient, m, v))
            run_ranges(_step, even_cuts(w.numel(), _SMALLEST_RANGE), *arrays, tuple(constants))
            return
        gradient.mul_(scale).add_(w, alpha=decay)
        m.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
        v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        w.addcdiv_(m, v.sqrt().div_(root).add_(EPSILON), value=-rate).clamp_(min=0)

    def state(self, name: str) -> dict[str, np.ndarray]:
        """What a checkpoint keeps, with keys that begin with `name`."""
        return {
            f"{name}.mean": self.mean.cpu().numpy(),
            f"{name}.square": self.square.cpu().numpy(),
            f"{name}.steps": self.steps,
        }

    def load_state(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Take the moments back from a checkpoint."""
        self.mean.copy_(torch.from_numpy(arrays[f"{name}.mean"]))
        self.square.copy_(torch.from_numpy(arrays[f"{name}.square"]))
        self.steps[:] = arrays[f"{name}.steps"]
