"""Labels of cells as people write them, made into clean categories of text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data.frames import (
    as_text,
    codes_and_categories,
    foreign_text,
    frame_column,
    frame_length,
    stored_form,
)
from nmfbench.data.h5ad import Unsound, readable
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    import pandas as pd

CELLS_AT_ONCE = 65_536
# 'unknown', 'na' and 'pooled' are terms of the CELLxGENE schema and stay.
MISSING = frozenset({"", "nan", "none", "<na>"})

_USUAL_PARTS = {
    "cell_type": ("celltype", "annotation", "label", "cluster"),
    "donor_id": ("donor", "patient", "subject", "individual", "sample"),
}


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
    return _clean(codes, categories)


def stored_labels(group: h5py.Group, name: str, notes: list[str] | None = None) -> pd.Categorical:
    """:func:`clean_labels` of a column of a stored data frame, which is read a block at a time.

    A code of 1 or 2 bytes a cell is held; text and numbers take 4 bytes a cell more for a while. What a
    reader of the results has to know is added to `notes`.
    """
    form, notes = stored_form(group, name), [] if notes is None else notes
    if form == "nullable":
        return clean_labels(frame_column(group, name))
    if form in ("categories", "enumeration"):
        codes, categories = codes_and_categories(group, name)
        notes += foreign_text(categories, f"obs[{name!r}]")
        if form == "enumeration":  # hdf5r's name for a missing logical
            categories = [None if category == "NA" else category for category in categories]
        return _clean(codes, categories)
    import pandas as pd

    column, place, foreign = readable(group[name]), {}, []
    if len(column) != (n := frame_length(group)):
        raise Unsound(f"{len(column)} values in a frame of {n} rows")
    codes = np.empty(len(column), np.int32)
    for start in range(0, len(column), CELLS_AT_ONCE):
        block = column[start : start + CELLS_AT_ONCE]
        block = block if block.dtype.isnative else block.astype(block.dtype.newbyteorder("="))
        part, values = pd.factorize(block)
        foreign += [value for value in values if isinstance(value, bytes) and not value.isascii()]
        known = [place.setdefault(as_text(value), len(place)) for value in values]
        codes[start : start + len(part)] = np.array([*known, -1])[part]  # the last entry serves the code -1
    notes += foreign_text(dict.fromkeys(foreign), f"obs[{name!r}]")
    return _clean(codes, list(place))


def _clean(codes: np.ndarray, categories: Sequence[Any]) -> pd.Categorical:
    text = np.array([as_text(category) for category in categories], dtype=object)
    present = np.array([word.strip().lower() not in MISSING for word in text], dtype=bool)
    names = sorted(set(text[present]))
    place = {name: position for position, name in enumerate(names)}
    return _recoded(codes, [place[w] if ok else -1 for w, ok in zip(text, present, strict=True)], names)


def _recoded(codes: np.ndarray, new: Sequence[int], names: Sequence[str]) -> pd.Categorical:
    """The categories `names` where code i has become `new[i]`; unused ones go."""
    import pandas as pd

    # The last entry serves the code -1. In the type that pandas has for so many categories.
    table = np.array([*new, -1], dtype=_code_type(len(names)))
    codes = table[codes]
    categorical = pd.Categorical.from_codes(codes, categories=names)
    return categorical if (count_codes(codes, len(names)) > 0).all() else without_unused(categorical)


def without_unused(labels: pd.Categorical) -> pd.Categorical:
    """The same labels with only the categories that occur."""
    used = count_codes(labels.codes, len(labels.categories)) > 0
    place = np.where(used, np.cumsum(used) - 1, -1)
    return _recoded(labels.codes, place.tolist(), list(labels.categories[used]))


def _code_type(n: int) -> type[np.signedinteger]:
    return next(kind for kind in (np.int8, np.int16, np.int32) if n < np.iinfo(kind).max)


def count_codes(codes: np.ndarray, n: int, keep: np.ndarray | None = None) -> np.ndarray:
    """How often each code of 0 .. n - 1 occurs, shape (n,), int64; of the cells that `keep` marks."""
    counts = np.zeros(n + 1, np.int64)  # numpy counts a copy of 8 bytes a code, so a few at a time
    for start in range(0, len(codes), CELLS_AT_ONCE):
        part = codes[start : start + CELLS_AT_ONCE]
        part = part if keep is None else part[keep[start : start + CELLS_AT_ONCE]]
        counts += np.bincount(part.astype(np.int64) + 1, minlength=n + 1)  # the first is of missing ones
    return counts[1:]


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
