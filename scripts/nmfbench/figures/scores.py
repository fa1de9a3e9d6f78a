"""Bars of every score, one panel per label and metric, one bar per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR
from nmfbench.figures.summary import at_rank, summarise
from nmfbench.metrics import METRICS as REGISTRY
from nmfbench.tables.folds import over_folds, with_fold_deviations

METRICS = tuple(name for name, metric in REGISTRY.items() if metric.title)
METRIC_NAMES = {name: REGISTRY[name].title for name in METRICS}
# Score of an embedding that knows nothing of the label, where that is not 0.
CHANCE = {name: REGISTRY[name].chance_value for name in METRICS if REGISTRY[name].chance_value is not None}
_ROW, _HEAD, _FOOT, _GAP, _VALUE = 3.8, 10.0, 5.0, 3.0, 8.5  # mm
_NARROWEST = 33.0  # mm, a panel with its value, where labels stand side by side


@style.styled
def scores_figure(
    scores: pd.DataFrame,
    rank: int | None,
    display_names: Mapping[str, str] | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    directions: Mapping[str, str] | None = None,
    folds: pd.DataFrame | None = None,
    points: pd.DataFrame | None = None,
) -> Figure:
    """Draw the scores at one rank as bars with error bars.

    Parameters
    ----------
    scores : DataFrame
        scores.tsv: model, rank, seed, label, metric, value, std, status.
    rank : int or None
        The rank to show; None where the table has one only.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the bars. A model without
        scores is shown as missing.
    metrics : sequence of str
        Panels of a row, left to right; metrics of which the table has no row
        are left out.
    directions : mapping of str to {'higher', 'lower'}, optional
        Which way is better, for labels other than cell_type and donor_id.
    folds : DataFrame, optional
        folds.tsv. With it, error bars of the classification metrics are the deviation over folds, each the
        mean of its classifiers, with a tick for each; without it, they are the ``std`` of `scores`.
    points : DataFrame, optional
        Single values (model, label, metric, value: Leiden seeds, folds) to lay
        over the bars. Without it, training seeds are shown where several are.

    Returns
    -------
    Figure
    """
    names = dict(display_names or {})
    # Others are not scores of an embedding against a label, and what they stand beside is no label.
    scores = scores[scores["metric"].isin(metrics)]
    if folds is not None:
        scores = with_fold_deviations(scores, folds)
    table = summarise(scores, rank, names)
    labels = list(dict.fromkeys(table["label"]))
    metrics = [metric for metric in metrics if metric in set(table["metric"])]
    models = list(dict.fromkeys(table["model"])) or list(names)
    if not labels or not metrics:
        return _nothing(rank)
    used = {(r.label, r.model) for r in table.itertuples() if r.used}
    shown = {m: style.shorten(style.plain(names.get(m, m)), 45) for m in models}
    left = style.text_width([f"{name} †" for name in shown.values()], style.NORMAL) + 3.5
    block = _HEAD + _ROW * len(models) + 7.0
    beside, width = _blocks_beside(len(labels), block, left + _NARROWEST * len(metrics))
    lines = -(-len(labels) // beside)
    figure = style.new_figure(width, lines * block + _FOOT)
    panel = (width / beside - left - 1.0) / len(metrics)
    styles = style.model_styles(models)
    singles = _single_values(scores, rank) if points is None else points
    classifiers = _classifier_means(folds, rank) if folds is not None else {}
    directions = {**style.DIRECTIONS, **(directions or {})}

    for row, label in enumerate(labels):
        line, column_of_blocks = divmod(row, beside)
        top, across, better = line * block, column_of_blocks * width / beside, directions.get(label)
        heading = style.label_name(label)
        heading += f"   {style.ARROWS[better]} {better} is better" if better else ""
        style.add_text(figure, across + 1.0, top + 1.5, heading, fontsize=style.LARGE, fontweight="bold")
        for column, metric in enumerate(metrics):
            axes = style.add_axes(
                figure,
                across + left + column * panel,
                top + _HEAD,
                panel - _VALUE - _GAP,
                _ROW * len(models),
            )
            rows = table[(table["label"] == label) & (table["metric"] == metric)].set_index("model")
            mine = singles[(singles["label"] == label) & (singles["metric"] == metric)]
            _draw_bars(axes, rows, mine, models, styles)
            for place, model in enumerate(models):
                ticks = classifiers.get((model, label, metric), [])
                axes.vlines(ticks, place + 0.12, place + 0.42, color="black", linewidth=0.8, zorder=4)
            arrow = f" {style.ARROWS[better]}" if better else ""
            axes.set_title(METRIC_NAMES.get(metric, style.plain(metric)) + arrow, loc="left", pad=3)
            axes.set_xlabel(style.plain(metric), labelpad=1)
            if metric in CHANCE:
                axes.axvline(CHANCE[metric], color="black", linestyle=":", linewidth=0.6, zorder=3)
            marks = [shown[m] + (" †" if (label, m) in used else "") for m in models]
            axes.set_yticks(range(len(models)), marks if column == 0 else [""] * len(models))
            axes.tick_params(axis="y", length=0, labelsize=style.NORMAL)
    _write_notes(figure, lines * block, table, bool(used), points is not None, bool(classifiers))
    return figure


def _blocks_beside(n: int, height: float, narrowest: float) -> tuple[int, float]:
    """How many labels stand side by side, and the width in mm, so that the page fits a screen."""
    for beside in range(1, n + 1):
        width = max(style.DOUBLE_COLUMN, beside * narrowest)
        if -(-n // beside) * height + _FOOT <= style.room_below(width):
            break
    return beside, width


def _classifier_means(folds: pd.DataFrame, rank: int | None) -> dict[tuple[str, str, str], list[float]]:
    """Mean of each classifier by model, label and metric; none where training seeds are shown instead."""
    rows = over_folds(folds)
    rows = rows if rank is None else rows[rows["rank"] == rank]
    one_seed = rows.groupby(["model", "label", "metric"])["seed"].transform("nunique") == 1
    return {(row.model, row.label, row.metric): row.classifiers for row in rows[one_seed].itertuples()}


def _draw_bars(axes, rows: pd.DataFrame, singles: pd.DataFrame, models: list[str], styles: dict) -> None:
    """Fill one panel; a model without a value gets the word, never a bar."""
    smallest = 0.0
    for place, model in enumerate(models):
        value = rows["value"].get(model, np.nan)
        across = axes.get_yaxis_transform()
        if not np.isfinite(value):
            word = rows["gap"].get(model, "missing")
            axes.text(0.03, place, word, transform=across, va="center", fontsize=style.SMALL)
            axes.texts[-1].set(color=MISSING_COLOUR, fontstyle="italic")
            continue
        spread = rows["spread"][model]
        looks = styles[model]
        bars = axes.barh(place, value, 0.74, color=looks.colour, hatch=looks.hatch)
        bars[0].set(edgecolor="#222222", linewidth=0.4)
        if np.isfinite(spread):
            axes.errorbar(value, place, xerr=spread, color="black", elinewidth=0.7, capsize=1.4, capthick=0.7)
        smallest = min(smallest, value - (spread if np.isfinite(spread) else 0))
        dots = singles.loc[singles["model"] == model, "value"].dropna().to_numpy(float)
        if len(dots):
            # Spread over the bar's height by rank, so that equal values stay visible and nothing is random.
            offsets = np.linspace(-0.22, 0.22, len(dots)) if len(dots) > 1 else [0.0]
            heights = place + np.asarray(offsets)
            axes.scatter(
                dots, heights, s=3, c="white", edgecolors="black", linewidths=0.3, zorder=4, clip_on=False
            )
            smallest = min(smallest, dots.min())
        present, expected = int(rows["n_present"][model]), int(rows["n_expected"][model])
        text = f"{value:.3f}" + (f"\n({present}/{expected})" if present < expected else "")
        axes.text(1.03, place, text, transform=across, va="center", fontsize=style.SMALL, linespacing=0.9)
    low = -0.05 * np.ceil(-smallest / 0.05) if smallest < 0 else 0.0
    axes.set_xlim(low, 1.0)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_xticks([0.25, 0.75], minor=True)
    axes.grid(axis="x")
    if low < 0:
        axes.axvline(0, color="black", linewidth=0.5)


def _single_values(scores: pd.DataFrame, rank: int | None) -> pd.DataFrame:
    """Values of the training seeds, where a model has several."""
    rows = at_rank(scores, rank)
    rows = rows[rows["value"].notna()]
    count = rows.groupby(["model", "label", "metric"])["value"].transform("size")
    return rows[count > 1]


def _write_notes(
    figure: Figure, top: float, table: pd.DataFrame, used: bool, overlaid: bool, by_classifier: bool
) -> None:
    """Say under the panels what the error bars and signs are."""
    several = bool((table["n_present"] > 1).any())
    folds = "folds (F1, AUROC: means of the classifiers)" if by_classifier else "fold rows (F1, AUROC)"
    spread = "training seeds (white dots)" if several else f"Leiden seeds (ARI, NMI) or {folds}"
    notes = [f"Error bars: standard deviation over {spread}."]
    if by_classifier:
        notes.append("Ticks: single classifiers.")
    if overlaid:
        notes.append("White dots: single values.")
    if (table["n_present"] < table["n_expected"]).any() and several:
        notes.append("(a/b): a of b training seeds present.")
    if used:
        notes.append("† training used this label.")
    if (table["metric"].isin(CHANCE)).any():
        notes.append("Dotted: chance.")
    style.add_text(figure, 1.0, top + 1.0, "  ".join(notes), fontsize=style.SMALL, color="#444444")


def _nothing(rank: int | None) -> Figure:
    """A page that says that there is nothing to show."""
    figure = style.new_figure(style.SINGLE_COLUMN, 20)
    where = "" if rank is None else f" at rank {rank}"
    style.add_text(figure, 4, 8, f"missing: no scores{where}", color=MISSING_COLOUR, fontstyle="italic")
    return figure
