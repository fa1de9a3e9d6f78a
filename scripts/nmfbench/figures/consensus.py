"""Stability and error of consensus fits over the ranks: the figure by which cNMF's users choose a rank."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nmfbench.figures import style
from nmfbench.figures.palette import MODEL_COLOURS

_LEFT, _TOP, _PANEL, _HEIGHT, _GAP, _FOOT = 14.0, 14.0, 58.0, 42.0, 32.0, 12.0  # mm
STABILITY_COLOUR, ERROR_COLOUR = MODEL_COLOURS[0], MODEL_COLOURS[5]


@style.styled
def consensus_figure(table: pd.DataFrame, display_names: Mapping[str, str]) -> Figure:
    """Draw a panel for each consensus: stability on the left axis, relative error on the right.

    Parameters
    ----------
    table : DataFrame
        ``model``, ``rank``, ``seed``, ``n_fits``, ``stability``, ``relative_error``; several seeds are dots
        around their mean.
    display_names : mapping of str to str

    Returns
    -------
    Figure
        A rank is good where the stability has a peak; beyond it the error falls slowly.
    """
    style.require_columns(table, ["model", "rank", "n_fits", "stability", "relative_error"], "consensus fits")
    models = [model for model in display_names if model in set(table["model"])]
    rows = -(-max(len(models), 1) // 2)
    block = _TOP + _HEIGHT + _FOOT
    figure = style.new_figure(style.DOUBLE_COLUMN, rows * block)
    for place, model in enumerate(models):
        row, column = divmod(place, 2)
        left, top = _LEFT + column * (_PANEL + _GAP), row * block + _TOP
        found = table[table["model"] == model]
        title = f"{style.plain(display_names[model])}, {int(found['n_fits'].max())} fits a rank"
        style.add_text(figure, left, top - 9, style.shorten(title, _PANEL + 20), fontweight="bold")
        axes = style.add_axes(figure, left, top, _PANEL, _HEIGHT)
        other = axes.twinx()
        for panel, quantity, colour, words in (
            (axes, "stability", STABILITY_COLOUR, "stability (silhouette)"),
            (other, "relative_error", ERROR_COLOUR, "relative error of the refit"),
        ):
            mean = found.groupby("rank")[quantity].mean()
            panel.plot(mean.index, mean, color=colour, marker="o", markersize=3, linewidth=1.1)
            panel.scatter(found["rank"], found[quantity], s=5, color=colour, alpha=0.5, linewidths=0)
            panel.set_ylabel(words, color=colour, labelpad=2)
            panel.tick_params(axis="y", colors=colour)
        other.spines["right"].set_visible(True)
        axes.set_xlabel("rank", labelpad=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x")
    return figure
