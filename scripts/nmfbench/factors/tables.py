"""Tables of several fits under one another, for the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.inapplicable import none_applicable, reason_in
from nmfbench.metrics.matching import match_by_cosine

if TYPE_CHECKING:
    import pandas as pd


RUN = ("dataset", "model", "rank", "seed")


def read_by_model(paths: Sequence[str | Path], models: Iterable[str]) -> pd.DataFrame:
    """The tables of the fits of one rank and seed, in the order of the models, with a column ``model``."""
    return read_by_fit(paths, [{"model": model} for model in models])


def read_by_fit(paths: Sequence[str | Path], fits: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The tables of several fits under one another, with what is known of each fit (:data:`RUN`) in front."""
    import pandas as pd

    from nmfbench.tables.files import read_table

    parts = []
    for path, fit in zip(paths, fits, strict=True):
        if reason_in(path) is not None:
            continue
        table = read_table(path)
        for place, key in enumerate(key for key in RUN if key in fit):
            table.insert(place, key, fit[key])
        parts.append(table)
    if not parts:
        raise none_applicable(paths)
    return pd.concat(parts, ignore_index=True)


def inapplicable_models(paths: Sequence[str | Path], models: Iterable[str]) -> set[str]:
    """The models whose files say that they have no meaning for the data."""
    return {model for path, model in zip(paths, models, strict=True) if reason_in(path) is not None}


def matched_with(results: Sequence[str | Path], models: Iterable[str], reference: str) -> pd.DataFrame:
    """Cosine of each factor with its match in the fit of a reference model, for all other models.

    Parameters
    ----------
    results : sequence of path
        The result of each model.
    models : iterable of str
        Their names.
    reference : str
        One of them.

    Returns
    -------
    DataFrame
        Columns ``model``, ``factor``, ``other_factor``, ``cosine``, ``reciprocal``.
    """
    import pandas as pd

    from nmfbench.factors.stored import StoredFit

    there = [each for each in zip(models, results, strict=True) if reason_in(each[1]) is None]
    loadings = {model: StoredFit(path).loadings for model, path in there}
    parts = [pd.DataFrame(columns=["model", "factor", "other_factor", "cosine", "reciprocal"])]
    for model, W in loadings.items():
        if model != reference and reference in loadings:
            parts.append(match_by_cosine(W, loadings[reference])[1].assign(model=model))
    return pd.concat(parts[1:] or parts, ignore_index=True)
