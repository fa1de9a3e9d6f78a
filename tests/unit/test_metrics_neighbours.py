"""The stored neighbour table against plain searches, and what is made from it against scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from nmfbench.errors import InputError
from nmfbench.metrics.classification import classify
from nmfbench.metrics.clustering import scale_embedding
from nmfbench.metrics.neighbours import Neighbours, find_neighbours, load_neighbours, save_neighbours

pytestmark = pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaWarning")


def twin(X, k):
    """Every distance in double precision, equal ones by the number of the cell, the cell itself first."""
    X = np.asarray(X, dtype=np.float32).astype(np.float64)
    squares = ((X[:, None] - X[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, -1.0)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.maximum(np.take_along_axis(squares, order, axis=1), 0.0))


def cells(n=700, factors=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(0.4, size=(n, factors)).astype(np.float32)


@pytest.mark.parametrize("k", [2, 25, 90])
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_the_search_is_exact(k, n_jobs):
    X = cells()
    found = find_neighbours(X, k, n_jobs=n_jobs)
    indices, distances = twin(X, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)


@pytest.mark.parametrize("make", ["grid", "far from the origin", "outliers", "small"])
def test_it_is_exact_where_rounding_decides(make, caplog):
    rng = np.random.default_rng(1)
    X = {
        "grid": rng.permutation(np.stack(np.meshgrid(*[np.arange(5.0)] * 4), -1).reshape(-1, 4)),
        "far from the origin": 1000.0 + cells() * 1e-2,
        "outliers": cells() * np.where(np.arange(700) % 50 == 0, 1e4, 1.0)[:, None],
        "small": cells(30),
    }[make].astype(np.float32)
    with caplog.at_level("INFO"):
        found = find_neighbours(X, 10)
    indices, _ = twin(X, 10)
    np.testing.assert_array_equal(found.indices, indices)
    if make == "grid":  # ties at the last neighbour, which no bound can tell apart
        assert int(caplog.records[-1].args[-1]) > 100


@pytest.mark.parametrize("make", ["plain", "grid", "outliers", "identical"])
def test_a_device_finds_the_same_to_the_last_bit(make, monkeypatch):
    """What a GPU would run, on torch's CPU: several blocks of rows and of columns, ties as on the CPU."""
    import torch

    from nmfbench.metrics import on_device

    monkeypatch.setattr(on_device, "ROWS", 150)
    monkeypatch.setattr(on_device, "ENTRIES_AT_ONCE", 150 * 200)
    X = {
        "plain": cells(),
        "grid": np.stack(np.meshgrid(*[np.arange(5.0)] * 4), -1).reshape(-1, 4).astype(np.float32),
        "outliers": cells() * np.where(np.arange(700) % 50 == 0, 1e4, 1.0).astype(np.float32)[:, None],
        "identical": cells(300)[np.random.default_rng(0).integers(0, 200, size=700)],
    }[make]
    plain, found = find_neighbours(X, 25), find_neighbours(X, 25, n_jobs=2, device=torch.device("cpu"))
    np.testing.assert_array_equal(found.indices, plain.indices)
    np.testing.assert_array_equal(found.distances, plain.distances)


def test_bounds_of_a_device_lie_below_and_none_is_missed():
    """The proof: no bound exceeds its distance, and what was not kept is no nearer than the first."""
    import torch

    from nmfbench.metrics.on_device import nearest_bounds

    X = cells(400)
    exact = ((X[:, None].astype(np.float64) - X[None]) ** 2).sum(2)
    norms = (np.square(X, dtype=np.float64).sum(1) * (1 - 2 * (12 + 8) * 2.0**-24)).astype(np.float32)
    for start, candidates, bounds in nearest_bounds(X, norms, 30, torch.device("cpu")):
        rows = start + np.arange(len(candidates))[:, None]
        assert (bounds <= exact[rows, candidates]).all()
        assert (bounds[:, 0] == bounds.max(1)).all()
        others = exact[rows[:, 0]].copy()
        np.put_along_axis(others, candidates.astype(int), np.inf, 1)
        assert (others.min(1) >= bounds[:, 0]).all()


