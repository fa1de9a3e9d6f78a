"""PNMF as an estimator: what it promises, refuses and reproduces."""

from __future__ import annotations

import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import reference_pnmf as dense
from nmfbench.errors import InputError
from nmfbench.models import PNMF, PNMFDonor
from nmfbench.models.pnmf import initialize_factors

K = 4
# One of each kind of training; the steps are kept few.
GRADIENT = {"engine": "gradient", "learning_rate": 0.1, "init": "nndsvda", "max_iter": 120}
WAYS = {
    "default": {},
    "simple": {"mode": "simple"},
    "lower-bound": {"mode": "lower-bound"},
    "projected": GRADIENT,
    "softplus": GRADIENT | {"loadings_mode": "softplus"},
    "exp": GRADIENT | {"loadings_mode": "exp"},
    "multiplicative": GRADIENT | {"loadings_mode": "multiplicative"},
    "natural": GRADIENT | {"training_mode": "natural"},
    "natural lower-bound": GRADIENT
    | {"training_mode": "natural", "mode": "lower-bound", "loadings_mode": "multiplicative"},
    "plateau": GRADIENT | {"scheduler": "plateau", "scheduler_patience": 10},
    "cells": GRADIENT | {"batch_size": 100, "max_iter": 240},
    "genes": GRADIENT | {"y_batch_size": 40},
}
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def planted():
    return dense.counts(240, 90, K, depth=0.7)


@pytest.fixture(scope="module")
def fitted(planted):
    X = planted[0]
    return {way: PNMF(K, random_state=0, **settings).fit(X) for way, settings in WAYS.items()}


def recovery(W, components):
    """Smallest correlation of a planted factor with its match."""
    correlation = np.corrcoef(W.T, components)[:K, K:]
    return correlation[linear_sum_assignment(-correlation)].min()


