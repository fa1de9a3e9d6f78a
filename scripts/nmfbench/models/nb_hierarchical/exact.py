"""``engine: exact``: every count in every step, one pass over the nonzeros for each draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nmfbench.models.nb_hierarchical.family import Family
from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood

STEPS_OF_A_ROW = 10
DECAY_STEPS = 100
SPREAD_RATE = 0.2
"""Steps of a log sd over those of a mean: its gradient is noisier, an error of it costs as much."""
ADAM = (0.9, 0.98, 1e-8)


def relative_change(new: np.ndarray, old: np.ndarray) -> float:
    """The published check of convergence: the largest relative change of a parameter of the posterior."""
    return float(np.max((np.abs(new - old) + 1e-6) / (np.abs(old) + 1e-6)))


class Problem:
    """What every engine fits: family, likelihood and offsets.

    Parameters
    ----------
    family : Family
    likelihood : SplitLikelihood
    size, length : ndarray of shape (cells,), (genes,)
        Log offsets.
    seed : int
    order : ndarray of shape (size,) or None
        Which number of a draw belongs to which parameter: by the names, so that cells and genes in another
        order have the same noise.
    """

    def __init__(
        self,
        family: Family,
        likelihood: SplitLikelihood,
        size: np.ndarray,
        length: np.ndarray,
        seed: int,
        order: np.ndarray | None = None,
    ) -> None:
        self.family, self.likelihood, self.seed = family, likelihood, seed
        self.order = np.arange(family.size) if order is None else order
        self.size, self.length = torch.from_numpy(size), torch.from_numpy(length)

    def noise(self, *key: int) -> torch.Tensor:
        """Standard normal numbers of a step, the same whenever they are asked for."""
        rng = np.random.default_rng([self.seed, *key])
        return torch.from_numpy(rng.standard_normal(self.family.size)[self.order])

    def elbo(
        self, loc: np.ndarray, log_sd: np.ndarray, pairs: int, key: int = 0
    ) -> tuple[float, float, float]:
        """``(likelihood, rest, standard error)`` of the ELBO from pairs of opposite draws.

        The draws are the same at every call (common random numbers): two posteriors are compared by their
        difference, not by their draws.
        """
        found = []
        with torch.no_grad():
            loc, log_sd = torch.from_numpy(loc), torch.from_numpy(log_sd)
            for pair in range(pairs):
                noise = self.noise(1, key, pair)
                parts = [self._elbo(loc, log_sd, sign * noise, True) for sign in (1.0, -1.0)]
                found.append([0.5 * float(sum(part[k] for part in parts)) for k in (0, 1)])
        found = np.array(found)
        error = found.sum(1).std(ddof=1) / np.sqrt(pairs) if pairs > 1 else float("nan")
        return *found.mean(0), float(error)

    def gradient(self, loc: np.ndarray, log_sd: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The ELBO's gradient from a pair of opposite draws: what is linear in the noise cancels."""
        place, spread = (torch.from_numpy(x).requires_grad_() for x in (loc, log_sd))
        noise = self.noise(0, step)
        for sign in (0.5, -0.5):
            total = sum(self._elbo(place, spread, 2 * sign * noise, False))
            (0.5 * total).backward()
        return place.grad.numpy(), spread.grad.numpy()

    def _elbo(self, loc, log_sd, noise, value):
        return self.family.elbo(loc, log_sd, noise, self.likelihood, self.size, self.length, value=value)


class Moments:
    """A posterior whose optimiser keeps running moments, as a checkpoint keeps it."""

    problem: Problem
    loc: np.ndarray
    log_sd: np.ndarray
    step_number: int
    _moments: np.ndarray

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "loc": self.loc,
            "log_sd": self.log_sd,
            "moments": self._moments,
            "clock": np.array(self.step_number),
        }

    def load_state(self, arrays: dict[str, np.ndarray], forms: dict[str, bool]) -> None:
        """Go on from a checkpoint."""
        self.problem.family = replace(self.problem.family, forms=dict(forms))
        self.loc, self.log_sd = arrays["loc"].copy(), arrays["log_sd"].copy()
        self._moments = arrays["moments"].copy()
        self.step_number = int(arrays["clock"])


class ExactEngine(Moments):
    """Adam on the exact ELBO; the step of a mean is counted in its posterior sd.

    Parameters
    ----------
    problem : Problem
    loc, log_sd : ndarray of shape (size,)
        The start, changed in place.
    learning_rate : float
        Of the first steps; it falls as ``1 / (1 + step / 100)``.
    """

    rows = STEPS_OF_A_ROW
    share_of_a_step = 1.0  # passes over the cells

    def __init__(self, problem: Problem, loc: np.ndarray, log_sd: np.ndarray, learning_rate: float) -> None:
        self.problem, self.loc, self.log_sd, self.learning_rate = problem, loc, log_sd, learning_rate
        self.step_number, self.parameter_change = 0, float("nan")
        self._moments = np.zeros((4, len(loc)))

    def advance(self, steps: int) -> None:
        """Make some steps."""
        decay, second, small = ADAM
        before = np.concatenate([self.loc, self.log_sd])
        for _ in range(steps):
            self.step_number += 1
            scale = np.exp(self.log_sd)
            gradients = self.problem.gradient(self.loc, self.log_sd, self.step_number)
            rate = self.learning_rate / (1 + self.step_number / DECAY_STEPS)
            for k, gradient in enumerate((gradients[0] * scale, gradients[1])):
                m, v = self._moments[2 * k], self._moments[2 * k + 1]
                m += (1 - decay) * (gradient - m)
                v += (1 - second) * (gradient**2 - v)
                change = rate * (m / (1 - decay**self.step_number))
                change /= np.sqrt(v / (1 - second**self.step_number)) + small
                if k:
                    self.log_sd += SPREAD_RATE * change
                else:
                    self.loc += scale * change
        self.parameter_change = relative_change(np.concatenate([self.loc, self.log_sd]), before)

    def reform(self, family: Family, loc: np.ndarray, log_sd: np.ndarray) -> None:
        """Go on in another form of the axes."""
        self.problem.family = family
        self.loc, self.log_sd = loc, log_sd
        self._moments[:] = 0.0
