"""Which cells are trained on and which are held out, by target, batch, guide or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.perturbation.screen import CONTROL, DROPPED, Screen

if TYPE_CHECKING:
    import pandas as pd

#: Roles of cells in :attr:`Split.fold`; a number of a fold is the one that the cell is held out in.
TRAINED, SCORED_CONTROL, TRAIN_CONTROL, LEFT_OUT = -1, -2, -3, -4
SMALL_SCREEN = 40  # targets below which each is a fold of its own


@dataclass(frozen=True)
class Split:
    """Roles of the cells of a screen.

    Attributes
    ----------
    fold : ndarray of shape (cells,), int32
        The fold in which the cell is held out (it is trained on in the others), or a role: ``TRAINED`` in
        every fold, ``TRAIN_CONTROL``, ``SCORED_CONTROL``, ``LEFT_OUT``.
    half : ndarray of shape (cells,), int8
        0 or 1, at random within a target: halves of the training cells for choosing penalties.
    totals : ndarray of shape (cells,), float64
        Counts of each cell.
    phase : ndarray of shape (cells,), int8
        0, 1, 2 for G1, S, G2M; all 0 where phases are not known.
    """

    fold: np.ndarray
    half: np.ndarray
    totals: np.ndarray
    phase: np.ndarray

    @property
    def n_folds(self) -> int:
        """Number of folds; 0 where nothing is held out."""
        return int(self.fold.max()) + 1 if (self.fold >= 0).any() else 0

    def save(self, path: str | Path) -> None:
        """Write the arrays."""
        np.savez_compressed(path, fold=self.fold, half=self.half, totals=self.totals, phase=self.phase)


def read_split(path: str | Path) -> Split:
    """Read what :meth:`Split.save` wrote."""
    with np.load(path) as stored:
        return Split(stored["fold"], stored["half"], stored["totals"], stored["phase"])


def split_screen(screen: Screen, settings: Mapping[str, Any]) -> Split:
    """Give each cell of a screen its role.

    Parameters
    ----------
    screen : Screen
    settings : mapping
        A section of ``perturbation.splits``: ``kind`` and what belongs to it.

    Returns
    -------
    Split
        Half of the control cells of each batch are for training and prediction, half for scoring, so that
        their noise is not on both sides.

    Raises
    ------
    InputError
        Nothing would be held out, or nothing trained on.
    """
    rng = np.random.default_rng(np.random.SeedSequence([settings.get("seed", 0), 20251010]))
    kind = settings["kind"]
    fold = np.full(len(screen.codes), TRAINED, dtype=np.int32)
    perturbed = screen.codes >= 0
    held_out = _KINDS[kind](screen, settings, rng)  # (cells,): the fold or -1
    fold[perturbed] = held_out[perturbed]
    fold[screen.codes == DROPPED] = LEFT_OUT
    _split_controls(screen, fold, kind, rng)
    split = Split(fold, _halves(screen, rng), _totals(screen), screen.phases())
    if kind != "none":
        _require_both(split, screen, settings)
    return split


def _by_target(screen: Screen, fold_of_target: np.ndarray) -> np.ndarray:
    return np.append(fold_of_target, [-1, -1])[screen.codes]  # the two roles below zero


def _leave_target_out(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    n_targets = len(screen.targets)
    n_folds = settings["n_folds"]
    if n_folds == "auto":
        n_folds = n_targets if n_targets < SMALL_SCREEN else 5
    return _by_target(screen, rng.permutation(np.arange(n_targets) % min(n_folds, n_targets)))


def _held_out_targets(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    n_targets = len(screen.targets)
    n_held_out = min(max(round(settings["fraction"] * n_targets), 1), n_targets - 1)
    fold = np.full(n_targets, -1)
    fold[rng.permutation(n_targets)[:n_held_out]] = 0
    return _by_target(screen, fold)


def _held_out_batch(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    if screen.batch is None or settings["batch"] not in screen.batch.categories:
        there = "no column of batches" if screen.batch is None else ", ".join(screen.batch.categories)
        raise InputError(
            "perturbation.splits: held_out_batch: batch",
            "a batch of the screen",
            f"{settings['batch']!r}; there is {there}",
            "name one of them, and the column in datasets.<name>.screen.batch_column",
        )
    return np.where(np.asarray(screen.batch == settings["batch"]), 0, -1)


def _held_out_guide(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    if screen.guide is None:
        raise InputError(
            "perturbation.splits: held_out_guide",
            "a column of guides",
            "none",
            "name it in datasets.<name>.screen.guide_column",
        )
    fold = np.full(len(screen.codes), -1)
    for target in range(len(screen.targets)):
        cells = np.flatnonzero(screen.codes == target)
        guides = np.unique(screen.guide.codes[cells])
        if len(guides) > 1:  # a target with one guide is trained on
            fold[cells[screen.guide.codes[cells] == rng.choice(guides)]] = 0
    return fold


def _from_file(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    from nmfbench.tables.files import read_table

    path = settings["path"]
    if not Path(path).is_file():
        raise InputError(
            f"{path}", "a table with the columns target and set", "no such file", "mend the path"
        )
    table = read_table(path, text=("target", "set"))
    if not {"target", "set"} <= set(table.columns) or not set(table["set"]) <= {"train", "test"}:
        raise InputError(
            f"{path}",
            "the columns target and set, with the words train and test",
            f"the columns {', '.join(table.columns)}",
            "write one row for each target, and a column fold where there are several",
        )
    table = table[table["target"] != screen.control]
    both = set(table.loc[table["set"] == "train", "target"]) & set(
        table.loc[table["set"] == "test", "target"]
    )
    if both and "fold" not in table:
        raise InputError(
            f"{path}",
            "each target in one set",
            f"{', '.join(sorted(both)[:5])} in train and in test",
            "leave each in one of them: a target that is trained on is not unseen",
        )
    unknown = sorted(set(table["target"]) - set(screen.targets))
    if unknown:
        raise InputError(
            f"{path}: target",
            "targets of the screen with enough cells",
            f"{', '.join(unknown[:5])}{' ...' * (len(unknown) > 5)} ({len(unknown)})",
            "see labels.tsv beside the split for the names and cells of all targets",
        )
    fold = np.full(len(screen.targets), -2)
    place = {target: number for number, target in enumerate(screen.targets)}
    for row in table.itertuples():
        if row.set == "test":
            fold[place[row.target]] = int(getattr(row, "fold", 0))
        elif fold[place[row.target]] < 0:
            fold[place[row.target]] = -1
    # a target that the file does not name is in no set
    return np.where(_by_target(screen, fold) == -2, LEFT_OUT, _by_target(screen, fold))


def _column(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Roles from a column of obs with the words train and test, as joined pairs of files have it."""
    values = screen.counts.label(settings["column"])
    if set(values.categories) != {"train", "test"}:
        raise InputError(
            f"{screen.counts.path}: obs[{settings['column']!r}]",
            "the words train and test",
            ", ".join(map(repr, values.categories[:6])),
            "name the column of the split in perturbation.splits.<name>.column",
        )
    test = np.asarray(values == "test")
    in_both = [
        screen.targets[target]
        for target in range(len(screen.targets))
        if len(np.unique(test[screen.codes == target])) > 1
    ]
    if in_both and not settings["targets_seen"]:
        raise InputError(
            f"{screen.counts.path}: obs[{settings['column']!r}]",
            "each target in one set",
            f"{', '.join(in_both[:5])} in train and in test",
            "mend the column, or say targets_seen: true where cells of known targets are held out",
        )
    return np.where(test, 0, -1)


