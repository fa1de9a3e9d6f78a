"""A second look at the posterior of the shared numbers: the tail of its importance weights."""

from __future__ import annotations

import math

import numpy as np
import torch

from nmfbench.models.nb_hierarchical.family import Family

DRAWS = 1000
LARGEST_GOOD_K = 0.7
"""Above it importance weights have no usable mean: the posterior misses a part of what it stands for."""


def pareto_k(family: Family, loc: np.ndarray, log_sd: np.ndarray, seed: int) -> float:
    """Shape of the generalised Pareto tail of the weights (Vehtari et al. 2024, arXiv:1507.02646).

    Means and sds of centred axes act on the counts through the effects alone. Given the effects' posterior
    their density is known in closed form, for all cells and genes at once, up to its constant. Shared numbers
    of other axes, and a shared dispersion, stay at their means.

    Parameters
    ----------
    family : Family
    loc, log_sd : ndarray of shape (size,)
        The posterior.
    seed : int

    Returns
    -------
    float
        Below :data:`LARGEST_GOOD_K` all is well; NaN where no axis is centred.
    """
    from pyro.ops.stats import fit_generalized_pareto

    centred = [axis for axis in family.axes if family.forms[axis]]
    names = [name for axis in centred for name in (f"mu_{axis}", f"log_sigma_{axis}")]
    drawn = [k for k, name in enumerate(family.globals) if name in names]
    if not drawn:
        return math.nan
    noise = np.random.default_rng([seed, 11]).standard_normal((DRAWS, len(drawn)))
    x = np.repeat(loc[None, : len(family.globals)], DRAWS, axis=0)
    x[:, drawn] += np.exp(log_sd[drawn]) * noise
    shared = {name: torch.from_numpy(x[:, k].copy()) for k, name in enumerate(family.globals)}
    weights = family._globals_prior(shared) + torch.from_numpy(0.5 * (noise**2).sum(1))
    for axis, (centre, log_scale) in family.centres(shared).items():
        if axis not in centred:
            continue
        mean, variance = loc[family.places[axis]], np.exp(2 * log_sd[family.places[axis]])
        squares = float((mean**2 + variance).sum()) - 2 * centre * float(mean.sum()) + len(mean) * centre**2
        weights = weights - 0.5 * squares * torch.exp(-2 * log_scale) - len(mean) * log_scale
    tail = torch.sort(torch.exp(weights - weights.max())).values[-int(3 * math.sqrt(DRAWS)) - 1 :]
    return float(fit_generalized_pareto(tail[1:] - tail[0])[0])
