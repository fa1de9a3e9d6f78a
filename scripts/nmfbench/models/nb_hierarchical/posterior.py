"""What a fitted posterior says: means, sds and draws of the effects, in any form of the axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nmfbench.models.nb_hierarchical.axis_grid import Mixture
from nmfbench.models.nb_hierarchical.family import Family

PARTS = ("gene", "cell", "log_alpha", "effect")
HDI = 1.8807936081512509
"""Standard deviations on either side of a normal's mean that hold 94 %."""


@dataclass
class Effects:
    """Means and sds; `centred` effects are those that the data identify.

    Attributes
    ----------
    gene, cell, log_alpha, effect : tuple of two ndarrays
        ``a_g``, ``b_i``, ``ln alpha_g`` (one number where it is shared) and ``d_lg``: means and sds.
    gene_total, cell_centred : tuple of two ndarrays
        ``a_g + mean b`` and ``b_i - mean b``: what one side can give the other is taken out.
    """

    gene: tuple[np.ndarray, np.ndarray]
    cell: tuple[np.ndarray, np.ndarray]
    log_alpha: tuple[np.ndarray, np.ndarray]
    effect: tuple[np.ndarray, np.ndarray]
    gene_total: tuple[np.ndarray, np.ndarray]
    cell_centred: tuple[np.ndarray, np.ndarray]


