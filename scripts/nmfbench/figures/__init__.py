"""Figures of the benchmark: each a function of tables, none knows a model.

Every function returns a :class:`matplotlib.figure.Figure` on its own canvas, so
nothing of pyplot's global state is read or changed; :func:`save` writes it.
Names are loaded when first used, since matplotlib is slow to import.
"""

from __future__ import annotations

import importlib

_WHERE = {
    "scores_figure": "scores",
    "tradeoff_figure": "tradeoff",
    "training_figure": "training",
    "umap_figure": "umap",
    "factor_table": "factors",
    "factors_figure": "factors",
    "resources_figure": "resources",
    "comparison_figure": "comparison",
    "rank_selection_figure": "rank_selection",
    "unseen_molecules_figure": "unseen_molecules",
    "save": "style",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
