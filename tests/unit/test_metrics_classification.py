"""Cross-validated classification against the same protocol written plainly with scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from nmfbench.errors import InputError
from nmfbench.metrics import CLASSIFICATION_METRICS, CLUSTERING_METRICS, METRICS, load_function
from nmfbench.metrics import classification as module
from nmfbench.metrics.classification import FOLD_COLUMNS, classify, score_predictions
from nmfbench.metrics.classifiers import ALL_CLASSIFIERS, CLASSIFIERS
from nmfbench.metrics.labels import encode_labels, stratified_sample

NAMES = ['T cell, CD4+ "naïve"', "NK/T", "B cell", "10"]


def data(n=240, classes=4, factors=6, noise=1.2, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n) % classes)
    H = np.abs(rng.normal(size=(classes, factors))[codes] * 1.5 + rng.normal(scale=noise, size=(n, factors)))
    return H.astype(np.float32), np.array([NAMES[c % 4] + " " * (c // 4) for c in codes], dtype=object)


def plain_twin(H, y, cv_seed, n_folds=5):
    """The protocol in scikit-learn's own words, every score by its own function."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = {
        "logistic_regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "knn": make_pipeline(StandardScaler(), KNeighborsClassifier(15)),
        "random_forest": RandomForestClassifier(200, random_state=cv_seed),
    }
    rows = []
    splits = StratifiedKFold(n_folds, shuffle=True, random_state=cv_seed).split(H, y)
    for fold, (train, test) in enumerate(splits):
        for name, model in models.items():
            model.fit(H[train], y[train])
            predicted, probability = model.predict(H[test]), model.predict_proba(H[test])
            many = {"multi_class": "ovr", "average": "macro"} if probability.shape[1] > 2 else {}
            rows.append(
                {
                    "fold": fold,
                    "classifier": name,
                    "F1": f1_score(y[test], predicted, average="macro", zero_division=0),
                    "AUROC": roc_auc_score(y[test], probability if many else probability[:, 1], **many),
                    "Precision": precision_score(y[test], predicted, average="macro", zero_division=0),
                    "Accuracy": accuracy_score(y[test], predicted),
                    "Recall": recall_score(y[test], predicted, average="macro", zero_division=0),
                    "n_train": train.size,
                    "n_test": test.size,
                }
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("classes", [2, 4])
def test_rows_are_those_of_the_plain_twin(classes):
    H, y = data(n=150, classes=classes)
    ours = classify(H, y, cv_seed=42, n_jobs=2)
    twin = plain_twin(H, y.astype(str), 42)
    assert tuple(ours.columns) == FOLD_COLUMNS
    pd.testing.assert_frame_equal(ours[twin.columns], twin, rtol=1e-6, check_dtype=False)
    assert (ours["status"] == "ok").all()
    assert ours["converged"].all()
    assert (ours["fit_seconds"] > 0).all()
    assert set(ours["n_classes"]) == {classes}


def fast(H, y, **given):
    return classify(H, y, **{"cv_seed": 42, "classifiers": ["logistic_regression", "knn"], **given})


SCORES = ["fold", "classifier", *CLASSIFICATION_METRICS]


def test_same_seed_same_rows_whatever_the_threads():
    H, y = data()
    first = classify(H, y, cv_seed=3, n_folds=2)
    pd.testing.assert_frame_equal(first[SCORES], classify(H, y, cv_seed=3, n_folds=2, n_jobs=2)[SCORES])
    assert not first[SCORES].equals(classify(H, y, cv_seed=4, n_folds=2)[SCORES])


def test_controls():
    H, y = data(noise=0.05)
    assert fast(H, y)["F1"].min() > 0.95
    shuffled = fast(np.random.default_rng(0).permutation(H), y)
    assert abs(shuffled["AUROC"].mean() - 0.5) < 0.1
    assert shuffled["F1"].mean() < 0.4
    constant = fast(np.ones_like(H), y)
    assert (constant["AUROC"] == 0.5).all()
    assert (constant["status"] == "ok").all()


def test_rare_classes_and_missing_labels_are_left_out_and_counted():
    H, y = data(n=240)
    y[:9] = "rare"
    y[9:12] = None
    kept = np.arange(12, 240)
    table = fast(H, y)
    expected = fast(H[kept], y[kept])
    pd.testing.assert_frame_equal(table[SCORES], expected[SCORES])
    assert set(table["n_cells"]) == {228}
    assert set(table["n_classes"]) == {4}
    assert set(table["min_cells_per_class"]) == {10}
    assert set(fast(H, y, min_cells_per_class=9)["n_classes"]) == {5}


@pytest.mark.parametrize("kind", ["category", "unused category", "integer", "float category"])
def test_labels_of_every_kind_are_the_same_classes(kind):
    H, _ = data()
    numbers = np.arange(240) % 3 + 8  # as text "10" comes before "8"
    y = {
        "category": pd.Series(numbers.astype(str)).astype("category"),
        "unused category": pd.Categorical(numbers.astype(str), categories=["7", "9", "10", "8"]),
        "integer": numbers,
        "float category": pd.Series(numbers).astype("category"),
    }[kind]
    pd.testing.assert_frame_equal(fast(H, y)[SCORES], fast(H, numbers.astype(str))[SCORES])


def test_a_failing_classifier_costs_its_rows_only(monkeypatch, caplog):
    H, y = data()
    make = module._make_classifier

    def make_or_fail(name, *args):
        if name == "knn":
            raise MemoryError("no room,\nreally")
        return make(name, *args)

    monkeypatch.setattr(module, "_make_classifier", make_or_fail)
    table = fast(H, y).set_index("classifier")
    assert (table.loc["knn", "status"] == "failed").all()
    assert (table.loc["knn", "message"] == "MemoryError: no room, really").all()
    assert table.loc["knn", list(CLASSIFICATION_METRICS)].isna().all(axis=None)
    assert (table.loc["logistic_regression", "status"] == "ok").all()
    assert "knn failed in a fold of 192 training cells" in caplog.text

    with pytest.raises(InputError, match="5 failures, the first: MemoryError: no room, really"):
        fast(H, y, classifiers=["knn"])


def test_a_linear_model_that_stops_early_is_marked_and_not_printed(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    H, y = data()
    make = module._make_classifier

    def impatient(name, *args):
        return LogisticRegression(max_iter=1) if name == "logistic_regression" else make(name, *args)

    monkeypatch.setattr(module, "_make_classifier", impatient)
    before = warnings.showwarning
    for n_jobs in (1, 2):
        table = fast(H, y, n_jobs=n_jobs).set_index("classifier")
        assert not table.loc["logistic_regression", "converged"].any()
        assert table.loc["knn", "converged"].all()
        assert (table["status"] == "ok").all()
    assert warnings.showwarning is before


def test_subsample_keeps_proportions_and_small_classes():
    H, y = data(n=2000)
    y[:12] = "small"
    table = fast(H, y, subsample=400)
    assert set(table["n_classes"]) == {5}
    assert 400 <= table["n_cells"].iloc[0] <= 410
    pd.testing.assert_frame_equal(table[SCORES], fast(H, y, subsample=400)[SCORES])
    assert not table[SCORES].equals(fast(H, y, subsample=400, subsample_seed=1)[SCORES])
    assert set(fast(H, y, subsample=10**6)["n_cells"]) == {2000}


def test_stratified_sample():
    codes = np.repeat([0, 1, 2], [700, 290, 10])
    drawn = stratified_sample(codes, 100, seed=0)
    np.testing.assert_array_equal(np.bincount(codes[drawn]), [70, 29, 1])
    np.testing.assert_array_equal(drawn, np.unique(drawn))
    np.testing.assert_array_equal(drawn, stratified_sample(codes, 100, seed=0))
    assert (drawn != stratified_sample(codes, 100, seed=1)).any()
    np.testing.assert_array_equal(
        np.bincount(codes[stratified_sample(codes, 100, seed=0, minimum=20)]), [70, 29, 10]
    )
    assert stratified_sample(codes, 101, seed=0).size == 101


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y": ["one"] * 240}, "two or more classes"),
        ({"y": [None] * 240}, "two or more classes"),
        ({"y": ["a", "b"]}, "one label for each"),
        ({"classifiers": ["svm"]}, "svm"),
        ({"classifiers": []}, "one or more"),
        ({"min_cells_per_class": 4}, "no fewer cells per class than folds"),
        ({"H": np.full((240, 2), np.inf)}, "finite"),
    ],
    ids=["one class", "no labels", "lengths", "classifier", "no classifier", "folds", "infinite"],
)
def test_what_cannot_be_classified_is_an_input_error(change, match):
    H, y = data()
    with pytest.raises(InputError, match=match):
        fast(**{"H": H, "y": y, **change})