class Posterior:
    """The posterior of a fit: the mean field's, but of axes that were refined by quadrature.

    Parameters
    ----------
    family : Family
    loc, log_sd : ndarray of shape (size,)
    refined : mapping of str to Mixture, optional
        Axes whose numbers, mean and sd have a posterior of their own
        (:mod:`nmfbench.models.nb_hierarchical.marginals`).
    """

    def __init__(
        self,
        family: Family,
        loc: np.ndarray,
        log_sd: np.ndarray,
        refined: Mapping[str, Mixture] | None = None,
    ) -> None:
        self.family, self.loc, self.log_sd = family, loc, log_sd
        self.refined = dict(refined or {})

    def effects(self) -> Effects:
        """Means and sds of all effects, in closed form."""
        found = {name: self._moments(name) for name in self.family.axes}
        if self.family.shared:
            k = self.family.globals.index("log_alpha")
            found["log_alpha"] = self.loc[k : k + 1].copy(), np.exp(self.log_sd[k : k + 1])
        shape = self.family.design.shape[1], self.family.n_genes
        effect = found.get("effect", (np.zeros(0), np.zeros(0)))
        cell_centred, (shift, shift_variance) = self._centred_cells()
        a, sd = found["gene"]
        return Effects(
            gene=found["gene"],
            cell=found["cell"],
            log_alpha=found["log_alpha"],
            effect=tuple(part.reshape(shape) for part in effect),
            gene_total=(a + shift, np.sqrt(sd**2 + shift_variance)),
            cell_centred=cell_centred,
        )

    def globals(self) -> dict[str, tuple[float, float, float, float]]:
        """Mean, sd and the 94 % interval of highest density of every shared number, by its own name."""
        found = {}
        for k, name in enumerate(self.family.globals):
            m, s = float(self.loc[k]), float(np.exp(self.log_sd[k]))
            if name.startswith("log_"):
                found[name.removeprefix("log_")] = (
                    float(np.exp(m + s**2 / 2)),
                    float(np.exp(m + s**2 / 2) * np.sqrt(np.expm1(s**2))),
                    *_lognormal_interval(m, s),
                )
            else:
                found[name] = (m, s, m - HDI * s, m + HDI * s)
        for axis, mixture in self.refined.items():
            found |= mixture.shared(axis)
        return found

    def draws(self, n: int, seed: int, block: int = 50) -> Iterator[dict[str, np.ndarray]]:
        """Draws in blocks: the globals by name, ``gene``, ``cell``, ``log_alpha`` and ``effect``.

        The same whatever `block` is.
        """
        names = self.family.globals
        scale = np.exp(self.log_sd)
        for start in range(0, n, block):
            rows, unfolded, anew = [], [], {}
            for k in range(start, min(start + block, n)):
                noise = np.random.default_rng([seed, 2, k]).standard_normal(self.family.size)
                rows.append(self.loc + scale * noise)
                parts = dict(zip(PARTS, self.family.unfolded(rows[-1]), strict=True))
                points = np.random.default_rng([seed, 5, k]).random(len(self.refined))
                for (axis, mixture), chance in zip(self.refined.items(), points, strict=True):
                    own, shared = mixture.draw(axis, chance, noise[self.family.places[axis]])
                    parts[axis] = own
                    for name, value in shared.items():
                        anew.setdefault(name, []).append(value)
                unfolded.append(parts)
            drawn = {
                name.removeprefix("log_"): np.array([x[k] for x in rows]) for k, name in enumerate(names)
            }
            for name in names:
                if name.startswith("log_"):
                    key = name.removeprefix("log_")
                    drawn[key] = np.exp(drawn[key])
            drawn |= {name: np.array(values) for name, values in anew.items()}
            drawn |= {name: np.stack([parts[name] for parts in unfolded]) for name in PARTS}
            yield drawn

    # ------------------------------------------------------------------------------------------------

    def _part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        place = self.family.places[name]
        return self.loc[place], np.exp(self.log_sd[place])

    def _centre(self, name: str) -> tuple[float, float, float, float]:
        """Mean and variance of mu, and first and second moment of sigma."""
        names = self.family.globals
        mean, variance = 0.0, 0.0
        if f"mu_{name}" in names:
            k = names.index(f"mu_{name}")
            mean, variance = self.loc[k], np.exp(2 * self.log_sd[k])
        k = names.index(f"log_sigma_{name}")
        m, v = self.loc[k], np.exp(2 * self.log_sd[k])
        return mean, variance, np.exp(m + v / 2), np.exp(2 * m + 2 * v)

    def _moments(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name in self.refined:
            return self.refined[name].moments()
        x, sd = self._part(name)
        if self.family.forms[name]:
            return x.copy(), sd
        mean, variance, first, second = self._centre(name)
        return mean + first * x, np.sqrt(variance + second * (x**2 + sd**2) - first**2 * x**2)

    def _centred_cells(self):
        """Moments of ``b - mean b``, and mean and variance of ``mean b``."""
        if "cell" in self.refined:
            mean, variance = self.refined["cell"].centred()
            return (mean, np.sqrt(variance)), self.refined["cell"].of_mean()
        x, sd = self._part("cell")
        n = len(x)
        deviation, spread = x - x.mean(), sd**2 * (1 - 2 / n) + (sd**2).sum() / n**2
        if self.family.forms["cell"]:
            return (deviation, np.sqrt(spread)), (float(x.mean()), float((sd**2).sum() / n**2))
        mean, variance, first, second = self._centre("cell")
        of_mean = variance + second * (x.mean() ** 2 + (sd**2).sum() / n**2) - first**2 * x.mean() ** 2
        centred = first * deviation, np.sqrt(second * (deviation**2 + spread) - first**2 * deviation**2)
        return centred, (float(mean + first * x.mean()), float(of_mean))


def _lognormal_interval(m: float, s: float) -> tuple[float, float]:
    """The shortest interval that holds 94 % of a log-normal."""
    from scipy.optimize import minimize_scalar
    from scipy.special import ndtr, ndtri

    if s < 1e-6:
        return float(np.exp(m - HDI * s)), float(np.exp(m + HDI * s))

    def ends(low):
        start = ndtri(low)
        return np.exp(m + s * start), np.exp(m + s * ndtri(min(ndtr(start) + 0.94, 1 - 1e-12)))

    best = minimize_scalar(lambda low: ends(low)[1] - ends(low)[0], bounds=(1e-9, 0.0599), method="bounded").x
    return tuple(float(end) for end in ends(best))
