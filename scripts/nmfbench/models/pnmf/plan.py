"""From the estimator's parameters to the stages of its fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from nmfbench.errors import InputError
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import FLOOR, Counts
from nmfbench.models.pnmf.gradient import GradientSettings, GradientStage
from nmfbench.models.pnmf.parameters import ConstrainedParameter
from nmfbench.models.pnmf.prior import GaussianPrior, LatentPrior
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.schedules import Constant, OneCycle, Plateau
from nmfbench.models.pnmf.stages import CoordinateStage, PolishStage, Stage
from nmfbench.models.pnmf.start import start_factors

if TYPE_CHECKING:
    from nmfbench.models.pnmf.estimator import PNMF

FIRST_SIGMA, FIRST_NATURAL_SIGMA = 0.105, 0.1**0.5


def engine_of(model: PNMF) -> str:
    """``coordinate`` or ``gradient``, as the parameters ask for.

    Raises
    ------
    InputError
        Where the engine that is named cannot do what another parameter asks for.
    """
    wants = {
        "batch_size": model.batch_size is not None,
        "y_batch_size": model.y_batch_size is not None,
        "training_mode": model.training_mode == "natural",
        "optimizer": model.optimizer != "Adam",
        "scheduler": model.scheduler != "one_cycle",
        "loadings_mode": model.loadings_mode in ("softplus", "exp"),
    }
    asked = [f"{name}={getattr(model, name)!r}" for name, wanted in wants.items() if wanted]
    name = type(model).__name__
    engine = ("gradient" if asked else "coordinate") if model.engine == "auto" else model.engine
    if model.engine == "coordinate" and asked:
        raise InputError(
            f"{name}: parameter engine='coordinate' with {', '.join(asked)}",
            "the default values of these",
            ", ".join(asked),
            "leave them out, or set engine to 'gradient' (or 'auto')",
        )
    if engine == "gradient" and (model._conditional or model.learn_prior):
        what = "donor multipliers" if model._conditional else "learn_prior=True"
        raise InputError(
            f"{name}: gradient training (engine={model.engine!r}{''.join(', ' + text for text in asked)})",
            f"engine 'coordinate' for {what}",
            "gradient training",
            "leave out what asks for gradient training",
        )
    return engine


def build_stages(model: PNMF, counts: Counts, scales: RateScales) -> list[Callable[[Stage | None], Stage]]:
    """The stages of a fit, each built from the one before."""
    if model.spatial:
        from nmfbench.models.pnmf.spatial.plan import spatial_stages

        return spatial_stages(model, counts, scales)
    seed, device, dtype = model.seed_, counts.device, counts.dtype

    def start() -> tuple[torch.Tensor, torch.Tensor]:
        W, H = start_factors(counts, model.n_components, model.init, seed, exposure=scales.exposure)
        return W.to(device, dtype), torch.log(H).to(device, dtype)

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


def posterior_prior(stage: Stage) -> LatentPrior:
    """The prior object that holds q where a stage stands."""
    if hasattr(stage, "prior"):
        return stage.prior
    state = stage.posterior()
    width = state.prior_variance.sqrt()
    scale = float(width[0]) if bool((width == width[0]).all()) else width
    return GaussianPrior.of(state.mu, state.sigma, scale)


def gradient_settings(model: PNMF) -> GradientSettings:
    """The parameters of gradient training."""
    warm_up = int(model.scheduler_pct_start * model.max_iter) if model.scheduler == "one_cycle" else 0
    names = set(GradientSettings.__dataclass_fields__) - {"warm_up"}
    return GradientSettings(**{name: getattr(model, name) for name in names}, warm_up=warm_up)


def gradient_schedule(model: PNMF) -> Constant:
    """Its learning rates."""
    if model.scheduler == "one_cycle":
        shape = model.scheduler_pct_start, model.scheduler_div_factor, model.scheduler_final_div_factor
        return OneCycle(model.learning_rate, model.max_iter, *shape)
    if model.scheduler == "plateau":
        return Plateau(model.learning_rate, model.scheduler_patience, model.scheduler_factor, model.min_lr)
    return Constant(model.learning_rate)
