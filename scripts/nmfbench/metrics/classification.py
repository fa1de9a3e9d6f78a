"""Held-out prediction of a label from an embedding: how much of it the factors carry.

Stratified folds, shuffled by ``cv_seed``, and three classifiers on the same folds. The
scaler is fitted on the training cells of a fold only. A classifier that fails in a fold
costs that row and nothing else, and never becomes a zero.

Threads: the linear models of the folds are fitted side by side, each on one thread, because
a BLAS call on a few dozen factors gains nothing from more (and loses a lot on a shared
machine); the forest and the neighbour search share their threads within a fold.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError, NotApplicable
from nmfbench.metrics import CLASSIFICATION_METRICS
from nmfbench.metrics.areas import area_under_curve
from nmfbench.metrics.candidates import Candidates
from nmfbench.metrics.classifiers import (
    ALL_CLASSIFIERS,
    CLASSIFIERS,
    ON_A_DEVICE,
    REGRESSIONS,
    Classifier,
    Split,
    fit_and_predict,
)
from nmfbench.metrics.classifiers import make_classifier as _make_classifier
from nmfbench.metrics.contingency import count_cells
from nmfbench.metrics.labels import check_embedding, encode_labels, stratified_sample

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from nmfbench.metrics.neighbours import Neighbours

logger = logging.getLogger(__name__)

FOLD_COLUMNS = (
    "cv_seed",
    "fold",
    "classifier",
    *CLASSIFICATION_METRICS,
    "fit_seconds",
    "n_train",
    "n_test",
    "converged",
    "status",
    "message",
    "n_cells",
    "n_classes",
    "min_cells_per_class",
)


COUNT_COLUMNS = ("classifier", "fold", "donor", "true", "predicted", "n")
"""Columns of the table of counts: how many cells of a donor and a class were predicted as which."""


def classify(H: Any, y: Any, **protocol: Any) -> pd.DataFrame:
    """The folds of :func:`classify_and_count` alone."""
    return classify_and_count(H, y, **protocol)[0]


def classify_and_count(
    H: Any,
    y: Any,
    donors: Any = None,
    *,
    cv_seed: int,
    n_folds: int = 5,
    min_cells_per_class: int = 10,
    classifiers: Sequence[Classifier] = CLASSIFIERS,
    subsample: int | None = None,
    subsample_seed: int = 0,
    neighbours: Neighbours | None = None,
    n_jobs: int = 1,
    device: torch.device | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict a label of held-out cells with each classifier in each fold.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding. float32 stays float32, which halves the time of the linear model.
    y : sequence of shape (n_cells,)
        Label of each cell; cells without one are left out.
    donors : sequence of shape (n_cells,), optional
        Donor of each cell, for the table of counts; by default all cells are one donor's.
    cv_seed : int
        Seed of the folds and of the random forest.
    n_folds : int
        Folds of the cross-validation.
    min_cells_per_class : int
        Classes with fewer cells are left out; at least `n_folds`.
    classifiers : sequence of str
        * ``"logistic_regression"``: multinomial, lbfgs, at most 1000 iterations, on standardised factors;
        * ``"knn"``: 15 nearest neighbours, on standardised factors;
        * ``"random_forest"``: 200 trees;
        * ``"random_forest_100k"``: the same on a stratified sample of 100,000 training cells of a fold;
        * ``"random_forest_intelex"``: 200 trees of scikit-learn-intelex, which are other trees;
        * those of cz-benchmarks (:data:`~nmfbench.metrics.classifiers.CZ_CLASSIFIERS`).
    subsample : int, optional
        Classify a sample of this many cells that keeps the class proportions and at least
        `min_cells_per_class` cells of each class.
    subsample_seed : int
        Seed of the sample. It does not follow `cv_seed`, so that all folds and models share the cells.
    neighbours : Neighbours, optional
        Neighbours of all cells in the z-scored embedding. They spare the nearest-neighbour classifier its
        search in every fold and change nothing in what it predicts (:mod:`nmfbench.metrics.candidates`).
    n_jobs : int
        Threads in all.
    device : torch.device, optional
        Where logistic regressions are fitted (:mod:`nmfbench.metrics.on_device`); None: on the CPU.

    Returns
    -------
    folds : DataFrame of n_folds x len(classifiers) rows
        Columns :data:`FOLD_COLUMNS`. ``fit_seconds`` is the fit alone. ``converged`` is False where
        the linear model stopped at its last iteration. ``status`` is ``ok`` or ``failed``; a failed
        row has NaN scores and says why in ``message``. ``n_cells`` and ``n_classes`` count what was
        classified after rare classes and the sample.
    counts : DataFrame
        Columns :data:`COUNT_COLUMNS`, of the rows that did not fail; pairs of classes without a cell are
        left out.

    Raises
    ------
    InputError
        If fewer than two classes are left, or if no row could be computed.
    """
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    codes, names = encode_labels(y)
    donors, donor_names = encode_labels(np.full(codes.size, "all") if donors is None else donors)
    H = check_embedding(H, codes.size)
    _check_protocol(n_folds, min_cells_per_class, classifiers)
    cells, n_classes = _frequent_classes(codes, min_cells_per_class)
    if subsample is not None:
        drawn = stratified_sample(codes[cells], subsample, seed=subsample_seed, minimum=min_cells_per_class)
        cells = cells[drawn]
    # the slow parts of a search are done once, for all folds
    candidates = None if neighbours is None or "knn" not in classifiers else Candidates(H, neighbours, cells)
    if cells.size < codes.size:
        H, codes, donors = H[cells], codes[cells], donors[cells]
    present, codes = np.unique(codes, return_inverse=True)
    names = names[present]
    shape = donor_names.size, n_classes, n_classes
    counts_of: dict[tuple[int, str], list[tuple]] = defaultdict(list)
    counts = {"n_cells": codes.size, "n_classes": n_classes, "min_cells_per_class": min_cells_per_class}

    folds = StratifiedKFold(n_folds, shuffle=True, random_state=cv_seed)
    splits = list(folds.split(np.zeros((codes.size, 1)), codes))

    def run(name: Classifier, fold: int, threads: int) -> dict[str, Any]:
        split = Split(H, codes, *splits[fold], candidates)
        how = {"n_classes": n_classes, "seed": cv_seed, "n_jobs": threads, "device": device}
        row, predicted = _fit_and_score(name, split, watch, **how)
        if predicted is not None:
            found = count_cells(donors[split.test], codes[split.test], predicted, *shape)
            for place in zip(*np.nonzero(found), strict=True):
                donor, true, guess = (
                    part[i] for part, i in zip((donor_names, names, names), place, strict=True)
                )
                counts_of[fold, name].append((name, fold, donor, true, guess, int(found[place])))
        logger.info("fold %d, %s: %s", fold, name, row["message"] or f"F1 {row['F1']:.4f}")
        return {"cv_seed": cv_seed, "fold": fold, "classifier": name, **row, **counts}

    rows = []
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits({"blas": 1, "openmp": n_jobs}))
        watch = stack.enter_context(_ConvergenceWatch())
        for name in classifiers:
            if name in REGRESSIONS and not (device is not None and name in ON_A_DEVICE):
                with ThreadPoolExecutor(min(n_jobs, n_folds)) as pool:
                    rows += pool.map(lambda fold, name=name: run(name, fold, 1), range(n_folds))
            else:
                rows += [run(name, fold, n_jobs) for fold in range(n_folds)]
    rows.sort(key=lambda row: row["fold"])  # stable: classifiers stay in their order
    if all(row["status"] != "ok" for row in rows):
        raise InputError(
            "classification",
            "a score in at least one fold",
            f"{len(rows)} failures, the first: {rows[0]['message']}",
            "read the log of this step; every failure is there in full",
        )
    counted = [row for key in sorted(counts_of) for row in counts_of[key]]
    return pd.DataFrame(rows, columns=list(FOLD_COLUMNS)), pd.DataFrame(counted, columns=list(COUNT_COLUMNS))


