"""Prediction of a label in donors that the classifier, and perhaps the embedding, never saw.

Counts of all folds are added up before anything is scored: with few donors a class is missing from many a
fold, and a mean of its scores by fold would be one of accidents (Forman and Scholz 2010). Areas under ROC
curves are of a fold alone, since scores of two classifiers are not on one scale.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.metrics.areas import area_under_curve
from nmfbench.metrics.classifiers import Classifier, Split, fit_and_predict, make_classifier
from nmfbench.metrics.contingency import prediction_scores
from nmfbench.metrics.donor_folds import (
    DonorCells,
    DonorSplit,
    cells_by_donor,
    depends_on_seed,
    describe_folds,
    split_donors,
)
from nmfbench.metrics.labels import check_embedding

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

DONOR_METRICS = ("F1", "AUROC", "Precision", "Accuracy", "Recall", "F1_all", "unseen_cells")
"""Scores of held-out donors. ``F1_all`` counts cells of a class that a fold could not learn as missed, the
others leave them out; ``unseen_cells`` is their share."""

SCORE_COLUMNS = (
    *("label", "cv_seed", "classifier", *DONOR_METRICS),
    *("n_cells", "n_classes", "n_donors", "n_folds", "splitter", "left_out", "status", "message"),
)
FOLD_COLUMNS = (
    *("label", "cv_seed", "fold", "splitter", "donors", "n_donors", "n_train", "n_test", "test_share"),
    *("absent_classes", "unseen_classes"),
)
COUNT_COLUMNS = ("label", "cv_seed", "classifier", "fold", "donor", "true", "predicted", "seen", "n")


@dataclass
class HeldOutTables:
    """Rows of the three tables of a label: scores, folds, and counts."""

    scores: list[dict[str, Any]]
    folds: list[dict[str, Any]]
    counts: list[dict[str, Any]]

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The tables, with :data:`SCORE_COLUMNS`, :data:`FOLD_COLUMNS` and :data:`COUNT_COLUMNS`."""
        import pandas as pd

        return (
            pd.DataFrame(self.scores, columns=list(SCORE_COLUMNS)),
            pd.DataFrame(self.folds, columns=list(FOLD_COLUMNS)),
            pd.DataFrame(self.counts, columns=list(COUNT_COLUMNS)),
        )


def classify_held_out_donors(
    H: Any,
    y: Any,
    donors: Any,
    *,
    label: str,
    folds: int,
    seeds: Sequence[int],
    min_cells: int,
    min_donors: int,
    classifiers: Sequence[Classifier],
    n_jobs: int = 1,
) -> HeldOutTables:
    """Cross-validate a label over donors, with one embedding of all cells.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding, which saw all donors.
    y, donors : sequence of shape (n_cells,)
        Label and donor of each cell.
    label : str
        Name of the label.
    folds : int
        Folds of more than ten donors; fewer are held out one by one.
    seeds : sequence of int
        Of the deal of donors and of the forests. The first alone, where each donor is a fold.
    min_cells, min_donors : int
        Which classes are scored (:func:`~nmfbench.metrics.donor_folds.cells_by_donor`).
    classifiers : sequence of str
    n_jobs : int
        Threads.

    Returns
    -------
    HeldOutTables

    Raises
    ------
    NotApplicable
        The label is the donor, there is one donor, or no class to speak of.
    InputError
        No classifier could be scored.
    """
    H = check_embedding(H, len(y))
    held = cells_by_donor(y, donors, least_cells=min_cells, least_donors=min_donors)
    H = H[held.cells]
    tables = HeldOutTables([], [], [])
    for seed in seeds:
        split = split_donors(held.codes, held.donors, folds, seed)
        score_split(
            lambda fold: H, held, split, tables,
            label=label, seed=seed, classifiers=classifiers, n_jobs=n_jobs,
        )  # fmt: skip
        if not depends_on_seed(split):
            break
    return tables


