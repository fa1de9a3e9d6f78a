"""What a model of counts predicts against what was counted: zeros, spread, genes found, held-out counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

_LEFT, _TOP, _GAP, _HEIGHT, _DOWN = 16.0, 10.0, 22.0, 50.0, 64.0  # mm
_PANEL = (style.DOUBLE_COLUMN - _LEFT - _GAP - 4) / 2
_LARGE_Z = 3.0
_SOURCES = {
    "gene_poisson": "gene mean, Poisson",
    "rank_one_poisson": "gene x cell, Poisson",
    "rank_one_nb": "gene x cell, NB",
    "rank_one_nb_gene": "gene x cell, NB by gene",
}


@style.styled
def count_checks_figure(
    genes: pd.DataFrame, cells: pd.DataFrame, held_out: pd.DataFrame, title: str, colour: str
) -> Figure:
    """Draw four panels for one fit.

    Parameters
    ----------
    genes, cells : DataFrame
        ``gene_checks.tsv`` and ``cell_checks.tsv``.
    held_out : DataFrame
        ``held_out.tsv``; may be empty.
    title : str
    colour : str
        Of the model.

    Returns
    -------
    Figure
        Share of zeros of each gene, variance over mean, genes found in each cell, each observed against
        predicted; and held-out nats per entry of the model and its nulls. Genes whose zeros are more than
        three standard deviations off are open circles in black.
    """
    style.require_columns(genes, ["zeros_observed", "zeros_predicted", "zeros_z"], "checks of genes")
    style.require_columns(cells, ["detected_observed", "detected_predicted"], "checks of cells")
    figure = style.new_figure(style.DOUBLE_COLUMN, _TOP + 2 * _DOWN + 1)
    style.add_text(figure, 1, 1.5, title, fontsize=style.LARGE, fontweight="bold")
    places = [(_LEFT + x * (_PANEL + _GAP), _TOP + y * _DOWN) for y in (0, 1) for x in (0, 1)]
    panels = [style.add_axes(figure, x, y, _PANEL, _HEIGHT) for x, y in places]
    far = genes["zeros_z"].abs() > _LARGE_Z
    _draw(panels[0], genes["zeros_predicted"], genes["zeros_observed"], colour, far=far)
    _label(panels[0], "share of zeros of a gene", f"{far.sum()} of {len(genes)} genes beyond |z| = 3")
    _draw(
        panels[1],
        genes["variance_ratio_predicted"],
        genes["variance_ratio_observed"],
        colour,
        far=far,
        log=True,
    )
    _label(panels[1], "variance over mean of a gene")
    _draw(panels[2], cells["detected_predicted"], cells["detected_observed"], colour)
    _label(panels[2], "genes found in a cell")
    _draw_held_out(panels[3], held_out, colour)
    return figure


def _draw(axes: Axes, x: pd.Series, y: pd.Series, colour: str, *, far=None, log: bool = False) -> None:
    kept = np.isfinite(x) & np.isfinite(y) & ((x > 0) & (y > 0) if log else True)
    far = np.zeros(len(x), dtype=bool) if far is None else far.to_numpy()
    near = kept & ~far
    axes.plot(x[near], y[near], ".", color=colour, markersize=1.5, alpha=0.4, rasterized=True)
    axes.plot(x[kept & far], y[kept & far], "o", mfc="none", mec="black", mew=0.4, markersize=2.5)
    if kept.any():
        ends = [float(min(x[kept].min(), y[kept].min())), float(max(x[kept].max(), y[kept].max()))]
        axes.plot(ends, ends, color="black", linewidth=0.5, zorder=0)
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            style.plain_log_ticks(axis)


def _label(axes: Axes, what: str, title: str = "") -> None:
    axes.set_xlabel(f"{what}, predicted", labelpad=1.5)
    axes.set_ylabel("observed", labelpad=1.5)
    axes.set_title(title, fontsize=style.SMALL)


def _draw_held_out(axes: Axes, held_out: pd.DataFrame, colour: str) -> None:
    """One line a source, from the worst null on; the first split that there is."""
    whole = held_out[held_out["stratum"] == "all"] if len(held_out) else held_out
    if not len(whole):
        axes.set_axis_off()
        axes.text(0, 0.5, "no counts were held out", color=MISSING_COLOUR, fontstyle="italic")
        return
    split = whole["split"].iloc[0]
    whole = whole[whole["split"] == split].iloc[::-1].reset_index(drop=True)
    order = [name for name in _SOURCES if name in set(whole["source"])]
    order += [name for name in whole["source"] if name not in _SOURCES]
    whole = whole.set_index("source").loc[order]
    looks = ["#888888" if name in _SOURCES else colour for name in order]
    axes.errorbar(
        whole["value"], range(len(order)), xerr=whole["se"], fmt="none", ecolor=looks, elinewidth=0.8
    )
    axes.scatter(whole["value"], range(len(order)), c=looks, s=12, zorder=3)
    axes.set_yticks([])
    for place, name in enumerate(order):
        text = f"{_SOURCES.get(name, 'the model')}  {whole['value'].iloc[place]:.4f}"
        axes.text(0.02, place + 0.16, text, transform=axes.get_yaxis_transform(), fontsize=style.SMALL)
    axes.set_ylim(-0.5, len(order) - 0.2)
    axes.set_xlabel(f"nats per held-out entry ({split}), ± standard error by cell", labelpad=1.5)
