"""How the factors of two fits agree: heatmaps of all pairs, histogram and scatter of the matched ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR, MODEL_COLOURS

PARTS = {"embedding_correlation": "embedding (cells)", "loadings_correlation": "loadings (genes)"}
_COLOURS = dict(zip(PARTS, (MODEL_COLOURS[0], MODEL_COLOURS[5]), strict=True))
_CMAP = colormaps["RdBu_r"].with_extremes(bad="#D5D5D5")
_WIDTH = 215.0  # mm
_LEFT, _TOP, _PANEL, _ACROSS, _LOW = 12.0, 17.0, 62.0, 74.0, 33.0  # mm
_LARGEST_CELL = 6.0  # mm, so that few factors do not become tiles
_BINS = np.linspace(-1, 1, 41)


@style.styled
def comparison_figure(matches: pd.DataFrame, pairs: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw the correlations of the factors of two fits.

    Parameters
    ----------
    matches : DataFrame
        As :func:`nmfbench.metrics.matching.match_factors` returns it, with ``n_cells`` and ``n_genes``.
    pairs : DataFrame
        All pairs, from the same function.
    names : sequence of two str
        What the two fits are called.

    Returns
    -------
    Figure
        Left, the correlation of every factor of the first fit (rows) with every factor of the second
        (columns), both in the order of `matches`, so that agreement is a red diagonal. Right, the
        correlations of the matched pairs, and those pairs among all others.
    """
    style.require_columns(matches, ["factor", "other_factor", "score", "status"], "matched factors")
    style.require_columns(pairs, ["factor", "other_factor", "matched", *PARTS], "pairs of factors")
    rows, columns = (
        [int(factor) for factor in matches[side].dropna()] for side in ("factor", "other_factor")
    )
    cell = min(_PANEL / max(len(rows), len(columns)), _LARGEST_CELL)
    right = _LEFT + 2 * _ACROSS + 4
    keys_top = max(_TOP + cell * len(rows) + 5.5, _TOP + 2 * _LOW)
    figure = style.new_figure(_WIDTH, keys_top + 18)
    room = (_WIDTH - 4) / 1.2  # a bold text is wider than it is measured
    head = style.shorten(" against ".join(map(style.plain, names)), room, style.LARGE)
    style.add_text(figure, 1, 1.5, head, fontsize=style.LARGE, fontweight="bold")
    style.add_text(figure, 1, 6, _summary(matches), fontsize=style.NORMAL)
    for place, part in enumerate(PARTS):
        table = pairs.pivot(index="factor", columns="other_factor", values=part)
        left = _LEFT + place * _ACROSS
        axes = style.add_axes(figure, left, _TOP, cell * len(columns), cell * len(rows))
        _draw_heatmap(axes, table.loc[rows, columns].to_numpy(float), rows, columns, cell)
        style.add_text(figure, left, _TOP - 4.5, PARTS[part], fontweight="bold")
        side = ("rows", "columns")[place]
        style.add_text(
            figure, left, keys_top, style.shorten(f"{side}: {style.plain(names[place])}", _ACROSS - 4)
        )
    _draw_colour_bar(figure, keys_top + 7)
    above = style.add_axes(figure, right, _TOP, _WIDTH - right - 3, _LOW - 9)
    _draw_histogram(above, matches)
    below = style.add_axes(figure, right, _TOP + _LOW + 3, _WIDTH - right - 3, _LOW)
    _draw_scatter(below, pairs)
    return figure


def _summary(matches: pd.DataFrame) -> str:
    """One line: what was compared, and how well the typical pair agrees."""
    matched = matches[matches["status"] == "matched"]
    counts = matches["status"].value_counts()
    parts = [f"{int(matches[n].iloc[0]):,} {n[2:]}" for n in ("n_cells", "n_genes") if n in matches]
    parts.append(f"{len(matched)} matched")
    parts += [f"{counts[status]} {status}" for status in ("unmatched", "constant") if status in counts]
    for part, name in PARTS.items():
        if matched[part].notna().any():
            parts.append(f"median {name.split()[0]} {matched[part].median():.2f}")
    return style.plain("  ·  ".join(parts))


