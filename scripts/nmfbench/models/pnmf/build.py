"""From the estimator's parameters to the engine of its fit and its stages, without space and with it.

`model` is whatever has the parameters of :class:`nmfbench.models.pnmf.estimator.PNMF` as attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.gradient import GradientSettings, GradientStage
from nmfbench.models.pnmf.parameters import ConstrainedParameter
from nmfbench.models.pnmf.prior import LatentPrior
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.schedules import Constant, OneCycle, Plateau
from nmfbench.models.pnmf.several import FIRST_SIGMA, choose_start
from nmfbench.models.pnmf.spatial.ascent import AscentStage
from nmfbench.models.pnmf.spatial.inducing import choose_inducing
from nmfbench.models.pnmf.spatial.kernels import Matern32, Points
from nmfbench.models.pnmf.spatial.lcgp import LCGP
from nmfbench.models.pnmf.spatial.svgp import SVGP
from nmfbench.models.pnmf.stages import CoordinateStage, PolishStage, Stage

WARM_SWEEPS = 30
"""Sweeps without space, which find the factors that the processes then begin with."""

FIRST_NATURAL_SIGMA = 0.1**0.5


def engine_of(model: Any) -> str:
    """``coordinate`` (closed-form steps) or ``gradient``, as the parameters ask for.

    Raises
    ------
    InputError
        Where the engine that is named cannot do what another parameter asks for.
    """
    asked = _asks_for_gradients(model)
    name = type(model).__name__
    if model.engine == "coordinate" and asked:
        raise InputError(
            f"{name}: parameter engine='coordinate' with {', '.join(asked)}",
            "the default values of these",
            ", ".join(asked),
            "leave them out, or set engine to 'gradient' (or 'auto')",
        )
    engine = "gradient" if asked or model.engine == "gradient" else "coordinate"
    if engine == "gradient" and not model.spatial and (model._conditional or model.learn_prior):
        what = "donor multipliers" if model._conditional else "learn_prior=True"
        raise InputError(
            f"{name}: gradient training (engine={model.engine!r}{''.join(', ' + text for text in asked)})",
            f"engine 'coordinate' for {what}",
            "gradient training",
            "leave out what asks for gradient training",
        )
    return engine


def _asks_for_gradients(model: Any) -> list[str]:
    """The parameters, as given, that closed-form steps do not have."""
    default = {"batch_size": None, "y_batch_size": None, "optimizer": "Adam", "scheduler": "one_cycle"}
    if model.spatial:
        default |= {"local": False, "diagonal_only": False, "scale_kl_NM": False}
    else:
        default |= {"training_mode": "standard"}
    asked = [key for key, value in default.items() if getattr(model, key) != value]
    asked += ["loadings_mode"] if model.loadings_mode in ("softplus", "exp") else []
    return [f"{key}={getattr(model, key)!r}" for key in asked]


def build_stages(model: Any, counts: Counts, scales: RateScales) -> list[Callable[[Stage | None], Stage]]:
    """The stages of a fit, each built from the one before."""
    if model.spatial:
        return spatial_stages(model, counts, scales)
    seed, device, dtype = model.seed_, counts.device, counts.dtype

    def start() -> tuple[torch.Tensor, torch.Tensor]:
        return choose_start(counts, model.n_components, model.init, seed, scales)

    def coordinate(_) -> Stage:
        W, mu = start()
        ones = torch.ones(mu.shape[1], dtype=dtype, device=device)
        state = LatentState(mu, torch.full_like(mu, FIRST_SIGMA**2), W, ones, scales)
        return CoordinateStage(counts, state, model.max_iter, learn_prior=model.learn_prior)

    def polish(before: Stage) -> Stage:
        return PolishStage(counts, before.posterior(), model.max_iter, model.mode, seed)

    def gradient(_) -> Stage:
        W, mu = start()
        natural = model.training_mode == "natural"
        sigma = torch.full_like(mu, FIRST_NATURAL_SIGMA if natural else FIRST_SIGMA)
        prior = model._make_prior(mu, sigma, natural)
        # In units of a gene's mean, a step is as long for a rare gene as for a common one; in W's own units
        # it would throw the rare ones to zero.
        unit = (counts.gene_sums() / counts.shape[0]).clamp(min=FLOOR)[:, None]
        loadings = ConstrainedParameter(W, model.loadings_mode, unit)
        return GradientStage(
            counts,
            prior,
            loadings,
            scales,
            gradient_settings(model),
            gradient_schedule(model),
            seed,
            model.max_iter,
        )

    if engine_of(model) == "gradient":
        return [gradient]
    return [coordinate] if model.mode == "lower-bound" else [coordinate, polish]


def gradient_settings(model: Any) -> GradientSettings:
    """The parameters of gradient training."""
    warm_up = int(model.scheduler_pct_start * model.max_iter) if model.scheduler == "one_cycle" else 0
    names = set(GradientSettings.__dataclass_fields__) - {"warm_up"}
    return GradientSettings(**{name: getattr(model, name) for name in names}, warm_up=warm_up)


def gradient_schedule(model: Any) -> Constant:
    """Its learning rates."""
    if model.scheduler == "one_cycle":
        shape = model.scheduler_pct_start, model.scheduler_div_factor, model.scheduler_final_div_factor
        return OneCycle(model.learning_rate, model.max_iter, *shape)
    if model.scheduler == "plateau":
        return Plateau(model.learning_rate, model.scheduler_patience, model.scheduler_factor, model.min_lr)
    return Constant(model.learning_rate)


def build_prior(model: Any, points: Points, seed: int, dtype: torch.dtype) -> SVGP | LCGP:
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


def spatial_stages(model: Any, counts: Counts, scales: RateScales) -> list[Callable[[Stage | None], Stage]]:
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
        W, mu = choose_start(counts, model.n_components, model.init, seed, scales)
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
