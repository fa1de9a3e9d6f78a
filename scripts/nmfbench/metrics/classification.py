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
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nmfbench.errors import InputError
from nmfbench.metrics import CLASSIFICATION_METRICS
from nmfbench.metrics.labels import check_embedding, encode_labels, stratified_sample

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.base import ClassifierMixin

logger = logging.getLogger(__name__)

Classifier = Literal["logistic_regression", "knn", "random_forest"]

CLASSIFIERS: tuple[Classifier, ...] = ("logistic_regression", "knn", "random_forest")

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


def classify(
    H: Any,
    y: Any,
    *,
    cv_seed: int,
    n_folds: int = 5,
    min_cells_per_class: int = 10,
    classifiers: Sequence[Classifier] = CLASSIFIERS,
    subsample: int | None = None,
    subsample_seed: int = 0,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Predict a label of held-out cells with each classifier in each fold.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding. float32 stays float32, which halves the time of the linear model.
    y : sequence of shape (n_cells,)
        Label of each cell; cells without one are left out.
    cv_seed : int
        Seed of the folds and of the random forest.
    n_folds : int
        Folds of the cross-validation.
    min_cells_per_class : int
        Classes with fewer cells are left out; at least `n_folds`.
    classifiers : sequence of {"logistic_regression", "knn", "random_forest"}
        * ``"logistic_regression"``: multinomial, lbfgs, at most 1000 iterations, on standardised factors;
        * ``"knn"``: 15 nearest neighbours, on standardised factors;
        * ``"random_forest"``: 200 trees.
    subsample : int, optional
        Classify a sample of this many cells that keeps the class proportions and at least
        `min_cells_per_class` cells of each class.
    subsample_seed : int
        Seed of the sample. It does not follow `cv_seed`, so that all folds and models share the cells.
    n_jobs : int
        Threads in all.

    Returns
    -------
    DataFrame of n_folds x len(classifiers) rows
        Columns :data:`FOLD_COLUMNS`. ``fit_seconds`` is the fit alone. ``converged`` is False where
        the linear model stopped at its last iteration. ``status`` is ``ok`` or ``failed``; a failed
        row has NaN scores and says why in ``message``. ``n_cells`` and ``n_classes`` count what was
        classified after rare classes and the sample.

    Raises
    ------
    InputError
        If fewer than two classes are left, or if no row could be computed.
    """
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    codes, _ = encode_labels(y)
    H = check_embedding(H, codes.size)
    _check_protocol(n_folds, min_cells_per_class, classifiers)
    H, codes, n_classes = _frequent_classes(H, codes, min_cells_per_class)
    if subsample is not None:
        drawn = stratified_sample(codes, subsample, seed=subsample_seed, minimum=min_cells_per_class)
        H, codes = H[drawn], codes[drawn]
    counts = {"n_cells": codes.size, "n_classes": n_classes, "min_cells_per_class": min_cells_per_class}

    folds = StratifiedKFold(n_folds, shuffle=True, random_state=cv_seed)
    splits = list(folds.split(np.zeros((codes.size, 1)), codes))

    def run(name: Classifier, fold: int, threads: int) -> dict[str, Any]:
        train, test = splits[fold]
        split = H[train], codes[train], H[test], codes[test]
        row = _fit_and_score(name, split, watch, n_classes=n_classes, seed=cv_seed, n_jobs=threads)
        logger.info("fold %d, %s: %s", fold, name, row["message"] or f"F1 {row['F1']:.4f}")
        return {"cv_seed": cv_seed, "fold": fold, "classifier": name, **row, **counts}

    rows = []
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits({"blas": 1, "openmp": n_jobs}))
        watch = stack.enter_context(_ConvergenceWatch())
        for name in classifiers:
            if name == "logistic_regression":
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
    return pd.DataFrame(rows, columns=list(FOLD_COLUMNS))


def _check_protocol(n_folds: int, min_cells_per_class: int, classifiers: Sequence[str]) -> None:
    if n_folds < 2 or min_cells_per_class < n_folds:
        raise InputError(
            "classification: min_cells_per_class and n_folds",
            "at least two folds, and no fewer cells per class than folds",
            f"{min_cells_per_class} cells per class, {n_folds} folds",
            "raise classification.min_cells_per_class or lower classification.n_folds in the config",
        )
    unknown = [name for name in classifiers if name not in CLASSIFIERS]
    if unknown or not classifiers:
        raise InputError(
            "classification: classifiers",
            "one or more of " + ", ".join(CLASSIFIERS),
            ", ".join(map(str, unknown)) or "none",
            "correct classification.classifiers in the config",
        )


def _frequent_classes(H: np.ndarray, codes: np.ndarray, minimum: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Drop unlabelled cells and rare classes, and number the classes left 0 .. n_classes - 1."""
    sizes = np.bincount(codes[codes >= 0]) if (codes >= 0).any() else np.zeros(0, dtype=np.int64)
    frequent = sizes >= minimum
    n_classes = int(frequent.sum())
    if n_classes < 2:
        raise InputError(
            "classification: label",
            f"two or more classes with at least {minimum} cells",
            f"{n_classes} of {sizes.size} classes; the largest has {max(sizes, default=0)} cells",
            "take another label, more cells, or a smaller classification.min_cells_per_class in the config",
        )
    kept = np.flatnonzero((codes >= 0) & frequent[codes])
    number = np.cumsum(frequent) - 1
    if kept.size == codes.size:
        return H, number[codes], n_classes
    return H[kept], number[codes[kept]], n_classes


def _make_classifier(name: Classifier, seed: int, n_jobs: int) -> ClassifierMixin:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "logistic_regression":
        return make_pipeline(StandardScaler(), LogisticRegression(solver="lbfgs", max_iter=1000))
    if name == "knn":
        return make_pipeline(StandardScaler(), KNeighborsClassifier(15, n_jobs=n_jobs))
    return RandomForestClassifier(200, random_state=seed, n_jobs=n_jobs)


def _fit_and_score(
    name: Classifier,
    split: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    watch: _ConvergenceWatch,
    *,
    n_classes: int,
    seed: int,
    n_jobs: int,
) -> dict[str, Any]:
    """Fit one classifier on one fold; an exception becomes a row that says so."""
    H_train, y_train, H_test, y_test = split
    row: dict[str, Any] = dict.fromkeys(CLASSIFICATION_METRICS, np.nan)
    row |= {"fit_seconds": np.nan, "n_train": y_train.size, "n_test": y_test.size, "converged": False}
    try:
        classifier = _make_classifier(name, seed, n_jobs)
        watch.warned()
        start = time.perf_counter()
        classifier.fit(H_train, y_train)
        row["fit_seconds"] = time.perf_counter() - start
        row["converged"] = not watch.warned()
        probability = classifier.predict_proba(H_test)
        if name == "logistic_regression":
            predicted = classifier.predict(H_test)
        else:
            # both predict by the largest probability; taking it from the one at hand saves half the time
            predicted = classifier.classes_[probability.argmax(axis=1)]
        row |= score_predictions(y_test, predicted, _all_columns(probability, classifier.classes_, n_classes))
    except Exception as error:
        logger.exception("%s failed in a fold of %d training cells", name, y_train.size)
        text = " ".join(str(error).split())
        row |= dict.fromkeys(CLASSIFICATION_METRICS, np.nan)
        return row | {"status": "failed", "message": f"{type(error).__name__}: {text}"[:300]}
    return row | {"status": "ok", "message": ""}


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
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, average="macro", zero_division=0
    )
    areas = []
    for number in range(probability.shape[1]):
        positive = true == number
        if 0 < positive.sum() < positive.size:
            areas.append(roc_auc_score(positive, probability[:, number]))
    return {
        "F1": float(f1),
        "AUROC": float(np.mean(areas)) if areas else float("nan"),
        "Precision": float(precision),
        "Accuracy": float(np.mean(true == predicted)),
        "Recall": float(recall),
    }
