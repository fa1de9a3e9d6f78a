"""Numbers with a common normal prior and a tabulated likelihood each: their posterior over a grid of priors.

See :mod:`nmfbench.models.nb_hierarchical.marginals`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nmfbench.compiled import compiled

POINTS, ENDS = 121, 6.0
"""Points of the sums over one number, and how many prior sds they reach."""
SHARP = 0.12
"""A likelihood narrower than this share of the prior's sd is taken as the normal that it then is."""
COARSE = np.linspace(-10.0, 2.5, 51)
FINE, MEANS, REACH = 33, 9, 4.0
NEGLIGIBLE = 12.0
LEAST_WEIGHT = 1e-4
QUANTILES = 41
"""Points that stand for a normal where an interval of a mixture is sought."""


@dataclass
class Tables:
    """Log-likelihoods of many numbers at an even grid.

    Attributes
    ----------
    low, step : float
        The grid's first point and spacing.
    values : ndarray of shape (units, points)
        Less their largest.
    peak, sd : ndarray of shape (units,)
        Where each is largest and how wide it is there; infinite at an end of the grid.
    """

    low: float
    step: float
    values: np.ndarray
    peak: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, grid: np.ndarray, values: np.ndarray) -> Tables:
        """From values of shape (points, units)."""
        values = np.ascontiguousarray((values - values.max(0)).T)
        step, units, top = grid[1] - grid[0], np.arange(len(values)), values.argmax(1)
        inside = (top > 0) & (top < len(grid) - 1)
        middle = np.clip(top, 1, len(grid) - 2)
        before, here, after = (values[units, middle + k] for k in (-1, 0, 1))
        bend = np.where(inside, np.maximum(2 * here - before - after, 1e-300), 1.0) / step**2
        peak = grid[middle] + np.where(inside, 0.5 * (after - before) / step / bend, 0.0)
        return cls(float(grid[0]), float(step), values, peak, np.where(inside, bend**-0.5, np.inf))

    def moments(self, mean: float, sd: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``ln ∫ L(x) N(x | mean, sd) dx``, and mean and variance of x, each of shape (units,)."""
        z = np.linspace(-ENDS, ENDS, POINTS)
        weights = np.exp(-0.5 * z**2)
        weights /= weights.sum()
        found = np.empty((3, len(self.values)))
        _moments(self.values, self.low, self.step, self.peak, self.sd, mean, sd, z, weights, *found)
        return tuple(found)


@compiled(nogil=True, error_model="numpy")
def _moments(
    values, low, step, peak, width, mean, sd, z, weights, log_z, first, variance
):  # pragma: no cover
    """Cubic interpolation in the table; beyond its ends the likelihood is as at the end."""
    n = values.shape[1]
    terms = np.empty(len(z))
    for u in range(values.shape[0]):
        if width[u] < SHARP * sd:
            both = width[u] ** 2 + sd**2
            log_z[u] = 0.5 * math.log(width[u] ** 2 / both) - 0.5 * (peak[u] - mean) ** 2 / both
            variance[u] = width[u] ** 2 * sd**2 / both
            first[u] = (peak[u] * sd**2 + mean * width[u] ** 2) / both
            continue
        largest = -np.inf
        for k in range(len(z)):
            place = (mean + sd * z[k] - low) / step
            place = min(max(place, 0.0), n - 1.0)
            j = min(max(int(place), 1), n - 3)
            s = place - j
            a, b, c, d = values[u, j - 1], values[u, j], values[u, j + 1], values[u, j + 2]
            terms[k] = b + 0.5 * s * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))
            largest = max(largest, terms[k])
        total, one, two = 0.0, 0.0, 0.0
        for k in range(len(z)):
            w = weights[k] * math.exp(terms[k] - largest)
            total += w
            one += w * z[k]
            two += w * z[k] * z[k]
        one /= total
        log_z[u] = largest + math.log(total)
        first[u] = mean + sd * one
        variance[u] = sd**2 * max(two / total - one * one, 1e-12)


@dataclass
class Mixture:
    """A posterior of independent normals given mean and sd of their axis, which take the points of a grid.

    Attributes
    ----------
    weights, means, log_sds : ndarray of shape (points,)
        Chances of the points, and the axis' mean and ln sd there.
    first, variance : ndarray of shape (points, units)
        Mean and variance of every number at each point.
    has_mean : bool
        Whether the axis has a mean of its own; else it is 0.
    """

    weights: np.ndarray
    means: np.ndarray
    log_sds: np.ndarray
    first: np.ndarray
    variance: np.ndarray
    has_mean: bool

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and sds of the numbers, each of shape (units,)."""
        mean = self.weights @ self.first
        return mean, np.sqrt(self.weights @ (self.variance + (self.first - mean) ** 2))

    def of_mean(self) -> tuple[float, float]:
        """Mean and variance of the mean of all numbers."""
        middle = self.first.mean(1)
        mean = float(self.weights @ middle)
        spread = self.variance.mean(1) / self.first.shape[1] + (middle - mean) ** 2
        return mean, float(self.weights @ spread)

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the numbers less their mean."""
        n = self.first.shape[1]
        away = self.first - self.first.mean(1, keepdims=True)
        spread = self.variance * (1 - 2 / n) + self.variance.sum(1, keepdims=True) / n**2
        mean = self.weights @ away
        return mean, self.weights @ (spread + (away - mean) ** 2)

    def variance_of_centred(self) -> np.ndarray:
        return self.centred()[1]

    def draw(self, name: str, chance: float, noise: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """One draw of the numbers, and of their mean and sd by name."""
        k = int(np.searchsorted(np.cumsum(self.weights), chance * self.weights.sum()))
        k = min(k, len(self.weights) - 1)
        shared = {f"sigma_{name}": float(np.exp(self.log_sds[k]))}
        if self.has_mean:
            shared[f"mu_{name}"] = float(self.means[k])
        return self.first[k] + np.sqrt(self.variance[k]) * noise, shared

    def intervals(self) -> np.ndarray:
        """The shortest interval of each number that holds 94 %, of shape (2, units)."""
        from scipy.special import ndtri

        steps = ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
        weights = np.repeat(self.weights / QUANTILES, QUANTILES)
        sds = np.sqrt(self.variance)
        units = range(self.first.shape[1])
        points = ((self.first[:, u, None] + sds[:, u, None] * steps).ravel() for u in units)
        return np.array([_densest(values, weights) for values in points]).T

    def shared(self, name: str) -> dict[str, tuple[float, float, float, float]]:
        """Mean, sd and 94 % interval of the axis' mean (where it has one) and sd."""
        found = {}
        for key, values in ((f"mu_{name}", self.means), (f"sigma_{name}", np.exp(self.log_sds))):
            if key.startswith("mu_") and not self.has_mean:
                continue
            mean = float(self.weights @ values)
            sd = math.sqrt(float(self.weights @ (values - mean) ** 2))
            found[key] = (mean, sd, *_densest(values, self.weights))
        return found


def _densest(values: np.ndarray, weights: np.ndarray, share: float = 0.94) -> tuple[float, float]:
    """The shortest interval that holds the share of a weighted sample."""
    order = np.argsort(values)
    x, reached = values[order], np.cumsum(weights[order])
    start = reached - weights[order]
    stop = np.searchsorted(reached, np.minimum(start + share, reached[-1]) - 1e-12)
    stop = np.minimum(stop, len(x) - 1)
    whole = start + share <= reached[-1] + 1e-9
    lengths = np.where(whole, x[stop] - x, np.inf)
    best = int(np.argmin(lengths))
    return float(x[best]), float(x[stop[best]])


def integrate(tables: Tables, mean_sd: float | None, sd_scale: float) -> Mixture:
    """The posterior over the axis' mean and sd, and of the numbers given them.

    Parameters
    ----------
    tables : Tables
    mean_sd : float or None
        Sd of the normal prior about 0 of the axis' mean; None: the mean is 0.
    sd_scale : float
        Of the half-normal prior of the axis' sd.
    """
    mean = 0.0 if mean_sd is None else float(np.median(np.clip(tables.peak, -3, 3)))
    profile = []
    for log_sd in COARSE:
        mean, sd, value = _best_mean(tables, mean, log_sd, mean_sd)
        profile.append(value + math.log(sd) + _log_prior(log_sd, sd_scale))
    kept = np.flatnonzero(np.array(profile) > np.max(profile) - NEGLIGIBLE)
    ends = COARSE[max(kept[0] - 1, 0)], COARSE[min(kept[-1] + 1, len(COARSE) - 1)]
    points, chances, moments = [], [], []
    for log_sd in np.linspace(*ends, FINE):
        mean, sd, _ = _best_mean(tables, mean, log_sd, mean_sd)
        for step in np.linspace(-REACH, REACH, MEANS) if mean_sd is not None else [0.0]:
            at = mean + step * sd
            log_z, *rest = tables.moments(at, math.exp(log_sd))
            prior = _log_prior(log_sd, sd_scale) - (0.0 if mean_sd is None else 0.5 * (at / mean_sd) ** 2)
            points.append((at, log_sd))
            chances.append(float(log_z.sum()) + prior + math.log(sd))
            moments.append(rest)
    weights = np.exp(np.array(chances) - np.max(chances))
    weights /= weights.sum()
    kept = np.flatnonzero(weights > LEAST_WEIGHT * weights.max())
    weights = weights[kept] / weights[kept].sum()
    means, log_sds = np.array(points)[kept].T
    first, variance = (np.array([moments[k][part] for k in kept]) for part in (0, 1))
    return Mixture(weights, means, log_sds, first, variance, mean_sd is not None)


def _best_mean(
    tables: Tables, mean: float, log_sd: float, mean_sd: float | None
) -> tuple[float, float, float]:
    """The most probable mean of the axis given its sd, its own sd, and the log density there."""
    sd = math.exp(log_sd)
    if mean_sd is None:
        return 0.0, 1.0, float(tables.moments(0.0, sd)[0].sum())
    for _ in range(6):
        _, first, variance = tables.moments(mean, sd)
        slope = float((first - mean).sum()) / sd**2 - mean / mean_sd**2
        precision = float((1 - variance / sd**2).sum()) / sd**2
        precision = max(precision, 0.05 * len(first) / (sd**2 + np.mean(np.minimum(tables.sd, 3.0) ** 2)))
        precision += 1 / mean_sd**2
        step = min(max(slope / precision, -1.0), 1.0)
        mean += step
        if abs(step) * math.sqrt(precision) < 0.01:
            break
    value = float(tables.moments(mean, sd)[0].sum()) - 0.5 * (mean / mean_sd) ** 2
    return mean, precision**-0.5, value


def _log_prior(log_sd: float, scale: float) -> float:
    """Log density of the logarithm of a half-normal number, up to its constant."""
    return log_sd - 0.5 * math.exp(2 * log_sd) / scale**2
