"""The models, by name. A model's file is imported only when the model is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from nmfbench.errors import InputError


@dataclass(frozen=True)
class ModelEntry:
    """One line of the registry.

    Attributes
    ----------
    display_name : str
        The name in tables and figures.
    target : str
        ``module:Class`` of the estimator.
    conditional : bool
        Whether it is conditioned on columns of obs (donors), or can be; its ``uses_conditions_`` then tells.
    uses_gpu : bool
        Whether a GPU speeds it up.
    input : {"normalised", "counts"}
        What ``fit`` is given: normalised values, or the counts as they are.
    """

    display_name: str
    target: str
    conditional: bool
    uses_gpu: bool
    input: Literal["normalised", "counts"] = "normalised"


MODELS: dict[str, ModelEntry] = {
    "base_nmf": ModelEntry("Base_NMF", "nmfbench.models.base_nmf.estimator:BaseNMF", False, False),
    "ae_nmf": ModelEntry("AE_NMF", "nmfbench.models.autoencoder.ae_nmf:AENMF", False, True),
    "cae_nmf1": ModelEntry("CAE_NMF1", "nmfbench.models.autoencoder.cae_nmf1:CAENMF1", True, True),
    "cae_nmf2": ModelEntry("CAE_NMF2", "nmfbench.models.autoencoder.cae_nmf2:CAENMF2", True, True),
    "pyro_gamma_nb": ModelEntry(
        "Pyro_GammaNB", "nmfbench.models.bayesian.pyro_gamma_nb:PyroGammaNB", True, True, "counts"
    ),
    "pyro_exponential": ModelEntry(
        "Pyro_Exponential",
        "nmfbench.models.bayesian.pyro_exponential:PyroExponential",
        True,
        True,
        "counts",
    ),
    "pnmf": ModelEntry("PNMF", "nmfbench.models.pnmf.estimator:PNMF", False, True, "counts"),
    "pnmf_donor": ModelEntry("PNMF_donor", "nmfbench.models.pnmf.donor:PNMFDonor", True, True, "counts"),
    "pnmf_spatial": ModelEntry(
        "PNMF_spatial", "nmfbench.models.pnmf.spatial.estimator:SpatialPNMF", False, True, "counts"
    ),
}

_CLASSES = {entry.target.split(":")[1]: name for name, entry in MODELS.items()}

__all__ = [
    "AENMF",
    "CAENMF1",
    "CAENMF2",
    "MODELS",
    "PNMF",
    "BaseNMF",
    "ModelEntry",
    "PNMFDonor",
    "PyroExponential",
    "PyroGammaNB",
    "SpatialPNMF",
    "get_model",
]


def get_model(name: str) -> type:
    """The estimator class registered as `name`.

    Raises
    ------
    InputError
        If there is no such model.
    """
    if name not in MODELS:
        raise InputError(
            f"model {name!r}",
            f"one of {', '.join(MODELS)}",
            repr(name),
            "mend the name in the `models` section",
        )
    module, _, target = MODELS[name].target.partition(":")
    return getattr(import_module(module), target)


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return get_model(_CLASSES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
