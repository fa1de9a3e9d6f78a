"""What may be given as counts, and where they are put."""

from __future__ import annotations

import logging
from typing import Any

import torch

from nmfbench.device import resolve_device
from nmfbench.errors import InputError

log = logging.getLogger(__name__)


def counts_of(X: Any, layer: str | None = None) -> Any:
    """The matrix of an AnnData (its X or a layer); anything else as it is.

    Raises
    ------
    InputError
        If there is no such layer, or a layer is named and X is not an AnnData.
    """
    if not (hasattr(X, "layers") and hasattr(X, "obs_names")):
        if layer is not None:
            raise InputError("parameter layer", "None, as X is no AnnData", repr(layer), "leave layer out")
        return X
    if layer is None:
        return X.X
    if layer not in X.layers:
        raise InputError(
            "parameter layer", f"one of {', '.join(X.layers) or '(none)'}", repr(layer), "name another"
        )
    return X.layers[layer]


def device_of(name: str) -> torch.device:
    """The device that `name` asks for; the CPU in place of Metal, which has no double precision."""
    device = resolve_device(name)
    if device.type == "mps":
        log.info("device: Metal has no double precision; Poisson factorisation takes the CPU")
        return torch.device("cpu")
    return device
