"""Labels of cells as people write them, made into clean categories of text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# 'unknown', 'na' and 'pooled' are terms of the CELLxGENE schema and stay.
MISSING = frozenset({"", "nan", "none", "<na>"})

_USUAL_PARTS = {
    "cell_type": ("celltype", "annotation", "label", "cluster"),
    "donor_id": ("donor", "patient", "subject", "individual", "sample"),
}


def as_text(value: Any) -> str:
    """Text of one label: whole floats lose their '.0', so that donors 1 and 1.0 are one."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def clean_labels(values: Any) -> pd.Categorical:
    """Labels as categories of text, without unused ones; missing ones have code -1.

    Parameters
    ----------
    values
        A column of obs, shape (cells,): text, numbers, booleans or a categorical. NaN, None and
        the words of `MISSING` (in any case, blanks around them ignored) count as missing.
    """
    import pandas as pd

    if isinstance(values, pd.Categorical):
        codes, categories = np.asarray(values.codes), values.categories
    else:
        codes, categories = pd.factorize(values)
    text = np.array([as_text(category) for category in categories], dtype=object)
    present = np.array([word.strip().lower() not in MISSING for word in text], dtype=bool)
    names = sorted(set(text[present]))
    place = {name: position for position, name in enumerate(names)}
    # The last entry serves the code -1.
    new_code = np.array([place[w] if ok else -1 for w, ok in zip(text, present, strict=True)] + [-1])
    return pd.Categorical.from_codes(new_code[codes], categories=names).remove_unused_categories()


def require_columns(wanted: Iterable[tuple[str, str]], columns: Sequence[str], path: object) -> None:
    """Refuse a file whose obs lacks a column.

    Parameters
    ----------
    wanted
        Pairs (config key, column name).
    columns
        The columns there are.
    path
        The file, for the message.

    Raises
    ------
    InputError
        Naming the columns there are and the most likely one.
    """
    for key, name in wanted:
        if name in columns:
            continue
        likely = likely_columns(name, columns, key)
        hint = f" (perhaps {' or '.join(map(repr, likely))}?)" if likely else ""
        raise InputError(
            f"{path}: obs",
            f"a column {name!r}",
            f"no such column; there are {', '.join(map(repr, columns)) or 'none'}",
            f"set datasets.<name>.{key} to one of them{hint}",
        )


def likely_columns(name: str, columns: Sequence[str], key: str = "") -> list[str]:
    """Up to three columns that may be meant by `name`, the likeliest first."""

    def plain(word: str) -> str:
        return "".join(character for character in word.lower() if character.isalnum())

    by_plain = {plain(column): column for column in columns}
    close = [by_plain[word] for word in difflib.get_close_matches(plain(name), by_plain, n=3, cutoff=0.6)]
    usual = _USUAL_PARTS.get({"cell_type_column": "cell_type", "donor_column": "donor_id"}.get(key, name), ())
    close += [column for part in usual for column in columns if part in plain(column)]
    return list(dict.fromkeys(close))[:3]
