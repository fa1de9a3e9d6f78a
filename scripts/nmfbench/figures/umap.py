"""UMAPs of one embedding, coloured by each label, with numbers for those who see colours otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure

from nmfbench.errors import InputError
from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR, MODEL_COLOURS, SECOND_COLOURS, categorical, lightness

_PANEL, _TOP, _FOOT, _LEGEND_ROW, _DISC = 76.0, 11.0, 5.0, 3.3, 2.8  # mm
_COLUMN = 62.0  # mm, the widest column of a legend
_MOST_NAMED = 126  # categories of a label with a number and a name: six columns of a legend
_TINY = 5.0  # points, numbers in the discs


@style.styled
def umap_figure(
    coordinates: pd.DataFrame,
    obs: pd.DataFrame,
    title: str = "",
    labels: Sequence[str] = ("cell_type", "donor_id"),
    *,
    seed: int = 0,
) -> Figure:
    """Draw the cells of one embedding, one panel per label.

    Parameters
    ----------
    coordinates : DataFrame
        umap.tsv.gz: cell (or the index), UMAP1, UMAP2.
    obs : DataFrame
        Indexed by cell, with a column for each label.
    title : str
        Display name of the model.
    labels : sequence of str
        Columns of obs to colour by.
    seed : int
        Of the order in which cells are drawn, so that no group hides the others.

    Returns
    -------
    Figure
        Categories carry the same number and colour in every figure of a
        dataset: both follow their alphabetical order. Of very many, the largest
        are named and numbered; a last line counts the others.
    """
    style.require_columns(coordinates, ["UMAP1", "UMAP2"], "umap.tsv.gz")
    style.require_columns(obs, labels, "obs")
    everyone = len(obs)
    # From all cells, not from the sample that is drawn: so the numbers are those of every other model.
    everyones = [obs[label] for label in labels]
    categories = [_categories(column) for column in everyones]
    xy, obs = _align(coordinates, obs)
    order = np.random.default_rng(seed).permutation(len(xy))
    xy, obs = xy[order], obs.iloc[order]
    rows = int((_PANEL - 4.5) // _LEGEND_ROW)
    named = [_named(obs_of, names) for obs_of, names in zip(everyones, categories, strict=True)]
    legends = [
        _legend_columns(_legend_lines(names, chosen), rows)
        for names, chosen in zip(categories, named, strict=True)
    ]
    blocks = [5 + _PANEL + 2 + sum(widths) for widths in legends]
    figure = style.new_figure(max(sum(blocks) + 2, style.SINGLE_COLUMN), _TOP + _PANEL + _FOOT)
    drawn = f"{len(xy):,}" if len(xy) == everyone else f"{len(xy):,} of {everyone:,}"
    heading = f"{style.plain(title)}   {drawn} cells".strip()
    style.add_text(figure, 2, 1.5, heading, fontsize=style.LARGE, fontweight="bold")
    colours = _colours([len(names) for names in categories])
    left = 0.0
    for label, names, chosen, widths, palette, block in zip(
        labels, categories, named, legends, colours, blocks, strict=True
    ):
        codes = _codes(obs[label], names)
        axes = style.add_axes(figure, left + 5, _TOP, _PANEL, _PANEL)
        _draw_cells(axes, xy, codes, palette, chosen)
        axes.set_title(f"coloured by {style.label_name(label)} ({len(names)})", loc="left", pad=3)
        if (codes < 0).any():
            note = f"grey: {(codes < 0).sum():,} cells not annotated"
            axes.text(
                0.99, 0.01, note, transform=axes.transAxes, ha="right", fontsize=style.SMALL, color="#555555"
            )
        _draw_legend(figure, left + 5 + _PANEL + 2, _TOP, names, chosen, palette, widths, rows)
        left += block
    return figure


def _colours(sizes: Sequence[int]) -> list[tuple[str, ...]]:
    """Colours of the categories of each label; no two labels share one."""
    chosen: list[tuple[str, ...]] = []
    for place, size in enumerate(sizes):
        earlier = tuple(colour for colours in chosen for colour in colours)
        first = (MODEL_COLOURS, SECOND_COLOURS)[place] if place < 2 else ()
        chosen.append(categorical(max(size, 1), first, earlier))
    return chosen


def _align(coordinates: pd.DataFrame, obs: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Coordinates of shape (n, 2) and their rows of obs; cells without a place are left out."""
    cells = coordinates["cell"].astype(str) if "cell" in coordinates else coordinates.index.astype(str)
    cells, known = np.asarray(cells, dtype=object), np.asarray(obs.index.astype(str), dtype=object)
    if len(cells) != len(known) or (cells != known).any():
        places = (
            pd.Index(known).get_indexer(cells) if len(set(known)) == len(known) else np.full(len(cells), -1)
        )
        if (places < 0).any():
            raise InputError(
                "umap.tsv.gz: cell",
                "the cells of result.h5ad, each once",
                f"{int((places < 0).sum()):,} of {len(cells):,} cells not found in its obs",
                "remake umap.tsv.gz from this result",
            )
        obs = obs.iloc[places]
    xy = coordinates[["UMAP1", "UMAP2"]].to_numpy(float)
    placed = np.isfinite(xy).all(axis=1)
    return xy[placed], obs[placed]


def _categories(column: pd.Series) -> list[str]:
    """The labels that occur, as text, in the order in which a person looks them up."""
    return sorted(set(column.dropna().astype(str)), key=style.natural_key)


def _codes(column: pd.Series, names: list[str]) -> np.ndarray:
    """Place of each cell's label among the names, -1 where it is missing."""
    texts = column.astype(object).where(column.notna(), None)
    return pd.Index(names, dtype=object).get_indexer([None if v is None else str(v) for v in texts])


