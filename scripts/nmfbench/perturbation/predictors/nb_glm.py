"""The low-rank NB-GLM: its keys, and how it is fitted in a fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from nmfbench.perturbation.predictors.base import PredictorSettings
from nmfbench.renamed import Renamed, in_keys_of_now

if TYPE_CHECKING:
    from nmfbench.perturbation.background import Prediction
    from nmfbench.perturbation.fold import Fold

PUBLISHED: dict[str, Any] = {
    "loss": "mse",
    "link": "tanh",
    "on_target": False,
    "statistics": "published",
    "g_mlp_hidden": [384],
    "g_out_dim": 192,
    "p_mlp_hidden": [384],
    "p_out_dim": 192,
    "penalty_K": 0.0,
    "shrinkage": 1.0,
    "sampler": "poisson",
    "max_iter": 50,
    "validation_fraction": 0.0,
    "decay_all": True,
}
"""What `preset: published` sets, from the code defaults and the configs that were shipped."""


def _widths(value: Any) -> Any:
    """Hidden widths as a list, an int or a text with commas, as the published configs have them."""
    if isinstance(value, int):
        return [value]
    if isinstance(value, str):
        return [int(part) for part in value.split(",") if part.strip()]
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _width(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() == "none" else value


Widths = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_widths)]
Width = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_width)]
Auto = Literal["auto"]
LossName = Literal["nb_sums", "mse", "mse_log1p", "mse_ans", "pois", "pois_dev", "nb", "nb_dev"]


class Settings(PredictorSettings):
    """The low-rank negative binomial GLM."""

    kind: Literal["nb_glm"] = "nb_glm"
    title: ClassVar[str] = "NB-GLM"
    uses_embedding: ClassVar[bool] = True
    uses_gpu: ClassVar[bool] = True

    renamed: ClassVar[Mapping[str, Renamed]] = {
        "epochs": Renamed("max_iter"),
        "lr": Renamed("learning_rate"),
        "lr_schedule": Renamed("learning_rate_schedule"),
        "min_lr": Renamed("min_learning_rate"),
    }

    preset: Literal["default", "published"] = Field(
        "default", description="`published`: the values of the published code where a key is not given."
    )
    checkpoint: str | None = Field(
        None, description="A `model.pt` to predict from; there is no training job then."
    )
    fit_mode: Literal["concise", "whole"] = Field(
        "concise", description="`concise`: a row for each target (and phase); `whole`: for each cell."
    )
    loss: Annotated[LossName, BeforeValidator(_lower)] = Field(
        "nb_sums",
        description="`nb_sums`: negative binomial of the sum of a group. The others, of the mean of a group "
        "or of a cell, are the published ones.",
    )
    statistics: Literal["corrected", "published"] = Field(
        "corrected", description="Rates and dispersions of the control: with or without the cells' depths."
    )
    link: Literal["identity", "tanh"] = Field("identity", description="`tanh` bounds the changes by alpha.")
    alpha: float = Field(2.5, gt=0, description="`tanh`: where the learned bound starts.")
    on_target: bool = Field(True, description="A term of its own for the gene that is the target.")
    penalty_K: Auto | Annotated[float, Field(ge=0)] = Field(
        "auto", description="Ridge on K; `auto`: chosen on training targets held out."
    )
    shrinkage: Auto | Annotated[float, Field(ge=0)] = Field(
        "auto", description="Factor of the predicted changes; `auto`: chosen in the same way."
    )
    criterion: Literal["mae", "likelihood"] = Field(
        "mae", description="What `auto` minimises: error of the profiles, or the negative log-likelihood."
    )
    use_cycle: bool = Field(False, description="Effects of S and G2M; needs phases.")
    use_sf: bool = Field(True, description="Offsets by the depth of the cells.")
    g_mlp_hidden: Widths = Field([], description="Hidden widths on the side of the genes.")
    g_out_dim: Width = Field(None, description="Width of what comes out; none keeps the last.")
    p_mlp_hidden: Widths = Field([], description="Hidden widths on the side of the targets.")
    p_out_dim: Width = Field(None, description="Width of what comes out; none keeps the last.")
    gp_activation: Literal["relu", "gelu", "silu", "tanh", "identity"] = Field(
        "gelu", description="Between the layers."
    )
    gp_norm: Literal["none", "batchnorm", "layernorm"] = Field("layernorm", description="Before it.")
    gp_dropout: float = Field(0.1, ge=0, lt=1, description="After it.")
    residual: float | None = Field(
        None, description="Where the learned share of the vectors themselves starts; none: without."
    )
    optimiser: Literal["auto", "lbfgs", "adamw"] = Field(
        "auto", description="`auto`: L-BFGS where the model is bilinear with `nb_sums`, else AdamW."
    )
    max_iter: int = Field(500, ge=1, description="AdamW: at most this many epochs (passes over the rows).")
    learning_rate: float = Field(5e-4, gt=0, description="AdamW: step.")
    learning_rate_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="AdamW: its schedule."
    )
    warmup_pct: float = Field(0.05, ge=0, le=1, description="AdamW: share of the epochs of the warm-up.")
    min_learning_rate: float = Field(1e-5, ge=0, description="AdamW: the least step of the cosine.")
    batch_size: int = Field(2048, ge=2, description="AdamW: a step has half as many rows, as published.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW: decay of the weights.")
    decay_all: bool = Field(False, description="AdamW: decay biases and scalars as well, as published.")
    clip: float = Field(1.0, gt=0, description="AdamW: largest norm of the gradient.")
    l1: float = Field(0.0, ge=0, description="AdamW: weight of mean |K|.")
    l2: float = Field(0.0, ge=0, description="AdamW: weight of mean K².")
    raw_l1: float = Field(0.0, ge=0, description="AdamW: weight of mean |raw|.")
    raw_l2: float = Field(0.0, ge=0, description="AdamW: weight of mean raw².")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="AdamW: share of the training targets that decides when to stop."
    )
    patience: int = Field(50, ge=1, description="AdamW: epochs without a better validation.")
    sampler: Literal["nb", "poisson", "gp_mixture"] = Field("nb", description="How counts are drawn.")
    phase_strategy: Literal["ignore", "fixed_G1", "fixed_S", "fixed_G2M", "global", "own"] = Field(
        "global", description="Phases of drawn cells; `own`: the target's own shares (published: `control`)."
    )
    gamma_heterogeneity: float | None = Field(
        None, gt=0, description="r0 of one Gamma(r0, r0) factor for each cell; none: without."
    )

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**PUBLISHED, **given} if given.get("preset") == "published" else given

    @model_validator(mode="after")
    def _optimiser_fits(self) -> Settings:
        if self.optimiser == "lbfgs" and not is_bilinear(self.model_dump()):
            raise ValueError(
                "optimiser: lbfgs fits bilinear models by nb_sums in concise mode only: no hidden layers, no "
                "other widths, link: identity, no residual"
            )
        return self


def is_bilinear(settings: dict[str, Any]) -> bool:
    """Whether the objective is the convex one of :mod:`nmfbench.perturbation.nb_glm.bilinear`."""
    layers = [settings[key] for key in ("g_mlp_hidden", "p_mlp_hidden", "g_out_dim", "p_out_dim")]
    return (
        settings["optimiser"] != "adamw"
        and not any(layers)
        and settings["residual"] is None
        and settings["link"] == "identity"
        and settings["loss"] == "nb_sums"
        and settings["fit_mode"] == "concise"
        and settings["use_sf"]
        and not any(settings[key] for key in ("l1", "l2", "raw_l1", "raw_l2"))
    )


class Predictor:
    """The low-rank NB-GLM.

    Parameters
    ----------
    settings : dict
        Its section of the config.
    seed : int
        Of initial values, batches and dropout.
    device : str
        Where AdamW runs.
    cells : callable, optional
        For `whole`: gives the training cells of a fold.
    checkpoint : callable, optional
        Fold -> :class:`~nmfbench.fitting.checkpoint.Checkpoint`.
    stop : callable
        Whether the job was told to end.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        seed: int = 0,
        device: str = "cpu",
        cells: Callable | None = None,
        checkpoint: Callable | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings = in_keys_of_now("NB-GLM", settings, Settings.renamed)
        self.seed, self.device, self.cells, self.checkpoint, self.stop = seed, device, cells, checkpoint, stop
        self.folds: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []

    def predict(self, fold: Fold, log: Callable[[str], None] = lambda text: None) -> Prediction:
        """Fit to a fold and predict what it asks for; the parameters are added to :attr:`folds`."""
        from nmfbench.perturbation.nb_glm.fit import fit_bilinear_fold, fit_network_fold
        from nmfbench.perturbation.nb_glm.parameters import predict_fold

        if is_bilinear(self.settings):
            parameters, history = fit_bilinear_fold(fold, self.settings, log)
        else:
            options = {"seed": self.seed, "device": self.device, "cells": self.cells, "stop": self.stop}
            checkpoint = None if self.checkpoint is None else self.checkpoint(fold)
            parameters, history = fit_network_fold(
                fold, self.settings, checkpoint=checkpoint, log=log, **options
            )
        self.history += [{"fold": fold.number, **row} for row in history]
        self.folds.append(parameters)
        return predict_fold(parameters, self.settings, fold.background, fold.asked)