@pytest.mark.parametrize("name", ["logistic_regression", "cz_logistic_regression"])
def test_the_regression_on_a_device_is_scikit_learns(name):
    import torch

    H, y = labelled("plain")
    given = {"cv_seed": 42, "classifiers": [name]}
    plain, found = classify(H, y, **given), classify(H, y, **given, device=torch.device("cpu"))
    assert (found["status"] == "ok").all(), found["message"].iloc[0]
    exact = name != "logistic_regression"  # which is left to the CPU
    pd.testing.assert_frame_equal(found[SCORES], plain[SCORES], rtol=0, atol=0 if exact else 1e-3)
    assert found["converged"].equals(plain["converged"])


def test_scores_on_a_card_that_is_not_there_are_refused(monkeypatch):
    import torch

    from nmfbench.errors import DeviceError
    from nmfbench.metrics.on_device import scoring_device

    monkeypatch.setenv("SCIPY_ARRAY_API", "0")  # and as it was afterwards
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scoring_device("cpu") is scoring_device("auto") is None
    with pytest.raises(DeviceError, match="scoring_device: a GPU was asked for and there is none"):
        scoring_device("cuda")
    monkeypatch.setitem(sys.modules, "nmfbench.device", None)
    with pytest.raises(DeviceError, match=r"(?s)torch in the environment.*envs/models.yaml"):
        scoring_device("auto")
    assert scoring_device("cpu") is None, "which needs none"


def test_a_scikit_learn_that_takes_no_tensors_is_refused():
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from nmfbench.metrics.on_device import fit_regression

    H, y = labelled("plain", n=60)
    other = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg"))
    with pytest.raises(InputError, match="scoring_device: cpu"):
        fit_regression(other, H, y, torch.device("cpu"))


def test_the_table_of_resources_reads_the_device_of_a_score(monkeypatch, caplog, tmp_path):
    import torch

    from nmfbench.metrics.on_device import scoring_device
    from nmfbench.tables.resources import gpu_of

    monkeypatch.setenv("SCIPY_ARRAY_API", "0")  # and as it was afterwards
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level("INFO"):
        assert scoring_device("auto").type == "cuda"
    log = tmp_path / "job.log"
    log.write_text(caplog.text)
    assert gpu_of(log) == "cuda"


@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    card, X = torch.device("cuda"), cells(20_000, 80)
    plain, found = find_neighbours(X, 25, n_jobs=4), find_neighbours(X, 25, n_jobs=4, device=card)
    np.testing.assert_array_equal(found.indices, plain.indices)
    np.testing.assert_array_equal(found.distances, plain.distances)
    H, y = labelled("plain")
    given = {"cv_seed": 42, "classifiers": ["logistic_regression"]}
    plain, found = classify(H, y, **given), classify(H, y, **given, device=card)
    pd.testing.assert_frame_equal(found[SCORES], plain[SCORES], rtol=0, atol=1e-3)


def test_identical_cells_are_each_others_neighbours():
    X = cells(300)[np.random.default_rng(0).integers(0, 200, size=700)]
    found = find_neighbours(X, 20)
    _, distances = twin(X, 20)
    np.testing.assert_allclose(found.distances, distances, atol=1e-6)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(700))
    assert all(np.unique(row).size == 20 for row in found.indices)
    one_hot = np.eye(4, dtype=np.float32)[np.arange(200) % 4]
    assert (find_neighbours(one_hot, 30).indices % 4 == (np.arange(200) % 4)[:, None]).all()
    assert (find_neighbours(np.ones((60, 2)), 50).distances == 0).all()


def test_tables_are_stored_whole_and_read_back(tmp_path):
    found = find_neighbours(cells(100), 5)
    path = tmp_path / "neighbours.npz"
    save_neighbours(path, {"z_scored": found, "as_given": found.first(3)})
    np.testing.assert_array_equal(load_neighbours(path, "z_scored").distances, found.distances)
    assert load_neighbours(path, "as_given").k == 3
    assert [file.name for file in tmp_path.iterdir()] == ["neighbours.npz"]
    with pytest.raises(InputError, match="a table of neighbours 'raw'"):
        load_neighbours(path, "raw")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="searched anew"):
        load_neighbours(path, "z_scored")
    with pytest.raises(InputError, match="9 of each cell"):
        found.first(9)


SCORES = ["fold", "classifier", "F1", "AUROC", "Precision", "Accuracy", "Recall"]


