"""What PNMF does with its spatial parameters: checks, the places of the cells, predictions at others."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.models.pnmf.coordinate import LARGEST_EXPONENT
from nmfbench.models.pnmf.spatial.kernels import Points

_MANY_INDUCING = 3000  # the default of num_inducing
_SHORT = 0.25  # of the usual distance to the nearest cell: below it neighbours are as good as independent


def check_spatial(model: Any) -> None:
    """Refuse parameters that do not go together.

    Raises
    ------
    InputError
        For `local` or `multigroup` without `spatial`; with `spatial`, for natural gradients, `learn_prior`,
        and donors' multipliers.
    """
    name = type(model).__name__
    if not model.spatial:
        for wanted in ("local", "multigroup"):
            if getattr(model, wanted):
                raise InputError(
                    f"{name}: parameter {wanted}",
                    f"False ({wanted}=True requires spatial=True)",
                    "True",
                    "set spatial=True, or leave it out",
                )
        return
    if model._conditional:
        raise InputError(f"{name}: parameter spatial", "False", "True", "use PNMF, which takes no donors")
    if model.training_mode == "natural":
        raise InputError(
            f"{name}: parameter training_mode",
            "'standard' (Natural gradient steps of the processes are taken by engine 'coordinate')",
            repr(model.training_mode),
            "leave training_mode out",
        )
    if model.learn_prior:
        raise InputError(f"{name}: parameter learn_prior", "False", "True", "set sigma, or leave it out")
    if model.local and model.num_inducing != _MANY_INDUCING:
        warnings.warn("num_inducing is not used with local=True", UserWarning, stacklevel=3)


def place_cells(model: Any, X: Any, coordinates: Any, groups: Any) -> None:
    """Take the cells' coordinates and groups, those of an AnnData where none are given."""
    if coordinates is None and "spatial" in (getattr(X, "obsm", None) or {}):
        coordinates = X.obsm["spatial"]
    model.groups_ = None
    if model.multigroup and groups is not None:
        model.groups_ = np.unique(np.asarray(groups).astype(str))
    model._points = check_points(model, coordinates, groups, X.shape[0] if hasattr(X, "shape") else len(X))
    spacing = usual_spacing(model._points.xy.numpy())
    if model.lengthscale < _SHORT * spacing and not model.train_lengthscale:
        warnings.warn(
            f"lengthscale={model.lengthscale:g} is short against the usual distance of {spacing:.3g} between "
            "neighbouring cells: factors are hardly smoothed; it is in the units of the coordinates",
            UserWarning,
            stacklevel=3,
        )


def usual_spacing(xy: np.ndarray) -> float:
    """The median distance of a cell to its nearest neighbour, over at most 2,000 cells."""
    from sklearn.neighbors import NearestNeighbors

    asked = xy[:: max(1, len(xy) // 2000)]
    if len(xy) < 2:
        return 0.0
    return float(np.median(NearestNeighbors(n_neighbors=2).fit(xy).kneighbors(asked)[0][:, 1]))


def places_text(model: Any) -> str:
    """What the fingerprint of the data adds for the places of the cells."""
    parts = [model._points.xy.numpy().tobytes()]
    if model._points.groups is not None:
        parts.append(model._points.groups.numpy().tobytes())
    return " " + hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def predicted(model: Any, coordinates: Any, groups: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every process at any coordinates, both of shape (n, k)."""
    check_is_fitted(model)
    points = check_points(model, coordinates, groups, None)
    with torch.no_grad():
        return model.prior_.predict(points.to(model.prior_.mean.device))


def predicted_means(model: Any, coordinates: Any, groups: Any) -> np.ndarray:
    """Mean factors ``exp(mu + sigma²/2)`` at any coordinates, of shape (n, k)."""
    mu, sigma = predicted(model, coordinates, groups)
    return torch.exp((mu + sigma.square() / 2).clamp(max=LARGEST_EXPONENT)).cpu().numpy()


def _group_codes(model: Any, labels: np.ndarray) -> np.ndarray:
    labels = labels.astype(str)
    codes = np.searchsorted(model.groups_, labels).clip(max=len(model.groups_) - 1)
    if (unknown := model.groups_[codes] != labels).any():
        raise InputError(
            f"{type(model).__name__}: groups",
            f"groups of the fit: {', '.join(model.groups_)}",
            labels[unknown][0],
            "predict for these alone",
        )
    return codes


def check_points(model: Any, coordinates: Any, groups: Any, n: int | None) -> Points:
    """Coordinates and groups as they were given, checked.

    Raises
    ------
    InputError
        Naming ``coordinates`` or ``groups``, where they are missing or do not fit.
    """
    name = type(model).__name__
    if coordinates is None:
        raise InputError(
            f"{name}: coordinates",
            "where the cells lie, an array of shape (cells, dimensions)",
            "None",
            'pass coordinates=..., or an AnnData with obsm["spatial"]',
        )
    xy = np.asarray(coordinates, dtype=np.float64)
    if xy.ndim != 2 or (n is not None and len(xy) != n) or not np.isfinite(xy).all():
        raise InputError(
            f"{name}: coordinates",
            f"finite numbers of shape ({'cells' if n is None else n}, dimensions)",
            f"shape {xy.shape}, {int((~np.isfinite(xy)).sum())} values not finite",
            "give one row for each cell",
        )
    if not model.multigroup:
        return Points.of(xy)
    if groups is None:
        raise InputError(
            f"{name}: groups", "the group of every cell, as multigroup=True", "None", "pass groups=..."
        )
    labels = np.asarray(groups)
    if labels.shape != (len(xy),):
        raise InputError(
            f"{name}: groups", f"{len(xy)} labels", f"shape {labels.shape}", "give one label for each cell"
        )
    return Points.of(xy, _group_codes(model, labels))
