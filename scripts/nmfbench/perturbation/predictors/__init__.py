"""The predictors: one file each, with its section of the config, and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Name in the config -> module of this package; it holds the classes ``Settings`` and ``Predictor``.
PREDICTORS = {
    "control_mean": "control_mean",
    "perturbed_mean": "perturbed_mean",
    "target_mean": "target_mean",
    "nearest_target": "nearest_target",
    "additive": "additive",
    "bilinear_ridge": "bilinear_ridge",
    "nb_glm": "nb_glm",
    "predictions_file": "predictions_file",
}


def settings_of(kind: str) -> Any:
    """The config section of a predictor."""
    return _module(kind).Settings


def predictor_of(kind: str) -> Any:
    """The class of a predictor."""
    return _module(kind).Predictor


def _module(kind: str) -> Any:
    return import_module(f"{__name__}.{PREDICTORS[kind]}")
