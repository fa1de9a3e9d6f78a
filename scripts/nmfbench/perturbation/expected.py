"""Expected log1p profiles of negative binomial cells, and the rates that a profile stands for.

A predictor gives rates; scores compare means of ``log1p(target_sum * y / total)``. Drawing cells says what
that mean is only up to their noise, so it is summed up exactly, over a few depths that stand for all.
"""

from __future__ import annotations

import numpy as np

from nmfbench.compiled import compiled

N_DEPTHS = 9
_MANY = 60.0  # mean above which the sum gives way to an expansion
_WIDEST = 9.0  # a log fold change beyond this is a gene without counts
_POINTS = 145


def depths(size_factors: np.ndarray) -> np.ndarray:
    """Quantiles that stand for the size factors of the cells, shape (N_DEPTHS,)."""
    return np.quantile(size_factors, (np.arange(N_DEPTHS) + 0.5) / N_DEPTHS)


def expected_log1p(
    log_rate: np.ndarray, theta: np.ndarray, size_factors: np.ndarray, scale: float
) -> np.ndarray:
    """Mean of ``log1p(scale * y / s)`` over cells, ``y ~ NB(s * exp(log_rate), theta)``.

    Parameters
    ----------
    log_rate : ndarray of shape (targets, genes)
    theta : ndarray of shape (genes,)
    size_factors : ndarray of shape (depths,)
        See :func:`depths`.
    scale : float
        Counts that a cell of size factor 1 is scaled to, over its counts.

    Returns
    -------
    ndarray of shape (targets, genes)
    """
    log_rate = np.atleast_2d(np.asarray(log_rate, dtype=np.float64))
    result = np.empty(log_rate.shape)
    _expect(log_rate, np.asarray(theta, np.float64), size_factors, float(scale), result)
    return result


class ProfileTable:
    """Mean log1p profiles as a function of the log fold change of each gene, and back.

    :func:`expected_log1p` on a grid of changes, dense around zero, with cubic interpolation between: a search
    for penalties asks for the same profiles thousands of times.

    Parameters
    ----------
    log_mean, theta : ndarray of shape (genes,)
        Of the control.
    size_factors : ndarray of shape (depths,)
    scale : float
    """

    def __init__(
        self, log_mean: np.ndarray, theta: np.ndarray, size_factors: np.ndarray, scale: float
    ) -> None:
        self.step = 2 * np.arcsinh(_WIDEST) / (_POINTS - 1)
        places = np.arange(_POINTS) * self.step - np.arcsinh(_WIDEST)
        rates = (log_mean[:, None] + np.sinh(places)).T
        self.values = np.ascontiguousarray(expected_log1p(rates, theta, size_factors, scale).T)
        self.base = self.values[:, _POINTS // 2].copy()

    def change_of_profile(self, change: np.ndarray) -> np.ndarray:
        """Change of the profile for a log fold change, both of shape (targets, genes)."""
        result = np.empty(change.shape)
        _interpolate(np.ascontiguousarray(change, dtype=np.float64), self.values, self.step, result)
        return result - self.base

    def log_fold_change(self, profile_change: np.ndarray) -> np.ndarray:
        """The log fold change that brings a change of the profile, within what the table spans."""
        result = np.empty(profile_change.shape)
        wanted = np.ascontiguousarray(profile_change + self.base, dtype=np.float64)
        _invert(wanted, self.values, self.step, result)
        return np.where(profile_change == 0, 0.0, result)


@compiled()
def _expect(log_rate, theta, sizes, scale, result):
    for t in range(log_rate.shape[0]):
        for g in range(log_rate.shape[1]):
            total = 0.0
            rate = np.exp(log_rate[t, g])
            for k in range(len(sizes)):
                total += _one(sizes[k] * rate, theta[g], scale / sizes[k])
            result[t, g] = total / len(sizes)


@compiled()
def _one(mean, theta, scale):
    """E log1p(scale y) for y ~ NB(mean, theta)."""
    if mean < 1e-12:
        return 0.0
    if mean > _MANY:
        if theta > 5.0:  # second order around the mean
            x = 1.0 + scale * mean
            return np.log(x) - 0.5 * (scale / x) ** 2 * (mean + mean * mean / theta)
        # the gamma alone, whose mean of the logarithm is known
        return np.log1p(scale * mean * np.exp(_digamma(theta)) / theta)
    probability = np.exp(-theta * np.log1p(mean / theta))
    ratio = mean / (mean + theta)
    summed, left = 0.0, 1.0 - probability
    y = 0
    while left > 1e-7 and y < 20000:
        probability *= (theta + y) / (y + 1.0) * ratio
        y += 1
        summed += probability * np.log1p(scale * y)
        left -= probability
    return summed


@compiled()
def _digamma(x):
    shift = 0.0
    while x < 6.0:
        shift -= 1.0 / x
        x += 1.0
    square = 1.0 / (x * x)
    return shift + np.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square / 252))


@compiled()
def _at(row, place):
    """Cubic interpolation (Catmull-Rom) in a row of the table at a place in steps."""
    last = len(row) - 1
    place = min(max(place, 0.0), float(last))
    k = min(int(place), last - 1)
    t = place - k
    here, there = row[k], row[k + 1]
    before = row[k - 1] if k > 0 else 2 * here - there
    after = row[k + 2] if k + 2 <= last else 2 * there - here
    a, b = 0.5 * (there - before), 0.5 * (after - here)
    return here + t * (a + t * (3 * (there - here) - 2 * a - b + t * (2 * (here - there) + a + b)))


@compiled()
def _interpolate(change, values, step, result):
    middle = (values.shape[1] - 1) / 2
    for t in range(change.shape[0]):
        for g in range(change.shape[1]):
            result[t, g] = _at(values[g], np.arcsinh(change[t, g]) / step + middle)


@compiled()
def _invert(wanted, values, step, result):
    last = values.shape[1] - 1
    for t in range(wanted.shape[0]):
        for g in range(wanted.shape[1]):
            low, high = 0.0, float(last)
            for _ in range(40):
                place = 0.5 * (low + high)
                if _at(values[g], place) > wanted[t, g]:
                    high = place
                else:
                    low = place
            result[t, g] = np.sinh((0.5 * (low + high) - last / 2) * step)
