"""Training curves: the objective and the relative error against epochs and seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR

CLOCKS = {"epoch": "epoch", "seconds": "training time without compilation (s)"}
FITTED_TO = ("normalised", "counts")
_LEFT, _HEAD, _PANEL_HEIGHT, _DOWN = 15.0, 9.0, 30.0, 41.0  # mm


@style.styled
def training_figure(
    history: pd.DataFrame,
    display_names: Mapping[str, str] | None = None,
    *,
    inapplicable: Collection[str] = (),
) -> Figure:
    """Draw every training run: a row of panels by epoch and one by seconds for each rank.

    Parameters
    ----------
    history : DataFrame
        The history.tsv files under one another, with columns model, rank and
        seed added: epoch, objective, relative_error, seconds (cumulative). A column
        ``fitted_to`` of :data:`FITTED_TO` gives relative errors of counts and of
        normalised values axes of their own: they are not comparable; ``elbo_per_entry``, which the
        hierarchical negative binomial model has, a panel of its own. With ``compile_seconds`` the legend says
        what each model compiled before its time began.
    display_names : mapping of str to str, optional
        Model name to display name, in the order of the legend. A model without
        history is named as missing there.
    inapplicable : collection of str
        Models without history because they have no meaning for these data; named as such.

    Returns
    -------
    Figure
    """
    style.require_columns(history, ["model", "rank", "seed", "epoch"], "history")
    names = dict(display_names or {})
    history = history.assign(model=history["model"].astype(str))
    models = style.order_models(history["model"], names)
    present = set(history["model"])
    shown = [
        style.shorten(style.plain(names.get(m, m)), 60)
        + (_compiled(history, m) if m in present else f" ({style.gap(m, inapplicable)})")
        for m in models
    ]
    ranks = sorted(history["rank"].unique())
    panels = _panels(history)
    across, legend_rows = style.legend_grid(shown, style.DOUBLE_COLUMN - 4, handle=9)
    block = _HEAD + len(CLOCKS) * _DOWN
    legend_top = max(len(ranks), 1) * block
    height = legend_top + legend_rows * style.LEGEND_ROW + 2
    figure = style.new_figure(style.DOUBLE_COLUMN, height)
    panel = (style.size_mm(figure)[0] - 2) / len(panels)
    styles = style.model_styles(models)
    if not ranks:
        style.add_text(figure, _LEFT, 20, "missing: no training history", color=MISSING_COLOUR)
    for place, rank in enumerate(ranks):
        rows = history[history["rank"] == rank]
        top = place * block + 1.5
        style.add_text(figure, 1, top, f"rank {rank}", fontsize=style.LARGE, fontweight="bold")
        for column, (value, fitted_to, words) in enumerate(panels):
            mine = rows if fitted_to is None else rows[rows["fitted_to"] == fitted_to]
            for line, clock in enumerate(CLOCKS):
                top = place * block + _HEAD + line * _DOWN
                left = column * panel + _LEFT
                axes = style.add_axes(figure, left, top, panel - _LEFT - 3, _PANEL_HEIGHT)
                _draw_runs(axes, mine, clock, value, [m for m in models if m in present], styles)
                axes.set_ylabel(words, labelpad=1.5)
                axes.set_xlabel(CLOCKS[clock], labelpad=1.5)
    handles = [_sample(styles[m]) if m in present else Line2D([], [], linestyle="") for m in models]
    if models:
        style.add_legend(figure, 2, legend_top, handles, shown, across)
    return figure


def _compiled(history: pd.DataFrame, model: str) -> str:
    """' (compiled 3.2 s)': the mean over the model's fits; nothing below a tenth of a second."""
    if "compile_seconds" not in history:
        return ""
    of_fits = history[history["model"] == model].groupby(["rank", "seed"])["compile_seconds"].first()
    return f" (compiled {of_fits.mean():.1f} s)" if of_fits.mean() >= 0.1 else ""


def _panels(history: pd.DataFrame) -> list[tuple[str, str | None, str]]:
    """What is drawn side by side: column of the history, what its models were fitted to, name of the axis."""
    panels = [("objective", None, "objective (own units)")]
    if "elbo_per_entry" in history and history["elbo_per_entry"].notna().any():
        panels.append(("elbo_per_entry", None, "ELBO (nats per entry)"))  # maximised
    if "relative_error" not in history:
        return panels
    known = history[history["relative_error"].notna()]
    if "fitted_to" not in history:
        return panels + [("relative_error", None, "relative error ‖E‖² / ‖X‖²")] * (len(known) > 0)
    there = set(known["fitted_to"])
    for fitted_to in [kind for kind in FITTED_TO if kind in there]:
        panels.append(("relative_error", fitted_to, f"relative error, {fitted_to}"))
    return panels


def _sample(looks: style.ModelStyle) -> Line2D:
    """Line and marker of a model, for the legend."""
    line = Line2D([], [], color=looks.colour, linestyle=looks.line, linewidth=1.5, marker=looks.marker)
    line.set(markersize=3.5, markeredgecolor="black", markeredgewidth=0.3)
    return line


def _draw_runs(
    axes: Axes, rows: pd.DataFrame, clock: str, value: str, models: list[str], styles: dict
) -> None:
    """One line per model and seed, a dot where it stopped."""
    drawn_x, drawn_y = [], []
    for model in models:
        mine = rows[rows["model"] == model]
        seeds = sorted(mine["seed"].unique())
        for turn, seed in enumerate(seeds):
            run = mine[mine["seed"] == seed]
            if clock not in run or value not in run:
                continue
            x = pd.to_numeric(run[clock], errors="coerce").to_numpy(float)
            y = pd.to_numeric(run[value], errors="coerce").to_numpy(float)
            kept = np.isfinite(x) & np.isfinite(y)
            if not kept.any():
                continue
            colour = _shade(styles[model].colour, turn, len(seeds))
            # NaN stays in the line: a gap is a gap.
            axes.plot(x, np.where(kept, y, np.nan), color=colour, linestyle=styles[model].line, linewidth=1.0)
            axes.plot(
                x[kept][-1], y[kept][-1], marker=styles[model].marker, color=colour, markersize=3.5,
                markeredgecolor="black", markeredgewidth=0.3, linestyle="", clip_on=False, zorder=4,
            )  # fmt: skip
            drawn_x.append(x[kept])
            drawn_y.append(y[kept])
    if not drawn_x:
        axes.text(0.5, 0.5, "missing", transform=axes.transAxes, ha="center", color=MISSING_COLOUR)
        axes.texts[-1].set_fontstyle("italic")
        axes.set(xticks=[], yticks=[])
        return
    for axis, set_scale, drawn, span in (
        (axes.xaxis, axes.set_xscale, drawn_x, 30),
        (axes.yaxis, axes.set_yscale, drawn_y, 10),
    ):
        # A logarithm helps where a few epochs or seconds would crowd at one end, and only there.
        values = np.concatenate(drawn)
        if values.min() > 0 and values.max() > span * values.min():
            set_scale("log")
            style.plain_log_ticks(axis)
    axes.grid()


def _shade(colour: str, turn: int, of: int) -> tuple[float, float, float]:
    """The model's colour for its first seed, paler ones for the next."""
    pale = 0.0 if of < 2 else 0.55 * turn / (of - 1)
    return tuple((1 - pale) * part + pale for part in to_rgb(colour))
