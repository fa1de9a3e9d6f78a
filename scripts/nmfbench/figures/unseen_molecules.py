"""Which rank unseen molecules ask for: their error against the rank."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nmfbench.figures import style
from nmfbench.figures.rank_selection import label_ranks
from nmfbench.tables.unseen_molecules import said_of_ranks

_LEFT, _TOP, _WIDTH, _HEIGHT, _BELOW = 14.0, 4.0, 80.0, 52.0, 10.0  # mm


@style.styled
def unseen_molecules_figure(
    fits: pd.DataFrame,
    summary: pd.DataFrame,
    tolerance: float,
    display_names: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the errors of unseen molecules by rank, and say which rank each model is told.

    Parameters
    ----------
    fits : DataFrame
        unseen_molecules_fits.tsv: one row per fit.
    summary : DataFrame
        unseen_molecules.tsv: one row per model and rank.
    tolerance : float
        By how much of the least error the chosen rank may be above it.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the legend.

    Returns
    -------
    Figure
    """
    style.require_columns(fits, ["model", "rank", "unseen_error"], "fits")
    style.require_columns(summary, ["model", "rank", "unseen_error", "chosen"], "summary")
    names = dict(display_names or {})
    there = set(fits["model"].astype(str))
    models = [model for model in style.order_models(fits["model"], names) if model in there]
    shown = [style.shorten(style.plain(names.get(model, model)), 60) for model in models]
    styles = style.model_styles([*models, *names])
    said = said_of_ranks(summary, tolerance)
    below = _TOP + _HEIGHT + _BELOW
    figure = style.new_figure(style.DOUBLE_COLUMN, below + (len(models) + 1) * style.LEGEND_ROW + 3)
    axes = style.add_axes(figure, _LEFT, _TOP, _WIDTH, _HEIGHT)
    for model in models:
        looks = styles[model]
        rows, means = fits[fits["model"] == model], summary[summary["model"] == model].sort_values("rank")
        dots = {"linestyle": "", "marker": ".", "markersize": 2, "color": looks.colour, "alpha": 0.5}
        axes.plot(rows["rank"], rows["unseen_error"], **dots)
        line = {"color": looks.colour, "marker": looks.marker, "markersize": 3.5, "linestyle": looks.line}
        axes.plot(means["rank"], means["unseen_error"], linewidth=1.0, **line)
        star = means[means["chosen"].astype(bool)]
        axes.plot(
            star["rank"], star["unseen_error"], linestyle="", marker="*", markersize=9, color=looks.colour,
            markeredgecolor="black", markeredgewidth=0.5, zorder=5, clip_on=False,
        )  # fmt: skip
    label_ranks(axes, sorted(fits["rank"].unique()), "relative error of unseen molecules")
    handles = [
        Line2D(
            [], [], color=styles[m].colour, linestyle=styles[m].line, marker=styles[m].marker, markersize=3.5
        )
        for m in models
    ]
    style.add_legend(figure, _LEFT + _WIDTH + 6, _TOP, handles, shown, 1)
    for row, (model, name) in enumerate(zip(models, shown, strict=True)):
        text = f"{name}: {said[model]}"
        style.add_text(figure, 2, below + row * style.LEGEND_ROW, text, fontsize=style.SMALL)
    reading = "half of the molecules fitted, the other half written from it; stars: chosen rank; dots: seeds"
    style.add_text(figure, 2, below + len(models) * style.LEGEND_ROW, reading, fontsize=style.SMALL)
    return figure
