"""Intervals and comparisons: what repeats of a measurement allow to be said, and about what.

Three units are kept apart, since each covers another draw:

* **folds** of a cross-validation repeat the measurement on the same cells and fit; their training sets
  overlap, so that a plain t-test is far too sure. The corrected resampled t-test (Nadeau and Bengio 2003;
  Bouckaert and Frank 2004) widens the standard error by the share of cells that are tested;
* **training seeds** repeat the fit: ordinary t intervals, and Welch's test, as seeds of two models are no
  pairs;
* **donors** are what would be drawn anew in another study: a bootstrap of donors from tables of counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
MIN_DONORS_BOOTSTRAP, MIN_DONORS_JACKKNIFE = 20, 8


@dataclass(frozen=True)
class Interval:
    """A value, its 95 % interval, what it is over, and how; NaN limits where there is too little."""

    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True)
class Comparison:
    """A difference, its 95 % interval and the test of no difference."""

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float
    n: int
    method: str


def seed_interval(values: Any) -> Interval:
    """t interval of the mean over training seeds; one seed has none, and never one of width 0."""
    values = _finite(values)
    n = values.size
    mean = float(values.mean()) if n else np.nan
    if n < 2:
        return Interval(mean, np.nan, np.nan, n, "t over training seeds")
    if np.ptp(values) == 0:  # a deterministic fit: its interval is not one of width 0
        return Interval(mean, np.nan, np.nan, n, "none: the training seed changes nothing")
    half = _quantile(n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, "t over training seeds")


def corrected_resampled_t(differences: Any, test_per_train: float) -> Comparison:
    """Test whether two models differ over the same folds of a repeated cross-validation.

    Parameters
    ----------
    differences : array-like of shape (n_repeats x n_folds,)
        Score of one less that of the other, fold by fold.
    test_per_train : float
        Test cells over training cells; 1 / (K - 1) for K folds.

    Returns
    -------
    Comparison
        ``t = mean / sqrt((1 / J + test_per_train) s²)`` with J - 1 degrees of freedom. It covers the draw
        of training cells from these donors, with these two fits: neither other donors nor other training
        seeds.
    """
    d = _finite(differences)
    method = "corrected resampled t over folds"
    if d.size < 2:
        return Comparison(float(d.mean()) if d.size else np.nan, *[np.nan] * 5, d.size, method)
    error = np.sqrt((1.0 / d.size + test_per_train) * d.var(ddof=1))
    return _t_test(float(d.mean()), float(error), d.size - 1, d.size, method)


def welch(first: Any, second: Any) -> Comparison:
    """Welch's t-test of the training seeds of two models."""
    a, b = _finite(first), _finite(second)
    method, n = "Welch's t over training seeds", min(a.size, b.size)
    difference = float(a.mean() - b.mean()) if n else np.nan
    if n < 2:
        return Comparison(difference, *[np.nan] * 5, n, method)
    parts = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    total = sum(parts)
    if total == 0:
        return Comparison(difference, *[np.nan] * 5, n, method)
    df = total**2 / (parts[0] ** 2 / (a.size - 1) + parts[1] ** 2 / (b.size - 1))
    return _t_test(difference, float(np.sqrt(total)), float(df), n, method)


def _t_test(difference: float, error: float, df: float, n: int, method: str) -> Comparison:
    from scipy.stats import t as student

    if error < 1e-12:  # the same difference throughout, but for rounding
        return Comparison(difference, *[np.nan] * 5, n, method)
    t, half = difference / error, _quantile(df) * error
    p = float(2.0 * student.sf(abs(t), df))
    return Comparison(difference, difference - half, difference + half, t, float(df), p, n, method)


def holm(p: Any) -> np.ndarray:
    """Holm's adjustment of p values for their number; NaN stays NaN and does not count."""
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if order.size else steps
    return adjusted


def donor_interval(
    fits: Sequence[Sequence[np.ndarray]],
    score: Callable[[np.ndarray], np.ndarray],
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of a score of counts for a draw of other donors, without a refit.

    Parameters
    ----------
    fits : sequence of sequence of ndarray of shape (n_donors, n_true, n_found)
        For each training seed, the tables of its repeats (Leiden seeds, shuffles), over whose scores is
        averaged.
    score : callable
        Scores of tables of shape (..., n_true, n_found).
    replicates : int
        Draws of donors; each also draws one of the training seeds.
    seed : int
        Seed of the draws.

    Returns
    -------
    Interval
        ``value`` is the mean over training seeds for the donors as they are. Percentiles of the bootstrap
        from 20 donors on, a t interval from the jackknife for 8 to 19, none below. ``n`` is the donors.
    """
    present = np.sum([np.sum([t.sum(axis=(1, 2)) for t in fit], axis=0) for fit in fits], axis=0) > 0
    n = int(present.sum())
    fits = [[table[present].astype(np.float64) for table in fit] for fit in fits]
    whole = [float(np.mean([score(table.sum(axis=0)) for table in fit])) for fit in fits]
    value = float(np.mean(whole))
    if n < MIN_DONORS_JACKKNIFE:
        return Interval(value, np.nan, np.nan, n, f"none: fewer than {MIN_DONORS_JACKKNIFE} donors")
    if n < MIN_DONORS_BOOTSTRAP:
        left = np.mean([_scores_of(fit, 1.0 - np.eye(n), score) for fit in fits], axis=0)
        half = _quantile(n - 1) * np.sqrt((n - 1) / n * np.square(left - left.mean()).sum())
        return Interval(value, value - half, value + half, n, "jackknife over donors")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1.0 / n), size=replicates).astype(np.float64)
    chosen = rng.integers(len(fits), size=replicates)
    drawn = np.empty(replicates)
    for number, fit in enumerate(fits):
        mine = chosen == number
        if mine.any():
            drawn[mine] = _scores_of(fit, weights[mine], score)
    tails = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(drawn, [tails, 100.0 - tails])
    return Interval(value, float(low), float(high), n, "bootstrap over donors")


def _scores_of(fit: Sequence[np.ndarray], weights: np.ndarray, score: Callable) -> np.ndarray:
    """Score of every weighing of the donors, mean over the repeats of a fit."""
    total = np.zeros(len(weights))
    for table in fit:
        for start in range(0, len(weights), 100):
            some = slice(start, start + 100)
            total[some] += score(np.tensordot(weights[some], table, axes=1))
    return total / len(fit)


def _finite(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[np.isfinite(values)]


def _quantile(df: float) -> float:
    from scipy.stats import t as student

    return float(student.ppf(0.5 + LEVEL / 2.0, df))