def _nothing(screen: Screen, settings: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """Train on everything, for predictions without a truth."""
    return np.full(len(screen.codes), -1)


_KINDS = {
    "leave_target_out": _leave_target_out,
    "held_out_targets": _held_out_targets,
    "held_out_batch": _held_out_batch,
    "held_out_guide": _held_out_guide,
    "file": _from_file,
    "column": _column,
    "none": _nothing,
}


def _split_controls(screen: Screen, fold: np.ndarray, kind: str, rng: np.random.Generator) -> None:
    """Share the control cells of each batch out, in halves; of a held out batch score only its own."""
    batches = np.zeros(len(fold), dtype=int) if screen.batch is None else screen.batch.codes
    control = screen.codes == CONTROL
    for batch in np.unique(batches[control]):
        cells = rng.permutation(np.flatnonzero(control & (batches == batch)))
        fold[cells] = TRAIN_CONTROL
        if kind != "none":
            fold[cells[len(cells) // 2 :]] = SCORED_CONTROL
    if kind == "held_out_batch":
        held_out = np.unique(batches[fold >= 0])
        elsewhere = (fold == SCORED_CONTROL) & ~np.isin(batches, held_out)
        fold[elsewhere] = TRAIN_CONTROL


def _halves(screen: Screen, rng: np.random.Generator) -> np.ndarray:
    half = np.zeros(len(screen.codes), dtype=np.int8)
    for target in range(CONTROL, len(screen.targets)):
        cells = np.flatnonzero(screen.codes == target)
        half[cells] = rng.permutation(np.arange(len(cells)) % 2)
    return half


def _totals(screen: Screen) -> np.ndarray:
    totals = np.zeros(len(screen.codes))
    for start, block in screen.counts.blocks():
        totals[start : start + block.shape[0]] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    return totals


def _require_both(split: Split, screen: Screen, settings: Mapping[str, Any]) -> None:
    trained = {
        fold: len(
            np.unique(screen.codes[(split.fold == TRAINED) | ((split.fold >= 0) & (split.fold != fold))])
        )
        for fold in range(split.n_folds)
    }
    controls = [int(np.count_nonzero(split.fold == role)) for role in (TRAIN_CONTROL, SCORED_CONTROL)]
    short = [fold for fold, n in trained.items() if n < 2]
    if split.n_folds and not short and min(controls) >= 2:
        return
    got = (
        "no cell is held out"
        if not split.n_folds
        else f"{trained[short[0]]} target to train on in fold {short[0]}"
        if short
        else f"{controls[0]} and {controls[1]} control cells"
    )
    raise InputError(
        f"perturbation.splits: {settings['kind']}",
        "held out cells, two targets to train on, and control cells for training and for scoring",
        got,
        "choose another split, or lower screen.min_cells",
    )


def split_table(screen: Screen, split: Split) -> pd.DataFrame:
    """target, fold, set, cells: what is held out when."""
    import pandas as pd

    rows = []
    for number, target in enumerate(screen.targets):
        mine = split.fold[screen.codes == number]
        for fold in range(max(split.n_folds, 1)):
            n_test = int(np.count_nonzero(mine == fold))
            n_train = int(np.count_nonzero(mine == TRAINED) + np.count_nonzero((mine >= 0) & (mine != fold)))
            rows += [(target, fold, "train", n_train)] * bool(n_train)
            rows += [(target, fold, "test", n_test)] * bool(n_test)
    return pd.DataFrame(rows, columns=["target", "fold", "set", "cells"])


def sampling_list(screen: Screen, split: Split) -> pd.DataFrame:
    """target_gene, n_cells, median_umi_per_cell of what is held out: the published sampling list."""
    import pandas as pd

    rows = []
    for number, target in enumerate(screen.targets):
        held_out = split.totals[(screen.codes == number) & (split.fold >= 0)]
        if len(held_out):
            rows.append((target, len(held_out), float(np.median(held_out))))
    return pd.DataFrame(rows, columns=["target_gene", "n_cells", "median_umi_per_cell"])
