"""The classifiers of the protocol, fitted to one fold and asked about its test cells."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nmfbench.errors import InputError
from nmfbench.metrics.candidates import N_NEAREST, Candidates
from nmfbench.metrics.labels import stratified_sample

if TYPE_CHECKING:
    import torch
    from sklearn.base import ClassifierMixin

Classifier = Literal[
    *("logistic_regression", "knn", "random_forest", "random_forest_100k", "random_forest_intelex"),
    *("cz_logistic_regression", "cz_knn", "cz_random_forest"),
]

CLASSIFIERS: tuple[Classifier, ...] = ("logistic_regression", "knn", "random_forest")
"""Those of the published protocol; the others are cheaper and bear other names for it."""

CZ_CLASSIFIERS: tuple[Classifier, ...] = ("cz_logistic_regression", "cz_knn", "cz_random_forest")
"""Those of cz-benchmarks 0.15: 100 iterations; five neighbours; 100 trees, whatever the seed of the folds is.
The factors of the first two are divided by their deviation and not centred."""

ALL_CLASSIFIERS: tuple[Classifier, ...] = (
    *(*CLASSIFIERS, "random_forest_100k", "random_forest_intelex"),
    *CZ_CLASSIFIERS,
)

N_TREES = 200
FOREST_SAMPLE = 100_000
_TREES_AT_ONCE = 10


@dataclass(frozen=True)
class Split:
    """Training and test cells of one fold.

    Attributes
    ----------
    H : ndarray of shape (n_cells, k)
        Cells that are classified.
    codes : ndarray of int, shape (n_cells,)
        Their classes.
    train, test : ndarray of int
        Positions of the cells of each.
    candidates : Candidates, optional
        Where the nearest neighbours of the fold may be among.
    """

    H: np.ndarray
    codes: np.ndarray
    train: np.ndarray
    test: np.ndarray
    candidates: Candidates | None = None


@dataclass(frozen=True)
class Prediction:
    """Classes of the training cells, probabilities and prediction of the test cells, seconds of the fit."""

    classes: np.ndarray
    probability: np.ndarray
    predicted: np.ndarray
    fit_seconds: float


def make_classifier(name: Classifier, seed: int, n_jobs: int) -> ClassifierMixin:
    """Make one of the classifiers of the protocol."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "logistic_regression":
        return make_pipeline(StandardScaler(), LogisticRegression(solver="lbfgs", max_iter=1000))
    if name == "knn":
        return make_pipeline(StandardScaler(), KNeighborsClassifier(N_NEAREST, n_jobs=n_jobs))
    if name == "cz_logistic_regression":
        return make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=100))
    if name == "cz_knn":
        return make_pipeline(StandardScaler(with_mean=False), KNeighborsClassifier(5, n_jobs=n_jobs))
    if name == "cz_random_forest":
        return RandomForestClassifier(100, random_state=42, n_jobs=n_jobs)
    if name == "random_forest_intelex":
        try:
            from sklearnex.ensemble import RandomForestClassifier
        except ImportError as error:
            raise InputError(
                "classification.classifiers: random_forest_intelex",
                "the package scikit-learn-intelex",
                "it is not installed",
                "pip install scikit-learn-intelex, or take random_forest or random_forest_100k",
            ) from error
    return RandomForestClassifier(N_TREES, random_state=seed, n_jobs=n_jobs)


REGRESSIONS: tuple[Classifier, ...] = ("logistic_regression", "cz_logistic_regression")

ON_A_DEVICE: tuple[Classifier, ...] = ("logistic_regression",)
"""Those that a GPU fits. The other stops at its limit of iterations or where it is not flat yet: rounding
alone moves 2 to 7 in a thousand of its predictions, so that it stays where its numbers are scikit-learn's."""


def fit_and_predict(
    name: Classifier,
    classifier: Any,
    split: Split,
    *,
    seed: int,
    n_jobs: int,
    device: torch.device | None = None,
) -> Prediction:
    """Fit a classifier to the training cells of a fold and predict its test cells; some on `device`."""
    train = split.train
    if name == "random_forest_100k":
        train = train[stratified_sample(split.codes[train], FOREST_SAMPLE, seed=seed, minimum=1)]
    H, y, H_test = split.H[train], split.codes[train], split.H[split.test]
    if name in ("random_forest", "random_forest_100k", "cz_random_forest"):
        return stream_forest(classifier, H, y, H_test, n_jobs=n_jobs)
    start = time.perf_counter()
    if device is not None and name in ON_A_DEVICE:
        from nmfbench.metrics.on_device import fit_regression

        predict_proba = fit_regression(classifier, H, y, device)
        seconds = time.perf_counter() - start
        probability, classes = predict_proba(H_test), classifier[-1].classes_
        return Prediction(classes, probability, classes[probability.argmax(axis=1)], seconds)
    classifier.fit(H, y)
    seconds = time.perf_counter() - start
    if name == "knn" and split.candidates is not None:
        probability = split.candidates.predict_proba(
            classifier, split.H, split.codes, train, split.test, n_jobs=n_jobs
        )
    else:
        probability = classifier.predict_proba(H_test)
    if name in REGRESSIONS:
        return Prediction(classifier.classes_, probability, classifier.predict(H_test), seconds)
    # the others predict by the largest probability; taking it from the one at hand saves half the time
    predicted = classifier.classes_[probability.argmax(axis=1)]
    return Prediction(classifier.classes_, probability, predicted, seconds)


def stream_forest(
    forest: Any, H: np.ndarray, y: np.ndarray, H_test: np.ndarray, *, n_jobs: int = 1
) -> Prediction:
    """Grow a forest a few trees at a time and keep none: the same trees, a fraction of the memory.

    The probabilities are those of the whole forest to the last bit (of one grown on one thread: on several,
    scikit-learn adds the trees up in whichever order they are done).

    Parameters
    ----------
    forest : RandomForestClassifier
        Not fitted yet; its state afterwards is of no use.
    H, y : ndarray of shape (n_train, k) and (n_train,)
        Training cells and their classes.
    H_test : ndarray of shape (n_test, k)
        Cells to predict.
    n_jobs : int
        Threads.
    """
    n_trees, total, seconds = forest.n_estimators, None, 0.0
    forest.set_params(warm_start=True)
    H_test = np.ascontiguousarray(H_test, dtype=np.float32)  # what trees are asked in
    at_once = max(_TREES_AT_ONCE, n_jobs)
    for done in range(0, n_trees, at_once):
        if done:
            # placeholders: a warm start only counts them, to draw on where it was
            forest.estimators_ = [None] * done
        forest.set_params(n_estimators=min(done + at_once, n_trees))
        start = time.perf_counter()
        forest.fit(H, y)
        seconds += time.perf_counter() - start
        trees = forest.estimators_[done:]
        with ThreadPoolExecutor(n_jobs) as pool:
            for first in range(0, len(trees), n_jobs):
                group = trees[first : first + n_jobs]
                for one in pool.map(lambda tree: tree.predict_proba(H_test, check_input=False), group):
                    total = one if total is None else total + one
    probability = total / n_trees
    return Prediction(forest.classes_, probability, forest.classes_[probability.argmax(axis=1)], seconds)
