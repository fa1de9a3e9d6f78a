"""Areas under ROC curves: scikit-learn's number to the last bit, without its checks of the input."""

from __future__ import annotations

import numpy as np


def area_under_curve(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve of one class against the rest.

    Parameters
    ----------
    positive : ndarray of bool, shape (n_cells,)
        Cells of the class; neither none nor all.
    score : ndarray of float, shape (n_cells,)
        Higher where the class is more likely.

    Returns
    -------
    float
        That of ``sklearn.metrics.roc_auc_score`` to the last bit, ties and all: corners of the curve that
        lie on a straight line are dropped before the trapezoids are added up, as there.
    """
    order = np.argsort(score, kind="stable")[::-1]
    ranked, hits = score[order], positive[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    true = np.cumsum(hits, dtype=np.float64)[ends]
    false = 1.0 + ends - true
    if true.size > 2:
        bends = np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]])
        true, false = true[bends], false[bends]
    true, false = np.append(0.0, true), np.append(0.0, false)
    return float(np.trapezoid(true / true[-1], false / false[-1]))
