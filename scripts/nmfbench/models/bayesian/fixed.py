"""Patterns that are given: read, checked, and put into the order of the data by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError

log = logging.getLogger(__name__)


def align_patterns(given: Any, names: Any, what: str) -> tuple[np.ndarray, list[str]]:
    """Given patterns in the order of the data.

    Parameters
    ----------
    given : DataFrame or path
        One row for each gene (cell), named by the index; one column for each pattern. A file is a table with
        the names in its first column, separated by commas (.csv) or tabs.
    names : sequence of str or None
        The genes (cells) of the data, in order.
    what : {"fixed_genes", "fixed_samples"}
        The parameter, for messages.

    Returns
    -------
    values : ndarray of shape (len(names), patterns), float64
    patterns : list of str

    Raises
    ------
    InputError
        If a name of the data is missing, a name comes twice, or a value is not a finite number of at least 0.
    """
    kind = "gene" if what == "fixed_genes" else "cell"
    if names is None:
        raise InputError(
            f"{what}: the {kind}s of X have no names",
            "names to align the patterns by",
            "a matrix alone",
            f"give fit(..., {kind}_names=...), or X as a DataFrame",
        )
    table = _read(given, what)
    index, names = table.index.astype(str), np.asarray(names, dtype=str)
    for labels, owner in ((index, what), (names, "X")):
        values, times = np.unique(labels, return_counts=True)
        if (times > 1).any():
            raise InputError(
                f"{what}: {owner} names a {kind} twice",
                "names that occur once",
                f"{values[times > 1][0]!r} {times.max()} times",
                f"rename or drop the doubled {kind}s",
            )
    absent = np.setdiff1d(names, index)
    if len(absent):
        raise InputError(
            f"{what}: {len(absent)} of the {len(names)} {kind}s of the data have no row",
            f"a row for every {kind}",
            f"none for {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}",
            f"add them (0 where a pattern has nothing), or drop these {kind}s from the data",
        )
    if len(index) > len(names):
        log.info("%s: %d rows belong to no %s of the data", what, len(index) - len(names), kind)
    table.index = index
    try:
        values = table.loc[names].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: its values", "numbers", str(error), "mend the table") from None
    if not values.shape[1]:
        raise InputError(f"{what}: its columns", "at least one pattern", "none", "leave it out, or add one")
    if not np.isfinite(values).all() or (values < 0).any():
        bad = int((~np.isfinite(values) | (values < 0)).sum())
        raise InputError(
            f"{what}: its values", "finite numbers of at least 0", f"{bad} that are not", "mend the table"
        )
    return values, [str(column) for column in table.columns]


def donor_indicators(codes: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """One pattern for each donor, 1 in its cells: its genes are then an additive profile of the donor."""
    return np.eye(len(categories))[codes], [str(category) for category in categories]


def _read(given: Any, what: str):
    import pandas as pd

    if hasattr(given, "iloc") and getattr(given, "ndim", 0) == 2:
        return given.copy()
    if not isinstance(given, (str, Path)):
        raise InputError(
            f"parameter {what}", "a DataFrame or the path of a table", type(given).__name__, f"set {what} so"
        )
    path = Path(given)
    try:
        return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", index_col=0)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what}: {path} cannot be read",
            "a table with names in its first column",
            str(error),
            "give a .csv or a tab-separated file",
        ) from error
