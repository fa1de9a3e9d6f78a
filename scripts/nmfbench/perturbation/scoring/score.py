"""Scores of one prediction: a row for each target, then means over targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.perturbation.scoring import metrics, rank_sums
from nmfbench.perturbation.scoring.cells import Cells, normalise
from nmfbench.perturbation.scoring.differential import Differential
from nmfbench.perturbation.scoring.registry import DIRECTIONS
from nmfbench.perturbation.scoring.truth import Truth, depth_of, differential_of

if TYPE_CHECKING:
    import pandas as pd


def score_prediction(
    truth: Truth,
    predicted: Cells,
    *,
    profiles: np.ndarray | None = None,
    log_rate: np.ndarray | None = None,
    theta: np.ndarray | None = None,
    control_reference: str = "real",
) -> tuple[pd.DataFrame, Differential]:
    """Score predicted cells against a truth.

    Parameters
    ----------
    truth : Truth
    predicted : Cells
        Cells of every target of the truth; the control cells beside them (group -1) are the reference of
        scorers that take each side's own, and ignored by the others.
    profiles : ndarray of shape (targets, genes), optional
        The expected profiles, for a scorer that prefers them to means of the drawn cells.
    log_rate, theta : ndarray, optional
        Predicted log rates (targets, genes) and sizes (genes,), for the likelihood.
    control_reference : {"real", "split"}
        ``split``: changes of the prediction are taken from the control cells for training.

    Returns
    -------
    table : DataFrame
        A row for each target, a column for each metric.
    differential : Differential
        Of the predicted cells.

    Raises
    ------
    InputError
        A target of the truth has no predicted cell.
    """
    import pandas as pd

    backend = truth.backend
    predicted = predicted.of(truth.names)
    _require_all(truth, predicted)
    depth = depth_of(backend, predicted, truth.target_sum)
    values = normalise(predicted, depth)
    means, variances, linear = values.moments()
    of_change = linear if backend.linear_means else means
    own = backend.reference == "own"
    control = rank_sums.prepare(values.rows(-1)) if own else truth.prepared_control
    control_mean = of_change[0] if own else truth.control_mean
    differential = differential_of(backend, values, control, of_change[1:], control_mean)
    drawn, noise = means[1:], variances[1:] / np.maximum(values.n, 1)[:, None]
    if backend.expected_profiles and profiles is not None:
        drawn, noise = profiles, np.zeros_like(noise)
    reference = means[0] if own else truth.control_profile
    if control_reference == "split" and not own and truth.train_control_profile is not None:
        reference = truth.train_control_profile
    change, real = drawn - reference, truth.profiles - truth.control_profile
    table: dict[str, Any] = {"target": truth.names, "n_cells": truth.n.astype(int)}
    table |= _of_profiles(truth, drawn, noise, change, real)
    table |= _of_genes(truth, differential)
    totals = predicted.totals
    medians = [np.median(totals[predicted.group == number]) for number in range(len(truth.names))]
    table["depth_ratio"] = np.array(medians) / np.maximum(truth.median_total, 1e-12)
    if log_rate is not None and truth.counts is not None:
        sums = (truth.counts, truth.size, truth.size_squared)
        table["NB_log_likelihood"] = metrics.log_likelihood(log_rate, theta, *sums)
    return pd.DataFrame(table), differential


def _require_all(truth: Truth, predicted: Cells) -> None:
    present = np.bincount(predicted.group[predicted.group >= 0], minlength=len(truth.names))
    missing = [name for name, n in zip(truth.names, present, strict=True) if not n]
    if missing:
        raise InputError(
            "predicted cells",
            f"cells of each of the {len(truth.names)} targets held out",
            f"none of {', '.join(missing[:5])}{' ...' * (len(missing) > 5)} ({len(missing)})",
            "predict them as well: a score over some targets is not one over all",
        )


def _of_profiles(
    truth: Truth, drawn: np.ndarray, noise: np.ndarray, change: np.ndarray, real: np.ndarray
) -> dict[str, np.ndarray]:
    error = drawn - truth.profiles
    kept = np.ones(error.shape, dtype=bool)
    measured = truth.own_gene >= 0
    kept[np.flatnonzero(measured), truth.own_gene[measured]] = False
    top = metrics.top_genes(real)
    backend = truth.backend
    sides = (change, real) if backend.discrimination_of == "changes" else (drawn, truth.profiles)
    found = {
        "MAE": metrics.mean_absolute_error(drawn, truth.profiles),
        "PearsonDelta": metrics.pearson(change, real),
        "PDS": metrics.discrimination(metrics.distances(*sides, truth.own_gene), backend.discrimination_ties),
    }
    if backend.name != "house":
        return found
    found |= {
        "L2": np.sqrt((error**2).sum(axis=1)),
        "MSE": (error**2).mean(axis=1),
        "MSE_corrected": (error**2 - truth.variances - noise).mean(axis=1),
        "MSE_top20": ((error**2) * top).sum(axis=1) / top.sum(axis=1),
        "PearsonDelta_without_target": metrics.pearson(change, real, kept),
        "PearsonDelta_top20": metrics.pearson(change, real, top),
        "PDS_cosine": metrics.discrimination(metrics.distances(*sides, truth.own_gene, "cosine")),
    }
    if truth.reference is not None:
        found["CentredPearson"] = metrics.pearson(drawn - truth.reference, truth.profiles - truth.reference)
    return found


def _of_genes(truth: Truth, predicted: Differential) -> dict[str, np.ndarray]:
    real = truth.differential.significant(truth.fdr)
    found = metrics.overlap(
        real, predicted.significant(truth.fdr), predicted.log2_fold_change, truth.backend.when_none
    )
    if truth.backend.name == "vcc":
        change = truth.differential.log2_fold_change
        found["DE_precision"] = metrics.precision_at_n(real, predicted.significant(truth.fdr), change)
    found["DE_direction"] = metrics.direction(
        real, truth.differential.log2_fold_change, predicted.log2_fold_change
    )
    return found


def summarise(table: pd.DataFrame, responsive: np.ndarray) -> pd.DataFrame:
    """Means over all targets and over the responsive ones.

    Returns
    -------
    DataFrame
        metric, targets (all, responsive), value, std (ddof 1), n. A metric that no target has is left out.
    """
    import pandas as pd

    rows = []
    for metric in DIRECTIONS:
        if metric not in table:
            continue
        for targets, mask in (("all", np.ones(len(table), dtype=bool)), ("responsive", responsive)):
            values = table.loc[mask, metric].to_numpy(dtype=float)
            values = values[~np.isnan(values)]
            if len(values):
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
                rows.append((metric, targets, float(values.mean()), spread, len(values)))
    return pd.DataFrame(rows, columns=["metric", "targets", "value", "std", "n"])
