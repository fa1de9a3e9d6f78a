"""Donors in groups of about as many cells, for fits that leave a group out."""

from __future__ import annotations

from typing import Any

import numpy as np


def deal_donors(donors: Any, n_groups: int) -> np.ndarray:
    """Share donors out: from the largest on, each to the group with the fewest cells.

    Parameters
    ----------
    donors : Categorical
        Donor of each cell; one that is missing belongs to no group.
    n_groups : int
        Groups; fewer where there are fewer donors.

    Returns
    -------
    ndarray of int64, shape (n_cells,)
        Group of each cell, -1 without a donor. The same donors and sizes give the same groups.
    """
    codes = np.asarray(donors.codes, dtype=np.int64)
    sizes = np.bincount(codes[codes >= 0], minlength=len(donors.categories))
    there = np.flatnonzero(sizes)
    names = np.asarray(donors.categories).astype(str)
    full = np.zeros(min(n_groups, there.size), dtype=np.int64)
    group_of = np.full(len(donors.categories), -1, dtype=np.int64)
    for donor in sorted(there, key=lambda donor: (-sizes[donor], names[donor])):
        group_of[donor] = full.argmin()
        full[full.argmin()] += sizes[donor]
    return np.where(codes >= 0, group_of[codes], -1)


def runs_of(chosen: np.ndarray) -> list[tuple[int, int]]:
    """First and last + 1 place of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
