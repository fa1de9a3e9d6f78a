"""First-order optimisers that step some rows of a parameter and leave the others, moments too, alone.

The formulas and constants are those of torch.optim; stepping all rows gives torch's numbers. With minibatches
torch would move the rows outside the batch by stale momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

OPTIMISERS = ("Adam", "AdamW", "NAdam", "SGD", "RMSprop")
_EPSILON, _DECAY, _SMOOTHING, _MOMENTUM_DECAY = 1e-8, 0.01, 0.99, 4e-3


class Optimiser:
    """Steps named parameters along their gradients.

    Parameters
    ----------
    name : {"Adam", "AdamW", "NAdam", "SGD", "RMSprop"}
    parameters : mapping of str to Tensor
        Updated in place. The first axis numbers the rows.
    beta1, beta2 : float
        Of the Adam family; beta1 is also SGD's momentum.
    """

    def __init__(
        self, name: str, parameters: Mapping[str, torch.Tensor], beta1: float = 0.9, beta2: float = 0.999
    ) -> None:
        self.name = name
        self.parameters = dict(parameters)
        self.betas = beta1, beta2
        kept = {"SGD": ("mean",), "RMSprop": ("square",)}.get(name, ("mean", "square"))
        self.moments = {
            key: {moment: torch.zeros_like(p, requires_grad=False) for moment in kept}
            for key, p in self.parameters.items()
        }
        for key, p in self.parameters.items():
            column = (len(p),) + (1,) * (p.ndim - 1)
            self.moments[key]["steps"] = torch.zeros(column, dtype=torch.float64, device=p.device)
            if name == "NAdam":
                self.moments[key]["product"] = torch.ones_like(self.moments[key]["steps"])

    @torch.no_grad()
    def step(
        self,
        gradients: Mapping[str, torch.Tensor],
        rate: float,
        momentum: float | None = None,
        rows: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """One step.

        Parameters
        ----------
        gradients : mapping of str to Tensor
            By name; of the rows alone where `rows` names some.
        rate : float
        momentum : float or None
            In place of beta1 (a one-cycle schedule moves it). RMSprop has none.
        rows : mapping of str to LongTensor or None
            The rows of a parameter that the step is about.
        """
        for key, gradient in gradients.items():
            places = None if rows is None else rows.get(key)
            parameter, moments = self.parameters[key].data, self.moments[key]
            if places is None:
                self._update(parameter, gradient, moments, rate, momentum)
                continue
            part = {name: value[places] for name, value in moments.items()}
            values = parameter[places]
            self._update(values, gradient, part, rate, momentum)
            parameter[places] = values
            for name, value in part.items():
                moments[name][places] = value

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps."""
        return {
            f"optimiser.{key}.{name}": value.cpu().numpy()
            for key, moments in self.moments.items()
            for name, value in moments.items()
        }

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the moments back from a checkpoint."""
        for key, moments in self.moments.items():
            for name, value in moments.items():
                value.copy_(torch.from_numpy(arrays[f"optimiser.{key}.{name}"]))

    def _update(self, p, g, moments: dict[str, Any], rate: float, momentum: float | None) -> None:
        beta1, beta2 = self.betas
        beta1 = beta1 if momentum is None else momentum
        steps = moments["steps"].add_(1)
        if self.name == "SGD":
            p.sub_(moments["mean"].mul_(beta1).add_(g), alpha=rate)
            return
        square = moments["square"]
        if self.name == "RMSprop":
            square.mul_(_SMOOTHING).addcmul_(g, g, value=1 - _SMOOTHING)
            p.addcdiv_(g, square.sqrt().add_(_EPSILON), value=-rate)
            return
        if self.name == "AdamW":
            p.mul_(1 - rate * _DECAY)
        mean = moments["mean"].mul_(beta1).add_(g, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = (1 - beta2**steps).sqrt().to(p.dtype)
        length = square.sqrt().div_(root).add_(_EPSILON)
        if self.name == "NAdam":
            now = beta1 * (1 - 0.5 * 0.96 ** (steps * _MOMENTUM_DECAY))
            then = beta1 * (1 - 0.5 * 0.96 ** ((steps + 1) * _MOMENTUM_DECAY))
            product = moments["product"].mul_(now)
            direction = g * ((1 - now) / (1 - product)).to(p.dtype)
            direction += mean * (then / (1 - product * then)).to(p.dtype)
        else:
            direction = mean / (1 - beta1**steps).to(p.dtype)
        p.addcdiv_(direction, length, value=-rate)
