"""Conditions and strata of the cells as whole numbers, and the rows they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nmfbench.errors import InputError, NotApplicable
from nmfbench.rows.memory import RowSource


@dataclass(frozen=True)
class Conditions:
    """Condition columns of n cells; the one-hots of all columns stand side by side.

    Attributes
    ----------
    names : tuple of str
        The columns.
    categories : tuple of ndarray of str
        The categories of each column, sorted; unused ones dropped.
    codes : ndarray of int64 of shape (n, columns)
        Which of the m one-hot columns each cell has, for each condition column.
    """

    names: tuple[str, ...]
    categories: tuple[np.ndarray, ...]
    codes: np.ndarray

    @property
    def offsets(self) -> tuple[int, ...]:
        """First one-hot column of each condition column."""
        return tuple(np.cumsum([0, *(len(c) for c in self.categories[:-1])]).tolist())

    @property
    def size(self) -> int:
        """m, the number of one-hot columns."""
        return sum(len(c) for c in self.categories)


@dataclass(frozen=True)
class FitData:
    """All cells and their labels."""

    source: RowSource
    conditions: Conditions
    strata: np.ndarray | None

    @classmethod
    def of(cls, source: RowSource, conditions: Conditions, strata: np.ndarray | None) -> FitData:
        """Rows with their labels, which are given in the order of the cells."""
        order = source.order
        if order is None:
            return cls(source, conditions, strata)
        if conditions.size > 1:  # else all are alike, and zeros that nobody wrote to take no memory
            conditions = replace(conditions, codes=conditions.codes[order])
        return cls(source, conditions, None if strata is None else strata[order])

    def fingerprint(self) -> str:
        """A text that changes with the matrix, the conditions or the strata."""
        digest = hashlib.blake2b(self.source.fingerprint().encode(), digest_size=16)
        digest.update(repr([list(c) for c in self.conditions.categories]).encode())
        digest.update(np.ascontiguousarray(self.conditions.codes).data)
        digest.update(b"no strata" if self.strata is None else self.strata.data)
        return digest.hexdigest()


def encode_conditions(conditions: Any, n: int) -> Conditions:
    """Encode the conditions of n cells.

    Parameters
    ----------
    conditions : array-like of shape (n,) or (n, columns), DataFrame, Series or None
        Labels of any kind, compared as text. None: all cells share one condition.
    n : int

    Raises
    ------
    InputError
        If the length is wrong, a label is missing, or a column has one category only.
    """
    if conditions is None:
        return Conditions(("condition",), (np.array(["all"]),), np.zeros((n, 1), dtype=np.int64))
    names, columns = _columns(conditions)
    codes, categories = [], []
    for name, column in zip(names, columns, strict=True):
        values, code = _encode(column, n, f"conditions: column {name!r}")
        if len(values) < 2:
            raise NotApplicable(
                f"conditions: column {name!r} has one category",
                "at least two categories for a model that tells conditions apart",
                f"{n} cells, all {str(values[0])!r}",
                "give data of several donors (lower min_cells_per_donor), or use ae_nmf",
            )
        codes.append(code + sum(map(len, categories)))
        categories.append(values)
    return Conditions(tuple(names), tuple(categories), np.stack(codes, axis=1))


def encode_strata(strata: Any, n: int) -> np.ndarray | None:
    """Codes ``0 .. q - 1`` of the cell types of n cells; None stays None."""
    if strata is None:
        return None
    return _encode(getattr(strata, "array", strata), n, "strata")[1]


def _columns(conditions: Any) -> tuple[list[str], list[Any]]:
    if hasattr(conditions, "iloc"):
        if conditions.ndim == 1:
            return [str(conditions.name or "condition")], [conditions.array]
        names = [str(name) for name in conditions.columns]
        return names, [conditions.iloc[:, i].array for i in range(len(names))]
    array = conditions if hasattr(conditions, "categories") else np.asarray(conditions)
    if array.ndim == 1:
        return ["condition"], [array]
    return [f"condition_{i}" for i in range(array.shape[1])], list(array.T)


def _encode(column: Any, n: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    categorical = hasattr(column, "categories")
    if not categorical:
        column = np.asarray(column) if isinstance(column, np.ndarray) else np.asarray(column, dtype=object)
    if column.ndim != 1 or len(column) != n:
        raise InputError(
            what, f"a label for each of the {n} cells", f"shape {column.shape}", "give one label per row of X"
        )
    if categorical:
        missing = column.codes < 0
    else:
        values = column.tolist()
        missing = np.fromiter((value is None or value != value for value in values), dtype=bool, count=n)
    if missing.any():
        raise InputError(
            what,
            "a label for every cell",
            f"{int(missing.sum())} missing, the first in row {int(missing.argmax())}",
            "drop these cells first",
        )
    if not categorical:
        categories, codes = np.unique(column.astype(str), return_inverse=True)
        return categories, codes.astype(np.int64)
    # The text of every cell would take many times the memory of its code.
    used = np.bincount(column.codes, minlength=len(column.categories)) > 0
    text = np.asarray(column.categories).astype(str)
    categories = np.unique(text[used])
    return categories, np.searchsorted(categories, text)[column.codes]
