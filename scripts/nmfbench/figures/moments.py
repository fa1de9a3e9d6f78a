"""Mean and variation of every gene: of the data, and of the reconstruction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nmfbench.figures import style
from nmfbench.figures.palette import MISSING_COLOUR, MODEL_COLOURS

_LEFT, _TOP, _PANEL, _ACROSS = 12.0, 8.0, 44.0, 59.0  # mm


@style.styled
def moments_figure(moments: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Draw mean against CV², fitted against observed mean, and their ratio.

    Parameters
    ----------
    moments : mapping of str to ndarray of shape (genes,)
        ``observed_mean``, ``observed_variance``, ``fitted_mean``, ``fitted_variance``, over the same cells.
        CV² is the variance over the squared mean. The fitted variance is that of the means, so the
        fitted CV² should lie below the observed one by the noise of counting.

    Returns
    -------
    Figure
        Genes without a positive mean on either side are left out.
    """
    observed, fitted = moments["observed_mean"], moments["fitted_mean"]
    shown = (observed > 0) & (fitted > 0)
    observed, fitted = observed[shown], fitted[shown]
    cv2 = {
        name: np.maximum(moments[f"{name}_variance"][shown] / mean**2, 1e-6)
        for name, mean in (("observed", observed), ("fitted", fitted))
    }
    figure = style.new_figure(style.DOUBLE_COLUMN, _TOP + _PANEL + 11)
    style.add_text(figure, 1, 1.5, style.plain(title), fontsize=style.LARGE, fontweight="bold")
    panels = [style.add_axes(figure, _LEFT + place * _ACROSS, _TOP, _PANEL, _PANEL) for place in range(3)]
    dots = {"s": float(np.clip(4000 / max(len(observed), 1), 0.4, 6)), "linewidths": 0, "alpha": 0.5}
    for name, mean, colour in (
        ("observed", observed, MISSING_COLOUR),
        ("fitted", fitted, MODEL_COLOURS[0]),
    ):
        panels[0].scatter(mean, cv2[name], color=colour, label=name, **dots)
    panels[1].scatter(observed, fitted, color=MODEL_COLOURS[0], **dots)
    panels[2].scatter(observed, np.log2(fitted / observed), color=MODEL_COLOURS[0], **dots)
    if len(observed):
        ends = [min(observed.min(), fitted.min()), max(observed.max(), fitted.max())]
        panels[1].plot(ends, ends, color="#333333", linewidth=0.5)
    panels[2].axhline(0, color="#333333", linewidth=0.5)
    labels = [
        ("mean of the gene", "CV²"),
        ("observed mean", "fitted mean"),
        ("observed mean", "log2 of fitted / observed"),
    ]
    for axes, (x, y) in zip(panels, labels, strict=True):
        axes.set_xlabel(x, labelpad=1.5)
        axes.set_ylabel(y, labelpad=1.5)
    if len(observed):
        for axes in panels:
            axes.set_xscale("log")
        for axes in panels[:2]:
            axes.set_yscale("log")
    panels[0].legend(loc="upper right", frameon=False, fontsize=style.SMALL, markerscale=3, borderaxespad=0.2)
    return figure