def _draw_heatmap(axes: Axes, values: np.ndarray, rows: list[int], columns: list[int], cell: float) -> None:
    """One matrix of correlations; a pair without one is grey."""
    axes.imshow(np.ma.masked_invalid(values), cmap=_CMAP, norm=Normalize(-1, 1), aspect="auto")
    every = max(1, int(np.ceil(2.4 / cell)))
    for ticks, labels, width in (
        (axes.set_yticks, rows, 2.4),
        (axes.set_xticks, columns, 1.2 + style.text_width(str(max(columns)), style.SMALL)),
    ):
        step = max(every, int(np.ceil(width / cell)))
        ticks(range(0, len(labels), step), [str(label) for label in labels[::step]], fontsize=style.SMALL)
    axes.tick_params(length=1.2, pad=1)
    axes.spines[:].set(visible=True, linewidth=0.4, color="#999999")


def _draw_colour_bar(figure: Figure, top: float) -> None:
    bar = style.add_axes(figure, _LEFT, top, 40, 2.0)
    figure.colorbar(
        ScalarMappable(Normalize(-1, 1), _CMAP), cax=bar, orientation="horizontal", ticks=[-1, 0, 1]
    )
    bar.tick_params(length=1.5, pad=1)
    style.add_text(figure, _LEFT + 43, top - 0.2, "correlation of two factors", fontsize=style.SMALL)
    square = style.add_axes(figure, _LEFT + _ACROSS, top, 3, 2.0)
    square.set(xticks=[], yticks=[], facecolor=_CMAP.get_bad())
    style.add_text(
        figure, _LEFT + _ACROSS + 4.5, top - 0.2, "not defined: a constant factor", fontsize=style.SMALL
    )


def _draw_histogram(axes: Axes, matches: pd.DataFrame) -> None:
    """How many matched pairs reach which correlation, in the cells and in the genes."""
    tallest = 0
    for part, name in PARTS.items():
        values = matches[part].dropna().to_numpy(float)
        counts, _ = np.histogram(values, _BINS)
        tallest = max(tallest, counts.max(initial=0))
        axes.stairs(counts, _BINS, color=_COLOURS[part], fill=True, alpha=0.35, linewidth=0)
        axes.stairs(counts, _BINS, color=_COLOURS[part], linewidth=1, label=name)
    axes.set(xlim=(-1, 1), ylim=(0, max(tallest * 1.25, 1)))
    axes.set_xlabel("correlation of the matched factors", labelpad=1.5)
    axes.set_ylabel("matched pairs", labelpad=1.5)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left", frameon=False, fontsize=style.NORMAL, handlelength=1.5, borderaxespad=0.2)


def _draw_scatter(axes: Axes, pairs: pd.DataFrame) -> None:
    """Both correlations of every pair: the matched ones should lie apart, in the upper right."""
    x, y = (pairs[part].fillna(0).to_numpy(float) for part in PARTS)
    matched = pairs["matched"].to_numpy(bool)
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.axvline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.scatter(
        x[~matched], y[~matched], s=3, color=MISSING_COLOUR, alpha=0.35, linewidths=0, label="other pairs"
    )
    axes.scatter(
        *(x[matched], y[matched]),
        s=14,
        color=MODEL_COLOURS[2],
        edgecolors="white",
        linewidths=0.4,
        label="matched",
    )
    axes.set(xlim=(-1.04, 1.04), ylim=(-1.04, 1.04))
    axes.set_xlabel("correlation of the embeddings", labelpad=1.5)
    axes.set_ylabel("correlation of the loadings", labelpad=0)
    axes.legend(loc="lower left", frameon=False, fontsize=style.NORMAL, handletextpad=0.2, borderaxespad=0.2)
