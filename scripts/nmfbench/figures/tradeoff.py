"""Cell types kept apart against donors mixed: the trade-off every model makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR
from nmfbench.figures.scores import CHANCE, METRIC_NAMES, METRICS
from nmfbench.figures.summary import at_rank, gap_word
from nmfbench.tables.folds import with_fold_deviations

_WIDTH = 215.0  # mm; four panels and a legend at 0.55 of it
_LEFT, _TOP, _PANEL_WIDTH, _PANEL_HEIGHT, _ACROSS, _DOWN = 13.0, 7.0, 90.0, 39.0, 107.0, 53.5  # mm
_POSSIBLE = (-0.5, 1.0)  # of an ARI, where one falls below 0 by chance; other scores are not negative
# Where a name may stand: angle and distance (points) from its point, nearest first.
_PLACES = [(angle, away) for away in (4.5, 8, 13, 19, 26) for angle in (0, 180, 45, 315, 135, 225, 90, 270)]


@style.styled
def tradeoff_figure(
    scores: pd.DataFrame,
    rank: int | None,
    display_names: Mapping[str, str] | None = None,
    *,
    keep: str = "cell_type",
    mix: str = "donor_id",
    metrics: Sequence[str] = METRICS,
    folds: pd.DataFrame | None = None,
    roles: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the score of one label against that of another, one point per model and seed.

    Parameters
    ----------
    scores : DataFrame
        scores.tsv: model, rank, seed, label, metric, value, std, status.
    rank : int or None
        The rank to show; None where the table has one only.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the legend.
    keep, mix : str
        The label to be kept apart (x, higher is better) and the one to be
        mixed (y, lower is better).
    metrics : sequence of str
        One panel each.
    folds : DataFrame, optional
        folds.tsv: lines of the classification metrics are then over fold means.
    roles : mapping of str to str, optional
        Role of each model. Two controls or more span the frame of a panel: a dashed line at the worst and at
        the best of them, and in two of its corners what they score. Axes are those of the other models; a
        control outside them is no point.

    Returns
    -------
    Figure
    """
    names = dict(display_names or {})
    rows = at_rank(scores if folds is None else with_fold_deviations(scores, folds), rank)
    models = style.order_models(rows["model"], names)
    shown = {m: style.shorten(style.plain(names.get(m, m)), 60) for m in models}
    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    page = _WIDTH if columns == 2 else style.DOUBLE_COLUMN
    room = page - 4
    across, legend_rows = style.legend_grid(list(shown.values()), room, handle=9)
    legend_top = lines * _DOWN + 2
    figure = style.new_figure(page, legend_top + legend_rows * style.LEGEND_ROW + 2)
    styles = style.model_styles(models)
    for place, metric in enumerate(metrics):
        line, column = divmod(place, columns)
        axes = style.add_axes(
            figure, _LEFT + column * _ACROSS, _TOP + line * _DOWN, _PANEL_WIDTH, _PANEL_HEIGHT
        )
        points = _pair(rows[rows["metric"] == metric], keep, mix)
        control = points["model"].map(dict(roles or {})).eq("control")
        spanned = points[control & (control.sum() > 1)] if (~control).any() else points.iloc[:0]
        _draw_panel(axes, points, metric, styles, points.drop(spanned.index))
        if len(spanned):
            _frame(axes, spanned, shown)
            points = points[_inside(axes, points)]
        axes.set_xlabel(
            f"{style.plain(metric)}, {style.label_name(keep)}   (higher is better →)", labelpad=1.5
        )
        axes.set_ylabel(f"{style.plain(metric)}, {style.label_name(mix)}   (← lower is better)", labelpad=1.5)
        axes.set_title(METRIC_NAMES.get(metric, style.plain(metric)), loc="left", fontweight="bold", pad=3)
        absent = [shown[m] for m in models if m not in {*points["model"], *spanned["model"]}]
        if absent:
            mine = rows[(rows["metric"] == metric) & rows["label"].isin([keep, mix])]
            gaps = mine[mine["model"].isin([m for m in models if shown[m] in absent]) & mine["value"].isna()]
            _say_missing(axes, absent, len(models), gap_word(gaps))
        _name_points(axes, points, shown)
    sample = {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.4, "markersize": 5}
    handles = [Line2D([], [], marker=styles[m].marker, color=styles[m].colour, **sample) for m in models]
    if models:
        style.add_legend(figure, 2, legend_top, handles, list(shown.values()), across)
    return figure


