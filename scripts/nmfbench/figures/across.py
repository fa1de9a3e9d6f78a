"""Scores over datasets: means with their errors, and which models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR
from nmfbench.figures.scores import METRIC_NAMES, METRICS
from nmfbench.metrics.critical_difference import groups_within

_ROW, _HEAD, _FOOT, _GAP, _VALUE = 3.8, 14.0, 8.0, 3.0, 8.5  # mm


@style.styled
def across_figure(
    means: pd.DataFrame,
    by_dataset: pd.DataFrame,
    rank: int,
    label: str,
    display_names: Mapping[str, str],
    *,
    metrics: Sequence[str] = METRICS,
) -> Figure:
    """Draw the mean of every model over datasets as a bar, each dataset as a dot.

    Parameters
    ----------
    means, by_dataset : DataFrame
        scores_across_datasets.tsv and scores_by_dataset.tsv.
    rank : int
    label : str
    display_names : mapping of str to str
        Models, in the order of the bars.
    metrics : sequence of str
        A panel each.

    Returns
    -------
    Figure
        Error bars are standard errors over datasets; a mean of fewer datasets than expected says of how many.
    """
    models, metrics = list(display_names), list(metrics)
    shown = {m: style.shorten(style.plain(name), 45) for m, name in display_names.items()}
    left = style.text_width(list(shown.values()), style.NORMAL) + 3.5
    figure = style.new_figure(style.DOUBLE_COLUMN, _HEAD + _ROW * len(models) + _FOOT + 4)
    panel = (style.DOUBLE_COLUMN - left - 1) / len(metrics)
    better = style.DIRECTIONS.get(label)
    heading = style.label_name(label) + (f"   {style.ARROWS[better]} {better} is better" if better else "")
    n = int(means["expected"].max()) if len(means) else 0
    style.add_text(
        figure, 1, 1.5, f"{heading}, mean of {n} datasets", fontsize=style.LARGE, fontweight="bold"
    )
    styles = style.model_styles(models)
    for column, metric in enumerate(metrics):
        axes = style.add_axes(figure, left + column * panel, _HEAD, panel - _VALUE - _GAP, _ROW * len(models))
        _draw(axes, _of(means, rank, label, metric), _of(by_dataset, rank, label, metric), models, styles)
        axes.set_title(METRIC_NAMES.get(metric, style.plain(metric)), loc="left", pad=3)
        axes.set_yticks(range(len(models)), [shown[m] if column == 0 else "" for m in models])
        axes.tick_params(axis="y", length=0, labelsize=style.NORMAL)
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.grid(axis="x")
    note = "Error bars: standard error over datasets. Dots: datasets.  (a/b): a of b datasets have a score."
    top = _HEAD + _ROW * len(models) + 6
    style.add_text(figure, 1, top, note, fontsize=style.SMALL, color="#444444")
    return figure


def _of(table: pd.DataFrame, rank: int, label: str, metric: str) -> pd.DataFrame:
    here = (table["rank"].astype(int) == int(rank)) & (table["label"] == label)
    return table[here & (table["metric"] == metric)]


def _draw(axes: Axes, means: pd.DataFrame, single: pd.DataFrame, models: list[str], styles: dict) -> None:
    rows = means.set_index("model")
    across = axes.get_yaxis_transform()
    lowest = 0.0
    for place, model in enumerate(models):
        value = float(rows["mean"].get(model, np.nan))
        if not np.isfinite(value):
            axes.text(0.03, place, "missing", transform=across, va="center", fontsize=style.SMALL)
            axes.texts[-1].set(color=MISSING_COLOUR, fontstyle="italic")
            continue
        axes.barh(place, value, 0.74, color=styles[model].colour, edgecolor="#222222", linewidth=0.4)
        error = float(rows["se"][model])
        if np.isfinite(error):
            axes.errorbar(value, place, xerr=error, color="black", elinewidth=0.7, capsize=1.4, capthick=0.7)
        dots = single.loc[single["model"] == model, "value"].dropna().to_numpy(float)
        heights = place + (np.linspace(-0.22, 0.22, len(dots)) if len(dots) > 1 else np.zeros(len(dots)))
        axes.scatter(dots, heights, s=4, c="white", edgecolors="black", linewidths=0.3, zorder=4)
        lowest = min(lowest, *dots)
        present, expected = int(rows["n_datasets"][model]), int(rows["expected"][model])
        text = f"{value:.3f}" + (f" ({present}/{expected})" if present < expected else "")
        axes.text(1.03, place, text, transform=across, va="center", fontsize=style.SMALL)
    axes.set_xlim(-0.05 * np.ceil(-lowest / 0.05) if lowest < 0 else 0.0, 1.0)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


@style.styled
def critical_difference_figure(
    ranks: pd.DataFrame, rank: int, label: str, display_names: Mapping[str, str]
) -> Figure:
    """Draw the mean ranks over datasets, and bars over models that do not differ.

    Parameters
    ----------
    ranks : DataFrame
        ranks_over_datasets.tsv.
    rank : int
    label : str
    display_names : mapping of str to str

    Returns
    -------
    Figure
        A panel for each metric; the best rank is on the left. Two models differ (Nemenyi, 5 % family-wise)
        where no bar spans both.
    """
    here = ranks[(ranks["rank"].astype(int) == int(rank)) & (ranks["label"] == label)]
    metrics = list(dict.fromkeys(here["metric"])) or [""]
    most = max((len(here[here["metric"] == metric]) for metric in metrics), default=1)
    height = 14 + 3.6 * max(most, 1)
    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = style.new_figure(style.DOUBLE_COLUMN, 8 + lines * (height + 8) + 4)
    style.add_text(
        figure, 1, 1.5, f"{style.label_name(label)}: mean rank over datasets", fontsize=style.LARGE,
        fontweight="bold",
    )  # fmt: skip
    styles = style.model_styles(list(display_names))
    width = style.DOUBLE_COLUMN / columns
    for place, metric in enumerate(metrics):
        row, column = divmod(place, columns)
        axes = style.add_axes(figure, column * width + 5, 14 + row * (height + 8), width - 10, height - 6)
        _draw_ranks(axes, here[here["metric"] == metric], metric, display_names, styles)
    return figure


def _draw_ranks(axes: Axes, rows: pd.DataFrame, metric: str, names: Mapping[str, str], styles: dict) -> None:
    rows = rows.dropna(subset="mean_rank").sort_values("mean_rank", kind="stable")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if rows.empty:
        axes.text(0, 0.5, "no dataset has scores of all models", color=MISSING_COLOUR, fontstyle="italic")
        return
    means = rows["mean_rank"].to_numpy(float)
    apart = float(rows["critical_difference"].iloc[0])
    for height, (model, mean) in enumerate(zip(rows["model"], means, strict=True)):
        axes.plot([mean, mean], [-1, height], color="#999999", linewidth=0.5, zorder=1)
        axes.scatter(
            mean, height, s=14, color=styles[model].colour, edgecolors="black", linewidths=0.4, zorder=3
        )
        text = f"  {style.shorten(style.plain(names.get(model, model)), 40)}  {mean:.2f}"
        axes.text(mean, height, text, va="center", fontsize=style.SMALL)
    if np.isfinite(apart):
        for step, (first, last) in enumerate(groups_within(means, apart)):
            at = -1.4 - 0.6 * step
            axes.plot([means[first], means[last]], [at, at], color="black", linewidth=1.6)
    top = int(rows["n_models"].iloc[0])
    axes.set_xlim(0.8, top + max(1.2, 0.35 * top))  # room for the name of the last
    axes.set_xticks(range(1, top + 1))
    axes.set_ylim(len(rows), -3.2)
    n, p = int(rows["n_datasets"].iloc[0]), float(rows["p"].iloc[0])
    note = rows["note"].iloc[0] if isinstance(rows["note"].iloc[0], str) else ""
    said = f"{metric}, {n} datasets" + (
        f", Friedman p = {p:.2g}, critical difference {apart:.2f}" if p == p else ""
    )
    axes.set_title(said + (f" ({note})" if note else ""), loc="left", fontsize=style.SMALL, pad=3)
