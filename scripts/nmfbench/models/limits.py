"""Checks of constructor parameters, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from nmfbench.errors import InputError


@dataclass(frozen=True)
class Limit:
    """What a parameter may be.

    Attributes
    ----------
    text : str
        In words.
    options : tuple
        The allowed values; empty: a number.
    low : float
        Smallest number.
    above : bool
        Whether `low` itself is too small.
    whole : bool
        Whether it must be a whole number.
    none : bool
        Whether None is allowed beside.
    """

    text: str
    options: tuple = ()
    low: float = 0.0
    above: bool = False
    whole: bool = False
    none: bool = False

    def or_none(self) -> Limit:
        """The same, and None."""
        return replace(self, text=f"{self.text}, or None", none=True)

    def admits(self, value: Any) -> bool:
        if value is None and self.none:
            return True
        if self.options:
            return any(type(value) is type(option) and value == option for option in self.options) or (
                isinstance(value, np.bool_) and bool(value) in self.options
            )
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral if self.whole else Real):
            return False
        return bool(np.isfinite(value)) and (value > self.low if self.above else value >= self.low)


def real(low: float, *, above: bool = False, whole: bool = False) -> Limit:
    """A finite number from `low` on (or above it)."""
    kind = "whole number" if whole else "number"
    return Limit(f"a {kind} {'above' if above else 'of at least'} {low}", low=low, above=above, whole=whole)


def one_of(*options: Any) -> Limit:
    """One of the values given."""
    return Limit(f"one of {', '.join(map(repr, options))}", options=options)


def check_parameters(estimator: Any, limits: dict[str, Limit]) -> None:
    """Refuse parameters outside their limits.

    Raises
    ------
    InputError
        Naming the first parameter that is not as it must be.
    """
    for name, limit in limits.items():
        value = getattr(estimator, name)
        if not limit.admits(value):
            raise InputError(
                f"{type(estimator).__name__}: parameter {name}",
                limit.text,
                repr(value),
                f"set {name} accordingly",
            )
    device = getattr(estimator, "device", "cpu")
    if str(device).split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        raise InputError(
            f"{type(estimator).__name__}: parameter device",
            "'auto', 'cpu', 'cuda' or 'mps'",
            repr(device),
            "set device accordingly",
        )
    seed = estimator.random_state
    if not (
        seed is None
        or isinstance(seed, (np.random.RandomState, np.random.Generator))
        or (real(0, whole=True).admits(seed) and seed < 2**32)
    ):
        raise InputError(
            f"{type(estimator).__name__}: parameter random_state",
            "a whole number from 0 to 2³² - 1, a RandomState, a Generator or None",
            repr(seed),
            "set random_state accordingly",
        )


def seed_from(random_state: Any) -> int:
    """The number that decides every draw of a fit."""
    if isinstance(random_state, Integral):
        return int(random_state)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(np.random.SeedSequence().generate_state(1)[0] & 0x7FFFFFFF)
