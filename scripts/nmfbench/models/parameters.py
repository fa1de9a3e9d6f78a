"""From the fields of a section to an estimator's constructor, its checks and the text of its parameters.

``@parameters(section)`` above a class writes what every estimator would have to write by hand: a constructor
that keeps each parameter as it is given (scikit-learn's rule), with the section's defaults in a signature
that ``get_params``, ``clone`` and ``help`` read; the limits that ``fit`` checks; and the paragraph of the
docstring where the class says ``{parameters}``.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic.fields import FieldInfo

from nmfbench.models.card import ModelSection
from nmfbench.models.limits import Limit
from nmfbench.renamed import in_keys_of_now
from nmfbench.section import Section

LAST = ("random_state", "device", "verbose")


def parameters(*sections: type[Section], without: Iterable[str] = ()) -> Callable[[type], type]:
    """Make a class decorator that writes the constructor of an estimator.

    Parameters
    ----------
    *sections : type of Section
        Their fields are the parameters. Where several have one, the first decides.
    without : iterable of str
        Fields that are no parameters.
    """
    left_out = set(without).union(
        *(section.not_parameters for section in sections if issubclass(section, ModelSection))
    )
    found: dict[str, FieldInfo] = {}
    for section in sections:
        for name, field in section.model_fields.items():
            if name not in left_out:
                found.setdefault(name, field)
    names = ["n_components", *(name for name in found if name not in ("n_components", *LAST))]
    fields = {name: found[name] for name in (*names, *LAST) if name in found}
    renamed = {key: now for section in sections for key, now in section.renamed.items()}

    def write(cls: type) -> type:
        cls._renamed = renamed
        cls.__init__ = _constructor(cls, fields)
        cls._limits = {name: limit for name, field in fields.items() if (limit := _limit(name, field))}
        cls.__doc__ = _documented(cls.__doc__ or "", fields)
        return cls

    return write


def _constructor(cls: type, fields: dict[str, FieldInfo]) -> Callable[..., None]:
    """A constructor that keeps what it is given; n_components comes first, the others by name."""
    of_self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature(
        [
            of_self,
            *(
                inspect.Parameter(
                    name,
                    of_self.kind if name == "n_components" else inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                )
                for name, field in fields.items()
            ),
        ]
    )

    def __init__(self, *given, **named) -> None:
        named = in_keys_of_now(type(self).__name__, named, type(self)._renamed)
        try:
            bound = signature.bind(self, *given, **named)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}.__init__() {error}") from None
        bound.apply_defaults()
        for name in fields:
            setattr(self, name, bound.arguments[name])

    __init__.__signature__ = signature
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    __init__.__module__ = cls.__module__
    return __init__


def _limit(name: str, field: FieldInfo) -> Limit | None:
    # A device may also be one of several, "cuda:1": check_parameters sees to it.
    return None if name == "device" else Limit.of(field)


def _documented(text: str, fields: dict[str, FieldInfo]) -> str:
    """A docstring with the section of its parameters, as numpydoc has it, in place of ``{parameters}``."""

    def lines(indent: str) -> str:
        room = max(60, 110 - len(indent))
        said = ["Parameters", "----------"]
        for name, field in fields.items():
            said.append(f"{name} : {_type_text(field)}, default={_shown(field.default)}")
            said += textwrap.wrap(
                field.description or "", room, initial_indent="    ", subsequent_indent="    "
            )
        return "\n".join(indent + line for line in said)

    return re.sub(r"^([ \t]*)\{parameters\}", lambda found: lines(found.group(1)), text, flags=re.MULTILINE)


def _shown(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _type_text(field: FieldInfo) -> str:
    """The type of a field in numpydoc's words."""
    said = [note for note in field.metadata if isinstance(note, str)]
    if said:
        return said[0]
    limit = Limit.of(field)
    if limit is None:
        kinds = get_args(field.annotation) or (field.annotation,)
        return " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    if limit.options == (True, False):
        kind = "bool"
    elif limit.options:
        kind = "{" + ", ".join(
            f'"{option}"' if isinstance(option, str) else repr(option) for option in limit.options
        )
        kind += "}"
    else:
        kind = "int" if limit.whole else "float"
    if limit.words:
        kind += "".join(f' or "{word}"' for word in limit.words)
    if limit.names:
        kind += f", or a mapping of {', '.join(limit.names)} to one"
    return f"{kind} or None" if limit.none else kind
