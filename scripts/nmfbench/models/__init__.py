"""The models: one line for each kind, and what is found by that line.

A kind's line names its module, ``family.module``. The card lies beside it, in ``models/family/card.py``; it
is light and read by the workflow. The module itself holds the estimator, and is imported only where a model
is fitted.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nmfbench.errors import InputError

if TYPE_CHECKING:
    from nmfbench.models.card import ModelCard

MODELS: dict[str, str] = {
    "base_nmf": "base_nmf.estimator",
    "ae_nmf": "autoencoder.ae_nmf",
    "cae_nmf1": "autoencoder.cae_nmf1",
    "cae_nmf2": "autoencoder.cae_nmf2",
    "ae_nmf_common": "denoising.common",
    "cae_nmf1_common": "denoising.conditional",
    "cae_nmf2_common": "denoising.conditional",
    "ae_nmf_split": "denoising.split",
    "cae_nmf1_split": "denoising.conditional_split",
    "cae_nmf2_split": "denoising.conditional_split",
    "ae_nmf_blind": "denoising.blind",
    "cae_nmf1_blind": "denoising.conditional_blind",
    "cae_nmf2_blind": "denoising.conditional_blind",
    "pyro_gamma_nb": "bayesian.pyro_gamma_nb",
    "pyro_exponential": "bayesian.pyro_exponential",
    "pnmf": "pnmf.estimator",
    "pnmf_donor": "pnmf.donor",
    "pnmf_spatial": "pnmf.spatial.estimator",
    "nb_hierarchical": "nb_hierarchical.estimator",
    "pca": "baseline.pca",
    "harmony": "baseline.harmony",
    "nmf_harmony": "base_nmf.harmony",
    "scvi": "baseline.scvi",
    "linear_scvi": "baseline.scvi",
    "control_random": "control.estimator",
    "control_shuffled": "control.estimator",
    "control_pca_by_donor": "control.estimator",
    "control_depth": "control.estimator",
    "control_cell_type": "control.estimator",
    "control_cell_type_noise": "control.estimator",
    "control_donor": "control.estimator",
    "external": "external.estimator",
}

__all__ = ["MODELS", "cards", "get_card", "get_model"]


@cache
def get_card(kind: str) -> ModelCard:
    """The card of the model registered as `kind`.

    Raises
    ------
    InputError
        If there is no such model.
    """
    if kind not in MODELS:
        raise InputError(
            f"model {kind!r}",
            f"one of {', '.join(MODELS)}",
            repr(kind),
            "mend the name in the `models` section",
        )
    family = f"nmfbench.models.{MODELS[kind].partition('.')[0]}.card"
    found = {card.kind: card for card in import_module(family).CARDS}
    if kind not in found:
        raise InputError(
            f"model {kind!r}", f"its card in {family}.CARDS", ", ".join(found) or "none", "add the card"
        )
    return found[kind]


def cards() -> dict[str, ModelCard]:
    """The cards of all models, by kind."""
    return {kind: get_card(kind) for kind in MODELS}


def get_model(kind: str) -> type:
    """The estimator class of the model registered as `kind`; imports its module.

    Raises
    ------
    InputError
        If there is no such model.
    """
    estimator = get_card(kind).estimator
    return getattr(import_module(f"nmfbench.models.{MODELS[kind]}"), estimator)


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for kind, card in cards().items():
            if card.estimator == name:
                return get_model(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(card.estimator for card in cards().values())])