def test_scores_with_a_class_missing_in_the_fold():
    true = np.array([0, 0, 1, 1])
    probability = np.array([[0.9, 0.1, 0.0], [0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    scores = score_predictions(true, probability.argmax(axis=1), probability)
    assert scores["AUROC"] == 1.0
    assert scores["Accuracy"] == 0.75
    assert np.isnan(score_predictions(np.zeros(3, int), np.zeros(3, int), np.ones((3, 1)))["AUROC"])


def test_encode_labels():
    codes, classes = encode_labels(pd.Categorical(["b", None, "a", "b"], categories=["z", "b", "a"]))
    assert classes.tolist() == ["a", "b"]
    assert codes.tolist() == [1, -1, 0, 1]
    for words in (["b", "10", None, "9"], [2.5, 10.0, np.nan, 2.5], [True, False, True, True]):
        of_texts, of_categories = (encode_labels(kind(words)) for kind in (pd.Series, pd.Categorical))
        np.testing.assert_array_equal(of_texts[0], of_categories[0])
        assert of_texts[1].tolist() == of_categories[1].tolist()


def test_registry_names_functions_that_exist():
    assert CLUSTERING_METRICS == ("ARI", "NMI")
    assert CLASSIFICATION_METRICS == ("F1", "AUROC", "Precision", "Accuracy", "Recall")
    assert {load_function(METRICS[name]).__name__ for name in METRICS} == {
        "score_clusters",
        "classify",
        "integration_scores",
    }
    for metric in METRICS.values():
        assert metric.minimum < metric.maximum
        both = ("higher", "higher") if metric.family == "integration" else ("higher", "lower")
        assert (metric.identity, metric.batch) == both


def test_importing_the_registry_is_light():
    import subprocess
    import sys

    heavy = "{'torch', 'scanpy', 'sklearn', 'anndata', 'matplotlib', 'pandas'}"
    code = (
        "import sys, nmfbench.metrics.clustering, nmfbench.metrics.classification\n"
        "import nmfbench.metrics.projection, nmfbench.tables.published\n"
        f"import nmfbench.tables.collect; sys.exit(str(sorted({heavy} & set(sys.modules)) or ''))"
    )
    path = str(__import__("pathlib").Path(module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""


def test_all_classifiers_are_offered():
    assert CLASSIFIERS == ("logistic_regression", "knn", "random_forest")
    assert set(CLASSIFIERS) < set(ALL_CLASSIFIERS)


@pytest.mark.parametrize("seed", range(30))
def test_areas_are_scikit_learns_to_the_last_bit(seed):
    from sklearn.metrics import roc_auc_score

    from nmfbench.metrics.areas import area_under_curve

    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 400))
    positive = rng.random(n) < rng.choice([0.01, 0.3, 0.9])
    positive[:2] = [True, False]
    score = rng.random(n).astype(rng.choice([np.float32, np.float64]))
    if seed % 3:
        score = np.round(score * 15) / 15  # votes of fifteen neighbours
    if seed % 5 == 0:
        score += positive  # far better than chance
    assert area_under_curve(positive, score) == roc_auc_score(positive, score)
    assert area_under_curve(positive, np.zeros(n)) == 0.5
