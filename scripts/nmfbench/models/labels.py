"""Conditions and strata of the cells as whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nmfbench.errors import InputError


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
            raise InputError(
                f"conditions: column {name!r} has one category",
                "at least two, for a model that tells conditions apart",
                f"{n} cells, all {values[0]!r}",
                "give data of several donors (lower min_cells_per_donor), or use ae_nmf",
            )
        codes.append(code + sum(map(len, categories)))
        categories.append(values)
    return Conditions(tuple(names), tuple(categories), np.stack(codes, axis=1))


def encode_strata(strata: Any, n: int) -> np.ndarray | None:
    """Codes ``0 .. q - 1`` of the cell types of n cells; None stays None."""
    return None if strata is None else _encode(np.asarray(strata), n, "strata")[1]


def _columns(conditions: Any) -> tuple[list[str], list[np.ndarray]]:
    if hasattr(conditions, "iloc"):
        if conditions.ndim == 1:
            return [str(conditions.name or "condition")], [np.asarray(conditions, dtype=object)]
        names = [str(name) for name in conditions.columns]
        return names, [np.asarray(conditions.iloc[:, i], dtype=object) for i in range(len(names))]
    array = np.asarray(conditions)
    if array.ndim == 1:
        return ["condition"], [array]
    return [f"condition_{i}" for i in range(array.shape[1])], list(array.T)


def _encode(column: np.ndarray, n: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    if column.ndim != 1 or len(column) != n:
        raise InputError(
            what, f"a label for each of the {n} cells", f"shape {column.shape}", "give one label per row of X"
        )
    missing = np.fromiter((value is None or value != value for value in column.tolist()), dtype=bool, count=n)
    if missing.any():
        raise InputError(
            what,
            "a label for every cell",
            f"{int(missing.sum())} missing, the first in row {int(missing.argmax())}",
            "drop these cells first",
        )
    categories, codes = np.unique(column.astype(str), return_inverse=True)
    return categories, codes.astype(np.int64)
