"""What a model scores in other cells, in other donors, and in donors that its fit never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR
from nmfbench.tables.donors_held_out import DONOR_CV, MEAN, RANDOM, TRANSFER

METRICS = ("F1", "Accuracy", "AUROC")
_LOOKS = {  # protocol: words of the legend, marker, filled
    RANDOM: ("other cells of the same donors", "o", False),
    DONOR_CV: ("other donors, held out of the classifier", "s", True),
    TRANSFER: ("other donors, held out of the fit too", "D", True),
}
_SHORT = {RANDOM: "same donors", DONOR_CV: "other donors", TRANSFER: "held out of the fit"}
_ROW, _TOP, _FOOT, _GAP = 6.0, 14.0, 22.0, 6.0  # mm


@style.styled
def donors_held_out_figure(
    table: pd.DataFrame,
    rank: int | None,
    display_names: Mapping[str, str] | None = None,
    *,
    label: str = "cell_type",
    metrics: Sequence[str] = METRICS,
) -> Figure:
    """Draw a line for each model: its scores of one label by the three protocols.

    Parameters
    ----------
    table : DataFrame
        donors_held_out.tsv.
    rank : int or None
        The rank to show; None where the table has one only.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the lines.
    label : str
        The label that is predicted; the first of the table where it is not there.
    metrics : sequence of str
        A panel each.

    Returns
    -------
    Figure
        Means over classifiers and training seeds. Lines are 95 % intervals over donors, where there are
        enough of them; without, points stand alone.
    """
    style.require_columns(table, ["model", "rank", "protocol", "label", "metric", "value"], "held-out donors")
    rows = table if rank is None else table[table["rank"].astype(int) == int(rank)]
    scored = rows[rows["metric"].isin(metrics) & (rows["classifier"] == MEAN)]
    labels = list(dict.fromkeys(scored["label"]))
    label = label if label in labels or not labels else labels[0]
    names = dict(display_names or {})
    models = style.order_models(rows["model"], names)
    shown = {m: style.shorten(style.plain(names.get(m, m)), 45) for m in models}
    left = style.text_width(list(shown.values()), style.NORMAL) + 4
    figure = style.new_figure(style.DOUBLE_COLUMN, _TOP + _ROW * max(len(models), 1) + _FOOT)
    style.add_text(
        figure, 1, 1.5, f"{style.label_name(label)} predicted   ↑ higher is better",
        fontsize=style.LARGE, fontweight="bold",
    )  # fmt: skip
    panel = (style.DOUBLE_COLUMN - left - 2) / len(metrics)
    styles = style.model_styles(models)
    protocols = [name for name in _LOOKS if name in set(rows["protocol"])]
    for column, metric in enumerate(metrics):
        axes = style.add_axes(figure, left + column * panel, _TOP, panel - _GAP, _ROW * max(len(models), 1))
        mine = scored[(scored["label"] == label) & (scored["metric"] == metric)]
        for place, model in enumerate(models):
            _draw_line(axes, mine[mine["model"] == model], rows, model, label, place, styles, protocols)
        axes.set_title(metric, loc="left", pad=3)
        axes.set_yticks(range(len(models)), [shown[m] if column == 0 else "" for m in models])
        axes.tick_params(axis="y", length=0, labelsize=style.NORMAL)
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.grid(axis="x")
    _write_legend(figure, _TOP + _ROW * max(len(models), 1) + 7, protocols)
    return figure


def _draw_line(axes, mine, rows, model, label, place, styles, protocols) -> None:
    """The points of one model; a protocol without a value gets the word."""
    gaps = []
    for step, protocol in enumerate(protocols):
        here = mine[(mine["protocol"] == protocol) & mine["value"].notna()]
        height = place + 0.24 * (step - (len(protocols) - 1) / 2)
        if here.empty:
            told = rows[(rows["model"] == model) & (rows["protocol"] == protocol) & (rows["label"] == label)]
            word = "not applicable" if set(told["status"]) == {"not applicable"} else "missing"
            gaps.append((height, f"{_SHORT[protocol]}: {word}"))
            continue
        _, marker, filled = _LOOKS[protocol]
        colour = styles[model].colour
        low, high = here["low"].astype(float).mean(), here["high"].astype(float).mean()
        if np.isfinite(low) and np.isfinite(high):
            axes.plot([low, high], [height, height], color=colour, linewidth=0.8, zorder=2)
        axes.scatter(
            here["value"].mean(), height, s=16, marker=marker, zorder=3, linewidths=0.7,
            edgecolors=colour, facecolors=colour if filled else "white",
        )  # fmt: skip
    for height, text in gaps:
        axes.text(
            0.01, height, text, transform=axes.get_yaxis_transform(), va="center",
            fontsize=style.SMALL, color=MISSING_COLOUR, fontstyle="italic",
        )  # fmt: skip


def _write_legend(figure: Figure, top: float, protocols: list[str]) -> None:
    handles = [
        Line2D(
            [], [], linestyle="", marker=_LOOKS[name][1], markersize=4.5, markeredgecolor="black",
            markerfacecolor="black" if _LOOKS[name][2] else "white",
        )
        for name in protocols
    ]  # fmt: skip
    words = [_LOOKS[name][0] for name in protocols]
    if handles:
        style.add_legend(figure, 2, top, handles, words, 3 if len(words) > 2 else 2)
    style.add_text(
        figure, 1, top + 6,
        "Means over classifiers and training seeds. Lines: 95 % intervals over donors, from 8 donors on.",
        fontsize=style.SMALL, color="#444444",
    )  # fmt: skip
