"""How many factors of each model lead a gene set, and how many sets a factor leads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

LEVELS = {"05": "adjusted p < 0.05", "01": "adjusted p < 0.01"}
_TOP, _ROW, _PANEL, _GAP, _FOOT = 11.0, 5.0, 58.0, 12.0, 10.0  # mm


@style.styled
def enrichment_figure(summary: pd.DataFrame, display_names: Mapping[str, str], rank: int) -> Figure:
    """Draw two panels of bars, a row for each model.

    Parameters
    ----------
    summary : DataFrame
        Rows of ``enrichment_summary.tsv`` of one rank and seed.
    display_names : mapping of str to str
        Model name to display name, in the order to be shown; one without a row is named as missing.
    rank : int

    Returns
    -------
    Figure
        Left, the share of factors with at least one set; right, sets of a factor in the mean over all its
        factors. Full bars at 0.05, the dark part at 0.01.
    """
    columns = [f"{name}_{level}" for name in ("share", "pairs", "factors") for level in LEVELS]
    style.require_columns(summary, ["model", "n_factors", *columns], "summary of enrichment")
    models = style.order_models(summary["model"], display_names)
    names = [style.shorten(style.plain(display_names.get(m, m)), 40, style.NORMAL) for m in models]
    left = 4 + style.text_width(names)
    height = _ROW * max(len(models), 1)
    figure = style.new_figure(style.DOUBLE_COLUMN, _TOP + height + _FOOT)
    title = f"factors with enriched gene sets, rank {rank}"
    style.add_text(figure, 1, 1.5, title, fontsize=style.LARGE, fontweight="bold")
    width = min(_PANEL, (style.DOUBLE_COLUMN - left - _GAP - 24) / 2)
    share, pairs = (
        style.add_axes(figure, left + place * (width + _GAP), _TOP, width, height) for place in range(2)
    )
    rows = summary.set_index("model")
    colours = {model: look.colour for model, look in style.model_styles(models).items()}
    for row, model in enumerate(models):
        if model not in rows.index:
            for axes in (share, pairs):
                axes.text(0, row, " missing", va="center", color=MISSING_COLOUR, fontstyle="italic")
            continue
        found = rows.loc[model]
        for level, alpha in zip(LEVELS, (0.45, 1.0), strict=True):
            share.barh(row, found[f"share_{level}"], 0.66, color=colours[model], alpha=alpha, linewidth=0)
            mean = found[f"pairs_{level}"] / found["n_factors"] if found["n_factors"] else np.nan
            pairs.barh(row, mean, 0.66, color=colours[model], alpha=alpha, linewidth=0)
        share.text(
            found["share_05"], row, f" {found['factors_05']:.0f} of {found['n_factors']:.0f}", va="center"
        )
        pairs.text(
            found["pairs_05"] / max(found["n_factors"], 1), row, f" {found['pairs_05']:,.0f}", va="center"
        )
    for axes, words in (
        (share, "share of factors with a set"),
        (pairs, "sets of a factor, mean over factors"),
    ):
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.set_yticks(range(len(models)), names if axes is share else [""] * len(models))
        axes.tick_params(axis="y", length=0, labelsize=style.NORMAL)
        axes.set_xlabel(words, labelpad=1.5)
        axes.grid(axis="x")
    share.set_xlim(0, 1.0)
    share.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    pairs.set_xlim(0, max(pairs.get_xlim()[1] * 1.1, 0.1))
    note = "pale: adjusted p < 0.05; full: < 0.01; sets whose genes have the larger scores"
    style.add_text(figure, left, 6.5, note, fontsize=style.SMALL, color=MISSING_COLOUR)
    return figure
