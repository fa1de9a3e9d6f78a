"""Checks of an estimator's parameters, made from the fields of its section."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic.fields import FieldInfo

from nmfbench.errors import InputError


@dataclass(frozen=True)
class Limit:
    """What a parameter may be.

    Attributes
    ----------
    options : tuple
        The allowed values; empty: a number.
    low : float
        Smallest number.
    above : bool
        Whether `low` itself is too small.
    below : float
        The number must be less than this.
    whole : bool
        Whether it must be a whole number.
    none : bool
        Whether None is allowed beside.
    names : tuple of str
        Keys of a mapping to such values, which is allowed beside.
    words : tuple of str
        Words that are allowed beside a number.
    """

    options: tuple = ()
    low: float = -math.inf
    above: bool = False
    below: float = math.inf
    whole: bool = False
    none: bool = False
    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, field: FieldInfo) -> Limit | None:
        """What a field of a section allows; None where that is no matter of options or of a number."""
        kinds, none, names, notes = [], False, (), list(field.metadata)
        for kind in get_args(field.annotation) if _is_union(field.annotation) else (field.annotation,):
            none |= kind is NoneType
            if get_origin(kind) is dict:
                names = get_args(get_args(kind)[0])
            elif get_origin(kind) is Annotated:
                kind, *more = get_args(kind)
                kinds, notes = [*kinds, kind], notes + _bounds(more)
            elif kind is not NoneType:
                kinds.append(kind)
        options = tuple(value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))
        kinds = [kind for kind in kinds if get_origin(kind) is not Literal]
        if (options and not kinds) or kinds == [bool]:
            return cls(options=options or (True, False), none=none)
        if kinds not in ([int], [float]):
            return None
        bounds = {
            name: getattr(note, name) for note in notes for name in ("ge", "gt", "lt") if hasattr(note, name)
        }
        return cls(
            low=bounds.get("gt", bounds.get("ge", -math.inf)),
            above="gt" in bounds,
            below=bounds.get("lt", math.inf),
            whole=kinds == [int],
            none=none,
            names=names,
            words=options,
        )

    @property
    def text(self) -> str:
        """In words."""
        if self.options:
            said = f"one of {', '.join(map(repr, self.options))}"
        else:
            said = "a whole number" if self.whole else "a number"
            if self.low > -math.inf:
                said += f" {'above' if self.above else 'of at least'} {self.low}"
            if self.below < math.inf:
                said += f" and below {self.below}"
        if self.words:
            said += f", or {' or '.join(map(repr, self.words))}"
        if self.names:
            said += f", or a mapping of {', '.join(self.names)} to one"
        return f"{said}, or None" if self.none else said

    def admits(self, value: Any) -> bool:
        if value is None:
            return self.none
        if isinstance(value, str) and value in self.words:
            return True
        if isinstance(value, Mapping):
            one = replace(self, names=(), none=False)
            return all(name in self.names and one.admits(part) for name, part in value.items())
        if self.options:
            return any(type(value) is type(option) and value == option for option in self.options) or (
                isinstance(value, np.bool_) and bool(value) in self.options
            )
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral if self.whole else Real):
            return False
        enough = value > self.low if self.above else value >= self.low
        return bool(np.isfinite(value)) and enough and value < self.below


def _bounds(notes: list[Any]) -> list[Any]:
    """Bounds within an annotation: pydantic keeps those of ``Field`` in its metadata."""
    return [bound for note in notes for bound in getattr(note, "metadata", [note])]


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def real(low: float, *, above: bool = False, whole: bool = False) -> Limit:
    """A finite number from `low` on (or above it)."""
    return Limit(low=low, above=above, whole=whole)


def one_of(*options: Any) -> Limit:
    """One of the values given."""
    return Limit(options=options)


def check_parameters(estimator: Any) -> None:
    """Refuse parameters outside their limits.

    Raises
    ------
    InputError
        Naming the first parameter that is not as it must be.
    """
    for name, limit in estimator._limits.items():
        value = getattr(estimator, name)
        if not limit.admits(value):
            _refuse(estimator, name, limit.text)
    if str(getattr(estimator, "device", "cpu")).split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
        _refuse(estimator, "device", "'auto', 'cpu', 'cuda' or 'mps'")
    seed = estimator.random_state
    if not (
        seed is None
        or isinstance(seed, (np.random.RandomState, np.random.Generator))
        or (real(0, whole=True).admits(seed) and seed < 2**32)
    ):
        _refuse(
            estimator,
            "random_state",
            "a whole number from 0 to 2³² - 1, a RandomState, a Generator or None",
        )


def _refuse(estimator: Any, name: str, expected: str) -> None:
    raise InputError(
        f"{type(estimator).__name__}: parameter {name}",
        expected,
        repr(getattr(estimator, name)),
        f"set {name} accordingly",
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
