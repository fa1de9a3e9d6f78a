"""Folds that hold out whole donors, and which classes can be scored by them.

Cells of one donor resemble each other beyond their type. A classifier that is tested on other cells of the
donors it learnt from is told that too; these folds keep every donor on one side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmfbench.errors import NotApplicable
from nmfbench.metrics.labels import encode_labels

FEW_DONORS = 10
"""Up to so many donors, each is held out once by itself."""

LEAST_CELLS, LEAST_DONORS = 10, 2
"""A class is scored where so many donors have so many cells of it."""


@dataclass(frozen=True)
class DonorCells:
    """Cells that can be scored by held-out donors.

    Attributes
    ----------
    cells : ndarray of int64
        Their positions among all cells, ascending.
    codes, donors : ndarray of int64, shape (cells.size,)
        Class and donor of each.
    names, donor_names : ndarray of object (str)
        What the codes stand for.
    left_out : tuple of str
        Classes that too few donors have.
    """

    cells: np.ndarray
    codes: np.ndarray
    donors: np.ndarray
    names: np.ndarray
    donor_names: np.ndarray
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class DonorSplit:
    """Training and test cells of each fold, and how the donors were shared out."""

    folds: tuple[tuple[np.ndarray, np.ndarray], ...]
    splitter: str


def cells_by_donor(
    y: Any, donors: Any, *, least_cells: int = LEAST_CELLS, least_donors: int = LEAST_DONORS
) -> DonorCells:
    """Choose the cells of the classes that several donors have.

    Parameters
    ----------
    y, donors : sequence of shape (n_cells,)
        Label and donor of each cell; cells without one of them are left out.
    least_cells, least_donors : int
        A class is kept where `least_donors` donors have at least `least_cells` cells of it each.

    Returns
    -------
    DonorCells

    Raises
    ------
    NotApplicable
        The label is the donor, there is one donor, or fewer than two classes are kept.
    """
    codes, names = encode_labels(y)
    by_donor, donor_names = encode_labels(donors)
    known = (codes >= 0) & (by_donor >= 0)
    table = np.zeros((donor_names.size, names.size), dtype=np.int64)
    np.add.at(table, (by_donor[known], codes[known]), 1)
    if (table.sum(axis=1) > 0).sum() < 2:
        raise NotApplicable(
            "held-out donors", "two or more donors", f"{donor_names.size} of them",
            "score data of several donors, or leave donor_cv and donor_transfer out",
        )  # fmt: skip
    if ((table > 0).sum(axis=0) <= 1).all():
        raise NotApplicable(
            "held-out donors: label",
            "a class that two donors have",
            "a label that tells donors apart: each of its classes is in one donor alone",
            "take a label that donors share, such as the cell type",
        )
    kept = (table >= least_cells).sum(axis=0) >= least_donors
    if kept.sum() < 2:
        raise NotApplicable(
            "held-out donors: label",
            f"two or more classes with {least_cells} cells in each of {least_donors} donors",
            f"{int(kept.sum())} of {names.size}",
            "take another label, or lower min_cells or min_donors of donor_cv",
        )
    cells = np.flatnonzero(known & kept[codes])
    left_out = tuple(str(name) for name in names[~kept])
    present, codes = np.unique(codes[cells], return_inverse=True)
    there, by_donor = np.unique(by_donor[cells], return_inverse=True)
    return DonorCells(cells, codes, by_donor, names[present], donor_names[there], left_out)


def split_donors(codes: np.ndarray, donors: np.ndarray, n_folds: int, seed: int) -> DonorSplit:
    """Share the donors out to folds.

    Up to ten donors, each is a fold. More are dealt so that the classes are as even as they can be
    (StratifiedGroupKFold); where a fold of that is of no use, by number alone (GroupKFold), and failing that
    each donor is a fold.

    Parameters
    ----------
    codes, donors : ndarray of int, shape (n_cells,)
        Class and donor of each cell.
    n_folds : int
    seed : int
        Of the deal; without any effect where each donor is a fold.

    Returns
    -------
    DonorSplit
        Every fold has cells on both sides, and two classes at least to learn from.
    """
    from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedGroupKFold

    nothing = np.zeros((codes.size, 1))
    splitters: list[Any] = []
    if np.unique(donors).size > max(FEW_DONORS, n_folds):
        splitters.append(StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed))
        splitters.append(GroupKFold(n_folds, shuffle=True, random_state=seed))
    for splitter in [*splitters, LeaveOneGroupOut()]:
        folds = tuple(splitter.split(nothing, codes, donors))
        if all(_is_of_use(codes, train, test) for train, test in folds):
            return DonorSplit(folds, type(splitter).__name__)
    raise NotApplicable(
        "held-out donors: folds",
        "two classes to learn from, whichever donor is left out",
        f"one, of {np.unique(donors).size} donors",
        "score data of more donors",
    )


def _is_of_use(codes: np.ndarray, train: np.ndarray, test: np.ndarray) -> bool:
    return test.size > 0 and np.unique(codes[train]).size >= 2


def depends_on_seed(split: DonorSplit) -> bool:
    """Whether another seed would deal the donors otherwise."""
    return split.splitter != "LeaveOneGroupOut"


def describe_folds(split: DonorSplit, held: DonorCells) -> Iterator[dict[str, Any]]:
    """A row for each fold: its donors and sizes, and the classes that one side lacks."""
    for number, (train, test) in enumerate(split.folds):
        learnt, asked = np.unique(held.codes[train]), np.unique(held.codes[test])
        everything = np.arange(held.names.size)
        yield {
            "fold": number,
            "splitter": split.splitter,
            "donors": ", ".join(map(str, held.donor_names[np.unique(held.donors[test])])),
            "n_donors": np.unique(held.donors[test]).size,
            "n_train": train.size,
            "n_test": test.size,
            "test_share": test.size / (train.size + test.size),
            "absent_classes": ", ".join(map(str, held.names[np.setdiff1d(everything, asked)])),
            "unseen_classes": ", ".join(map(str, held.names[np.setdiff1d(asked, learnt)])),
        }
