"""Which cells a factor belongs to: its association with labels, and what of it is the donor's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmfbench.compiled import compiled

#: Classes with fewer cells are left out: their rank sums say little.
FEWEST_CELLS = 10
#: A factor is the donors' when they explain at least this share of its variance, and more than cell types do.
DONOR_SHARE = 0.1


@dataclass(frozen=True)
class Label:
    """A label of the cells.

    Attributes
    ----------
    name : str
    codes : ndarray of int32, shape (n,)
        Class of each cell, -1 where it is missing or has fewer than :data:`FEWEST_CELLS` cells.
    classes : ndarray of str
    sizes : ndarray of shape (classes,)
        Cells of each class.
    """

    name: str
    codes: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, name: str, codes: np.ndarray, classes: np.ndarray, fewest: int = FEWEST_CELLS) -> Label:
        """Leave small classes out."""
        sizes = np.bincount(codes[codes >= 0], minlength=len(classes))
        kept = np.flatnonzero(sizes >= fewest)
        place = np.full(len(classes) + 1, -1, dtype=np.int32)  # the last: cells without a label
        place[kept] = np.arange(len(kept))
        return cls(name, place[codes], np.asarray(classes)[kept], sizes[kept])


def label_associations(values: np.ndarray, labels: Sequence[Label]) -> list[dict[str, Any]]:
    """How one factor tells the classes of some labels apart; the cells are sorted once for all of them.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        The factor's column of the embedding.
    labels : sequence of Label

    Returns
    -------
    list of dict
        For each label ``auroc`` of shape (classes,): probability that a cell of the class has more of the
        factor than one of the others, ties counting half; ``mean`` of shape (classes,); ``share`` of shape
        (classes,): of the factor's sum over the labelled cells; ``eta2``: share of the factor's variance that
        lies between the classes. NaN where there are not two classes, or for a factor that is the same in
        every cell.
    """
    order = np.argsort(values)
    return [_association(values, order, label) for label in labels]


def _association(values: np.ndarray, order: np.ndarray, label: Label) -> dict[str, Any]:
    sizes = label.sizes.astype(np.float64)
    n, n_classes = int(label.sizes.sum()), len(sizes)
    undefined = np.full(n_classes, np.nan)
    if not n:
        return {"auroc": undefined, "mean": undefined, "share": undefined, "eta2": float("nan")}
    sums, squares, deviations = group_sums(values, label.codes, n_classes)
    total = sums.sum()
    share = sums / total if total else undefined
    mean = sums / sizes
    if n_classes < 2 or deviations <= 1e-12 * squares:
        return {"auroc": undefined, "mean": mean, "share": share, "eta2": float("nan")}
    auroc = (rank_sums(values, order, label.codes, n_classes) - sizes * (sizes + 1) / 2) / (
        sizes * (n - sizes)
    )
    between = np.sum(sizes * np.square(mean - total / n))
    return {"auroc": auroc, "mean": mean, "share": share, "eta2": float(between / deviations)}


@compiled(nogil=True)
def group_sums(values, codes, n_groups):
    """Sums of each group, and over all cells of a group (code >= 0) the squares, also about the mean."""
    sums = np.zeros(n_groups)
    squares, total, n = 0.0, 0.0, 0
    for i in range(len(codes)):
        if codes[i] >= 0:
            sums[codes[i]] += values[i]
            squares += values[i] * values[i]
            total += values[i]
            n += 1
    mean, deviations = total / max(n, 1), 0.0
    for i in range(len(codes)):
        if codes[i] >= 0:
            deviations += (values[i] - mean) * (values[i] - mean)
    return sums, squares, deviations


@compiled(nogil=True)
def rank_sums(values, order, codes, n_classes):
    """Sums by class of the ranks (from 1) among cells with a class; equal values share the mean of theirs.

    `order` sorts `values`. Nothing of the length of the cells is made.
    """
    found = np.zeros(n_classes)
    before, start, n = 0, 0, len(order)
    while start < n:
        stop, tied = start, 0
        while stop < n and values[order[stop]] == values[order[start]]:
            if codes[order[stop]] >= 0:
                tied += 1
            stop += 1
        for place in range(start, stop):
            if codes[order[place]] >= 0:
                found[codes[order[place]]] += before + (tied + 1) / 2
        before += tied
        start = stop
    return found


@dataclass(frozen=True)
class Nested:
    """Groups of donors within cell types.

    Attributes
    ----------
    codes : ndarray of int32, shape (n,)
        Group of each cell, -1 without a type or a donor.
    sizes, types : ndarray of shape (groups,)
        Cells of each group, and its type.
    """

    codes: np.ndarray
    sizes: np.ndarray
    types: np.ndarray

    @classmethod
    def of(cls, types: Label, donors: Label) -> Nested:
        """Only groups with cells."""
        n_donors = max(len(donors.sizes), 1)
        both = (types.codes >= 0) & (donors.codes >= 0)
        codes = np.where(both, types.codes * n_donors + donors.codes, -1)
        sizes = np.bincount(codes[both], minlength=len(types.sizes) * n_donors)
        there = np.flatnonzero(sizes)
        place = np.full(len(sizes) + 1, -1, dtype=np.int32)  # the last: cells of no group
        place[there] = np.arange(len(there))
        return cls(place[codes], sizes[there], there // n_donors)


def variance_components(values: np.ndarray, groups: Nested) -> dict[str, float]:
    """Share of a factor's variance between cell types, and between donors within a type.

    Sums of squares of groups nested in one another, each taken less what chance gives it
    (epsilon squared): without donor effects the second is 0 on average, however many donors there are.

    Returns
    -------
    dict
        ``between_types`` and ``between_donors``, of the whole variance. NaN where no type has two donors.
    """
    missing = {"between_types": float("nan"), "between_donors": float("nan")}
    n, n_groups, n_types = int(groups.sizes.sum()), len(groups.sizes), len(np.unique(groups.types))
    if not n or n_groups == n_types or n == n_groups:
        return missing
    sums, squares, total = group_sums(values, groups.codes, n_groups)
    if total <= 1e-12 * squares:
        return missing
    of_types = _between(np.bincount(groups.types, sums), np.bincount(groups.types, groups.sizes))
    of_groups = _between(sums, groups.sizes)
    noise = (total - of_groups) / (n - n_groups)
    return {
        "between_types": float((of_types - (n_types - 1) * noise) / total),
        "between_donors": float((of_groups - of_types - (n_groups - n_types) * noise) / total),
    }


def is_donor_factor(components: dict[str, float]) -> bool:
    """Whether donors explain a factor better than cell types do, and enough of it to matter."""
    donors = components["between_donors"]
    return bool(donors >= DONOR_SHARE and donors > components["between_types"])


def _between(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Sum of squares between groups."""
    kept = sizes > 0
    mean = sums.sum() / sizes.sum()
    return float(np.sum(sizes[kept] * np.square(sums[kept] / sizes[kept] - mean)))
