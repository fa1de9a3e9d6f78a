"""What every model promises, from one table."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import nmfbench
import reference_models as dense
from nmfbench.errors import InputError
from nmfbench.models import AENMF, CAENMF1, CAENMF2, BaseNMF, get_model

SHORT = {
    "base_nmf": {"max_iter": 30},
    "ae_nmf": {"solver": "minibatch", "max_iter": 25, "batch_size": 64},
    "cae_nmf1": {"solver": "minibatch", "max_iter": 25, "batch_size": 64},
    "cae_nmf2": {"solver": "minibatch", "max_iter": 25, "batch_size": 64},
}
AUTOENCODERS = ["ae_nmf", "cae_nmf1", "cae_nmf2"]
every_model = pytest.mark.parametrize("name", SHORT)
every_autoencoder = pytest.mark.parametrize("name", AUTOENCODERS)


def make(name, k=4, **more):
    return get_model(name)(k, **{"random_state": 0} | SHORT[name] | more)


@pytest.fixture(scope="module")
def cells():
    X, W, donor, kind = dense.planted()
    return X, W, {"conditions": donor, "strata": kind, "progress": False}


@pytest.fixture(scope="module")
def fitted(cells):
    X, _, labels = cells
    return {name: make(name).fit(X, **labels) for name in SHORT}


# What scikit-learn asks of a transformer ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*a number is for minibatch:FutureWarning")
@parametrize_with_checks(
    [
        BaseNMF(1, max_iter=5, random_state=0),
        *(
            model(1, solver=solver, max_iter={"minibatch": 3, "statistics": 10}, random_state=0)
            for model in (AENMF, CAENMF1, CAENMF2)
            for solver in ("auto", "minibatch")
        ),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    """No check is left out (scikit-learn itself skips its array-API check unless SCIPY_ARRAY_API is set).

    The rank is 1 because some checks have a single gene.
    """
    check(estimator)


# Registry ----------------------------------------------------------------------------------------------


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="ae_nmf"):
        get_model("aenmf")
    with pytest.raises(AttributeError):
        nmfbench.models.NoModel  # noqa: B018


def test_the_registry_loads_nothing_heavy():
    script = (
        f"import sys; sys.path.insert(0, {str(Path(nmfbench.__file__).parents[1])!r}); "
        "import nmfbench.models; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'sklearn', 'numba', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# Properties of a fit -----------------------------------------------------------------------------------


@every_model
def test_results_are_not_negative_and_have_the_promised_shapes(name, fitted, cells):
    X, _, _ = cells
    model = fitted[name]
    n, p = X.shape
    assert model.components_.shape == (4, p)
    assert model.components_.dtype == X.dtype
    assert (model.components_ >= 0).all()
    assert model.n_features_in_ == p
    assert model.n_components_ == 4
    assert list(model.get_feature_names_out()) == [f"{type(model).__name__.lower()}{i}" for i in range(4)]
    for array in model.embeddings().values():
        assert len(array) == n
        assert (array >= 0).all()
    for array in model.loadings().values():
        assert len(array) == p
        assert array.flags.c_contiguous


@every_model
def test_planted_factors_are_recovered(name, fitted, cells):
    _, planted, _ = cells
    found = fitted[name].components_
    correlation = np.corrcoef(planted, found)[:4, 4:]
    matched = correlation[linear_sum_assignment(-correlation)]
    assert matched.min() > 0.9


@every_model
def test_the_objective_falls_and_the_history_says_so(name, fitted):
    history = pd.DataFrame(fitted[name].history_)
    parts = {
        "base_nmf": ["reconstruction"],
        "ae_nmf": ["reconstruction", "penalty_W"],
        "cae_nmf1": ["reconstruction", "penalty_W", "penalty_U", "invariance", "hsic"],
        "cae_nmf2": ["reconstruction", "penalty_W", "penalty_U"],
    }[name]
    assert list(history) == [
        "epoch", "objective", *parts, "relative_error", "seconds", "cells_per_s", "peak_mb",
        "orthogonality",
    ]  # fmt: skip
    np.testing.assert_allclose(history[parts].sum(axis=1), history["objective"])
    assert history["objective"].iloc[-1] < history["objective"].iloc[0]
    assert (np.diff(history["epoch"]) == 1).all()
    assert (np.diff(history["seconds"]) > 0).all()
    assert history["epoch"].iloc[-1] == fitted[name].n_iter_
    if name != "base_nmf":  # minibatches: nearly monotone, and the best is kept
        assert (np.diff(history["objective"]) < 0.02 * history["objective"].iloc[0]).all()
        assert fitted[name].objective_ == history["objective"].min()
        assert fitted[name].best_epoch_ == history.loc[history["objective"].idxmin(), "epoch"]


@every_autoencoder
def test_the_embedding_of_the_training_cells_is_the_stored_one(name, fitted, cells):
    X, _, _ = cells
    model = fitted[name]
    assert np.array_equal(model.transform(X), model.embedding_)
    assert np.array_equal(model.transform(X), model.embeddings()[model.embedding_key_])
    np.testing.assert_allclose(model.embedding_, X @ model.components_.T)
    assert np.array_equal(model.transform(X[[5, 2]]), model.embedding_[[5, 2]])


@every_model
def test_dense_csr_and_csc_give_the_same(name, fitted, cells):
    X, _, labels = cells
    for other in (X.toarray(), sp.csc_array(X), sp.csr_matrix(X)):
        assert np.array_equal(make(name).fit(other, **labels).components_, fitted[name].components_)


@every_model
def test_single_precision_is_near_double(name, fitted, cells):
    X, _, labels = cells
    single = make(name).fit(X.astype(np.float32), **labels)
    assert single.components_.dtype == single.embedding_.dtype == np.float32
    assert single.relative_error_ == pytest.approx(fitted[name].relative_error_, rel=1e-3)


@every_model
def test_the_seed_decides(name, fitted, cells):
    X, _, labels = cells
    init = "random"
    one, same, other = (make(name, init=init, random_state=seed).fit(X, **labels) for seed in (5, 5, 6))
    assert np.array_equal(one.components_, same.components_)
    assert not np.array_equal(one.components_, other.components_)
    assert np.array_equal(clone(fitted[name]).fit(X, **labels).components_, fitted[name].components_)


@every_autoencoder
def test_random_state_may_be_a_generator(name, cells):
    X, _, labels = cells
    generators = np.random.default_rng(1), np.random.RandomState(1), None
    for random_state in generators:
        assert make(name, random_state=random_state, max_iter=1).fit(X, **labels).seed_ >= 0


@every_autoencoder
@pytest.mark.parametrize("order", ["proportional", "round_robin", "random", "by_condition"])
def test_uses_labels_is_true_where_labels_steer(name, order, cells):
    X, _, labels = cells
    if order == "by_condition" and name != "cae_nmf2":
        return
    short = {"batches": order, "max_iter": 1}
    with_strata = make(name, **short).fit(X, **labels)
    without = make(name, **short).fit(X, **labels | {"strata": None})
    assert with_strata.uses_labels_ == (order in ("proportional", "round_robin") or name == "cae_nmf1")
    assert not without.uses_labels_
    if name == "cae_nmf1":
        free = make(name, **short, penalty_invariance=0).fit(X, **labels)
        assert free.uses_labels_ == (order != "random")
        assert without.history_[-1]["invariance"] == 0


@every_autoencoder
def test_patience_ends_a_fit_that_no_longer_improves(name, cells):
    X, _, labels = cells
    model = make(name, max_iter=500, patience=2, tol=0.01).fit(X, **labels)
    assert (model.converged_, model.stop_reason_) == (True, "converged")
    assert model.n_iter_ < 500
    best = [row["objective"] for row in model.history_[:-2]]
    assert all(row["objective"] > min(best) * 0.99 for row in model.history_[-2:])


@every_autoencoder
def test_row_norm_makes_unit_factors(name, cells):
    X, _, labels = cells
    model = make(name, row_norm=True, max_iter=3).fit(X, **labels)
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1)


@every_autoencoder
def test_a_cosine_ends_calmer_than_a_constant_rate(name, cells):
    X, _, labels = cells
    models = [make(name, learning_rate_schedule=s).fit(X, **labels) for s in ("constant", "cosine")]
    last = [m.history_[-1]["objective"] - m.history_[-2]["objective"] for m in models]
    assert abs(last[1]) < abs(last[0])


# Names under which results are kept --------------------------------------------------------------------


def test_published_keys_of_base_nmf(fitted):
    model = fitted["base_nmf"]
    assert list(model.embeddings()) == ["H_sklearn_nmf_k4"]
    assert list(model.loadings()) == ["W_sklearn_nmf_k4"]
    record = model.unstructured(libsize_log1p=True, target_sum=1e4)
    assert (record["model_name"], record["k_rank"]) == ("sklearn_NMF_baseline", 4)
    assert record["sklearn_nmf_k4"] == {
        "k": 4,
        "max_iter": 30,
        "random_state": 0,
        "reconstruction_err_": model.reconstruction_err_,
        "libsize_log1p": True,
        "target_sum": 1e4,
    }


def test_published_keys_of_ae_nmf(fitted):
    model = fitted["ae_nmf"]
    assert list(model.embeddings()) == ["H_shared_k4"]
    assert list(model.loadings()) == ["W_tied_k4"]
    assert model.unstructured(libsize_log1p=True, use_hvg=False) == {
        "model_name": "AE_NMF_no_cond_tied",
        "k_rank": 4,
        "libsize_log1p": True,
        "use_hvg": False,
        "lambda_W": 1e-2,
        "lrW": 1e-3,
        "GLOBAL_SEED": 0,
        "row_norm": False,
    }


def test_published_keys_of_cae_nmf1_with_two_columns(cells):
    X, _, labels = cells
    sex = np.where(np.arange(X.shape[0]) % 3, "f", "m")
    conditions = pd.DataFrame({"donor_id": labels["conditions"], "sex": sex})
    model = make("cae_nmf1").fit(X, conditions=conditions, progress=False)
    embeddings, loadings = model.embeddings(), model.loadings()
    assert list(embeddings) == ["H_shared_k4", "H_cond_latent_k4", "H_concat_full_k4"]
    C = dense.one_hot(model.conditions_.codes, 5).numpy()
    U = loadings["U_concat_gene_k4"].T
    assert U.shape == (5, X.shape[1])
    np.testing.assert_allclose(embeddings["H_cond_latent_k4"], C @ (U @ loadings["W_concat_k4"]))
    np.testing.assert_array_equal(
        embeddings["H_concat_full_k4"], np.hstack([embeddings["H_shared_k4"], embeddings["H_cond_latent_k4"]])
    )
    record = model.unstructured()
    assert record["model_name"] == "CNMF_1st_donor_only"
    assert record["best_full_loss"] == model.objective_
    columns = record["cond_meta_concat_k4"]
    assert {name: (list(c["categories"]), c["size"], c["offset"]) for name, c in columns.items()} == {
        "donor_id": (["d0", "d1", "d2"], 3, 0),
        "sex": (["f", "m"], 2, 3),
    }


def test_published_keys_of_cae_nmf2(cells):
    X, _, labels = cells
    conditions = pd.Series(labels["conditions"], name="donor_id", dtype="category")
    model = make("cae_nmf2", save_u=True).fit(X, conditions=conditions, progress=False)
    embeddings, loadings = model.embeddings(), model.loadings()
    assert list(loadings) == ["W_concat_k4"]
    record = model.unstructured()
    U = record["U_donor_k4"]
    assert U.shape == (3, 4, X.shape[1])
    W, donors = loadings["W_concat_k4"].T, conditions.cat.codes.to_numpy()
    expected = embeddings["H_shared_k4"] * (U * W).sum(axis=2)[donors]
    np.testing.assert_allclose(embeddings["H_cond_latent_k4"], expected)
    assert record["model_name"] == "CNMF_2nd_donorOnly"
    meta = record["cond_meta_concat_k4"]
    assert (list(meta["cond_cols"]), list(meta["cond_categories"])) == (["donor_id"], ["d0", "d1", "d2"])
    assert (meta["m_donors"], meta["k"], meta["lambda_U"]) == (3, 4, 0.05)
    plain = clone(model).set_params(save_u=False, max_iter=1).fit(X, conditions=conditions, progress=False)
    assert "U_donor_k4" not in plain.unstructured()


# Progress ----------------------------------------------------------------------------------------------


@every_model
def test_progress_is_lines_in_a_log_and_a_bar_on_demand(name, cells, capsys, caplog):
    X, _, labels = cells
    with caplog.at_level(logging.INFO):
        make(name).fit(X, **labels)
    assert "objective" in caplog.text
    assert "relative error" in caplog.text
    assert capsys.readouterr().err == ""
    make(name).fit(X, **labels | {"progress": True})
    assert type(make(name)).__name__ in capsys.readouterr().err
