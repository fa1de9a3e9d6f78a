"""What the control cells say of each gene: its rate and its dispersion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmfbench.perturbation.splits import TRAIN_CONTROL
from nmfbench.perturbation.sums import Sums

THETA_BOUNDS = (1e-2, 1e4)  # beyond the upper one a negative binomial is a Poisson in float32
PUBLISHED_THETA_BOUNDS = (1e-6, 1e12)


@dataclass(frozen=True)
class Control:
    """Statistics of the control cells for training.

    Attributes
    ----------
    mean : ndarray of shape (genes,)
        Expected counts of a cell of size factor 1.
    theta : ndarray of shape (genes,)
        Size of the negative binomial: variance ``mu + mu**2 / theta``.
    profile : ndarray of shape (genes,)
        Mean of log1p of the scaled counts.
    """

    mean: np.ndarray
    theta: np.ndarray
    profile: np.ndarray


def control_statistics(sums: Sums) -> Control:
    """Rates and dispersions corrected for the depth of the cells.

    The rate is ``(sum y + 1/2) / sum s``: half a count keeps a gene that no control cell has from a
    logarithm of zero. The dispersion is the moment estimator

        phi_g = sum_i [(y_ig - s_i m_g)^2 - s_i m_g] / sum_i (s_i m_g)^2 ,   theta = 1 / phi

    shrunk towards a trend over the mean. Without the size factors the variation of depth would be
    counted as dispersion, and counted again when cells are sampled.
    """
    group = (sums.target == -1) & (sums.fold == TRAIN_CONTROL)
    counts, logs = sums.counts[group].sum(axis=0), sums.logs[group].sum(axis=0)
    s = sums.control_sizes
    mean = (counts + 0.5) / s.sum()
    squared = mean**2 * np.sum(s**2)  # sum (s m)^2
    residual = sums.control_squares - 2 * mean * sums.control_sized + squared
    raw = (residual - mean * s.sum()) / squared
    phi = _shrunk(raw, mean, s)
    theta = np.clip(1 / np.maximum(phi, 1e-12), *THETA_BOUNDS)
    return Control(mean, theta, logs / max(float(sums.n[group].sum()), 1.0))


def published_control_statistics(sums: Sums) -> Control:
    """The published ones: plain mean of the counts, ``theta = mean^2 / (variance - mean)`` without depth."""
    group = (sums.target == -1) & (sums.fold == TRAIN_CONTROL)
    n = float(sums.n[group].sum())
    mean = sums.counts[group].sum(axis=0) / n
    excess = sums.control_squares / n - mean**2 - mean
    theta = np.full(len(mean), 1e6)
    over = excess > 1e-6
    theta[over] = mean[over] ** 2 / excess[over]
    return Control(mean + 1e-8, np.clip(theta, *PUBLISHED_THETA_BOUNDS), sums.logs[group].sum(axis=0) / n)


def _shrunk(raw: np.ndarray, mean: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Dispersions drawn towards ``a + b / mean``, each as far as its own noise says.

    The noise of the moment estimator is that of a negative binomial with the trend's dispersion; what the
    residuals vary beyond it is the real spread around the trend.
    """
    squared = mean**2 * np.sum(s**2)
    phi = np.full(len(mean), max(float(np.median(raw)), 0.01))
    spread = 0.0
    for _ in range(10):
        # moments of sum (y - m)^2 for a negative binomial; sums over cells by the moments of s
        variance = 2 * _sum_of_squared_variance(mean, phi, s) + _sum_of_fourth(mean, phi, s)
        noise = variance / squared**2
        weight = 1 / (noise + spread)
        design = np.stack([np.ones_like(mean), 1 / np.maximum(mean, 1e-3)], axis=1)
        coefficients = _non_negative(design, raw, weight)
        phi = np.maximum(design @ coefficients, 1e-4)
        excess = (raw - phi) ** 2 - noise
        # a robust average: a handful of markers must not widen the spread of all
        spread = max(float(np.median(excess[noise < np.median(noise)], axis=0)), 0.0)
    return (raw * spread + phi * noise) / (spread + noise)


def _sum_of_squared_variance(mean: np.ndarray, phi: np.ndarray, s: np.ndarray) -> np.ndarray:
    """sum_i (s m + phi (s m)^2)^2, from the moments of s."""
    s2, s3, s4 = (np.sum(s**power) for power in (2, 3, 4))
    return mean**2 * s2 + 2 * phi * mean**3 * s3 + phi**2 * mean**4 * s4


def _sum_of_fourth(mean: np.ndarray, phi: np.ndarray, s: np.ndarray) -> np.ndarray:
    """sum_i of the excess fourth cumulant: var (1 + 6 phi var) for a negative binomial."""
    variance = mean * np.sum(s) + phi * mean**2 * np.sum(s**2)
    return variance + 6 * phi * _sum_of_squared_variance(mean, phi, s)


def _non_negative(design: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares with coefficients of at least zero."""
    from scipy.optimize import nnls

    root = np.sqrt(weight / weight.max())
    return nnls(design * root[:, None], values * root)[0]
