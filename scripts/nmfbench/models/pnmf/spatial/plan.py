"""From the parameters of a spatial model to its prior and the stages of its fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

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
from nmfbench.models.pnmf.spatial.places import engine_of
from nmfbench.models.pnmf.spatial.svgp import SVGP
from nmfbench.models.pnmf.stages import CoordinateStage, Stage
from nmfbench.models.pnmf.start import start_factors

if TYPE_CHECKING:
    from nmfbench.models.pnmf.estimator import PNMF

WARM_SWEEPS = 30
"""Sweeps without space, which find the factors that the processes then begin with."""


def build_prior(model: PNMF, points: Points, seed: int, dtype: torch.dtype) -> SVGP | LCGP:
    """The prior that the parameters ask for, with q at its own start."""
    by_gradient = model.train_lengthscale and engine_of(model) == "gradient"
    kernel = Matern32(
        model.lengthscale,
        model.sigma,
        model.group_diff_param if model.multigroup else None,
        by_gradient,
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


def spatial_stages(model: PNMF, counts: Counts, scales: RateScales) -> list[Callable[[Stage | None], Stage]]:
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
        options = {"tune_lengthscale": model.train_lengthscale}
        return AscentStage(counts, prior_from(state.mu), state.W.clone(), scales, model.max_iter, **options)

    def polish(before: AscentStage) -> Stage:
        before.evaluate()  # takes a momentum back that went too far
        # an even number: a draw without its opposite would push every cell its own way
        options = {"mode": model.mode, "n_draws": model.E + model.E % 2, "seed": seed}
        return AscentStage(counts, before.prior, before.W, scales, model.max_iter, **options)

    def descend(before: Stage) -> Stage:
        state = before.posterior()
        return gradient(prior_from(state.mu), state.W.clone(), model.loadings_mode)

    if engine_of(model) == "gradient":
        return [warm, descend]
    return [warm, ascend] if model.mode == "lower-bound" else [warm, ascend, polish]
