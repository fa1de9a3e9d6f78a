"""From the parameters of a spatial model to its points, its prior and the stages of its fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.gradient import GradientStage
from nmfbench.models.pnmf.parameters import ConstrainedParameter
from nmfbench.models.pnmf.plan import FIRST_SIGMA, gradient_schedule, gradient_settings
from nmfbench.models.pnmf.prior import LatentPrior
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.spatial.ascent import AscentStage
from nmfbench.models.pnmf.spatial.inducing import choose_inducing
from nmfbench.models.pnmf.spatial.kernels import Matern32, Points
from nmfbench.models.pnmf.spatial.lcgp import LCGP
from nmfbench.models.pnmf.spatial.svgp import SVGP
from nmfbench.models.pnmf.stages import CoordinateStage, Stage
from nmfbench.models.pnmf.start import start_factors

if TYPE_CHECKING:
    from nmfbench.models.pnmf.spatial.estimator import SpatialPNMF

WARM_SWEEPS = 30
"""Sweeps without space, which find the factors that the processes then begin with."""


def check_points(model: SpatialPNMF, coordinates: Any, groups: Any, n: int | None) -> Points:
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
    return Points.of(xy, model._group_codes(labels))


def build_prior(model: SpatialPNMF, points: Points, seed: int, dtype: torch.dtype) -> SVGP | LCGP:
    """The prior that the parameters ask for, with q at its own start."""
    kernel = Matern32(
        model.lengthscale,
        model.sigma,
        model.group_diff_param if model.multigroup else None,
        model.train_lengthscale,
        device=points.xy.device,
    )
    if model.local:
        return LCGP(
            points,
            kernel,
            model.n_components,
            n_neighbours=model.K,
            neighbours=model.neighbors,
            precompute=model.precompute_knn,
            jitter=model.jitter,
            seed=seed,
            dtype=dtype,
        )
    groups = None if points.groups is None else points.groups.cpu().numpy()
    rng = np.random.default_rng([seed, 0x5A])
    chosen = choose_inducing(
        points.xy.cpu().numpy(), groups, model.num_inducing, model.inducing_allocation, rng
    )
    return SVGP(
        points,
        Points.of(*chosen, device=points.xy.device),
        kernel,
        model.n_components,
        jitter=model.jitter,
        cholesky_mode=model.cholesky_mode,
        diagonal_only=model.diagonal_only,
        scale_kl_NM=model.scale_kl_NM,
        dtype=dtype,
    )


def engine_of(model: SpatialPNMF) -> str:
    """``ascent`` (closed form) or ``gradient``.

    Raises
    ------
    InputError
        Where closed-form steps are asked for by name and another parameter excludes them.
    """
    default = {
        **{"batch_size": None, "y_batch_size": None, "optimizer": "Adam", "scheduler": "one_cycle"},
        **{"local": False, "diagonal_only": False, "train_lengthscale": False, "scale_kl_NM": False},
    }
    differs = [key for key, value in default.items() if getattr(model, key) != value]
    asked = [f"{key}={getattr(model, key)!r}" for key in differs]
    if model.loadings_mode in ("softplus", "exp"):
        asked.append(f"loadings_mode={model.loadings_mode!r}")
    if model.engine == "coordinate" and asked:
        raise InputError(
            f"{type(model).__name__}: parameter engine='coordinate' with {', '.join(asked)}",
            "the default values of these",
            ", ".join(asked),
            "leave them out, or set engine to 'gradient' (or 'auto')",
        )
    return "gradient" if asked or model.engine == "gradient" else "ascent"


def spatial_stages(
    model: SpatialPNMF, counts: Counts, scales: RateScales
) -> list[Callable[[Stage | None], Stage]]:
    """The stages of a fit: without space, then with it, then on the evidence bound where that is sought."""
    seed, dtype, device = model.seed_, counts.dtype, counts.device
    points = model._points.to(device)

    def prior_from(mu: torch.Tensor) -> LatentPrior:
        prior = build_prior(model, points, seed, dtype)
        prior.start_from(mu)
        return prior

    def gradient(prior: LatentPrior, W: torch.Tensor, loadings_mode: str) -> Stage:
        unit = (counts.gene_sums() / counts.shape[0]).clamp(min=FLOOR)[:, None]
        loadings = ConstrainedParameter(W, loadings_mode, unit)
        settings, schedule = gradient_settings(model), gradient_schedule(model)
        return GradientStage(counts, prior, loadings, scales, settings, schedule, seed, model.max_iter)

    def warm(_) -> Stage:
        W, H = start_factors(counts, model.n_components, model.init, seed, exposure=scales.exposure)
        mu, W = torch.log(H).to(device, dtype), W.to(device, dtype)
        ones = torch.ones(mu.shape[1], dtype=dtype, device=device)
        state = LatentState(mu, torch.full_like(mu, FIRST_SIGMA**2), W, ones, scales)
        return CoordinateStage(counts, state, min(WARM_SWEEPS, model.max_iter))

    def ascend(before: Stage) -> Stage:
        state = before.posterior()
        return AscentStage(counts, prior_from(state.mu), state.W.clone(), scales, model.max_iter)

    def polish(before: AscentStage) -> Stage:
        # an even number: a draw without its opposite would push every cell its own way
        options = {"mode": model.mode, "n_draws": model.E + model.E % 2, "seed": seed}
        return AscentStage(counts, before.prior, before.W, scales, model.max_iter, **options)

    def descend(before: Stage) -> Stage:
        state = before.posterior()
        return gradient(prior_from(state.mu), state.W.clone(), model.loadings_mode)

    if engine_of(model) == "gradient":
        return [warm, descend]
    return [warm, ascend] if model.mode == "lower-bound" else [warm, ascend, polish]