def score_split(
    embedding: Callable[[int], np.ndarray],
    held: DonorCells,
    split: DonorSplit,
    tables: HeldOutTables,
    *,
    label: str,
    seed: int,
    classifiers: Sequence[Classifier],
    n_jobs: int = 1,
) -> None:
    """Fit the classifiers to every fold, and add what they score to `tables`.

    Parameters
    ----------
    embedding : callable
        Gives the embedding of the cells of `held` for a fold.
    held : DonorCells
    split : DonorSplit
        Folds of these cells.
    tables : HeldOutTables
    label, seed, classifiers, n_jobs
        As in :func:`classify_held_out_donors`.
    """
    from threadpoolctl import threadpool_limits

    shared = {"label": label, "cv_seed": seed}
    tables.folds += [shared | row for row in describe_folds(split, held)]
    about = {"n_cells": held.codes.size, "n_classes": held.names.size, "n_donors": held.donor_names.size}
    about |= {"n_folds": len(split.folds), "splitter": split.splitter, "left_out": ", ".join(held.left_out)}
    failures = 0
    with threadpool_limits({"blas": 1, "openmp": n_jobs}):
        for name in classifiers:
            pooled = _Pooled(held)
            row: dict[str, Any] = dict.fromkeys(DONOR_METRICS, np.nan)
            try:
                for number, (train, test) in enumerate(split.folds):
                    part = Split(embedding(number), held.codes, train, test)
                    done = fit_and_predict(
                        name, make_classifier(name, seed, n_jobs), part, seed=seed, n_jobs=n_jobs
                    )
                    pooled.add(number, part, done.classes, done.predicted, done.probability)
                row |= pooled.scores()
                tables.counts += [shared | {"classifier": name} | counted for counted in pooled.counts()]
                said = {"status": "ok", "message": ""}
            except Exception as error:
                logger.exception("%s failed", name)
                text = " ".join(str(error).split())
                said = {"status": "failed", "message": f"{type(error).__name__}: {text}"[:300]}
                failures += 1
            tables.scores.append(shared | {"classifier": name} | row | about | said)
            logger.info("%s, seed %d, %s: %s", label, seed, name, said["message"] or f"F1 {row['F1']:.4f}")
    if failures == len(classifiers):
        raise InputError(
            f"held-out donors by {label}",
            "a score of at least one classifier",
            f"{failures} failures, the last: {tables.scores[-1]['message']}",
            "read the log of this step; every failure is there in full",
        )


class _Pooled:
    """Counts of all folds, and the areas of each."""

    def __init__(self, held: DonorCells) -> None:
        self.held = held
        n = held.names.size
        self.areas: list[list[float]] = [[] for _ in range(n)]
        self.seen, self.unseen = (np.zeros((n, n), dtype=np.int64) for _ in range(2))
        self._counts: list[dict[str, Any]] = []

    def add(self, fold: int, part: Split, learnt: np.ndarray, predicted, probability) -> None:
        """Take in what one fold predicted."""
        true, donors = part.codes[part.test], self.held.donors[part.test]
        known = np.isin(true, learnt)
        for table, mine in ((self.seen, known), (self.unseen, ~known)):
            np.add.at(table, (true[mine], predicted[mine]), 1)
        for column, number in enumerate(learnt):
            positive = true == number
            if 0 < positive.sum() < positive.size:
                self.areas[number].append(area_under_curve(positive, probability[:, column]))
        names, where = self.held.names, self.held.donor_names
        places, counted = np.unique(np.stack([donors, true, predicted]), axis=1, return_counts=True)
        for (donor, one, other), n in zip(places.T, counted, strict=True):
            row = {"fold": fold, "donor": where[donor], "true": names[one], "predicted": names[other]}
            self._counts.append(row | {"seen": bool(np.isin(one, learnt)), "n": int(n)})

    def counts(self) -> list[dict[str, Any]]:
        """Cells by fold, donor, true and predicted class."""
        return self._counts

    def scores(self) -> dict[str, float]:
        """Scores of the sums, and the mean over classes of their mean areas."""
        total = self.seen + self.unseen
        found = {name: float(value) for name, value in prediction_scores(self.seen).items()}
        found["F1_all"] = float(prediction_scores(total)["F1"])
        found["unseen_cells"] = float(self.unseen.sum() / total.sum())
        areas = [np.mean(values) for values in self.areas if values]
        return found | {"AUROC": float(np.mean(areas)) if areas else float("nan")}
