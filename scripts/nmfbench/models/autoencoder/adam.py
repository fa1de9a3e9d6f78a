"""Adam with weight decay and clipping, on the processor and on a card."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from nmfbench.compiled import compiled_loop
from nmfbench.linalg import even_cuts, run_ranges

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
        Tensors of one number, where the batch lies on a card.
    part : int
        The part of a stacked array that it belongs to; likewise.
    """

    name: str
    tensor: torch.Tensor
    scale: float | torch.Tensor
    decay: float | torch.Tensor
    part: int | torch.Tensor = 0


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

    def step_by(self, g: Gradient, rate: torch.Tensor, root: torch.Tensor) -> None:
        """The step of a gradient whose numbers lie on the device; the steps are counted elsewhere.

        Parameters
        ----------
        g : Gradient
            Its `scale`, `decay` and (of a stack) `part` may be tensors.
        rate, root : Tensor of shape ()
            The learning rate over ``1 - BETA1**steps``, and the root of ``1 - BETA2**steps``.
        """
        whole = (self.weights, self.mean, self.square)
        moving = self.stacked and isinstance(g.part, torch.Tensor)
        if moving:
            w, m, v = (a.index_select(0, g.part)[0] for a in whole)
        else:
            w, m, v = (a[g.part] if self.stacked else a for a in whole)
        own = {} if isinstance(g.decay, torch.Tensor) else {"alpha": g.decay}
        gradient = g.tensor.mul_(g.scale).add_(w if own else w * g.decay, **own)
        m.lerp_(gradient, 1 - BETA1)
        v.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        w.addcdiv_(m * rate, v.sqrt().div_(root).add_(EPSILON), value=-1).clamp_(min=0)
        if moving:
            for a, part in zip(whole, (w, m, v), strict=True):
                a.index_copy_(0, g.part, part[None])

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
