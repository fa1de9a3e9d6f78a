"""Factors where their cells lie: one map for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

_CMAP = "viridis_r"
_HEAD, _NAME, _GAP, _FOOT = 7.0, 3.6, 2.0, 9.0  # mm
_LARGEST_PANEL = 52.0
_COVERED = 0.4  # share of a panel that its points cover together
PERCENTILES = (5.0, 95.0)


def point_area(n: int, panel: float) -> float:
    """Area in points² of one of n points in a panel of this many mm: neither one blot nor dust."""
    return float(np.clip(_COVERED * (panel * style.MM * 72) ** 2 / max(n, 1), 0.2, 60.0))


@style.styled
def spatial_figure(
    coordinates: np.ndarray,
    factors: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    title: str = "",
    columns: int | None = None,
) -> Figure:
    """Draw every factor over the coordinates of its cells.

    Parameters
    ----------
    coordinates : ndarray of shape (n_cells, 2)
        Further columns are not shown.
    factors : ndarray of shape (n_cells, k)
    names : sequence of k str, optional
        Titles of the maps; by default the numbers of the factors, from 1.
    title : str
    columns : int, optional
        Maps in a row; by default as many as make the page about twice as wide as tall.

    Returns
    -------
    Figure
        Each map runs from the 5th to the 95th percentile of its factor, the largest values drawn last.
    """
    coordinates, factors = np.asarray(coordinates)[:, :2], np.asarray(factors, dtype=float)
    n, k = factors.shape
    names = [f"factor {j + 1}" for j in range(k)] if names is None else [style.plain(name) for name in names]
    columns = min(k, columns or max(2, int(np.ceil(1.45 * np.sqrt(k)))))
    rows = -(-k // columns)
    panel = min(_LARGEST_PANEL, (style.DOUBLE_COLUMN - 4 - (columns - 1) * _GAP) / columns)
    width = max(4 + columns * panel + (columns - 1) * _GAP, style.SINGLE_COLUMN)
    figure = style.new_figure(width, _HEAD + rows * (_NAME + panel + _GAP) + _FOOT)
    text = style.shorten(style.plain(title), (width - 4) / 1.2, style.LARGE)
    style.add_text(figure, 2, 1.5, text, fontsize=style.LARGE, fontweight="bold")
    spread = np.ptp(coordinates, axis=0).max(initial=0.0) or 1.0
    middle = (coordinates.max(axis=0) + coordinates.min(axis=0)) / 2 if n else np.zeros(2)
    for j in range(k):
        row, column = divmod(j, columns)
        left, top = 2 + column * (panel + _GAP), _HEAD + row * (_NAME + panel + _GAP)
        style.add_text(figure, left, top, style.shorten(names[j], panel, style.SMALL), fontsize=style.SMALL)
        axes = style.add_axes(figure, left, top + _NAME, panel, panel)
        _draw_map(axes, coordinates, factors[:, j], point_area(n, panel))
        axes.set(
            xlim=middle[0] + 0.53 * spread * np.array([-1, 1]),
            ylim=middle[1] + 0.53 * spread * np.array([-1, 1]),
        )
    _draw_key(figure, _HEAD + rows * (_NAME + panel + _GAP) + 0.5)
    return figure


def _draw_map(axes: Axes, coordinates: np.ndarray, values: np.ndarray, area: float) -> None:
    """One factor; a constant one is drawn in the grey of what is not there."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, linewidth=0.3, color="#BBBBBB")
    low, high = np.percentile(values, PERCENTILES) if len(values) else (0.0, 0.0)
    if high <= low:  # a factor of few cells has percentiles that agree
        low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    colour = {"color": MISSING_COLOUR}
    order = np.argsort(values, kind="stable")
    if high > low:
        colour = {"c": values[order], "cmap": _CMAP, "norm": Normalize(low, high)}
    axes.scatter(*coordinates[order].T, s=area, linewidths=0, rasterized=True, **colour)


def _draw_key(figure: Figure, top: float) -> None:
    bar = style.add_axes(figure, 4, top, 26, 2.0)
    figure.colorbar(ScalarMappable(Normalize(0, 1), _CMAP), cax=bar, orientation="horizontal", ticks=[0, 1])
    bar.set_xticklabels([f"{share:g} %" for share in PERCENTILES])
    bar.tick_params(length=1.5, pad=1)
    style.add_text(figure, 35, top, "percentile of the factor's weights", fontsize=style.SMALL)
