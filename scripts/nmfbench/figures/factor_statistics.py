"""Sparsity, norms and overlap of the factors of every model beside each other, in genes and in cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

SIDES = {"W": "W: loadings, genes × factors", "H": "H: embedding, cells × factors"}
QUANTITIES = {
    "zeros": "share of zeros",
    "L1": "L1 norm of a factor",
    "L2": "L2 norm of a factor",
    "cosine": "cosine of two factors",
}
_LOGARITHMIC = ("L1", "L2")
_GAP, _RIGHT, _HEAD, _ROW, _FOOT = 4.0, 3.0, 8.0, 4.2, 9.0  # mm
_MOST_DOTS = 200


@style.styled
def factor_statistics_figure(
    factors: pd.DataFrame,
    pairs: pd.DataFrame,
    display_names: Mapping[str, str],
    rank: int,
    *,
    inapplicable: Collection[str] = (),
) -> Figure:
    """Draw the factors of every model at one rank.

    Parameters
    ----------
    factors : DataFrame
        The factors.tsv of the fits under one another, with a column ``model``.
    pairs : DataFrame
        Their factor_pairs.tsv.gz, with a column ``model``.
    display_names : mapping of str to str
        Model name to display name, in the order to be shown; one without factors is named as missing.
    rank : int
        For the title.
    inapplicable : collection of str
        Models without factors because they have no meaning for these data; named as such.

    Returns
    -------
    Figure
        A row of panels for W and one for H: zeros, L1 and L2 norm of each factor, cosine of each two. A box
        spans the quartiles, its line is the median, whiskers end at the 5th and 95th percentile.
    """
    style.require_columns(
        factors, ["model", *(f"{s}_{q}" for s in SIDES for q in ("zeros", "L1", "L2"))], "factors"
    )
    style.require_columns(pairs, ["model", "W_cosine", "H_cosine"], "pairs of factors")
    models = style.order_models(factors["model"], display_names)
    names = [style.shorten(style.plain(display_names.get(m, m)), 40, style.NORMAL) for m in models]
    left = 4 + style.text_width(names)
    width = (style.DOUBLE_COLUMN - left - _RIGHT - 3 * _GAP) / 4
    pitch = float(np.clip(31.0 / max(len(models), 1), 2.6, _ROW))
    block = _HEAD + pitch * len(models) + _FOOT
    figure = style.new_figure(style.DOUBLE_COLUMN, 5 + 2 * block)
    style.add_text(figure, 1, 1.5, f"factors, rank {rank}", fontsize=style.LARGE, fontweight="bold")
    colours = {model: model_style.colour for model, model_style in style.model_styles(models).items()}
    gaps = [style.gap(model, inapplicable) for model in models]
    for place, (side, title) in enumerate(SIDES.items()):
        top = 5 + place * block
        style.add_text(figure, left, top + 2, title, fontweight="bold")
        for column, (quantity, words) in enumerate(QUANTITIES.items()):
            table = pairs if quantity == "cosine" else factors
            values = [_values(table, model, f"{side}_{quantity}") for model in models]
            axes = style.add_axes(figure, left + column * (width + _GAP), top + 7, width, pitch * len(models))
            _draw(axes, values, [colours[model] for model in models], quantity, gaps)
            axes.set_xlabel(words, labelpad=1.5)
            axes.set_yticks(range(len(models)), names if column == 0 else [""] * len(models))
            if column == 0:
                axes.tick_params(axis="y", labelsize=style.NORMAL)
    return figure


def _values(table: pd.DataFrame, model: str, column: str) -> np.ndarray:
    values = table.loc[table["model"] == model, column].to_numpy(dtype=float)
    return values[np.isfinite(values)]


def _draw(
    axes: Axes, values: Sequence[np.ndarray], colours: Sequence[str], quantity: str, gaps: Sequence[str]
) -> None:
    """A box and its values for each model, the first on top."""
    rng = np.random.default_rng(0)  # the heights of dots, the same in every run
    logarithmic = quantity in _LOGARITHMIC and any((v > 0).any() for v in values)
    if logarithmic:
        axes.set_xscale("log")
    for row, (found, colour) in enumerate(zip(values, colours, strict=True)):
        found = found[found > 0] if logarithmic else found
        if not len(found):
            place = {"transform": axes.get_yaxis_transform(), "va": "center"}
            look = {"color": MISSING_COLOUR, "fontstyle": "italic", "fontsize": style.SMALL}
            axes.text(0.02, row, gaps[row], **place, **look)
            continue
        dots = found if len(found) <= _MOST_DOTS else np.quantile(found, np.linspace(0, 1, _MOST_DOTS))
        heights = row + rng.uniform(-0.3, 0.3, len(dots))
        axes.scatter(dots, heights, s=2, color=colour, alpha=0.35, linewidths=0)
        axes.boxplot(
            [found],
            positions=[row],
            orientation="horizontal",
            widths=0.55,
            whis=(5, 95),
            showfliers=False,
            manage_ticks=False,
            boxprops={"color": colour, "linewidth": 0.8},
            medianprops={"color": "#222222", "linewidth": 1.1},
            whiskerprops={"color": colour, "linewidth": 0.7},
            capprops={"color": colour, "linewidth": 0.7},
        )
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if logarithmic:
        return
    low = min((found.min() for found in values if len(found)), default=0.0)
    axes.set_xlim((-1.02 if low < 0 else -0.02), 1.02)
    axes.xaxis.set_major_locator(FixedLocator([-1, -0.5, 0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter("{x:g}")
