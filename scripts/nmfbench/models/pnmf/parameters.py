"""Non-negative parameters behind a map from unconstrained numbers."""

from __future__ import annotations

import torch

from nmfbench.errors import InputError
from nmfbench.models.pnmf.counts import FLOOR

LOADINGS_MODES = ("softplus", "exp", "projected", "multiplicative")
_SMALLEST_SHARE = 1e-9


def softplus_inverse(w: torch.Tensor) -> torch.Tensor:
    """``ln(e^w - 1)``, finite for every w > 0 that the precision can hold."""
    return w + torch.log(-torch.expm1(-w))


class ConstrainedParameter:
    """A tensor that is kept non-negative, and the numbers ``raw`` that it is trained by.

    Parameters
    ----------
    value : Tensor
        What it is at first, not negative.
    mode : {"softplus", "exp", "projected", "multiplicative"}
        ``ln(1 + e^raw)``, ``e^raw``, or raw itself, which is clipped at 0 after a step (``projected``) or
        never stepped by a gradient (``multiplicative``).
    unit : float or Tensor
        What raw is counted in (``projected``): a step of an optimiser is then of that size.

    Attributes
    ----------
    raw : Tensor
        A leaf that optimisers may step.
    data : Tensor
        The constrained value, differentiable in `raw`; assigning it sets `raw`.
    floor : float or Tensor
        What :meth:`project` clips at; 0 at first.

    Raises
    ------
    InputError
        If there is no such mode.

    Examples
    --------
    >>> import torch
    >>> W = ConstrainedParameter(torch.tensor([[0.5, 2.0]]), "softplus")
    >>> W.data.detach()
    tensor([[0.5000, 2.0000]])
    >>> W.shape, W.raw.requires_grad
    (torch.Size([1, 2]), True)
    """

    def __init__(
        self, value: torch.Tensor, mode: str = "projected", unit: float | torch.Tensor = 1.0
    ) -> None:
        if mode not in LOADINGS_MODES:
            raise InputError(
                "ConstrainedParameter: parameter mode",
                f"one of {', '.join(map(repr, LOADINGS_MODES))}",
                repr(mode),
                "set mode (of PNMF: loadings_mode) accordingly",
            )
        self.mode = mode
        self.unit = unit if mode == "projected" else 1.0
        self.floor: float | torch.Tensor = 0.0
        self.raw = self._inverse(value).requires_grad_(mode != "multiplicative")

    @property
    def data(self) -> torch.Tensor:
        if self.mode == "softplus":
            return torch.nn.functional.softplus(self.raw)
        if self.mode == "exp":
            return torch.exp(self.raw)
        return self.raw * self.unit if self.mode == "projected" else self.raw

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        with torch.no_grad():
            self.raw.copy_(self._inverse(value))

    @property
    def shape(self) -> torch.Size:
        return self.raw.shape

    @property
    def requires_grad(self) -> bool:
        return self.raw.requires_grad

    def __getitem__(self, index) -> torch.Tensor:
        return self.data[index]

    def raw_gradient(self, gradient: torch.Tensor, rows=slice(None)) -> torch.Tensor:
        """The gradient in `raw` that belongs to a gradient in the value (of some rows)."""
        raw = self.raw.detach()[rows]
        if self.mode == "softplus":
            return gradient * torch.sigmoid(raw)
        if self.mode == "exp":
            return gradient * torch.exp(raw)
        unit = self.unit[rows] if isinstance(self.unit, torch.Tensor) else self.unit
        return gradient * unit

    def project(self) -> None:
        """Clip at the floor (``projected``); the other maps need no clipping."""
        if self.mode == "projected":
            with torch.no_grad():
                self.raw.clamp_(min=self.floor)

    def multiplicative_update(self, numerator: torch.Tensor, denominator: torch.Tensor) -> None:
        """Set to ``value numerator / (denominator + η)``, no less than the floor.

        Raises
        ------
        ValueError
            Where the mode is another one than ``multiplicative``.
        """
        if self.mode != "multiplicative":
            raise InputError(
                "ConstrainedParameter.multiplicative_update",
                "mode 'multiplicative'",
                repr(self.mode),
                "step `raw` with an optimiser, or choose mode='multiplicative'",
            )
        with torch.no_grad():
            self.raw.mul_(numerator).div_(denominator + FLOOR).clamp_(min=FLOOR)

    def freeze(self) -> None:
        """Take it out of training."""
        self.raw.requires_grad_(False)

    def unfreeze(self) -> None:
        """Train it again."""
        self.raw.requires_grad_(self.mode != "multiplicative")

    def _inverse(self, value: torch.Tensor) -> torch.Tensor:
        value = value.detach().clone()
        if self.mode in ("projected", "multiplicative"):
            return value.clamp_(min=0.0).div_(self.unit)
        # A zero has no finite raw value: take a small share of its column's scale.
        scale = value.mean(dim=0, keepdim=True) if value.ndim > 1 else value.mean()
        value = torch.maximum(value, (_SMALLEST_SHARE * scale).clamp(min=1e-30))
        return softplus_inverse(value) if self.mode == "softplus" else torch.log(value)


class PositiveParameter(ConstrainedParameter):
    """A positive parameter drawn at random: ``PositiveParameter((d, k), mode)``.

    Parameters
    ----------
    shape : tuple of int
    mode : {"softplus", "exp", "projected", "multiplicative"}
        Raw values are drawn from Normal(0, 1) (``softplus``, ``exp``) or uniformly from (0, 1).
    generator : torch.Generator or None
        Draws from it; one seeded with 0 where it is None.

    Examples
    --------
    >>> W = PositiveParameter((3, 2), "exp")
    >>> bool((W.data > 0).all())
    True
    """

    def __init__(self, shape, mode: str = "softplus", *, generator=None, dtype=torch.float32) -> None:
        super().__init__(torch.ones(shape, dtype=dtype), mode)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        draw = torch.randn if mode in ("softplus", "exp") else torch.rand
        with torch.no_grad():
            self.raw.copy_(draw(tuple(shape), generator=generator, dtype=dtype))
