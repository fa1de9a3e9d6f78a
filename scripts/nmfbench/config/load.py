"""From a mapping to a configuration, or to one message with all its mistakes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from nmfbench.config.dataset import Dataset
from nmfbench.config.model import CARDS
from nmfbench.config.perturbation import SPLITS, Embedding
from nmfbench.config.predictors import PREDICTOR_KINDS
from nmfbench.config.profiles import with_profile
from nmfbench.config.schema import Config
from nmfbench.errors import InputError
from nmfbench.renamed import message
from nmfbench.section import keys_of_before


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def load_config(
    mapping: Mapping[str, Any], where: str = "config", say: Callable[[str], None] = _to_stderr
) -> Config:
    """Check a parsed configuration and fill in the defaults.

    Parameters
    ----------
    mapping : mapping
        What the YAML files and ``--config`` gave.
    where : str
        Name of the file, for the message.
    say : callable
        Given the one message about keys of before, where there are any.

    Returns
    -------
    Config

    Raises
    ------
    InputError
        One message with every mistake: its path, what was expected, what was
        got, and for an unknown key the nearest known one.
    """
    try:
        config = Config.model_validate(with_profile(mapping))
    except ValidationError as error:
        mistakes = [_mistake(entry) for entry in error.errors(include_url=False)]
        raise InputError(
            thing=f"{where}: {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''} in the configuration",
            expected="the keys of config/README.md",
            got="".join(f"\n    - {mistake}" for mistake in mistakes),
            remedy="correct the lines above in the config file (or the --config argument)",
        ) from None
    if rewritten := list(keys_of_before(config, mapping)):
        say(message(where, rewritten))
    return config


def _mistake(entry: Mapping[str, Any]) -> str:
    """One line for one of pydantic's findings."""
    location = [part for part in entry["loc"] if part != "[key]"]
    # pydantic puts the kind of a model between its name and its keys
    place = 3 if location[:2] == ["perturbation", "splits"] else 2
    tagged = place == 3 or location[:1] in (["models"], ["predictors"])
    kind = location.pop(place) if tagged and len(location) > place else None
    path = ".".join(str(part) for part in location) or "the whole"
    if entry["type"] == "extra_forbidden":
        known = _keys_beside(location, kind)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if entry["type"] == "union_tag_invalid":
        what, kinds = _KINDS[str(location[0])]
        near = difflib.get_close_matches(str(entry["ctx"]["tag"]), kinds, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give `kind` for a variant with a name of its own"
        return f"{path}: no such {what}; {hint} (known: {', '.join(kinds)})"
    message = entry["msg"].removeprefix("Value error, ")
    got = "" if entry["type"] in ("missing", "value_error") else f", got {entry['input']!r}"
    return f"{path}: {message}{got}"


def _keys_beside(location: list[Any], kind: str | None) -> list[str]:
    """Known keys of the section in which an unknown key was found; `kind` is that of the model there."""
    section: Any = Config
    for part in location[:-1]:
        if isinstance(part, int):  # an entry of a list
            continue
        if isinstance(section, str):  # the name of a dataset or model was just passed
            section = _section_of(section, kind)
        elif part in ("datasets", "models", "predictors", "embeddings", "splits"):
            section = part
        else:
            section = next(iter(_sections(section.model_fields[part].annotation)), section)
    return list(section.model_fields) if isinstance(section, type) else []


_KINDS: dict[str, tuple[str, Any]] = {
    "models": ("model", CARDS),
    "predictors": ("predictor", PREDICTOR_KINDS),
    "perturbation": ("kind of split", SPLITS),
}


def _section_of(named: str, kind: str | None) -> type[BaseModel]:
    """The section of one entry of `named`; `kind` where entries differ by it."""
    by_kind = {"predictors": PREDICTOR_KINDS, "splits": SPLITS}
    if named in by_kind:
        return by_kind[named][kind]
    return {"datasets": Dataset, "embeddings": Embedding}.get(named) or CARDS[kind].section


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Section classes inside an annotation such as ``Simulation | None``."""
    candidates = getattr(annotation, "__args__", (annotation,))
    yield from (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
