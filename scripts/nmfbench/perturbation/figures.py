"""Figures of the second task, each a function of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nmfbench.figures.palette import MODEL_COLOURS
from nmfbench.figures.style import DOUBLE_COLUMN, MM, SMALL, styled
from nmfbench.perturbation.tables import REPLICATE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PANELS = (
    ("MAE", "MAE ↓"),
    ("PearsonDelta", "Pearson delta ↑"),
    ("CentredPearson", "centred Pearson ↑"),
    ("PDS", "PDS ↑"),
    ("DES", "DES ↑"),
    ("NB_log_likelihood", "NB log-likelihood ↑"),
)


def _fits(table: pd.DataFrame, names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Embedding, predictor and its name in the figure, in the order of the config."""
    pairs = table[["embedding", "predictor"]].drop_duplicates()
    order = {name: place for place, name in enumerate(names)}
    rows = [(row.embedding, row.predictor) for row in pairs.itertuples() if row.predictor in order]
    several = len({embedding for embedding, _ in rows if embedding != "none"}) > 1
    rows.sort(key=lambda row: order[row[1]])
    return [
        (
            embedding,
            predictor,
            names[predictor] + (f", {embedding}" if several and embedding != "none" else ""),
        )
        for embedding, predictor in rows
    ]


@styled
def scores_figure(tables: Mapping[str, pd.DataFrame], split: str, names: Mapping[str, str]) -> Figure:
    """Metric by predictor: a dot for each seed, filled for all targets, open for the responsive ones."""
    scores = tables["scores"]
    scores = scores[scores["split"] == split]
    fits = _fits(scores, names)
    shown = [panel for panel in PANELS if panel[0] in set(scores["metric"])]
    height = 18 + 5.2 * len(fits)
    figure = Figure(figsize=(DOUBLE_COLUMN * MM, 2 * height * MM if len(shown) > 3 else height * MM))
    columns = min(len(shown), 3)
    axes = figure.subplots(-(-len(shown) // columns), columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, (metric, title) in zip(axes.flat, shown, strict=False):
        _score_panel(axis, scores[scores["metric"] == metric], fits)
        axis.set_xlabel(title)
    axes[0, 0].set_ylim(len(fits) - 0.4, -0.6)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 6 * MM / figure.get_figheight()))
    return figure


def _score_panel(axis: Axes, scores: pd.DataFrame, fits: list[tuple[str, str, str]]) -> None:
    axis.set_yticks(range(len(fits)), [name for _, _, name in fits])
    axis.grid(axis="y")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    for targets, shift, filled in (("all", -0.15, True), ("responsive", 0.15, False)):
        mine = scores[scores["targets"] == targets]
        ceiling = mine.loc[mine["predictor"] == REPLICATE, "value"]
        colour = MODEL_COLOURS[0] if filled else MODEL_COLOURS[1]
        if len(ceiling):
            style = "-" if filled else "--"
            label = f"replicate, {targets} targets"
            axis.axvline(ceiling.iloc[0], color=colour, linewidth=0.6, linestyle=style, label=label)
        for place, (embedding, predictor, _) in enumerate(fits):
            one = mine[(mine["embedding"] == embedding) & (mine["predictor"] == predictor)]
            axis.plot(
                one["value"], np.full(len(one), place + shift), "o", markersize=3,
                color=colour, markerfacecolor=colour if filled else "white", markeredgewidth=0.6,
                label=f"{targets} targets" if place == 0 else None,
            )  # fmt: skip


@styled
def targets_figure(tables: Mapping[str, pd.DataFrame], split: str, names: Mapping[str, str]) -> Figure:
    """Error of each target by a predictor against that by the mean of perturbed: below the line is better."""
    table = tables["targets"]
    table = table[(table["split"] == split) & (table["metric"] == "MAE")]
    base_name = next((name for name in names if name.startswith("perturbed_mean")), next(iter(names)))
    base = table[table["predictor"] == base_name].groupby("target")["value"].mean()
    fits = [fit for fit in _fits(table, names) if fit[1] != base_name]
    columns = min(max(len(fits), 1), 4)
    rows = max(-(-len(fits) // columns), 1)
    figure = Figure(figsize=(DOUBLE_COLUMN * MM, (46 * rows + 4) * MM))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(fits) :]:
        axis.set_visible(False)
    top = float(table["value"].max()) * 1.05 if len(table) else 1.0
    for axis, (embedding, predictor, name) in zip(axes.flat, fits, strict=False):
        one = table[(table["embedding"] == embedding) & (table["predictor"] == predictor)]
        mean = one.groupby("target").agg(value=("value", "mean"), responsive=("responsive", "first"))
        mean = mean.join(base.rename("base"))
        for responsive, colour in ((False, "#999999"), (True, MODEL_COLOURS[1])):
            part = mean[mean["responsive"].astype(bool) == responsive]
            label = "responsive targets" if responsive else "others"
            axis.plot(part["base"], part["value"], "o", markersize=2.5, color=colour, label=label)
        axis.axline((0, 0), slope=1, color="#666666", linewidth=0.5)
        axis.set(title=name, xlim=(0, top), ylim=(0, top))
        axis.set_xlabel(f"MAE, {names[base_name]}")
    axes[0, 0].set_ylabel("MAE")
    axes[0, 0].legend(fontsize=SMALL, frameon=False, loc="upper left", handletextpad=0.1)
    figure.tight_layout()
    return figure


@styled
def de_overlap_figure(tables: Mapping[str, pd.DataFrame], split: str, names: Mapping[str, str]) -> Figure:
    """DE genes of each target: predicted against real, and how many of the real ones are found."""
    table = tables["targets"]
    table = table[table["split"] == split]
    wide = table[table["metric"].isin(["n_DE_real", "n_DE_predicted", "DE_recall"])]
    keys = ["embedding", "predictor", "target"]
    wide = wide.pivot_table(index=keys, columns="metric", values="value", aggfunc="mean").reset_index()
    for column in ("n_DE_real", "n_DE_predicted", "DE_recall"):
        if column not in wide:
            wide[column] = np.nan
    fits = _fits(table, names)
    columns = min(max(len(fits), 1), 4)
    rows = max(-(-len(fits) // columns), 1)
    figure = Figure(figsize=(DOUBLE_COLUMN * MM, (46 * rows + 4) * MM), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(fits) :]:
        axis.set_visible(False)
    points = None
    for axis, (embedding, predictor, name) in zip(axes.flat, fits, strict=False):
        one = wide[(wide["embedding"] == embedding) & (wide["predictor"] == predictor)]
        points = axis.scatter(
            one["n_DE_real"] + 1, one["n_DE_predicted"] + 1, c=one["DE_recall"].fillna(0), s=9,
            cmap="viridis", vmin=0, vmax=1, edgecolors="#666666", linewidths=0.3,
        )  # fmt: skip
        most = 2 * max(float(wide[["n_DE_real", "n_DE_predicted"]].max().max()), 1.0)
        axis.plot([1, most], [1, most], color="#666666", linewidth=0.5)
        axis.set(title=name, xscale="log", yscale="log")
        axis.set_xlabel("real DE genes + 1")
    axes[0, 0].set_ylabel("predicted DE genes + 1")
    if points is not None:
        figure.colorbar(points, ax=axes, label="share of the real ones found", shrink=0.8)
    return figure


FIGURES = {"scores": scores_figure, "targets": targets_figure, "de_overlap": de_overlap_figure}