def _pair(rows: pd.DataFrame, keep: str, mix: str) -> pd.DataFrame:
    """One row per model and seed that has both scores: model, seed, x, y, x_std, y_std."""
    both = rows[rows["label"] == keep].merge(rows[rows["label"] == mix], on=["model", "seed"])
    both = both.rename(columns={"value_x": "x", "value_y": "y", "std_x": "x_std", "std_y": "y_std"})
    return both.loc[both["x"].notna() & both["y"].notna(), ["model", "seed", "x", "y", "x_std", "y_std"]]


def _frame(axes: Axes, controls: pd.DataFrame, shown: Mapping[str, str]) -> None:
    """Lines at the ends of what the controls score, and their names in the worst and the best corner."""
    means = controls.groupby("model", sort=False)[["x", "y"]].mean()
    ends = {
        "worst": (means["x"].idxmin(), means["y"].idxmax()),
        "best": (means["x"].idxmax(), means["y"].idxmin()),
    }
    places = {"worst": (0.015, 0.9, "left", "top"), "best": (0.885, 0.02, "right", "bottom")}
    for corner, (of_x, of_y) in ends.items():
        x, y = means.loc[of_x, "x"], means.loc[of_y, "y"]
        for line, value, limits in ((axes.axvline, x, axes.get_xlim()), (axes.axhline, y, axes.get_ylim())):
            if limits[0] < value < limits[1]:
                line(value, color="#777777", linestyle="--", linewidth=0.6, zorder=1)
        text = f"{corner} controls: {shown[of_x]} {x:.2f} →, {shown[of_y]} {y:.2f} ↑"
        text = style.shorten(text, 0.86 * _PANEL_WIDTH, style.SMALL)
        left, up, across, along = places[corner]
        said = axes.text(
            left, up, text, transform=axes.transAxes, ha=across, va=along, fontsize=style.SMALL,
            color=MISSING_COLOUR,
        )  # fmt: skip
        said.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


def _inside(axes: Axes, points: pd.DataFrame) -> pd.Series:
    return points["x"].between(*axes.get_xlim()) & points["y"].between(*axes.get_ylim())


def _draw_panel(axes: Axes, points: pd.DataFrame, metric: str, styles: dict, within: pd.DataFrame) -> None:
    """Points with error bars, limits of those `within`, with room for names, and the corner to be in."""
    for model, mine in points.groupby("model", sort=False):
        looks = styles[model]
        axes.errorbar(
            mine["x"], mine["y"], xerr=mine["x_std"].fillna(0), yerr=mine["y_std"].fillna(0), linestyle="",
            color=looks.colour, elinewidth=0.6, alpha=0.6, zorder=2,
        )  # fmt: skip
        axes.scatter(
            mine["x"], mine["y"], s=26, marker=looks.marker, color=looks.colour, edgecolors="black",
            linewidths=0.4, zorder=3,
        )  # fmt: skip
    for low_high, setter in ((("x", "x_std"), axes.set_xlim), (("y", "y_std"), axes.set_ylim)):
        value, std = within[low_high[0]], within[low_high[1]].fillna(0)
        low, high = ((value - std).min(), (value + std).max()) if len(within) else (0.0, 1.0)
        # Differences in the third digit are not to look like a gulf.
        middle, half = (low + high) / 2, max(high - low, 0.1) / 2
        least, most = _POSSIBLE if value.min() < 0 else (0.0, 1.0)
        setter(*_within(middle - 1.32 * half, middle + 1.32 * half, least, most))
    corner = Polygon([(1, 0), (1, 0.13), (0.9, 0)], transform=axes.transAxes, zorder=0)
    corner.set(facecolor="#BFE3D0", edgecolor="none")
    axes.add_patch(corner)
    axes.text(
        0.995, 1.012, "best: lower right ↘", transform=axes.transAxes, ha="right", va="bottom",
        fontsize=style.SMALL, color="#1B6B45",
    )  # fmt: skip
    axes.grid()
    if metric in CHANCE:
        for line, limits in ((axes.axvline, axes.get_xlim()), (axes.axhline, axes.get_ylim())):
            if limits[0] < CHANCE[metric] < limits[1]:
                line(CHANCE[metric], color="black", linestyle=":", linewidth=0.6, zorder=1)


