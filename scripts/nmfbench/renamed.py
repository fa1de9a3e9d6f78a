"""Keys of before: a section lists them in its card, and config, ``--config`` and constructors take them.

A key of before means what it meant, to the digit. Where one key has become of several, the new one is a
mapping by what each was for: ``max_epochs: 4`` of an autoencoder is ``max_iter: {minibatch: 4}``, which has
no effect on a fit that is solved otherwise, as it had none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Renamed:
    """What a key of before is now.

    Attributes
    ----------
    key : str
        The key now.
    of : tuple of str
        What it was for: names in the mapping that the key now may be. Empty: the value is as it was.
    unless : callable or None
        For a key that kept its name: given the whole section, whether its number means the same now.
    """

    key: str
    of: tuple[str, ...] = ()
    unless: Callable[[Mapping[str, Any]], bool] | None = None

    def value(self, given: Any) -> Any:
        """The value as the key now takes it."""
        return dict.fromkeys(self.of, given) if self.of else given


@dataclass(frozen=True)
class Rewritten:
    """What became of keys of before.

    Attributes
    ----------
    before : tuple of str
        Those that were given.
    now : str
        The key now.
    value : Any
        Its value.
    """

    before: tuple[str, ...]
    now: str
    value: Any

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, Mapping):
            value = "{" + ", ".join(f"{name}: {one}" for name, one in value.items()) + "}"
        write = f"write {self.now}: {value}"
        if self.before == (self.now,):
            return f"{self.now}: a number is for {', '.join(self.value)}, as before; {write}"
        return f"{', '.join(self.before)}: now {self.now}; {write}"


def rewrite(
    given: Mapping[str, Any], renamed: Mapping[str, Renamed]
) -> tuple[dict[str, Any], list[Rewritten]]:
    """Put what was given under the keys of now.

    Parameters
    ----------
    given : mapping
        A section, or the arguments of a constructor.
    renamed : mapping
        From a key of before to what it is now.

    Returns
    -------
    given : dict
        Under the keys of now.
    rewritten : list of Rewritten
        What there is to tell of.

    Raises
    ------
    ValueError
        If a key of before and the one that it is now are both given.
    """
    found = _of_before(given, renamed)
    now = {key: value for key, value in given.items() if key not in found}
    for key in found:
        new = renamed[key].key
        if new in now:
            raise ValueError(f"{key} is what {new} was called before; give {new} alone")
    rewritten = []
    for new in dict.fromkeys(renamed[key].key for key in found):
        before = tuple(key for key in found if renamed[key].key == new)
        now[new] = _joined([renamed[key].value(given[key]) for key in before])
        rewritten.append(Rewritten(before, new, now[new]))
    return now, rewritten


def _of_before(given: Mapping[str, Any], renamed: Mapping[str, Renamed]) -> list[str]:
    """The keys of before, with those that kept their names but whose values are written otherwise now."""
    found = [key for key, now in renamed.items() if key in given and now.key != key]
    beside = {renamed[key].key for key in found}
    for key, now in renamed.items():
        if now.key == key and given.get(key) is not None and not isinstance(given[key], Mapping):
            means_the_same = now.unless is not None and now.unless(given)
            found += [] if means_the_same and key not in beside else [key]
    return found


def _joined(values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return {name: value for part in values for name, value in part.items()}


def message(where: str, rewritten: Iterable[tuple[str, Rewritten]]) -> str:
    """What a person is told of keys of before.

    Parameters
    ----------
    where : str
        Name of the config file.
    rewritten : iterable of (str, Rewritten)
        With the path of the section.
    """
    lines = "".join(f"\n    - {path}.{one}" for path, one in rewritten)
    return f"{where}: keys have new names; the old ones still work and mean what they meant{lines}"


def in_keys_of_now(
    name: str, given: Mapping[str, Any], renamed: Mapping[str, Renamed], level: int = 3
) -> dict[str, Any]:
    """Arguments of a constructor under the keys of now, with a FutureWarning for each of before.

    Parameters
    ----------
    name : str
        Of the class.
    given, renamed : mapping
        As in :func:`rewrite`.
    level : int
        Calls between the warning and the line that it is about.

    Raises
    ------
    TypeError
        If an argument is given under both its names.
    """
    if not renamed.keys() & given.keys():
        return dict(given)
    try:
        now, rewritten = rewrite(given, renamed)
    except ValueError as error:
        raise TypeError(f"{name}: {error}") from None
    for one in rewritten:
        warnings.warn(f"{name}: {one}", FutureWarning, stacklevel=level)
    return now


def told_value(value: Any, name: str, default: Any) -> Any:
    """A setting that may be one value, or a mapping by name; None and names without a value: the default.

    Examples
    --------
    >>> told_value({"minibatch": 4}, "minibatch", 100), told_value({"minibatch": 4}, "statistics", 500)
    (4, 500)
    """
    if isinstance(value, Mapping):
        value = value.get(name)
    return default if value is None else value