def _check_protocol(n_folds: int, min_cells_per_class: int, classifiers: Sequence[str]) -> None:
    if n_folds < 2 or min_cells_per_class < n_folds:
        raise InputError(
            "classification: min_cells_per_class and n_folds",
            "at least two folds, and no fewer cells per class than folds",
            f"{min_cells_per_class} cells per class, {n_folds} folds",
            "raise classification.min_cells_per_class or lower classification.n_folds in the config",
        )
    unknown = [name for name in classifiers if name not in ALL_CLASSIFIERS]
    if unknown or not classifiers:
        raise InputError(
            "classification: classifiers",
            "one or more of " + ", ".join(ALL_CLASSIFIERS),
            ", ".join(map(str, unknown)) or "none",
            "correct classification.classifiers in the config",
        )


def _frequent_classes(codes: np.ndarray, minimum: int) -> tuple[np.ndarray, int]:
    """Cells that have a label and are of no rare class, and the number of classes left."""
    sizes = np.bincount(codes[codes >= 0]) if (codes >= 0).any() else np.zeros(0, dtype=np.int64)
    frequent = sizes >= minimum
    n_classes = int(frequent.sum())
    if n_classes < 2:
        raise NotApplicable(
            "classification: label",
            f"two or more classes with at least {minimum} cells",
            f"{n_classes} of {sizes.size} classes; the largest has {max(sizes, default=0)} cells",
            "take another label, more cells, or a smaller classification.min_cells_per_class in the config",
        )
    return np.flatnonzero((codes >= 0) & frequent[codes]), n_classes