def _within(low: float, high: float, least: float, most: float) -> tuple[float, float]:
    """Limits of an axis that ends where scores do; what is cut at one end is given to the other."""
    span = min(high - low, most - least)
    margin = 0.02 * span  # a point at the end is whole
    if low < least:
        return least - margin, least + span
    if high > most:
        return most - span, most + margin
    return low, high


def _say_missing(axes: Axes, absent: list[str], total: int, word: str) -> None:
    """List the models without a point, inside the panel's upper left corner."""
    names = ", ".join(absent) if len(absent) <= 2 else f"{len(absent)} of {total} models"
    text = style.shorten(f"{word}: {names}", _PANEL_WIDTH - 4, style.SMALL)
    axes.text(
        0.015, 0.985, text, transform=axes.transAxes, va="top", fontsize=style.SMALL, color=MISSING_COLOUR,
        fontstyle="italic",
    )  # fmt: skip


def _name_points(axes: Axes, points: pd.DataFrame, shown: Mapping[str, str]) -> None:
    """Write each model's name by its points, where it covers nothing.

    Places free of error bars too come first; a name that finds none at all is
    left to the legend.
    """
    renderer = axes.figure.canvas.get_renderer()
    pixel = style.DPI / 72
    frame = axes.get_window_extent(renderer)
    spots = axes.transData.transform(points[["x", "y"]].to_numpy(float)) if len(points) else np.empty((0, 2))
    half = 3.2 * pixel
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in spots]
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    taken.append(_corner(axes))
    bars = _error_bars(axes, points)
    halo = [withStroke(linewidth=1.2, foreground="white")]
    for model, mine in points.groupby("model", sort=False):
        here = axes.transData.transform(mine[["x", "y"]].to_numpy(float))
        # Of several seeds, the point nearest their middle carries the name.
        anchor = here[np.linalg.norm(here - here.mean(axis=0), axis=1).argmin()]
        size = np.array(
            [style.text_width(shown[model], style.SMALL) * style.MM * style.DPI, style.SMALL * 1.15 * pixel]
        )
        found = _free_place(anchor, size, pixel, frame, taken, bars)
        if found is None:
            continue
        box, away = found
        taken.append(box)
        at = axes.transData.inverted().transform((box.min + box.max) / 2)
        text = axes.text(*at, shown[model], ha="center", va="center", fontsize=style.SMALL, zorder=5)
        text.set_path_effects(halo)
        if away > 8:
            edge = np.clip(anchor, box.min, box.max)
            line = axes.transData.inverted().transform(np.array([anchor, edge]))
            axes.plot(*line.T, color="#777777", linewidth=0.4, zorder=1)


def _free_place(
    anchor, size, pixel: float, frame: Bbox, taken: list, bars: list
) -> tuple[Bbox, float] | None:
    """First box of this size (pixels) near anchor that covers nothing, and its distance in points."""
    for obstacles in (taken + bars, taken):
        for angle, away in _PLACES:
            towards = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
            middle = anchor + towards * away * pixel + np.sign(np.round(towards, 6)) * size / 2
            box = Bbox([middle - size / 2, middle + size / 2])
            inside = (frame.min <= box.min).all() and (box.max <= frame.max).all()
            if inside and not any(box.overlaps(other) for other in obstacles):
                return box, away
    return None


def _error_bars(axes: Axes, points: pd.DataFrame) -> list[Bbox]:
    """Boxes of the error bars, in pixels."""
    boxes = []
    for point in points.fillna({"x_std": 0, "y_std": 0}).itertuples():
        for dx, dy in ((point.x_std, 0), (0, point.y_std)):
            ends = [(point.x - dx, point.y - dy), (point.x + dx, point.y + dy)]
            boxes.append(Bbox(axes.transData.transform(ends)))
    return boxes


def _corner(axes: Axes) -> Bbox:
    """Box of the marked corner, in pixels."""
    return Bbox(axes.transAxes.transform([[0.9, 0.0], [1.0, 0.13]]))
