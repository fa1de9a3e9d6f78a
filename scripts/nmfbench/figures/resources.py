"""Time and memory of every step and model, one block of panels per device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

QUANTITIES = {
    "seconds": "wall time (s)",
    "peak_mb": "peak memory (MB)",
    "gpu_peak_mb": "peak GPU memory (MB)",
    "cpu_percent": "CPU efficiency (%)",
    "queue_seconds": "time in the queue (s)",
}
_WHERE_KNOWN = ("gpu_peak_mb", "cpu_percent", "queue_seconds")
_COMPILED = "compile_seconds"
_UNKNOWN = "not recorded"
_TRAIN = "train"
_NO_MODEL = style.ModelStyle("#BBBBBB", "o", "", "-")
_DIAMOND = {"markersize": 3.0, "markeredgewidth": 0.6}
_ROW, _HEAD, _FOOT = 3.6, 8.0, 10.0  # mm


@style.styled
def resources_figure(resources: pd.DataFrame, display_names: Mapping[str, str] | None = None) -> Figure:
    """Draw seconds and peak memory as horizontal bars on a logarithmic scale, efficiency on a linear one.

    Parameters
    ----------
    resources : DataFrame
        resources.tsv: model, rank, seed, step, seconds, peak_mb, gpu_peak_mb,
        threads, device, cpu_efficiency, queue_seconds, compile_seconds. model is empty for steps that belong
        to none.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the bars.

    Returns
    -------
    Figure
        Training has a bar for each model, the other steps one for all, since they hardly depend on it. Bars
        are means over jobs; dots are the jobs, in their model's colour. Devices never share a panel. GPU
        memory, CPU efficiency (CPU time over time on all threads) and the wait in the queue are drawn where
        there are any; a wait is at least a second. A diamond in the panel of wall time is what a training
        compiled before its time began, which the bar leaves out.
    """
    style.require_columns(resources, ["model", "rank", "step", "seconds", "peak_mb"], "resources.tsv")
    names = dict(display_names or {})
    table = resources.assign(model=_text(resources["model"]), step=_text(resources["step"]))
    table["device"] = _text(table["device"]).replace("", _UNKNOWN) if "device" in table else _UNKNOWN
    if "cpu_efficiency" in table:
        table["cpu_percent"] = 100 * pd.to_numeric(table["cpu_efficiency"], errors="coerce")
    if "queue_seconds" in table:
        table["queue_seconds"] = pd.to_numeric(table["queue_seconds"], errors="coerce").clip(lower=1)
    for quantity in (*QUANTITIES, _COMPILED):
        table[quantity] = pd.to_numeric(table[quantity], errors="coerce") if quantity in table else np.nan
    models = style.order_models(table.loc[table["model"] != "", "model"], names)
    styles = style.model_styles(models)
    several_ranks = table.loc[table["model"] != "", "rank"].nunique() > 1
    blocks = [
        (device, _rows(table[table["device"] == device], models, names, several_ranks))
        for device in sorted(table["device"].unique())
    ]
    widths = [  # a bold text is wider than it is measured
        style.text_width(row["name"], weight="bold" if row["head"] else "normal")
        for _, rows in blocks
        for row in rows
    ]
    left = 4.5 + max([20.0, *widths])
    height = sum(_HEAD + _FOOT + _ROW * len(rows) for _, rows in blocks)
    figure = style.new_figure(style.DOUBLE_COLUMN, max(height, 20) + 5)
    top = 0.0
    for device, rows in blocks:
        heading = f"device: {style.plain(device)}"
        style.add_text(figure, 1, top + 1.5, heading, fontsize=style.LARGE, fontweight="bold")
        _draw_device(figure, left, top + _HEAD, table[table["device"] == device], rows, styles)
        top += _HEAD + _FOOT + _ROW * len(rows)
    note = "Bars: means over jobs (their number after the value); dots: single jobs in their model's colour."
    if (table[_COMPILED] > 0).any():
        note += " Diamonds: compilation before the training, which its bar leaves out."
    if not blocks:
        note = "missing: no resources recorded"
    style.add_text(figure, 1, top + 0.5, note, fontsize=style.SMALL, color="#444444")
    return figure


def _draw_device(
    figure: Figure, left: float, top: float, table: pd.DataFrame, rows: list[dict], styles: dict
) -> None:
    """One panel for each quantity that was measured on this device."""
    quantities = [q for q in QUANTITIES if q not in _WHERE_KNOWN or (table[q] > 0).any()]
    panel = (style.DOUBLE_COLUMN - left - 2) / len(quantities)
    for column, quantity in enumerate(quantities):
        axes = style.add_axes(figure, left + column * panel, top, panel - 14, _ROW * len(rows))
        _draw_bars(axes, table, rows, quantity, styles)
        axes.set_xlabel(QUANTITIES[quantity], labelpad=1.5)
        axes.set_yticks(range(len(rows)), [row["name"] if column == 0 else "" for row in rows])
        axes.tick_params(axis="y", length=0, labelsize=style.NORMAL)
        for row, tick in zip(rows, axes.get_yticklabels(), strict=True):
            tick.set_fontweight("bold" if row["head"] else "normal")


def _text(column: pd.Series) -> pd.Series:
    """Strings, '' for missing."""
    return column.astype(object).where(column.notna(), "").astype(str)


def _rows(table: pd.DataFrame, models: list[str], names: Mapping, several_ranks: bool) -> list[dict]:
    """Lines of the panels, top to bottom: training by model (and rank), then the other steps."""
    training, rows = table[table["step"] == _TRAIN], []
    if len(training):
        rows.append({"head": True, "name": "training" + _threads(training)})
    for model in models:
        of_model = training[training["model"] == model]
        if of_model.empty:
            continue
        shown = style.shorten(style.plain(names.get(model, model)), 45)
        for rank in sorted(of_model["rank"].dropna().unique()) if several_ranks else [None]:
            name = shown if rank is None else f"{shown}, k={rank:g}"
            rows.append({"head": False, "name": name, "step": _TRAIN, "model": model, "rank": rank})
    others = [step for step in dict.fromkeys(table["step"]) if step != _TRAIN]
    if others:
        rows.append({"head": True, "name": "other steps, all models"})
    for step in others:
        name = style.shorten(style.plain(step) + _threads(table[table["step"] == step]), 45)
        rows.append({"head": False, "name": name, "step": step, "model": None, "rank": None})
    return rows


def _threads(of_step: pd.DataFrame) -> str:
    """', 4 threads' where the table says so."""
    if "threads" not in of_step:
        return ""
    threads = pd.to_numeric(of_step["threads"], errors="coerce").dropna().astype(int)
    if threads.empty:
        return ""
    low, high = int(threads.min()), int(threads.max())
    return f", {low} thread{'s' * (low != 1)}" if low == high else f", {low}-{high} threads"


def _draw_bars(axes: Axes, table: pd.DataFrame, rows: list[dict], quantity: str, styles: dict) -> None:
    """Fill one panel; on a logarithmic scale a bar starts at a power of ten below all values."""
    drawn = [quantity, _COMPILED] if quantity == "seconds" else [quantity]
    low = _set_scale(axes, table[drawn].stack(), linear=quantity == "cpu_percent")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x")
    across = axes.get_yaxis_transform()
    for place, row in enumerate(rows):
        if row["head"]:
            continue
        mine = table[table["step"] == row["step"]]
        if row["model"] is not None:
            mine = mine[mine["model"] == row["model"]]
        if row["rank"] is not None:
            mine = mine[mine["rank"] == row["rank"]]
        if quantity == "seconds" and (mine[_COMPILED] > 0).any():
            compiled = mine.loc[mine[_COMPILED] > 0, _COMPILED].mean()
            axes.plot(compiled, place, "D", color="white", markeredgecolor="black", zorder=5, **_DIAMOND)
        jobs = mine[np.isfinite(mine[quantity]) & (mine[quantity] > 0)]
        if jobs.empty:
            axes.text(
                0.02, place, "missing", transform=across, va="center", fontsize=style.SMALL,
                color=MISSING_COLOUR, fontstyle="italic",
            )  # fmt: skip
            continue
        values = jobs[quantity].to_numpy(float)
        looks = styles[row["model"]] if row["model"] else _NO_MODEL
        shown = min(values.mean(), axes.get_xlim()[1])
        bars = axes.barh(place, shown - low, 0.74, left=low, color=looks.colour, hatch=looks.hatch)
        bars[0].set(edgecolor="#222222", linewidth=0.4)
        if len(values) > 1:
            colours = [styles[model].colour if model else "white" for model in jobs["model"]]
            heights = place + np.linspace(-0.3, 0.3, len(values))
            edge = {"edgecolors": "black", "linewidths": 0.25}
            axes.scatter(values, heights, s=4, c="white" if row["model"] else colours, zorder=4, **edge)
        text = _number(values.mean()) + (f" ×{len(values)}" if len(values) > 1 else "")
        axes.text(1.03, place, text, transform=across, va="center", fontsize=style.SMALL)


def _set_scale(axes: Axes, values: pd.Series, linear: bool) -> float:
    """Set the scale of the values and return where bars start."""
    if linear:
        axes.set_xlim(0.0, 100.0)
        return 0.0
    values = values[np.isfinite(values) & (values > 0)]
    low = 10.0 ** np.floor(np.log10(values.min()) - 0.05) if len(values) else 0.1
    high = values.max() if len(values) else 1.0
    axes.set_xscale("log")
    axes.set_xlim(low, max(high * 1.3, low * 10))
    style.plain_log_ticks(axes.xaxis)
    return low


def _number(value: float) -> str:
    """Three significant digits, thousands with a separator."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
