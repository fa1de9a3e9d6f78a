"""The metrics by name: which direction is better, which are bounded; and the published overall score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: Metric -> the direction that is better; what has none is a count or a ratio to look at.
DIRECTIONS = {
    "MAE": "lower",
    "L2": "lower",
    "MSE": "lower",
    "MSE_corrected": "lower",
    "MSE_top20": "lower",
    "PearsonDelta": "higher",
    "PearsonDelta_without_target": "higher",
    "PearsonDelta_top20": "higher",
    "CentredPearson": "higher",
    "PDS": "higher",
    "PDS_cosine": "higher",
    "DES": "higher",
    "DE_precision": "higher",
    "DE_recall": "higher",
    "DE_jaccard": "higher",
    "DE_direction": "higher",
    "n_DE_real": "",
    "n_DE_predicted": "",
    "depth_ratio": "",
    "NB_log_likelihood": "higher",
}
BOUNDED = (
    "PearsonDelta",
    "PearsonDelta_without_target",
    "CentredPearson",
    "PDS",
    "PDS_cosine",
    "DES",
    "DE_jaccard",
)
DEPTH_RATIO = (0.8, 1.25)


def overall(values: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """The published overall score: gains over a baseline, each cut to [0, 1].

    Parameters
    ----------
    values, baseline : mapping
        DES, PDS and MAE.

    Returns
    -------
    dict
        ``Overall`` (of 100) and ``Overall_wo_MAE`` (at most 66.7).
    """
    des, pds = ((values[key] - baseline[key]) / (1 - baseline[key]) for key in ("DES", "PDS"))
    mae = (baseline["MAE"] - values["MAE"]) / baseline["MAE"]
    des, pds, mae = (float(np.clip(part, 0, 1)) for part in (des, pds, mae))
    return {"Overall": 100 * (des + pds + mae) / 3, "Overall_wo_MAE": 100 * (des + pds) / 3}
