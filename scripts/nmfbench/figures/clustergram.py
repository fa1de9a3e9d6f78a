"""The clustering behind a consensus, as cNMF's users know it: distances of all factors, and their density."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR, MODEL_COLOURS

_CMAP = colormaps["viridis"]
_LARGEST = float(np.sqrt(2))  # of two factors of length 1 without a gene in common
_LEFT, _TOP, _SIDE, _STRIP, _GAP, _PANEL, _HEIGHT = 12.0, 13.0, 70.0, 2.4, 22.0, 72.0, 25.0  # mm
_STRIPES = (MODEL_COLOURS[0], MODEL_COLOURS[5])


@style.styled
def clustergram_figure(clustering: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw the factors of all fits, sorted by the program they belong to.

    Parameters
    ----------
    clustering : mapping
        Of :func:`nmfbench.factors.consensus.clustering_arrays`.
    title : str

    Returns
    -------
    Figure
        Left, the distances of all factors at length 1, in blocks of the programs, outliers last. Right, how
        many factors have which mean distance to their nearest, with the threshold; below, the silhouettes of
        the factors of each program.
    """
    program = clustering["program"]
    n_programs, n_outliers = int(program.max()) + 1, int((program < 0).sum())
    figure = style.new_figure(style.DOUBLE_COLUMN, _TOP + _SIDE + 16)
    style.add_text(
        figure, 1, 1.5, style.shorten(title, style.DOUBLE_COLUMN - 10, style.LARGE), fontsize=style.LARGE,
        fontweight="bold",
    )  # fmt: skip
    said = f"{len(program)} factors of {int(clustering['n_fits'])} fits, {n_programs} programs"
    style.add_text(figure, 1, 6.2, f"{said}, {n_outliers} left out, stability {stability(clustering)}")
    _draw_distances(figure, clustering["distances"], program)
    left = _LEFT + _SIDE + _GAP
    axes = style.add_axes(figure, left, _TOP, _PANEL, _HEIGHT)
    _draw_density(axes, clustering["density"], float(clustering["density_threshold"]))
    axes = style.add_axes(figure, left, _TOP + _HEIGHT + 18, _PANEL, _HEIGHT)
    _draw_silhouettes(axes, clustering["silhouette"], program)
    return figure


def stability(clustering: Mapping[str, np.ndarray]) -> str:
    """Mean silhouette of all factors, in words."""
    mean = float(clustering["silhouette"].mean())
    return f"{mean:.2f}" if np.isfinite(mean) else "not defined"


def _draw_distances(figure: Figure, distances: np.ndarray, program: np.ndarray) -> None:
    axes = style.add_axes(figure, _LEFT, _TOP, _SIDE, _SIDE)
    n = len(program)
    axes.imshow(
        distances.astype(np.float32), cmap=_CMAP, norm=Normalize(0, _LARGEST), extent=(0, n, n, 0),
        interpolation="nearest", aspect="auto",
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    strip = style.add_axes(figure, _LEFT - _STRIP - 0.8, _TOP, _STRIP, _SIDE)
    strip.set(xlim=(0, 1), ylim=(n, 0), xticks=[], yticks=[])
    strip.spines[:].set_visible(False)
    borders = np.flatnonzero(np.diff(program)) + 1
    starts, stops = np.concatenate([[0], borders]), np.concatenate([borders, [n]])
    room = style.SMALL * 0.3528 * 1.1  # mm a number needs
    last = -np.inf
    for start, stop in zip(starts, stops, strict=True):
        number = int(program[start])
        colour = MISSING_COLOUR if number < 0 else _STRIPES[number % 2]
        strip.axhspan(start, stop, color=colour, linewidth=0)
        middle = (start + stop) / 2
        if (middle - last) * _SIDE / n >= room:
            text = "out" if number < 0 else str(number + 1)
            strip.text(-0.4, middle, text, ha="right", va="center", fontsize=style.SMALL)
            last = middle
    bar = style.add_axes(figure, _LEFT, _TOP + _SIDE + 3, 40, 2.0)
    figure.colorbar(ScalarMappable(Normalize(0, _LARGEST), _CMAP), cax=bar, orientation="horizontal")
    bar.set_xticks([0, 0.5, 1, _LARGEST], ["0", "0.5", "1", "√2"])
    bar.set_xlabel("distance of two factors at length 1", labelpad=1)


def _draw_density(axes: Axes, density: np.ndarray, threshold: float) -> None:
    """How many factors lie how far from their nearest."""
    axes.hist(density, bins=np.linspace(0, max(1.0, float(density.max())), 41), color=MODEL_COLOURS[0])
    axes.axvline(threshold, color=MODEL_COLOURS[5], linewidth=1, linestyle="--")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylabel("factors", labelpad=1.5)
    axes.set_xlabel(f"mean distance to their nearest; left out from {threshold:g}", labelpad=1.5)
    axes.set_xlim(left=0)


def _draw_silhouettes(axes: Axes, silhouette: np.ndarray, program: np.ndarray) -> None:
    """Range and median of the silhouettes of each program's factors."""
    axes.set_xlabel("program", labelpad=1.5)
    axes.set_ylabel("silhouette", labelpad=1.5)
    if not np.isfinite(silhouette).all():
        axes.text(
            0.5, 0.5, "not defined at rank 1", ha="center", transform=axes.transAxes, color=MISSING_COLOUR
        )
        axes.set(xticks=[], yticks=[])
        return
    for number in range(int(program.max()) + 1):
        mine = silhouette[program == number]
        axes.vlines(number + 1, mine.min(), mine.max(), color=_STRIPES[number % 2], linewidth=1)
        axes.plot(number + 1, np.median(mine), marker="o", markersize=2.6, color=_STRIPES[number % 2])
    axes.set_ylim(min(0.0, float(silhouette.min())), 1.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")