def _named(column: pd.Series, names: list[str]) -> np.ndarray:
    """Codes of the categories that get a name, ascending: all, or of very many the largest."""
    sizes = np.bincount(_codes(column, names) + 1, minlength=len(names) + 1)[1:]
    if len(names) <= _MOST_NAMED:
        return np.arange(len(names))
    return np.sort(np.argsort(-sizes, kind="stable")[: _MOST_NAMED - 1])


def _legend_lines(names: list[str], chosen: np.ndarray) -> list[str]:
    """Names in the legend, and how many are left out."""
    more = len(names) - len(chosen)
    return [names[code] for code in chosen] + ([f"and {more:,} more"] if more else [])


def _legend_columns(names: list[str], rows: int) -> list[float]:
    """Widths in mm of the columns of a legend that has this many rows."""
    around = _DISC + 4.0
    widths = [style.text_width(style.plain(name), style.SMALL) + around for name in names]
    return [min(max(widths[start : start + rows]), _COLUMN) for start in range(0, len(names), rows)]


def _draw_cells(
    axes: Axes, xy: np.ndarray, codes: np.ndarray, palette: Sequence[str], chosen: np.ndarray
) -> None:
    """Dots as pixels also in a PDF, and a numbered disc for each category that is named."""
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel("UMAP1 (no unit)", labelpad=2, fontsize=style.SMALL)
    axes.set_ylabel("UMAP2 (no unit)", labelpad=2, fontsize=style.SMALL)
    if not len(xy):
        axes.text(0.5, 0.5, "missing: no cells", transform=axes.transAxes, ha="center", color=MISSING_COLOUR)
        return
    colours = to_rgba_array([*palette, "#CFCFCF"])  # code -1 takes the last, grey
    size = float(np.clip(200 / np.sqrt(len(xy)), 0.15, 12))
    for these in (codes < 0, codes >= 0):
        axes.scatter(*xy[these].T, s=size, c=colours[codes[these]], linewidths=0, alpha=0.85, rasterized=True)
    low, high = xy.min(axis=0), xy.max(axis=0)
    room = 0.04 * np.maximum(high - low, 1e-6)
    axes.set_xlim(low[0] - room[0], high[0] + room[0])
    axes.set_ylim(low[1] - room[1], high[1] + room[1])
    scale = _PANEL / (high - low + 2 * room)
    for code, (x, y) in _place_numbers(xy * scale, codes, chosen).items():
        _disc(axes, x / scale[0], y / scale[1], code, palette[code], zorder=5)


def _place_numbers(xy: np.ndarray, codes: np.ndarray, chosen: np.ndarray) -> dict[int, np.ndarray]:
    """For each category chosen a cell of its own, as near its middle as earlier numbers allow.

    xy is in mm. A category that finds no free cell among those tried stays
    without a number on the plot; the legend has it.
    """
    placed: dict[int, np.ndarray] = {}
    by_code = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_code], chosen)
    sizes = np.searchsorted(codes[by_code], chosen, side="right") - starts
    for place in np.argsort(-sizes, kind="stable"):
        code, start = chosen[place], starts[place]
        cells = xy[by_code[start : start + min(sizes[place], 2000)]]  # the order of cells is random already
        if not len(cells):
            continue
        distance = np.linalg.norm(cells - _middle(cells), axis=1)
        taken = np.array(list(placed.values())).reshape(-1, 2)
        for cell in cells[np.argsort(distance, kind="stable")]:
            if not len(taken) or np.linalg.norm(taken - cell, axis=1).min() > _DISC * 1.05:
                placed[int(code)] = cell
                break
    return placed


def _middle(cells: np.ndarray, radius: float = 10.0) -> np.ndarray:
    """Median of the cells in the densest part of a category, which may lie in several; cells in mm."""
    some = cells[:300]
    near = np.linalg.norm(some[:, None] - some[None], axis=-1) < radius
    return np.median(some[near[near.sum(axis=1).argmax()]], axis=0)


def _disc(axes: Axes, x: float, y: float, code: int, colour: str, **kwargs) -> None:
    """A disc in the category's colour with its number (counted from 1) inside."""
    ink = "black" if lightness(colour) > 62 else "white"
    axes.scatter(
        [x], [y], s=(_DISC * style.MM * 72) ** 2, c=[colour], edgecolors="black", linewidths=0.4, **kwargs
    )
    points = _TINY if code < 99 else _TINY - 1
    axes.text(x, y, str(code + 1), ha="center", va="center_baseline", color=ink, fontsize=points, **kwargs)


def _draw_legend(
    figure: Figure,
    left: float,
    top: float,
    names: list[str],
    chosen: np.ndarray,
    palette: Sequence[str],
    widths: list[float],
    rows: int,
) -> None:
    """Numbered discs and names, column by column, drawn in millimetres."""
    axes = style.add_axes(figure, left, top, max(sum(widths), 1), rows * _LEGEND_ROW)
    axes.set(xlim=(0, max(sum(widths), 1)), ylim=(rows * _LEGEND_ROW, 0))
    axes.axis("off")
    starts = np.cumsum([0.0, *widths])
    for line, name in enumerate(_legend_lines(names, chosen)):
        column, row = divmod(line, rows)
        x, y = starts[column], (row + 0.5) * _LEGEND_ROW
        if line < len(chosen):
            _disc(axes, x + _DISC / 2, y, int(chosen[line]), palette[chosen[line]], clip_on=False)
        text = style.shorten(style.plain(name), widths[column] - _DISC - 1.6, style.SMALL)
        axes.text(x + _DISC + 0.8, y, text, va="center", fontsize=style.SMALL)
