"""Covariances between points in space, of one group or of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

_UNDER_THE_ROOT = 1e-12  # keeps the gradient of a distance of 0 finite


@dataclass(frozen=True)
class Points:
    """Where cells lie, and the group (section, donor) of each.

    Attributes
    ----------
    xy : Tensor of shape (n, p)
        Float64: what depends on small differences of positions is computed in double precision.
    groups : LongTensor of shape (n,) or None
        Codes from 0.
    """

    xy: torch.Tensor
    groups: torch.Tensor | None = None

    @classmethod
    def of(cls, coordinates, groups=None, device: str | torch.device = "cpu") -> Points:
        """Points from arrays."""
        xy = torch.as_tensor(np.asarray(coordinates, dtype=np.float64), device=device)
        codes = None if groups is None else torch.as_tensor(np.asarray(groups, dtype=np.int64), device=device)
        return cls(xy, codes)

    def to(self, device: str | torch.device) -> Points:
        """The same points on a device."""
        return Points(self.xy.to(device), None if self.groups is None else self.groups.to(device))

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, rows) -> Points:
        return Points(self.xy[rows], None if self.groups is None else self.groups[rows])


class Matern32(torch.nn.Module):
    """Matérn covariance of smoothness 3/2, ``sigma² (1 + ρ) exp(-ρ)`` with ``ρ = √3 r / lengthscale``.

    With groups of the points and `group_diff_param`, the multi-group form: between groups
    ``v = 1 / (1 + group_diff_param)`` takes the place of 1 in ``sigma² (1 + ρ) exp(-ρ) v^((3 + p)/2)`` with
    ``ρ = √3 (r / lengthscale) √v``: a longer range at a lower height (p: dimensions of space). At 0 the
    groups share one process, at 10 in the plane they are as good as independent (0.0025 at the same place).

    Parameters
    ----------
    lengthscale : float
        In the units of the coordinates.
    sigma : float
        Standard deviation of the process.
    group_diff_param : float or None
        None: groups are not looked at. The sign does not matter.
    train_lengthscale : bool
        Whether the lengthscale is a parameter; it is held by its logarithm, so it stays positive.
    """

    def __init__(
        self,
        lengthscale: float = 1.0,
        sigma: float = 1.0,
        group_diff_param: float | None = None,
        train_lengthscale: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        log = torch.tensor([math.log(lengthscale)], dtype=torch.float64, device=device)
        if train_lengthscale:
            self.log_lengthscale = torch.nn.Parameter(log)
        else:
            self.register_buffer("log_lengthscale", log)
        self.sigma = sigma
        self.group_diff_param = None if group_diff_param is None else abs(group_diff_param)
        self.trainable = train_lengthscale

    @property
    def lengthscale(self) -> float:
        return float(self.log_lengthscale.detach().exp())

    @property
    def variance(self) -> float:
        """Covariance of a point with itself."""
        return self.sigma**2

    def forward(self, a: Points, b: Points) -> torch.Tensor:
        """Covariances of the points of `a` with those of `b`, of shape (..., n, m).

        Leading dimensions of ``xy`` (..., n, p) and ``groups`` (..., n) are those of a batch.
        """
        squared = (a.xy[..., :, None, :] - b.xy[..., None, :, :]).square().sum(dim=-1)
        rho = math.sqrt(3) * (squared + _UNDER_THE_ROOT).sqrt() / self.log_lengthscale.exp()
        if self.group_diff_param is None or a.groups is None:
            return self.variance * (1 + rho) * torch.exp(-rho)
        other = (a.groups[..., :, None] != b.groups[..., None, :]).to(squared.dtype)
        v = 1 / (1 + self.group_diff_param * other)
        rho = rho * v.sqrt()
        return self.variance * (1 + rho) * torch.exp(-rho) * v ** ((3 + a.xy.shape[-1]) / 2)
