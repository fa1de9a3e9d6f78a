"""Which rank the data support: errors and stability of light fits against the rank."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from nmfbench.figures import style

PANELS = {
    "relative_error": "relative error of whole cells",
    "predicted_error": "relative error of hidden genes",
    "stability": "stability (matched correlation)",
}
_LEFT, _HEAD, _WIDTH, _HEIGHT, _ACROSS, _DOWN = 12.0, 8.0, 44.0, 40.0, 59.0, 52.0  # mm
_SHOWN = 2.5  # times the fall from the smallest rank to the best, above which errors are cut off
_READING = (
    "filled: fitted cells, open: cells held out (left); stars: smallest rank within one standard error "
    "of the lowest error; dots: seeds; much larger errors of hidden genes are above the panel"
)


@style.styled
def rank_selection_figure(
    fits: pd.DataFrame, summary: pd.DataFrame, display_names: Mapping[str, str] | None = None
) -> Figure:
    """Draw a row of three panels for each set of penalties.

    Parameters
    ----------
    fits : DataFrame
        rank_selection_fits.tsv: one row per fit.
    summary : DataFrame
        rank_selection.tsv: one row per model, penalties and rank.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the legend.

    Returns
    -------
    Figure
    """
    style.require_columns(fits, ["model", "penalties", "rank", "held_out_error", *PANELS], "fits")
    style.require_columns(summary, ["model", "penalties", "rank", "supported", *PANELS], "summary")
    names = dict(display_names or {})
    there = set(fits["model"].astype(str))
    models = [model for model in style.order_models(fits["model"], names) if model in there]
    shown = [style.shorten(style.plain(names.get(model, model)), 60) for model in models]
    styles = style.model_styles([*models, *names])
    sets = list(dict.fromkeys(fits["penalties"]))
    across, legend_rows = style.legend_grid(shown, style.DOUBLE_COLUMN - 4, handle=9)
    legend_top = len(sets) * (_HEAD + _DOWN)
    height = legend_top + (legend_rows + 1) * style.LEGEND_ROW + 3
    figure = style.new_figure(style.DOUBLE_COLUMN, height)
    for place, penalties in enumerate(sets):
        top = place * (_HEAD + _DOWN)
        title = f"penalties: {style.plain(penalties)}"
        style.add_text(figure, 1, top + 1.5, title, fontsize=style.LARGE, fontweight="bold")
        single, mean = (table[table["penalties"] == penalties] for table in (fits, summary))
        for column, (measure, words) in enumerate(PANELS.items()):
            axes = style.add_axes(figure, _LEFT + column * _ACROSS, top + _HEAD, _WIDTH, _HEIGHT)
            for model in models:
                rows, means = single[single["model"] == model], mean[mean["model"] == model]
                _draw(axes, rows, means.sort_values("rank"), measure, styles[model])
            label_ranks(axes, sorted(single["rank"].unique()), words)
            if measure == "predicted_error":
                _cut_off(axes, mean)
    handles = [
        Line2D(
            [], [], color=styles[m].colour, linestyle=styles[m].line, marker=styles[m].marker, markersize=3.5
        )
        for m in models
    ]
    style.add_legend(figure, 2, legend_top, handles, shown, across)
    below = legend_top + legend_rows * style.LEGEND_ROW + 1
    style.add_text(figure, 2, below, _READING, fontsize=style.SMALL)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, means: pd.DataFrame, measure: str, looks: style.ModelStyle) -> None:
    """The line of a model, its single fits, and in the middle panel the rank that is supported."""
    if means.empty:
        return
    dots = {"linestyle": "", "marker": ".", "markersize": 2, "color": looks.colour, "alpha": 0.5}
    axes.plot(rows["rank"], rows[measure], **dots)
    line = {"color": looks.colour, "marker": looks.marker, "markersize": 3.5}
    axes.plot(means["rank"], means[measure], linestyle=looks.line, linewidth=1.0, **line)
    if measure == "relative_error":
        open_ = {**line, "markerfacecolor": "white", "linewidth": 0.6, "linestyle": ":"}
        axes.plot(means["rank"], means["held_out_error"], **open_)
    if measure == "predicted_error":
        star = means[means["supported"].astype(bool)]
        axes.plot(
            star["rank"], star[measure], linestyle="", marker="*", markersize=9, color=looks.colour,
            markeredgecolor="black", markeredgewidth=0.5, zorder=5, clip_on=False,
        )  # fmt: skip


def _cut_off(axes: Axes, means: pd.DataFrame) -> None:
    """Leave out errors that are so far above the others that the lowest could not be told apart."""
    by_rank = means.groupby("rank")["predicted_error"]
    lowest, first = by_rank.min().min(), by_rank.max().iloc[0]
    top = lowest + _SHOWN * (first - lowest)
    if first > lowest and means["predicted_error"].max() > top:
        axes.set_ylim(lowest - 0.1 * (top - lowest), top)


def label_ranks(axes: Axes, ranks: list[int], words: str) -> None:
    """Label the axes; ranks stand at equal ratios, with their numbers."""
    axes.set_xscale("log", base=2)
    shown = ranks[:1]
    for rank in ranks[1:]:
        if rank >= 1.25 * shown[-1]:  # nearer ones would run into one another
            shown.append(rank)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("rank", labelpad=1.5)
    axes.set_ylabel(words, labelpad=1.5)
    axes.grid()
