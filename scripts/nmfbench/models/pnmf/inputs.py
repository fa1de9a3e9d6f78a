"""What may be given as counts."""

from __future__ import annotations

from typing import Any

from nmfbench.errors import InputError


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
