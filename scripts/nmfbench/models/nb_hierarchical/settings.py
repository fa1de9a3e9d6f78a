"""The settings of a fit: the estimator's parameters with what its preset says in place of None."""

from __future__ import annotations

from typing import Any

from nmfbench.errors import InputError
from nmfbench.models.nb_hierarchical.card import PRESETS


def resolved(estimator: Any) -> dict[str, Any]:
    """Every parameter, none of them left to the preset.

    Raises
    ------
    InputError
        If two parameters do not go together.
    """
    settings = dict(estimator.get_params())
    for name, value in PRESETS[estimator.preset].items():
        if settings[name] is None:
            settings[name] = value
    if estimator.length is None and settings["length_column"] is not None:
        settings["length"] = "column"
    if settings["mask_fraction"] and settings["held_out_fraction"]:
        _refuse("mask_fraction and held_out_fraction", "one of them", "both", "leave one out")
    covariates = settings["covariates"]
    if isinstance(covariates, str):
        _refuse("covariates", "a list of columns", repr(covariates), f"write [{covariates}]")
    settings["covariates"] = list(covariates or [])
    if settings["covariates"] and settings["engine"] != "exact":
        _refuse("covariates", "engine: exact", settings["engine"], "set engine: exact")
    if settings["engine"] == "plates" and settings["optimizer"] != "adam":
        _refuse("optimizer", "adam, with engine: plates", settings["optimizer"], "set optimizer: adam")
    return settings


def _refuse(thing: str, expected: str, got: str, remedy: str) -> None:
    raise InputError(f"NBHierarchical: {thing}", expected, got, remedy)
