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
_UNKNOWN = "not recorded"
_NO_MODEL = style.ModelStyle("#BBBBBB", "o", "", "-")
_ROW, _HEAD, _FOOT = 3.6, 8.0, 10.0  # mm


@style.styled
def resources_figure(resources: pd.DataFrame, display_names: Mapping[str, str] | None = None) -> Figure:
    """Draw seconds and peak memory as horizontal bars on a logarithmic scale.

    Parameters
    ----------
    resources : DataFrame
        resources.tsv: model, rank, seed, step, seconds, peak_mb, gpu_peak_mb,
        threads, device, cpu_efficiency, queue_seconds. model is empty for steps that belong to none.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the bars.

    Returns
    -------
    Figure
        Bars are means over the jobs of a step and model (seeds, labels, folds),
        dots are the jobs. Devices never share a panel. GPU memory, CPU efficiency (CPU time over time on
        all threads) and the wait in the queue are drawn where there are any; a wait is at least a second.
    """
    style.require_columns(resources, ["model", "rank", "step", "seconds", "peak_mb"], "resources.tsv")
    names = dict(display_names or {})
    table = resources.assign(model=_text(resources["model"]), step=_text(resources["step"]))
    table["device"] = _text(table["device"]).replace("", _UNKNOWN) if "device" in table else _UNKNOWN
    if "cpu_efficiency" in table:
        table["cpu_percent"] = 100 * pd.to_numeric(table["cpu_efficiency"], errors="coerce")
    if "queue_seconds" in table:
        table["queue_seconds"] = pd.to_numeric(table["queue_seconds"], errors="coerce").clip(lower=1)
    for quantity in QUANTITIES:
        table[quantity] = pd.to_numeric(table[quantity], errors="coerce") if quantity in table else np.nan
    models = style.order_models(table.loc[table["model"] != "", "model"], names)
    styles = style.model_styles(models)
    several_ranks = table.loc[table["model"] != "", "rank"].nunique() > 1
    blocks = [
        (device, _rows(table[table["device"] == device], models, names, several_ranks))
        for device in sorted(table["device"].unique())
    ]
    widths = [
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
    note = "Bars: mean over the jobs of a step and model; white dots: single jobs. Logarithmic scales."
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
    """Lines of the panels, top to bottom: a heading for each step, then its models (and ranks)."""
    rows = []
    for step in dict.fromkeys(table["step"]):
        of_step = table[table["step"] == step]
        rows.append({"head": True, "name": style.plain(step) + _threads(of_step)})
        if (of_step["model"] == "").any():
            rows.append({"head": False, "name": "all models", "step": step, "model": "", "rank": None})
        for model in models:
            of_model = of_step[of_step["model"] == model]
            shown = style.shorten(style.plain(names.get(model, model)), 45)
            if of_model.empty:
                continue
            ranks = sorted(of_model["rank"].dropna().unique()) if several_ranks else []
            for rank in ranks or [None]:  # a sweep over ranks has none of its own
                name = shown if rank is None else f"{shown}, k={rank:g}"
                rows.append({"head": False, "name": name, "step": step, "model": model, "rank": rank})
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
    """Fill one panel; a bar starts at the left edge, a power of ten below all values."""
    values = table[quantity]
    values = values[np.isfinite(values) & (values > 0)]
    low = 10.0 ** np.floor(np.log10(values.min()) - 0.05) if len(values) else 0.1
    high = values.max() if len(values) else 1.0
    axes.set_xscale("log")
    axes.set_xlim(low, max(high * 1.3, low * 10))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style.plain_log_ticks(axes.xaxis)
    axes.grid(axis="x")
    across = axes.get_yaxis_transform()
    for place, row in enumerate(rows):
        if row["head"]:
            continue
        mine = table[(table["step"] == row["step"]) & (table["model"] == row["model"])]
        if row["rank"] is not None:
            mine = mine[mine["rank"] == row["rank"]]
        jobs = mine[quantity].dropna().to_numpy(float)
        jobs = jobs[jobs > 0]
        if not len(jobs):
            axes.text(
                0.02, place, "missing", transform=across, va="center", fontsize=style.SMALL,
                color=MISSING_COLOUR, fontstyle="italic",
            )  # fmt: skip
            continue
        looks = styles[row["model"]] if row["model"] else _NO_MODEL
        bars = axes.barh(place, jobs.mean() - low, 0.74, left=low, color=looks.colour, hatch=looks.hatch)
        bars[0].set(edgecolor="#222222", linewidth=0.4)
        if len(jobs) > 1:
            heights = place + np.linspace(-0.22, 0.22, len(jobs))
            axes.scatter(jobs, heights, s=2.5, c="white", edgecolors="black", linewidths=0.25, zorder=4)
        text = _number(jobs.mean()) + (f" ×{len(jobs)}" if len(jobs) > 1 else "")
        axes.text(1.03, place, text, transform=across, va="center", fontsize=style.SMALL)


def _number(value: float) -> str:
    """Three significant digits, thousands with a separator."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