def _fit_and_score(
    name: Classifier,
    split: Split,
    watch: _ConvergenceWatch,
    *,
    n_classes: int,
    seed: int,
    n_jobs: int,
    device: torch.device | None = None,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Fit one classifier on one fold; an exception becomes a row that says so."""
    row: dict[str, Any] = dict.fromkeys(CLASSIFICATION_METRICS, np.nan)
    row |= {"fit_seconds": np.nan, "n_train": split.train.size, "n_test": split.test.size, "converged": False}
    try:
        classifier = _make_classifier(name, seed, n_jobs)
        watch.warned()
        done = fit_and_predict(name, classifier, split, seed=seed, n_jobs=n_jobs, device=device)
        row["fit_seconds"] = done.fit_seconds
        row["converged"] = not watch.warned()
        probability = _all_columns(done.probability, done.classes, n_classes)
        row |= score_predictions(split.codes[split.test], done.predicted, probability)
    except Exception as error:
        logger.exception("%s failed in a fold of %d training cells", name, split.train.size)
        text = " ".join(str(error).split())
        row |= dict.fromkeys(CLASSIFICATION_METRICS, np.nan)
        return row | {"status": "failed", "message": f"{type(error).__name__}: {text}"[:300]}, None
    return row | {"status": "ok", "message": ""}, done.predicted


class _ConvergenceWatch(warnings.catch_warnings):
    """Keep note of which thread's fit warned that it did not converge; other warnings pass."""

    def __enter__(self) -> _ConvergenceWatch:
        from sklearn.exceptions import ConvergenceWarning

        super().__enter__()
        warnings.simplefilter("always", ConvergenceWarning)
        self._warned: set[int] = set()
        show = warnings.showwarning

        def note(message, category, filename, lineno, file=None, line=None):
            if issubclass(category, ConvergenceWarning):
                self._warned.add(threading.get_ident())
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        return self

    def warned(self) -> bool:
        """Whether the calling thread has warned since it last asked."""
        thread = threading.get_ident()
        found = thread in self._warned
        self._warned.discard(thread)
        return found


def _all_columns(probability: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """Give a class that the training cells lacked a column of zeros."""
    if classes.size == n_classes:
        return probability
    full = np.zeros((probability.shape[0], n_classes), dtype=probability.dtype)
    full[:, classes] = probability
    return full


def score_predictions(true: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Score predictions, every class counting the same (macro averages).

    Parameters
    ----------
    true, predicted : ndarray of int, shape (n_cells,)
        Classes, 0 .. n_classes - 1.
    probability : ndarray of float, shape (n_cells, n_classes)
        Probability of each class.

    Returns
    -------
    dict
        F1, AUROC, Precision, Accuracy, Recall. A class never predicted has precision 0. Classes
        that these cells lack, or that all of them have, do not enter the AUROC; NaN if none is left.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, average="macro", zero_division=0
    )
    areas = []
    for number in range(probability.shape[1]):
        positive = true == number
        if 0 < positive.sum() < positive.size:
            areas.append(area_under_curve(positive, probability[:, number]))
    return {
        "F1": float(f1),
        "AUROC": float(np.mean(areas)) if areas else float("nan"),
        "Precision": float(precision),
        "Accuracy": float(np.mean(true == predicted)),
        "Recall": float(recall),
    }
