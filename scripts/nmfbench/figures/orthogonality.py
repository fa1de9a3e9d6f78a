"""How fits came to their factors: objective and orthogonality by epoch, and whose factors they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

_LEFT, _TOP, _PANEL, _GAP, _HEIGHT, _FOOT = 14.0, 9.0, 45.0, 15.0, 44.0, 11.0  # mm
_SMALLEST = 1e-6  # of the whole fall of an objective: what is drawn on the logarithmic axis


@style.styled
def orthogonality_figure(
    history: pd.DataFrame,
    summary: pd.DataFrame,
    matched: pd.DataFrame,
    display_names: Mapping[str, str],
    reference: str,
    rank: int,
    *,
    inapplicable: Collection[str] = (),
) -> Figure:
    """Draw three panels for the fits of one rank.

    Parameters
    ----------
    history : DataFrame
        The history.tsv of the fits, with a column ``model``: epoch, objective, and where a model tells it
        ``orthogonality``.
    summary : DataFrame
        The factor_summary.tsv of the fits, with ``model``: ``orthogonality`` at the end.
    matched : DataFrame
        ``model`` and ``cosine`` of each of its factors with the matched one of the reference.
    display_names : mapping of str to str
        In the order of the legend.
    reference : str
        The model that others are matched with.
    rank : int
    inapplicable : collection of str
        Models without factors because they have no meaning for these data; named as such.

    Returns
    -------
    Figure
        The objective above its lowest, as a share of its whole fall; ``||W Wᵀ - I||²``, a dot at the end and
        a line where the history has it; the share of factors whose matched cosine is at least so large.
    """
    style.require_columns(history, ["model", "epoch", "objective"], "history")
    style.require_columns(summary, ["model", "orthogonality"], "summary of factors")
    style.require_columns(matched, ["model", "cosine"], "matched factors")
    models = style.order_models(summary["model"], display_names)
    styles = style.model_styles(models)
    present = set(summary["model"])
    names = [
        style.shorten(style.plain(display_names.get(m, m)), 50)
        + ("" if m in present else f" ({style.gap(m, inapplicable)})")
        for m in models
    ]
    across, rows = style.legend_grid(names, style.DOUBLE_COLUMN - 4, handle=9)
    legend_top = _TOP + _HEIGHT + _FOOT
    figure = style.new_figure(style.DOUBLE_COLUMN, legend_top + rows * style.LEGEND_ROW + 2)
    style.add_text(
        figure,
        1,
        1.5,
        f"objective, orthogonality, agreement, rank {rank}",
        fontsize=style.LARGE,
        fontweight="bold",
    )
    panels = [
        style.add_axes(figure, _LEFT + place * (_PANEL + _GAP), _TOP, _PANEL, _HEIGHT) for place in range(3)
    ]
    handles = []
    for model in models:
        look = styles[model]
        rows_of = history[history["model"] == model].sort_values("epoch")
        (line,) = panels[0].plot(
            [], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=3
        )
        handles.append(line)
        _draw_fall(panels[0], rows_of, look)
        _draw_orthogonality(panels[1], rows_of, summary[summary["model"] == model], look)
        cosine = matched.loc[matched["model"] == model, "cosine"].dropna().to_numpy(dtype=float)
        if len(cosine):
            share = np.arange(len(cosine), 0, -1) / len(cosine)
            panels[2].step(
                np.sort(cosine), share, where="pre", color=look.colour, linestyle=look.line, linewidth=1
            )
    panels[0].set(xscale="log", yscale="log", ylim=(_SMALLEST, 1.6))
    panels[0].set_xlabel("epoch or sweep", labelpad=1.5)
    panels[0].set_ylabel("objective above its lowest\n(share of its fall)", labelpad=1)
    panels[1].set(xscale="log", yscale="log", xlim=panels[0].get_xlim())
    panels[1].set_xlabel("epoch or sweep", labelpad=1.5)
    panels[1].set_ylabel("‖W Wᵀ − I‖²", labelpad=1)
    panels[2].set(xlim=(0, 1), ylim=(0, 1.02))
    panels[2].set_xlabel(
        f"cosine with the matched factor\nof {style.plain(display_names.get(reference, reference))}",
        labelpad=1.5,
    )
    panels[2].set_ylabel("share of factors above", labelpad=1)
    if not len(matched):
        panels[2].text(0.5, 0.5, "no other model", ha="center", color=MISSING_COLOUR, fontstyle="italic")
    _span_a_decade(panels[1])
    for panel in panels[:2]:
        style.plain_log_ticks(panel.xaxis)
    for panel in panels:
        panel.grid()
    style.add_legend(figure, 2, legend_top, handles, names, across)
    return figure


def _span_a_decade(axes: Axes) -> None:
    """Widen a logarithmic axis: labels are powers of ten, and a change in the sixth digit is small."""
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = np.sqrt(low * high)
        axes.set_ylim(middle / 10**0.75, middle * 10**0.75)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_fall(axes: Axes, history: pd.DataFrame, look: style.ModelStyle) -> None:
    objective = history["objective"].to_numpy(dtype=float)
    epoch, finite = history["epoch"].to_numpy(dtype=float), np.isfinite(objective)
    if finite.sum() < 2:
        return
    epoch, objective = epoch[finite], objective[finite]
    fall = objective[0] - objective.min()
    if fall > 0:
        rest = np.clip((objective - objective.min()) / fall, _SMALLEST / 10, None)
        axes.plot(np.maximum(epoch, 0.5), rest, color=look.colour, linestyle=look.line, linewidth=1)


def _draw_orthogonality(
    axes: Axes, history: pd.DataFrame, summary: pd.DataFrame, look: style.ModelStyle
) -> None:
    if "orthogonality" in history and history["orthogonality"].notna().any():
        axes.plot(
            np.maximum(history["epoch"], 0.5), history["orthogonality"],
            color=look.colour, linestyle=look.line, linewidth=1,
        )  # fmt: skip
    last = history["epoch"].max() if len(history) else 1
    axes.scatter(
        [max(last, 0.5)] * len(summary),
        summary["orthogonality"],
        s=12,
        color=look.colour,
        marker=look.marker,
        zorder=3,
    )
