"""The last step of a fit: means and sds of centred axes at the optimum of the ELBO, given their effects.

The ELBO depends on the posterior of an axis' mean and ln sd through four numbers and the effects' moments, in
closed form. Adam leaves them where its steps have become small, which is far off in their own sds where an
axis has a hundred thousand effects.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from nmfbench.models.nb_hierarchical.family import Family


def finish_shared(family: Family, loc: np.ndarray, log_sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`loc` and `log_sd` with the shared numbers of centred axes at their optimum; the ELBO does not fall.

    Parameters
    ----------
    family : Family
    loc, log_sd : ndarray of shape (size,)
    """
    loc, log_sd = loc.copy(), log_sd.copy()
    at = {name: k for k, name in enumerate(family.globals)}
    for axis, place in family.places.items():
        if not family.forms[axis]:
            continue
        of_sd, of_mean = at[f"log_sigma_{axis}"], at.get(f"mu_{axis}")
        own = _Axis(family, axis, loc[place], log_sd[place])
        start = np.array([loc[of_sd], log_sd[of_sd]])
        if of_mean is not None:
            start = np.append(start, [loc[of_mean], log_sd[of_mean]])
        found = minimize(own.loss, own.good_start(start), jac=True, method="BFGS", options={"gtol": 1e-8}).x
        if not own.loss(found)[0] < own.loss(start)[0]:
            continue
        loc[of_sd], log_sd[of_sd] = found[:2]
        if of_mean is not None:
            loc[of_mean], log_sd[of_mean] = found[2:]
    return loc, log_sd


class _Axis:
    """Minus the ELBO of one effect, in what depends on an axis' mean and ln sd."""

    def __init__(self, family: Family, axis: str, mean: np.ndarray, log_sd: np.ndarray) -> None:
        p = family.priors
        self.n, self.centre = len(mean), float(mean.mean())
        self.squares = float(((mean - self.centre) ** 2).sum() + np.exp(2 * log_sd).sum())
        scales = {"gene": p.gene_sd, "cell": p.cell_sd, "log_alpha": p.log_alpha_sd, "effect": p.effect_sd}
        self.scale = scales[axis]
        self.prior_mean, self.prior_sd = {
            "gene": (p.gene_mean, p.gene_mean_sd),
            "cell": (0.0, p.cell_mean_sd or 1.0),
            "log_alpha": (0.0, p.log_alpha_mean_sd),
            "effect": (0.0, 1.0),
        }[axis]

    def good_start(self, start: np.ndarray) -> np.ndarray:
        """Where the optimum lies without priors."""
        log_sd = 0.5 * np.log(self.squares / self.n)
        found = np.array([log_sd, -0.5 * np.log(2 * self.n)])
        return found if len(start) == 2 else np.append(found, [self.centre, log_sd - 0.5 * np.log(self.n)])

    def loss(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient at ``(mean, ln sd)`` of ln sigma, and of mu where there is one."""
        m, t = x[0], np.exp(2 * x[1])
        squares, gradient = self.squares, np.zeros(len(x))
        if len(x) == 4:
            away, v = x[2] - self.centre, np.exp(2 * x[3])
            squares = squares + self.n * (away**2 + v)
        else:
            squares = squares + self.n * self.centre**2
        precision, second = np.exp(2 * t - 2 * m), np.exp(2 * m + 2 * t) / self.scale**2
        value = -0.5 * squares * precision - self.n * m + m - 0.5 * second + x[1]
        gradient[0] = squares * precision - self.n + 1 - second
        gradient[1] = 2 * t * (-squares * precision - second) + 1
        if len(x) == 4:
            value += -0.5 * ((x[2] - self.prior_mean) ** 2 + v) / self.prior_sd**2 + x[3]
            gradient[2] = -self.n * away * precision - (x[2] - self.prior_mean) / self.prior_sd**2
            gradient[3] = v * (-self.n * precision - 1 / self.prior_sd**2) + 1
        return -value / self.n, -gradient / self.n
