"""From a file, a URL or a simulation to checked counts of the donors that are kept.

* :func:`fetch` downloads, :func:`simulate_atlas` makes an atlas up.
* :func:`filter_donors` reads any h5ad in row blocks and writes ``filtered.h5ad``.
* :func:`read_filtered`, :func:`normalise_block` and :func:`load_normalised` are
  what training and scoring read it with.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "AS_COUNTED": "filtered",
    "FilteredCounts": "filtered",
    "fetch": "download",
    "filter_donors": "donors",
    "load_normalised": "filtered",
    "normalise_block": "filtered",
    "read_filtered": "filtered",
    "simulate_atlas": "simulate",
    "simulate_counts": "simulate",
}

__all__ = [
    "AS_COUNTED",
    "FilteredCounts",
    "fetch",
    "filter_donors",
    "load_normalised",
    "normalise_block",
    "read_filtered",
    "simulate_atlas",
    "simulate_counts",
]


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in when the name is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
