"""Which factor belongs to which cell type: a dot plot of factors by labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

THRESHOLD = 0.25
_CMAP = "viridis_r"
_ROW, _NUMBERS, _GAP, _FOOT = 3.2, 8.0, 5.0, 15.0  # mm
_NARROWEST = 120.0  # mm
_MOST_GROUPS = 120


def factor_table(
    H: np.ndarray, labels: np.ndarray, *, threshold: float = THRESHOLD, min_cells: int = 10
) -> dict[str, np.ndarray]:
    """Summarise every factor in every group of cells.

    A factor's unit is its mean in the group where that is largest, since the
    scale of a factor is arbitrary and a share of all cells would hide rare types.

    Parameters
    ----------
    H : ndarray of shape (n_cells, k)
        Embedding, non-negative (negative entries count as they are).
    labels : array-like of length n_cells
        Group of each cell; None and NaN are left out.
    threshold : float
        A cell has the factor when its weight is above this part of the unit.
    min_cells : int
        Smaller groups are left out (unless all are): a mean over a few cells
        would set the unit.

    Returns
    -------
    dict of str to ndarray of length k * n_groups
        Columns of a tidy table, factors in the order to be shown (by their top
        group, the most specific first, unused ones last): factor (counted from
        1), label, mean (0 to 1), fraction (of the group's cells), n_cells.
    """
    labels = np.asarray(labels, dtype=object)
    known = np.array([value is not None and value == value for value in labels], dtype=bool)
    H = np.asarray(H)[known]
    groups, codes, sizes = np.unique(labels[known].astype(str), return_inverse=True, return_counts=True)
    kept = sizes >= min_cells if (sizes >= min_cells).any() else np.ones(len(sizes), dtype=bool)
    # Groups in the order in which a person looks them up.
    order = [g for g in sorted(range(len(groups)), key=lambda g: style.natural_key(groups[g])) if kept[g]]
    groups, n_cells = groups[order], sizes[order]
    k = H.shape[1]
    mean = np.zeros((k, len(groups)))
    fraction = np.zeros((k, len(groups)))
    for j in range(k):
        weights = H[:, j].astype(np.float64)
        means = np.bincount(codes, weights, minlength=len(sizes))[order] / n_cells
        unit = means.max(initial=0.0)
        if unit > 0:
            mean[j] = np.clip(means / unit, 0, 1)
            has = np.bincount(codes, weights > threshold * unit, minlength=len(sizes))[order]
            fraction[j] = has / n_cells
    used = mean.max(axis=1, initial=0.0) > 0
    top = mean.argmax(axis=1) if len(groups) else np.zeros(k, dtype=int)
    factors = np.lexsort((mean.sum(axis=1), top, ~used))
    return {
        "factor": np.repeat(factors + 1, len(groups)),
        "label": np.tile(groups.astype(object), k),
        "mean": mean[factors].ravel(),
        "fraction": fraction[factors].ravel(),
        "n_cells": np.tile(n_cells, k),
    }


@style.styled
def factors_figure(table: Mapping, display_name: str = "", label: str = "cell_type") -> Figure:
    """Draw a dot for every factor and group: colour the mean weight, size the share of cells.

    Parameters
    ----------
    table : DataFrame or mapping of str to array
        As :func:`factor_table` returns it; rows in the order to be shown.
    display_name : str
        The model, for the title.
    label : str
        What the groups are, for the axis.

    Returns
    -------
    Figure
        Factors stand in blocks side by side, as many as keep the page no taller than
        a screen. Of very many groups, those with the largest mean weights are drawn.
    """
    factors = list(dict.fromkeys(np.asarray(table["factor"]).tolist()))
    groups = list(dict.fromkeys(np.asarray(table["label"]).astype(str).tolist()))
    mean = np.asarray(table["mean"], dtype=float).reshape(len(factors), len(groups))
    fraction = np.asarray(table["fraction"], dtype=float).reshape(len(factors), len(groups))
    n_groups = len(groups)
    if n_groups > _MOST_GROUPS:
        largest = np.sort(np.argsort(-mean.max(axis=0, initial=0.0), kind="stable")[:_MOST_GROUPS])
        groups, mean, fraction = [groups[g] for g in largest], mean[:, largest], fraction[:, largest]
    names = [style.shorten(style.plain(group), 70, style.SMALL) for group in groups]
    pitch = float(np.clip(style.DOUBLE_COLUMN / max(len(groups), 1), 2.6, 3.4))
    block = _NUMBERS + pitch * len(groups)
    head = 9.0 + style.text_width(names, style.SMALL)
    per_block, width = _page(len(factors), block, head)
    blocks = -(-len(factors) // per_block)
    figure = style.new_figure(width, head + per_block * _ROW + _FOOT)
    title = " · ".join(
        part for part in (style.plain(display_name), f"factors by {style.label_name(label)}") if part
    )
    if n_groups > len(groups):
        title += f", the {len(groups)} with the largest weights, and {n_groups - len(groups):,} more"
    style.add_text(figure, 1, 1.5, title, fontsize=style.LARGE, fontweight="bold")
    if not groups or not factors:
        style.add_text(figure, 4, 10, "missing: no labelled cells", color=MISSING_COLOUR, fontstyle="italic")
        return figure
    diameter = 0.92 * min(pitch, _ROW) * style.MM * 72  # points
    for b in range(blocks):
        shown = slice(b * per_block, min((b + 1) * per_block, len(factors)))
        count = shown.stop - shown.start
        if count <= 0:
            break
        axes = style.add_axes(
            figure, 2 + _NUMBERS + b * (block + _GAP), head, pitch * len(groups), _ROW * count
        )
        row, column = np.nonzero(fraction[shown] >= 0.01)
        share = fraction[shown][row, column]
        axes.scatter(
            column,
            row,
            s=diameter**2 * share,
            c=mean[shown][row, column],
            cmap=_CMAP,
            norm=Normalize(0, 1),
            edgecolors="#333333",
            linewidths=np.where(share > 0.05, 0.2, 0.0),  # an outline would drown the colour of a small dot
        )
        for line in np.flatnonzero(mean[shown].max(axis=1) <= 0):
            axes.text(0, line, "unused", va="center", fontsize=5, color=MISSING_COLOUR, fontstyle="italic")
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_xticks(range(len(groups)), names, rotation=90, fontsize=style.SMALL)
        axes.set_yticks(range(count), [str(f) for f in factors[shown]], fontsize=style.SMALL)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=1.5)
        axes.grid(linewidth=0.3, color="#E6E6E6")
        axes.spines[:].set(visible=True, linewidth=0.4, color="#999999")
        left = 2 + b * (block + _GAP)
        style.add_text(figure, left + _NUMBERS - 1, head - 0.8, "factor", fontsize=5, va="bottom", ha="right")
    _draw_keys(figure, head + per_block * _ROW + 2.5, diameter)
    return figure


def _page(n: int, block: float, head: float) -> tuple[int, float]:
    """Factors in a block, and the page's width in mm: as few blocks side by side as fit a screen."""
    for blocks in range(1, max(n, 1) + 1):
        per_block = max(1, -(-n // blocks))
        width = max(_NARROWEST, 4 + blocks * (block + _GAP))
        if head + per_block * _ROW + _FOOT <= style.room_below(width):
            break
    return per_block, width


def _draw_keys(figure: Figure, top: float, diameter: float) -> None:
    """Colour bar and dot sizes under the panels."""
    bar = style.add_axes(figure, 4, top + 3.2, 30, 2.2)
    figure.colorbar(
        ScalarMappable(Normalize(0, 1), _CMAP), cax=bar, orientation="horizontal", ticks=[0, 0.5, 1]
    )
    bar.tick_params(length=1.5, pad=1)
    style.add_text(figure, 4, top, "mean weight / largest mean", fontsize=style.SMALL)
    style.add_text(figure, 42, top, f"cells above {THRESHOLD:g} of it", fontsize=style.SMALL)
    sizes = style.add_axes(figure, 42, top + 2.5, 42, 4)
    sizes.set(xlim=(0, 42), ylim=(0, 4))
    sizes.axis("off")
    for place, share in enumerate((0.1, 0.25, 0.5, 1.0)):
        sizes.scatter(2 + 10.5 * place, 2, s=diameter**2 * share, c="#666666", linewidths=0)
        sizes.text(4 + 10.5 * place, 2, f"{share:.0%}", va="center", fontsize=style.SMALL)
