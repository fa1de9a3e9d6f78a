"""What every section of the configuration is, and the values that several of them hold.

Light on purpose: the config, the cards of the models and the estimators all begin from here.
"""

from __future__ import annotations

import typing
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)

from nmfbench.renamed import Renamed, Rewritten, rewrite

_LONGEST_NAME = 60


def _plain_column(name: str) -> str:
    """Columns of obs may be called whatever files call them (orig.ident, percent.mt, Cell type)."""
    if not name or name != name.strip():
        raise ValueError("a name of a column of obs, without blanks at its ends")
    if "/" in name or any(unicodedata.category(letter).startswith("C") for letter in name):
        raise ValueError("a name of a column of obs, without slashes and control characters")
    if name.startswith("__") or name == "_index":
        raise ValueError("a name of a column of obs; this one belongs to the file format")
    return name


def _inert(name: str) -> str:
    """A name that is only a name in a web page, a spreadsheet and a figure."""
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise ValueError(f"a name of 1 to {_LONGEST_NAME} characters")
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in name):
        raise ValueError("a name without control characters, line breaks and marks of writing direction")
    if set(name) & set("<>&") or name.lstrip()[0] in "=+-@'":
        raise ValueError("a name without <, > and &, which does not begin as a formula does (= + - @ ')")
    return name


def no_value_twice(values: list) -> list:
    """Refuse a list with a repeated value: the repeats would be counted as further observations."""
    if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"{', '.join(repeated)} stands there twice")
    return values


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Column = Annotated[str, AfterValidator(_plain_column)]
DisplayName = Annotated[str, AfterValidator(_inert)]
Rank = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Device = Literal["auto", "cpu", "cuda", "mps"]


def one_message(expected: str) -> WrapValidator:
    """Say once what a value of several types may be, not once for each type."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"{expected}, got {value!r}") from None

    return WrapValidator(check)


class Section(BaseModel):
    """A closed, frozen part of the configuration: unknown keys are errors, as are infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, Renamed]] = {}
    """Keys of before, which are still accepted, and what they are now."""

    @classmethod
    def completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What was given, under the keys of now, with what it implies (a preset)."""
        return given

    @model_validator(mode="before")
    @classmethod
    def _given(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        now, _ = rewrite(given, cls.renamed)
        return cls._true_is_no_number(cls.completed(now))

    @classmethod
    def _true_is_no_number(cls, given: dict[str, Any]) -> dict[str, Any]:
        """`yes`, `no`, `on` and `off` are logicals to YAML; where a number is wanted they are a slip."""
        for key, value in given.items():
            kinds = set(_kinds(cls.model_fields[key].annotation)) if key in cls.model_fields else set()
            if bool not in kinds and kinds & {int, float} and _holds_truth(value):
                raise ValueError(
                    f"{key}: a number, not {value!r} (YAML reads yes, no, on and off as logicals)"
                )
        return given


def keys_of_before(section: Any, given: Any, path: str = "") -> Iterator[tuple[str, Rewritten]]:
    """What a checked section was given under keys of before, in all its parts, each with its path.

    Parameters
    ----------
    section : Section, dict or list
        As it was made of `given`.
    given : Any
        The parsed YAML.
    path : str
        Of the section.
    """
    if isinstance(section, Section) and isinstance(given, Mapping):
        yield from ((path, one) for one in rewrite(given, type(section).renamed)[1])
        parts = {key: getattr(section, key, None) for key in given if isinstance(key, str)}
    elif isinstance(section, dict) and isinstance(given, Mapping):
        parts = section
    elif isinstance(section, list) and isinstance(given, list):
        parts, given = dict(enumerate(section)), dict(enumerate(given))
    else:
        return
    for key, part in parts.items():
        if key in given:
            yield from keys_of_before(part, given[key], f"{path}.{key}" if path else str(key))


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types inside an annotation such as ``list[Annotated[int, ...]] | None``."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from _kinds(part)


def _holds_truth(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_truth, value))
    if isinstance(value, dict):
        return any(map(_holds_truth, value.values()))
    return isinstance(value, bool)
