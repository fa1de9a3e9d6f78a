"""Learning rates over the steps of a fit, and which cells and genes a step sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SCHEDULES = ("one_cycle", "plateau", None)
_LOW_MOMENTUM, _HIGH_MOMENTUM = 0.85, 0.95
_SMOOTHING = 0.05
_BETTER = 1e-4


class Constant:
    """The same learning rate at every step."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def at(self, step: int) -> tuple[float, float | None]:
        """Learning rate and momentum (None: the optimiser's own) of a step, counted from 0."""
        return self.rate, None

    def observe(self, elbo: float) -> None:
        """Be told the value of a step."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class OneCycle(Constant):
    """Up along a half cosine, and down to almost nothing (Smith & Topin 2019, arXiv:1708.07120).

    The momentum falls while the rate rises and rises while it falls. The numbers are those of torch's
    OneCycleLR, which fails where ``share * total == 1``; here the rise then takes no step.
    """

    def __init__(self, rate: float, total: int, share=0.3, div_factor=25.0, final_div_factor=1e4) -> None:
        super().__init__(rate)
        self.total = total
        self.first = rate / div_factor
        self.last = self.first / final_div_factor
        self.peak = share * total - 1

    def at(self, step: int) -> tuple[float, float | None]:
        if step <= self.peak and self.peak > 0:
            done = step / self.peak
            return _between(self.first, self.rate, done), _between(_HIGH_MOMENTUM, _LOW_MOMENTUM, done)
        peak = max(self.peak, 0.0)
        done = min((step - peak) / max(self.total - 1 - peak, 1e-9), 1.0)
        return _between(self.rate, self.last, done), _between(_LOW_MOMENTUM, _HIGH_MOMENTUM, done)


class Plateau(Constant):
    """Lower the rate by a factor once a running mean of the ELBO has not improved for `patience` steps."""

    def __init__(self, rate: float, patience: int, factor: float, min_lr: float) -> None:
        super().__init__(rate)
        self.patience, self.factor, self.min_lr = patience, factor, min_lr
        self.mean: float | None = None
        self.best = -math.inf
        self.waited = 0

    def observe(self, elbo: float) -> None:
        self.mean = elbo if self.mean is None else (1 - _SMOOTHING) * self.mean + _SMOOTHING * elbo
        # Better means by a share of the size: the ELBO is negative, so a share of its value would be wrong.
        if self.best == -math.inf or self.mean > self.best + _BETTER * abs(self.best):
            self.best, self.waited = self.mean, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.rate = max(self.rate * self.factor, self.min_lr)
            self.waited = 0

    def state(self) -> dict[str, Any]:
        names = ("rate", "mean", "best", "waited")
        return {name: getattr(self, name) for name in names if getattr(self, name) != -math.inf}


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def batch(n: int, size: int | None, step: int, seed: int, *, shuffle: bool, kind: int) -> np.ndarray | None:
    """Which of n items step number `step` sees: blocks of a permutation of all, a new one in every pass.

    Parameters
    ----------
    n : int
    size : int or None
        None, or n and more: all (returned as None).
    step, seed : int
        They alone decide the batch: a fit can go on from any step.
    shuffle : bool
        False: neighbouring items, in order.
    kind : int
        Tells streams of one seed apart (cells, genes).

    Returns
    -------
    ndarray of int64, ascending, or None
    """
    if size is None or size >= n:
        return None
    per_pass = -(-n // size)
    passed, place = divmod(step, per_pass)
    part = slice(place * size, (place + 1) * size)
    if not shuffle:
        return np.arange(n)[part]
    return np.sort(np.random.default_rng([seed, kind, passed]).permutation(n)[part])
