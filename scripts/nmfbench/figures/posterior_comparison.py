"""A fitted posterior against NUTS: means and standard deviations of what the data identify."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MODEL_COLOURS

_LEFT, _TOP, _GAP, _HEIGHT, _FOOT = 16.0, 10.0, 22.0, 60.0, 12.0  # mm
_PANEL = (style.DOUBLE_COLUMN - _LEFT - _GAP - 4) / 2
_NAMES = {"gene_total": "gene effects", "cell_centred": "cell effects", "log_alpha": "log dispersions"}


@style.styled
def posterior_comparison_figure(table: pd.DataFrame, summary: pd.DataFrame, title: str) -> Figure:
    """Draw means and sds of every identified quantity.

    Parameters
    ----------
    table, summary : DataFrame
        ``advi_vs_nuts.tsv`` and ``nuts_summary.tsv``.
    title : str
    """
    style.require_columns(table, ["quantity", "identified", "mean_vi", "sd_vi"], "comparison with NUTS")
    table = table[table["identified"].astype(bool)]
    kinds = [kind for kind in _NAMES if kind in set(table["quantity"])]
    legend_top = _TOP + _HEIGHT + _FOOT
    figure = style.new_figure(style.DOUBLE_COLUMN, legend_top + 2 * style.LEGEND_ROW)
    status = "" if (summary["status"] == "ok").all() else "; NUTS has not settled: unreliable"
    style.add_text(figure, 1, 1.5, title + status, fontsize=style.LARGE, fontweight="bold")
    handles, names = [], []
    for place, what in enumerate(("mean", "sd")):
        axes = style.add_axes(figure, _LEFT + place * (_PANEL + _GAP), _TOP, _PANEL, _HEIGHT)
        for k, kind in enumerate(kinds):
            rows = table[table["quantity"] == kind]
            (points,) = axes.plot(
                rows[f"{what}_nuts"], rows[f"{what}_vi"], "os^"[k], color=MODEL_COLOURS[k], markersize=2.5,
                alpha=0.7, linestyle="",
            )  # fmt: skip
            if not place:
                handles.append(points)
                names.append(_NAMES[kind])
        both = table.loc[table["quantity"].isin(kinds), [f"{what}_nuts", f"{what}_vi"]]
        ends = [float(both.min().min()), float(both.max().max())]
        axes.plot(ends, ends, color="black", linewidth=0.5, zorder=0)
        axes.set_xlabel(f"posterior {what}, NUTS", labelpad=1.5)
        axes.set_ylabel(f"posterior {what}, variational", labelpad=1.5)
    style.add_legend(figure, 2, legend_top, handles, names, len(names))
    return figure