def labelled(kind, n=1500, factors=20):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 5, size=n)
    H = np.abs(rng.normal(size=(5, factors))[codes] + rng.normal(scale=2.0, size=(n, factors)))
    if kind == "ties":  # the same embedding under different labels, whole neighbourhoods of it
        H = np.repeat(H[: n // 10], 10, axis=0)
    elif kind == "few factors":
        H = H[:, :6]
    elif kind == "rounded":
        H = np.round(H[:, :3] * 2)
    elif kind == "rare classes":
        codes[:7] = 9
    return H.astype(np.float32), codes.astype(str)


@pytest.mark.parametrize("kind", ["plain", "ties", "few factors", "rounded", "rare classes"])
def test_every_fold_is_predicted_as_by_scikit_learn(kind):
    H, y = labelled(kind)
    table = find_neighbours(scale_embedding(H)[0], 60)
    for cv_seed in (42, 52):
        plain = classify(H, y, cv_seed=cv_seed, classifiers=["knn"])
        ours = classify(H, y, cv_seed=cv_seed, classifiers=["knn"], neighbours=table)
        pd.testing.assert_frame_equal(ours[SCORES], plain[SCORES], check_exact=True)


def test_most_cells_need_no_further_search(caplog):
    H, y = labelled("plain")
    with caplog.at_level("INFO"):
        classify(H, y, cv_seed=1, classifiers=["knn"], neighbours=find_neighbours(scale_embedding(H)[0], 60))
    proven = [int(r.args[0]) for r in caplog.records if r.msg.startswith("nearest neighbours")]
    assert len(proven) == 5
    assert min(proven) > 290  # of 300


def test_candidates_too_few_or_of_a_sample_change_nothing():
    H, y = labelled("plain")
    table = find_neighbours(scale_embedding(H)[0], 60)
    for given in ({"subsample": 600}, {"min_cells_per_class": 300}):
        plain = classify(H, y, cv_seed=1, classifiers=["knn"], **given)
        for width in (12, 60):
            ours = classify(H, y, cv_seed=1, classifiers=["knn"], neighbours=table.first(width), **given)
            pd.testing.assert_frame_equal(ours[SCORES], plain[SCORES], check_exact=True)


def test_a_wrong_table_would_be_noticed(monkeypatch):
    """The twin above can fail: with a bound that proves everything, the predictions differ."""
    from nmfbench.metrics import candidates

    H, y = labelled("plain")
    table = find_neighbours(scale_embedding(H)[0], 25)
    wide = Neighbours(table.indices, table.distances + 1e6)
    plain = classify(H, y, cv_seed=1, classifiers=["knn"])
    monkeypatch.setattr(candidates, "_rows_to_ask", lambda unproven, n_jobs: np.zeros(0, dtype=int))
    assert not classify(H, y, cv_seed=1, classifiers=["knn"], neighbours=wide)[SCORES].equals(plain[SCORES])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_streamed_forest_is_the_whole_one(n_jobs):
    from sklearn.ensemble import RandomForestClassifier

    from nmfbench.metrics.classifiers import make_classifier, stream_forest

    H, y = labelled("plain", n=400)
    whole = RandomForestClassifier(200, random_state=7).fit(H[:300], y[:300])
    streamed = stream_forest(make_classifier("random_forest", 7, 1), H[:300], y[:300], H[300:], n_jobs=n_jobs)
    np.testing.assert_array_equal(streamed.probability, whole.predict_proba(H[300:]))
    np.testing.assert_array_equal(streamed.predicted, whole.predict(H[300:]))


def test_cheaper_forests_have_names_of_their_own(monkeypatch):
    from nmfbench.metrics import classifiers

    H, y = labelled("plain", n=400)
    monkeypatch.setattr(classifiers, "N_TREES", 20)
    given = {"cv_seed": 1, "n_folds": 2}
    whole = classify(H, y, classifiers=["random_forest"], **given)
    same = classify(H, y, classifiers=["random_forest_100k"], **given)
    assert set(same["classifier"]) == {"random_forest_100k"}
    assert same["F1"].equals(whole["F1"])  # fewer cells than the sample: the same forest
    monkeypatch.setattr(classifiers, "FOREST_SAMPLE", 100)
    assert not classify(H, y, classifiers=["random_forest_100k"], **given)["F1"].equals(whole["F1"])
    try:
        import sklearnex  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="pip install scikit-learn-intelex"):
            classify(H, y, classifiers=["random_forest_intelex"], **given)


def test_fewer_cells_than_neighbours_is_an_input_error():
    with pytest.raises(InputError, match="fewer than the 20 cells"):
        find_neighbours(np.ones((20, 3)), 25)