@parametrize_with_checks(
    [
        PNMF(1, mode="lower-bound", max_iter=30, random_state=0),
        PNMF(1, max_iter=20, random_state=0),
        PNMFDonor(1, mode="lower-bound", max_iter=30, random_state=0),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    """No check is left out (scikit-learn itself skips its array-API check unless SCIPY_ARRAY_API is set)."""
    check(estimator)


@every_way
def test_planted_factors_are_recovered(way, fitted, planted):
    X, _, W = planted
    model = fitted[way]
    assert recovery(W, model.components_) > 0.95
    assert model.components_.shape == (K, X.shape[1])
    assert model.n_components_ == K
    assert model.n_features_in_ == X.shape[1]
    assert (model.components_ >= 0).all()
    assert not ((model.components_.max(axis=0) < 1e-6) & (X.sum(axis=0) > 0)).any()
    assert model.elbo_ == pytest.approx(fitted["default"].elbo_, rel=0.02)


def test_the_default_is_the_best_of_all(fitted):
    evidence = {way: model.elbo_ for way, model in fitted.items() if model.mode != "lower-bound"}
    assert max(evidence, key=evidence.get) in ("default", "simple")
    assert fitted["lower-bound"].elbo_ < fitted["default"].elbo_


@pytest.mark.parametrize("way", ["default", "simple", "lower-bound", "natural lower-bound"])
def test_transform_of_the_training_cells_is_near_the_posterior(way, fitted, planted):
    model = fitted[way]
    embedded = model.transform(planted[0])
    error = np.abs(embedded - model.embedding_).max() / model.embedding_.max()
    assert error < {"lower-bound": 1e-3, "natural lower-bound": 0.1}.get(way, 0.02)
    assert np.corrcoef(embedded.ravel(), model.embedding_.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("method", ["map", "poisson", "nnls"])
def test_other_ways_to_transform(method, fitted, planted):
    X, model = planted[0], fitted["lower-bound"]
    H = model.transform(X, method=method)
    assert (H >= 0).all()
    assert np.array_equal(H, model.transform(X, method=method))
    rate = torch.from_numpy(H @ model.components_)
    full = torch.from_numpy(X.toarray())
    other = torch.from_numpy(model.embedding_ @ model.components_)
    if method == "nnls":
        assert ((rate - full) ** 2).sum() < ((other - full) ** 2).sum()
    else:
        assert dense.deviance(full, rate) < dense.deviance(full, other)


def test_inverse_transform_of_fit_transform_is_near_the_counts(planted):
    X, H, W = planted
    model = PNMF(K, random_state=0)
    factors = model.fit_transform(X)
    assert np.array_equal(factors, model.embedding_)
    rates = model.inverse_transform(factors)
    assert np.corrcoef(rates.ravel(), (H @ W.T).ravel())[0, 1] > 0.97
    assert rates.sum() == pytest.approx(X.sum(), rel=0.05)


def test_elbo_is_the_bound_by_the_book(fitted, planted):
    model = fitted["lower-bound"]
    mu, sigma, W = (
        torch.from_numpy(np.asarray(a, dtype=np.float64))
        for a in (model.log_factors_, model.factor_scale_, model.components_.T)
    )
    X = torch.from_numpy(planted[0].toarray())
    expected = dense.log_likelihood(X, mu, sigma, W, "lower-bound") - dense.divergence(mu, sigma)
    assert model.elbo_ == pytest.approx(float(expected), rel=1e-9)
    model = fitted["default"]
    mu, sigma, W = (
        torch.from_numpy(a) for a in (model.log_factors_, model.factor_scale_, model.components_.T)
    )
    eps = torch.randn((400, *mu.shape), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = dense.log_likelihood(X, mu, sigma, W, "expanded", eps) - dense.divergence(mu, sigma)
    assert model.elbo_ == pytest.approx(float(expected), rel=2e-3)


def test_history_callback_and_attributes(planted):
    X, seen = planted[0], []
    model = PNMF(K, mode="lower-bound", max_iter=12, tol=0.0, random_state=0)
    assert (model.elbo_, model.n_iter_, model.prior_type) == (None, 0, "GaussianPrior")

    def callback(model, iteration, elbo):
        seen.append((iteration, elbo, tuple(model.prior_.mean.shape)))

    history, same = model.fit(X, return_history=True, callback=callback, callback_interval=5)
    assert same is model
    assert len(history) == model.n_iter_ == 12
    assert [iteration for iteration, *_ in seen] == [0, 5, 10]
    assert [elbo for _, elbo, _ in seen] == [model.history_[i]["elbo"] for i in (0, 5, 10)]
    assert seen[0][2] == (K, X.shape[0])
    assert (np.diff(history) > 0).all()
    assert history[-1] == model.elbo_
    assert (model.stop_reason_, model.converged_) == ("max_iter", False)
    table = pd.DataFrame(model.history_)
    np.testing.assert_allclose(table["objective"], table["reconstruction"] + table["divergence"])
    np.testing.assert_allclose(table["objective"], -table["elbo"] / X.shape[0])
    for row in (0, 3):  # a row tells where the fit stood after so many steps, in all its columns
        if row:
            short = PNMF(K, mode="lower-bound", max_iter=row, tol=0.0, random_state=0).fit(X)
            rates = short.embedding_ @ short.components_
        else:
            W, H = initialize_factors(X, K, "random", random_state=0)
            rates = H * np.exp(0.105**2 / 2) @ W.T
        error = ((X.toarray() - rates) ** 2).sum() / (X.toarray() ** 2).sum()
        assert table["relative_error"][row] == pytest.approx(error, rel=1e-6)
    assert table["elbo"][3] == pytest.approx(short.elbo_, rel=1e-9)
    history, H = model.fit_transform(X, return_history=True)
    assert (len(history), H.shape) == (12, (X.shape[0], K))
    assert list(model.get_feature_names_out()) == [f"pnmf{i}" for i in range(K)]


def test_a_polish_does_not_change_whether_the_fit_converged(planted, tmp_path):
    X, settings = planted[0], {"tol": 1e-3, "max_iter": 40, "random_state": 0}
    whole = PNMF(K, **settings).fit(X)
    sweeps = sum(row["bound"] == "lower" for row in whole.history_)
    assert whole.converged_
    assert sweeps < 40
    assert whole.n_iter_ == sweeps + 40
    assert not PNMF(K, **settings | {"tol": 0.0}).fit(X).converged_
    calls = iter(range(1, 100))
    PNMF(K, **settings).fit(X, checkpoint=tmp_path, should_stop=lambda: next(calls) == sweeps + 5)
    assert PNMF(K, **settings).fit(X, checkpoint=tmp_path).converged_


def test_verbose_shows_a_bar(planted, capsys):
    PNMF(K, max_iter=2, random_state=0).fit(planted[0])
    assert capsys.readouterr().err == ""
    PNMF(K, max_iter=2, random_state=0, verbose=True).fit(planted[0])
    assert "PNMF" in capsys.readouterr().err


def test_a_gradient_engine_tells_its_learning_rates_and_converges(planted):
    model = PNMF(
        K,
        random_state=0,
        scheduler=None,
        learning_rate=0.1,
        max_iter=900,
        tol=1e-3,
        eval_every=20,
        patience=1,
    ).fit(planted[0])
    assert model.converged_
    assert model.n_iter_ < 900
    assert model.lr_history_ == [0.1] * model.n_iter_
    absolute = PNMF(K, mode="lower-bound", tol=5.0, tol_mode="absolute", random_state=0).fit(planted[0])
    gains = np.diff([row["elbo"] for row in absolute.history_[:-1]])
    assert abs(gains[-1]) < 5 <= abs(gains[-2])


def test_dense_sparse_and_layers_give_the_same(planted):
    X = planted[0]
    settings = {"max_iter": 10, "random_state": 0}
    model = PNMF(K, **settings).fit(X)
    adata = anndata.AnnData(X * 2, layers={"counts": X})
    others = [
        X.toarray(),
        X.tocsc(),
        sp.csr_array(X),
        X.toarray().tolist(),
        pd.DataFrame(X.toarray()).astype(int),
    ]
    for other in others:
        assert np.array_equal(PNMF(K, **settings).fit(other).components_, model.components_)
    of_layer = PNMF(K, **settings).fit(adata, layer="counts")
    assert np.array_equal(of_layer.components_, model.components_)
    assert np.array_equal(of_layer.transform(adata, layer="counts"), model.transform(X))
    with pytest.raises(InputError, match="layer"):
        PNMF(K).fit(adata, layer="raw")
    with pytest.raises(InputError, match="layer"):
        PNMF(K).fit(X, layer="counts")


@pytest.mark.parametrize("way", ["default", "lower-bound", "natural", "projected"])
def test_single_precision_is_near_double(way, fitted, planted):
    model = PNMF(K, random_state=0, **WAYS[way]).fit(planted[0].astype(np.float32))
    assert model.components_.dtype == model.embedding_.dtype == np.float32
    assert model.elbo_ == pytest.approx(fitted[way].elbo_, rel=1e-3)


@pytest.mark.parametrize("way", ["default", "projected", "cells"])
def test_the_seed_alone_decides(way, planted):
    X = planted[0]
    settings = WAYS[way] | {"max_iter": 8}
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = PNMF(K, random_state=3, **settings).fit(X)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    torch.manual_seed(17)
    assert np.array_equal(clone(one).fit(X).components_, one.components_)
    assert not np.array_equal(PNMF(K, random_state=4, **settings).fit(X).components_, one.components_)
    again = pickle.loads(pickle.dumps(one))
    assert np.array_equal(again.transform(X), one.transform(X))


@pytest.mark.parametrize("way", ["default", "lower-bound", "natural", "cells", "genes", "plateau"])
@pytest.mark.parametrize("after", [3, 14])
def test_a_resumed_fit_equals_an_unbroken_one(way, after, planted, tmp_path):
    X = planted[0].astype(np.float32)
    settings = WAYS[way] | {"max_iter": 10, "random_state": 0, "eval_every": 2}
    if way == "cells":
        settings["loadings_mode"] = "multiplicative"
    whole = PNMF(K, **settings).fit(X)
    calls = []

    def stop():
        calls.append(1)
        return len(calls) == after

    broken = PNMF(K, **settings).fit(X, checkpoint=tmp_path, should_stop=stop)
    assert broken.stop_reason_ == ("interrupted" if len(calls) >= after else whole.stop_reason_)
    resumed = PNMF(K, **settings).fit(X, checkpoint=tmp_path)
    assert np.array_equal(resumed.components_, whole.components_)
    assert np.array_equal(resumed.embedding_, whole.embedding_)
    assert resumed.stop_reason_ == whole.stop_reason_
    assert [row["elbo"] for row in resumed.history_] == [row["elbo"] for row in whole.history_]
    with pytest.raises(InputError, match="n_components"):
        PNMF(K + 1, **settings).fit(X, checkpoint=tmp_path)


@pytest.mark.parametrize("after", [4, 13])
def test_a_resumed_fit_with_donors_equals_an_unbroken_one(after, planted, tmp_path):
    X, names = planted[0], np.array(["a", "b", "c"])[np.arange(240) % 3]
    settings = {"max_iter": 10, "random_state": 0, "learn_prior": True, "exposure": "total"}
    whole = PNMFDonor(K, **settings).fit(X, conditions=names)
    calls = iter(range(1, 100))
    PNMFDonor(K, **settings).fit(
        X, conditions=names, checkpoint=tmp_path, should_stop=lambda: next(calls) == after
    )
    resumed = PNMFDonor(K, **settings).fit(X, conditions=names, checkpoint=tmp_path)
    assert np.array_equal(resumed.multipliers_, whole.multipliers_)
    assert np.array_equal(resumed.embedding_, whole.embedding_)
    assert np.array_equal(resumed.prior_variance_, whole.prior_variance_)
    with pytest.raises(InputError, match="other data"):
        PNMFDonor(K, **settings).fit(X, conditions=names[::-1], checkpoint=tmp_path)


INVALID = {
    "n_components": [0, 2.5],
    "loadings_mode": ["relu"],
    "mode": ["jensen"],
    "training_mode": ["fast"],
    "E": [0],
    "max_iter": [0],
    "tol": [-1e-3],
    "learning_rate": [0, -1.0],
    "optimizer": ["adam"],
    "random_state": [-1, "seed"],
    "verbose": ["loud"],
    "device": ["gpu"],
    "init": ["svd"],
    "mask_fraction": [-0.1, 1.0],
    "scheduler": ["cosine"],
    "scheduler_patience": [-1],
    "scheduler_factor": [0],
    "min_lr": [-1.0],
    "scheduler_pct_start": [-0.1],
    "scheduler_div_factor": [0],
    "scheduler_final_div_factor": [0],
    "batch_size": [0, 1.5],
    "y_batch_size": [0],
    "shuffle": ["yes"],
    "scale_ll_D": ["no"],
    "engine": ["newton"],
    "tol_mode": ["percent"],
    "exposure": ["mean"],
    "learn_prior": [2],
    "eval_every": [0],
    "patience": [0],
    "spatial": ["yes"],
    "local": [True],  # requires spatial=True, as does the next
    "multigroup": [True, 3],
    "kernel": ["RBF"],
    "num_inducing": [0, 2.5],
    "lengthscale": [0, -1.0],
    "sigma": [0],
    "group_diff_param": ["far"],
    "jitter": [0],
    "train_lengthscale": ["yes"],
    "cholesky_mode": ["square"],
    "diagonal_only": [1],
    "inducing_allocation": ["most"],
    "K": [0],
    "precompute_knn": ["no"],
    "neighbors": ["faiss"],
    "scale_kl_NM": ["no"],
    "donor_strength": [-1.0],
    "donor_embedding": ["mean"],
    "embedding": ["proportions"],
}


def test_every_invalid_parameter_is_refused_by_name(planted):
    assert PNMFDonor().get_params().keys() == INVALID.keys()
    for parameter, values in INVALID.items():
        for value in values:
            with pytest.raises(InputError, match=f"parameter {parameter}\n"):
                PNMFDonor(K).set_params(**{parameter: value}).fit(planted[0])


def test_input_that_cannot_be_used_is_refused(planted):
    X = planted[0]
    model = PNMF(K, max_iter=2, random_state=0)
    for value, message in ((-1.0, "Negative"), (np.nan, "NaN"), (np.inf, "infinity")):
        bad = X.copy()
        bad.data[3] = value
        with pytest.raises(ValueError, match=message):
            model.fit(bad)
    with pytest.raises(ValueError, match="2D"):
        model.fit(np.ones(5))
    with pytest.raises(ValueError, match="minimum of 1"):
        model.fit(np.empty((0, 5)))
    for call in (model.transform, model.inverse_transform):
        with pytest.raises(NotFittedError):
            call(np.ones((2, 5)))
    with pytest.raises(InputError, match="n_components=91"):
        PNMF(91, init="nndsvda").fit(X)
    with pytest.raises(InputError, match="engine"):
        PNMF(K, engine="coordinate", batch_size=10).fit(X)
    with pytest.raises(InputError, match="learn_prior"):
        PNMF(K, engine="gradient", learn_prior=True).fit(X)
    with pytest.raises(InputError, match="callback_interval"):
        model.fit(X, callback=print, callback_interval=0)
    with pytest.raises(InputError, match="method"):
        model.fit(X).transform(X, method="ols")
    with pytest.raises(FloatingPointError, match="learning_rate"):
        PNMF(K, optimizer="SGD", learning_rate=1e6).fit(X)


@pytest.mark.parametrize("way", ["default", "lower-bound", "natural", "projected"])
def test_empty_cells_and_genes_and_more_factors_than_either(way, planted):
    X = planted[0][:30].toarray()
    X[4], X[:, 8] = 0, 0
    model = PNMF(40, random_state=0, **WAYS[way] | {"max_iter": 15, "init": "random"}).fit(X)
    for array in (model.components_, model.embedding_, model.transform(X), model.transform(X * 0)):
        assert np.isfinite(array).all()
    assert model.components_[:, 8].max() < 1e-3
    assert np.isfinite(PNMF(2, random_state=0, max_iter=3).fit(X * 0).components_).all()


def test_keys_of_the_results(fitted):
    model = fitted["default"]
    embeddings, loadings = model.embeddings(), model.loadings()
    assert list(embeddings) == ["H_pnmf_k4", "H_pnmf_sd_k4"]
    assert model.embedding_key_ == "H_pnmf_k4"
    draws = np.exp(
        model.log_factors_ + model.factor_scale_ * np.random.default_rng(0).normal(size=(4000, 1, 1))
    )
    np.testing.assert_allclose(embeddings["H_pnmf_k4"], draws.mean(axis=0), rtol=0.1)
    np.testing.assert_allclose(embeddings["H_pnmf_sd_k4"], draws.std(axis=0), rtol=0.5)
    assert np.array_equal(loadings["W_pnmf_k4"], model.components_.T)
    record = model.unstructured(target_sum=None)
    assert (record["model_name"], record["k_rank"]) == ("PNMF", 4)


# Donors and exposure -----------------------------------------------------------------------------------


def test_donor_multipliers_are_found():
    rng = np.random.default_rng(0)
    X, H, W = dense.counts(300, 60, K, depth=1.5)
    donors = np.arange(300) % 3
    gamma = np.exp(rng.normal(0, 0.7, (3, 60)))
    gamma /= np.exp(np.log(gamma).mean(axis=0))
    X = sp.csr_matrix(rng.poisson(gamma[donors] * (H @ W.T)).astype(float))
    names = np.array(["a", "b", "c"])[donors]
    model = PNMFDonor(K, mode="lower-bound", random_state=0).fit(X, conditions=names)
    plain = PNMF(K, mode="lower-bound", random_state=0).fit(X)
    found = np.log(model.multipliers_)
    found -= found.mean(axis=0)
    heavy = np.asarray(X.sum(axis=0)).ravel() > 100
    assert np.corrcoef(found[:, heavy].ravel(), np.log(gamma)[:, heavy].ravel())[0, 1] > 0.98
    assert model.elbo_ > plain.elbo_
    assert recovery(W, model.components_) > recovery(W, plain.components_)
    assert model.uses_labels_ is False
    with_donors = model.transform(X, conditions=names)
    assert np.abs(with_donors - model.factors_).max() < 1e-3 * model.factors_.max()
    assert not np.allclose(model.embedding_, model.factors_, rtol=0.01)
    np.testing.assert_array_equal(model.transform(X), model.embedding_)
    assert model.embedding_key_ == f"H_pnmf_marginal_k{K}"
    np.testing.assert_array_equal(model.embeddings()[f"H_pnmf_k{K}"], model.factors_)
    own = PNMFDonor(K, mode="lower-bound", donor_embedding="own", random_state=0).fit(X, conditions=names)
    assert own.embedding_key_ == f"H_pnmf_k{K}"
    np.testing.assert_array_equal(own.embedding_, model.factors_)
    with pytest.raises(InputError, match="conditions"):
        model.transform(X, conditions=["z"] * 300)
    with pytest.raises(InputError, match="gradient"):
        PNMFDonor(K, engine="gradient").fit(X, conditions=names)
    with pytest.raises(InputError, match="one column"):
        PNMFDonor(K).fit(X, conditions=np.stack([names, names[::-1]], axis=1))


def test_trees_do_not_tell_donors_by_factors_that_cells_do_not_use():
    """Cells of one factor each: under the multipliers of a donor, those that are not used name it."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    rng = np.random.default_rng(0)
    n, k, donors = 300, 6, np.arange(300) % 4
    H = np.full((n, k), 0.02)
    H[np.arange(n), rng.integers(k, size=n)] = rng.gamma(5.0, 0.2, n)
    W = np.repeat(np.eye(k), 10, axis=0)  # each has genes of its own
    gamma = np.exp(rng.normal(0, 0.3, (4, 60)))
    X = sp.csr_matrix(rng.poisson(gamma[donors] * (H @ W.T)).astype(float))
    model = PNMFDonor(k, mode="lower-bound", max_iter=60, random_state=0).fit(
        X, conditions=np.array(list("abcd"))[donors]
    )
    trees = RandomForestClassifier(40, random_state=0)
    own, marginal = (
        cross_val_score(trees, values, donors, cv=3, scoring="f1_macro").mean()
        for values in (model.factors_, model.embedding_)
    )
    assert own > 0.7
    assert marginal < own - 0.3


def test_exposure_takes_the_depth_out_of_the_factors():
    X, H, W = dense.counts(200, 60, K, depth=1.0)
    rng = np.random.default_rng(1)
    depth = np.exp(rng.normal(0, 1.0, 200))
    X = sp.csr_matrix(rng.poisson(depth[:, None] * (H @ W.T)).astype(float))
    models = [PNMF(K, mode="lower-bound", exposure=e, random_state=0).fit(X) for e in (None, "total")]
    shift = [np.corrcoef(m.log_factors_.mean(axis=1), np.log(depth))[0, 1] for m in models]
    assert shift[0] > 0.8
    assert shift[1] < 0.3
    assert models[1].elbo_ > models[0].elbo_
    scaled = models[1].transform(X[:20])
    np.testing.assert_allclose(scaled, models[1].embedding_[:20], rtol=1e-2)


class Watcher:
    """Writes down what a fit tells."""

    def __init__(self, state_every):
        self.state_every = state_every
        self.steps, self.states, self.last = [], [], None

    def step(self, step, values):
        self.steps.append((step, values))

    def state(self, step, state):
        self.states.append((step, {key: np.array(value) for key, value in state.items()}))

    def end(self, step, state):
        self.last = step, {key: np.array(value) for key, value in state.items()}


def test_an_observer_is_told_of_every_step_and_changes_nothing(planted):
    X, watcher = planted[0], Watcher(state_every=5)
    model = PNMF(K, max_iter=8, random_state=0).fit(X, observer=watcher)
    assert np.array_equal(PNMF(K, max_iter=8, random_state=0).fit(X).components_, model.components_)
    assert [step for step, _ in watcher.steps] == list(range(1, 17))
    assert all(values["loss"] == values["objective"] for _, values in watcher.steps)
    assert [step for step, _ in watcher.states] == [5, 10, 15]
    step, state = watcher.last
    assert step == model.n_iter_
    assert np.array_equal(state["gene_factors"], model.components_)
    assert np.array_equal(state["cell_factors"], model.embedding_)
    np.testing.assert_allclose(state["cell_factors_sd"], model.embeddings()["H_pnmf_sd_k4"])
