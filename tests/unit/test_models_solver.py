"""The estimators by the solver on statistics: what a fit promises, and whose objective it is."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from threadpoolctl import threadpool_info, threadpool_limits

import reference_models as dense
from nmfbench.card_rates import measured_rates
from nmfbench.errors import InputError
from nmfbench.fitting import checkpoint as checkpoint_module
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.gram_cost import granted_gram_mb, host_gram_mb
from nmfbench.models import get_model
from nmfbench.models.autoencoder import from_cells, with_solver
from nmfbench.models.autoencoder.costs import CardRates
from nmfbench.models.autoencoder.exact.coordinate import TiedObjective
from nmfbench.models.autoencoder.solver_choice import SolverChoice, choose_solver
from nmfbench.models.labels import FitData, encode_conditions, encode_strata
from nmfbench.rows.memory import InMemoryRows

NAMES = ["ae_nmf", "cae_nmf1", "cae_nmf2"]
every_autoencoder = pytest.mark.parametrize("name", NAMES)
PARTS = {
    "ae_nmf": ["reconstruction", "penalty_W"],
    "cae_nmf1": ["reconstruction", "penalty_W", "penalty_U", "invariance", "hsic"],
    "cae_nmf2": ["reconstruction", "penalty_W", "penalty_U"],
}
NOT_COMPARED = {"seconds", "cells_per_s", "peak_mb"}
STRONG = {"cae_nmf1": {"penalty_invariance": 0.05, "penalty_hsic": 0.02}}
"""Penalties that can be seen in the objective."""


def make(name, k=4, **more):
    return get_model(name)(k, **{"solver": "statistics", "batch_size": 64, "random_state": 0} | more)


@pytest.fixture(scope="module")
def cells():
    X, _, donor, kind = dense.planted(n=200, p=60)
    return X, {"conditions": donor, "strata": kind, "progress": False}


@pytest.fixture(params=["sparse", "gram"])
def route(request, monkeypatch):
    """Both ways to hold the statistics, whatever the cost model says."""

    def forced(*sizes, solver="auto", **more):
        return SolverChoice(solver, request.param if solver == "statistics" else None, {}, "forced")

    monkeypatch.setattr(with_solver, "choose_solver", forced)
    return request.param


def problem_at(model, X, labels):
    """The minibatch problem of `model`, with the weights that `model` found."""
    n = X.shape[0]
    conditions = labels["conditions"] if model._conditional else None
    data = FitData(InMemoryRows(X), encode_conditions(conditions, n), encode_strata(labels["strata"], n))
    model = clone(model).set_params(**{"update_U": "adam"} if "update_U" in model.get_params() else {})
    model.seed_ = 0
    return model._batch_objective(data, torch.zeros((X.shape[1], model.n_components), dtype=torch.float64))


def weights_of(model, name):
    weights = {"W": model.components_.T}
    if name == "cae_nmf1":
        weights["U"] = model.condition_profiles_
    if name == "cae_nmf2":
        weights["U"] = model.condition_loadings_.transpose(0, 2, 1)
    return {key: np.ascontiguousarray(value) for key, value in weights.items()}


def same(one, other):
    """Equal but for the last bits, which now and then differ on some processors (docs/solvers.md)."""
    close = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(one.components_, other.components_, **close)
    for key, value in one.embeddings().items():
        np.testing.assert_allclose(value, other.embeddings()[key], **close)
    assert (one.n_iter_, one.stop_reason_) == (other.n_iter_, other.stop_reason_)
    assert one.objective_ == pytest.approx(other.objective_, rel=1e-11)
    rows = [[{k: v for k, v in r.items() if k not in NOT_COMPARED} for r in m.history_] for m in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for first, second in zip(*rows, strict=True):
        assert first == pytest.approx(second, rel=1e-9, abs=1e-12)


@every_autoencoder
@pytest.mark.parametrize("centred", [False, True])
def test_the_objective_is_the_one_minibatches_watch(name, centred, route, cells):
    X, labels = cells
    if centred and name != "cae_nmf1":
        return
    more = STRONG.get(name, {}) | ({"centred_invariance": True} if centred else {})
    model = make(name, **more).fit(X, **labels)
    problem = problem_at(model, X, labels)
    problem.set_weights(weights_of(model, name))
    found = problem.evaluate()
    assert model.objective_ == pytest.approx(found.objective, rel=1e-9)
    assert model.relative_error_ == pytest.approx(found.relative_error, rel=1e-9)
    assert found.parts == pytest.approx({part: model.history_[-1][part] for part in PARTS[name]}, rel=1e-8)


def test_the_objective_with_two_condition_columns(route, cells):
    X, labels = cells
    sex = np.where(np.arange(X.shape[0]) % 3, "f", "m")
    labels = labels | {"conditions": pd.DataFrame({"donor": labels["conditions"], "sex": sex})}
    model = make("cae_nmf1", **STRONG["cae_nmf1"]).fit(X, **labels)
    problem = problem_at(model, X, labels)
    problem.set_weights(weights_of(model, "cae_nmf1"))
    assert model.objective_ == pytest.approx(problem.evaluate().objective, rel=1e-9)


@every_autoencoder
def test_both_solvers_end_at_the_same_objective(name, cells):
    X, labels = cells
    batches = {"batch_size": X.shape[0], "max_iter": 300, "patience": 300, "learning_rate": 1e-2}
    batches |= {"learning_rate_schedule": "cosine"} | ({} if name == "ae_nmf" else {"learning_rate_U": 1e-2})
    by_batches = make(name, solver="minibatch", **batches).fit(X, **labels)
    by_statistics = make(name, batch_size=X.shape[0], tol={"statistics": 1e-8}).fit(X, **labels)
    assert by_statistics.objective_ == pytest.approx(by_batches.objective_, rel=1e-4)


@every_autoencoder
def test_the_two_routes_agree(name, cells, monkeypatch):
    X, labels = cells
    found = []
    for kind in ("sparse", "gram"):
        monkeypatch.setattr(
            with_solver, "choose_solver", lambda *_, kind=kind, **__: SolverChoice("statistics", kind, {}, "")
        )
        found.append(make(name, max_iter=20, tol={"statistics": 0}).fit(X, **labels))
    assert found[0].objective_ == pytest.approx(found[1].objective_, rel=1e-6)


@every_autoencoder
@pytest.mark.parametrize("init", ["nndsvd", "random"])
def test_what_a_fit_leaves(name, init, route, cells):
    X, labels = cells
    model = make(name, init=init).fit(X, **labels)
    history = pd.DataFrame(model.history_)
    assert list(history) == [
        "epoch", "objective", *PARTS[name], "relative_error", "seconds", "cells_per_s", "peak_mb",
        "orthogonality",
    ]  # fmt: skip
    np.testing.assert_allclose(history[PARTS[name]].sum(axis=1), history["objective"])
    assert list(history["epoch"]) == list(range(model.n_iter_ + 1))
    assert (np.diff(history["objective"]) < 1e-9 * history["objective"].iloc[0]).all()
    assert (np.diff(history["seconds"]) > 0).all()
    assert history["objective"].iloc[-1] == model.objective_
    assert (model.converged_, model.stop_reason_, model.device_) == (True, "converged", "cpu")
    assert (model.components_ >= 0).all()
    assert model.components_.dtype == X.dtype
    assert np.array_equal(model.transform(X), model.embedding_)
    assert all(len(a) == X.shape[0] for a in model.embeddings().values())
    assert all(len(a) == X.shape[1] for a in model.loadings().values())
    assert model.unstructured()["k_rank"] == 4
    assert model.solver_choice_.record()["route"] == route


@every_autoencoder
def test_single_precision_is_near_double(name, route, cells):
    X, labels = cells
    single, double = (make(name).fit(X.astype(kind), **labels) for kind in (np.float32, np.float64))
    assert single.components_.dtype == single.embedding_.dtype == np.float32
    assert single.objective_ == pytest.approx(double.objective_, rel=1e-3)


@every_autoencoder
def test_the_seed_decides_a_random_start(name, cells):
    X, labels = cells
    one, again, other = (
        make(name, init="random", random_state=seed, max_iter=5).fit(X, **labels) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.components_, again.components_)
    assert not np.array_equal(one.components_, other.components_)
    assert (one.n_iter_, one.stop_reason_, one.converged_) == (5, "max_iter", False)


@every_autoencoder
def test_labels_are_used_by_the_invariance_penalty_alone(name, cells):
    X, labels = cells
    model = make(name, max_iter=2)
    assert model.fit(X, **labels).uses_labels_ == (name == "cae_nmf1")
    without = model.fit(X, **labels | {"strata": None})
    assert not without.uses_labels_
    if name == "cae_nmf1":
        assert without.history_[-1]["invariance"] == 0
        assert not make(name, max_iter=2, penalty_invariance=0).fit(X, **labels).uses_labels_


@every_autoencoder
def test_empty_cells_genes_and_data(name, route, cells):
    X = cells[0].toarray()
    X[4], X[:, 8] = 0, 0
    model = make(name).fit(X, **cells[1])
    assert np.isfinite(model.components_).all()
    assert not model.transform(X)[4].any()
    nothing = make(name).fit(np.zeros_like(X), **cells[1])
    assert np.isfinite(nothing.components_).all()
    assert math.isnan(nothing.relative_error_)


# Checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def every_state(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "LARGEST_SHARE", float("inf"))


@every_autoencoder
@pytest.mark.parametrize("after", [1, 10, 17])
def test_stopped_after_any_sweep_and_resumed_equals_unbroken(
    name, after, route, cells, tmp_path, every_state
):
    X, labels = cells
    model = make(name, init="random", max_iter=25, tol={"statistics": 0})
    unbroken = clone(model).fit(X, **labels)
    asked = itertools.count(1)
    stopped = clone(model).fit(X, **labels, checkpoint=tmp_path, should_stop=lambda: next(asked) >= after)
    assert (stopped.stop_reason_, stopped.n_iter_) == ("interrupted", after)
    assert not stopped.converged_
    same(clone(model).fit(X, **labels, checkpoint=tmp_path), unbroken)


@every_autoencoder
def test_more_sweeps_later_equal_all_at_once_and_an_end_is_kept(name, cells, tmp_path):
    X, labels = cells
    first = make(name, max_iter=13).fit(X, **labels, checkpoint=tmp_path)
    assert (first.n_iter_, first.stop_reason_) == (13, "max_iter")
    unbroken = make(name).fit(X, **labels)
    ended = make(name).fit(X, **labels, checkpoint=tmp_path)
    same(ended, unbroken)
    again = make(name).fit(X, **labels, checkpoint=tmp_path)
    same(again, unbroken)
    assert again.history_ == ended.history_, "a converged fit takes no further sweep"


def test_an_unseeded_fit_goes_on_with_its_own_seed(cells, tmp_path):
    X, labels = cells
    one, other = (
        make("ae_nmf", init="random", random_state=None, max_iter=m).fit(X, **labels, checkpoint=tmp_path)
        for m in (5, 15)
    )
    assert one.seed_ == other.seed_


@pytest.mark.parametrize(
    ("change", "named"), [({"solver": "minibatch"}, "solver"), ({"tol": {"statistics": 1e-3}}, "tol")]
)
def test_a_state_of_another_solver_is_refused_by_name(change, named, cells, tmp_path):
    X, labels = cells
    make("ae_nmf", max_iter=3).fit(X, **labels, checkpoint=tmp_path)
    with pytest.raises(InputError, match=named):
        make("ae_nmf", max_iter=3, **change).fit(X, **labels, checkpoint=tmp_path)


# Which solver ------------------------------------------------------------------------------------------


@every_autoencoder
@pytest.mark.parametrize(
    ("only", "named"), [({"init": "uniform"}, "init='uniform'"), ({"row_norm": True}, "row_norm=True")]
)
def test_what_only_minibatches_have_selects_them_or_is_refused(name, only, named, cells):
    X, labels = cells
    with pytest.raises(InputError, match=named):
        make(name, **only).fit(X, **labels)
    model = make(name, solver="auto", max_iter=1, **only).fit(X, **labels)
    assert model.solver_choice_.solver == "minibatch"
    assert named in model.solver_choice_.reason
    assert model.n_iter_ == 1


def test_a_gram_matrix_beyond_the_memory_gives_way_to_the_nonzeros(cells):
    X, labels = cells
    model = make("cae_nmf2", gram_memory_mb=0, max_iter=2).fit(X, **labels)
    assert model.solver_choice_.route == "sparse"
    assert model.solver_choice_.seconds["gram"] is None


class RowsElsewhere(InMemoryRows):
    """Rows whose nonzeros cannot be had at once."""

    def __init__(self, csr):
        super().__init__(csr)
        self._kept = csr
        del self.csr

    def rows(self, indices):
        return self._kept[indices]

    def blocks(self, size=64):
        yield from InMemoryRows(self._kept).blocks(64)


def test_rows_that_are_not_in_memory_go_by_the_gram_matrix_or_minibatches(cells):
    X, labels = cells
    hooks = {"checkpoint": None, "should_stop": None}
    model = make("ae_nmf").fit_rows(RowsElsewhere(X), **labels, **hooks)
    assert model.solver_choice_.route == "gram"
    assert model.objective_ == pytest.approx(make("ae_nmf").fit(X, **labels).objective_, rel=1e-9)
    small = {"gram_memory_mb": 0, "max_iter": 1}
    model = make("ae_nmf", solver="minibatch", **small).fit_rows(RowsElsewhere(X), **labels, **hooks)
    assert model.training_ == "minibatch"
    with pytest.raises(InputError, match="another embedding"):
        make("ae_nmf", solver="auto", **small).fit_rows(RowsElsewhere(X), **labels, **hooks)
    with pytest.raises(InputError, match="0 MiB granted"):
        make("ae_nmf", **small).fit_rows(RowsElsewhere(X), **labels, **hooks)


@pytest.mark.parametrize(("small", "threads"), [(0, 2), (1e9, 1)])
def test_small_products_are_made_by_one_thread(small, threads, cells, monkeypatch):
    seen = []

    def watch(self):
        seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
        return refresh(self)

    refresh = TiedObjective.refresh
    monkeypatch.setattr(TiedObjective, "refresh", watch)
    monkeypatch.setattr(from_cells, "SMALL_PRODUCT", small)
    with threadpool_limits(2, "blas"):
        make("ae_nmf", max_iter=1).fit(cells[0], progress=False)
    assert seen
    assert all(number == {threads} for number in seen)


def test_the_cost_model_at_sizes_with_a_known_answer():
    kang = choose_solver(2792, 13487, 1_958_000, 80, 100)
    assert (kang.solver, kang.route) == ("statistics", "sparse")
    atlas = choose_solver(592_000, 20_000, 592_000_000, 80, 100, memory=6144)
    assert (atlas.solver, atlas.route) == ("statistics", "gram")
    donors = choose_solver(592_000, 20_000, 592_000_000, 80, 100, donors=24, memory=6144)
    assert donors.seconds["gram"] is None
    with pytest.raises(InputError, match="another embedding"):
        choose_solver(592_000, 60_000, 592_000_000, 80, 100, memory=6144, in_memory=False)
    few = choose_solver(592_000, 20_000, 592_000_000, 80, 1, memory=6144)
    assert few.solver == "statistics", "also where minibatches would be sooner at what they reach"
    assert few.seconds["minibatch"] < few.seconds["gram"]
    asked = choose_solver(2792, 13487, 1_958_000, 80, 100, solver="minibatch")
    assert (asked.solver, asked.route, asked.reason) == ("minibatch", None, "as set")
    assert all(seconds > 0 for seconds in asked.seconds.values())


def test_a_gpu_favours_dense_products_and_minibatches():
    size = (592_000, 20_000, 592_000_000, 80, 100)
    cpu, gpu = choose_solver(*size), choose_solver(*size, device="cuda:0")
    assert gpu.seconds["sparse"] == cpu.seconds["sparse"]
    assert gpu.seconds["gram"] < cpu.seconds["gram"]
    assert gpu.seconds["minibatch"] < cpu.seconds["minibatch"]
    assert cpu.rates is None, "the same on every processor"


ATLAS = (592_317, 60_606, 592_317 * 1_900, 80, 100)


def card_of(gigabytes, **more):
    """What `auto` decides for the published data on a card of so many GiB, a thirtieth of them in use."""
    memory, granted_by = granted_gram_mb("auto", 0.97 * gigabytes * 2**30)
    return choose_solver(*ATLAS, memory=memory, granted_by=granted_by, device="cuda:0", **more)


def test_the_cards_memory_decides_on_a_gpu():
    for gigabytes in (40, 48, 80, 141):
        for in_memory in (True, False):
            choice = card_of(gigabytes, in_memory=in_memory)
            assert (choice.solver, choice.route) == ("statistics", "gram")
            assert choice.memory["need_mb"] <= choice.memory["granted_mb"]
            assert "free on the card" in choice.memory["granted_by"]
    small = card_of(24)
    assert (small.solver, small.route, small.seconds["gram"]) == ("statistics", "sparse", None)
    with pytest.raises(InputError, match="another embedding"):
        card_of(24, in_memory=False)
    assert card_of(24, solver="minibatch").solver == "minibatch"
    assert granted_gram_mb("auto", None)[0] == host_gram_mb("auto") == 6144
    assert granted_gram_mb(100, 2**40) == (100.0, "gram_memory_mb"), "what was set is kept to"


def test_the_route_follows_the_rates_of_the_card():
    """An old card that is slower at products than the processor at nonzeros leaves the cells in memory."""
    size = (20_000, 13_487, 20_000 * 700, 80, 100)
    fast, slow = CardRates(25e12, 25e9, "pretended"), CardRates(5e9, 1e9, "pretended")
    routes = [choose_solver(*size, device="cuda:0", rates=rates).route for rates in (fast, slow)]
    assert routes == ["gram", "sparse"]
    told = choose_solver(*size, device="cuda:0", rates=slow).record()
    assert told["rates"] == {"product": 5e9, "copy": 1e9, "source": "pretended"}
    by_copy = [
        choose_solver(*size, device="cuda:0", rates=CardRates(25e12, copy, "pretended")).seconds["gram"]
        for copy in (25e9, 1e6)
    ]
    assert by_copy[1] > by_copy[0] + 100, "what is sent takes its time too"


def test_rates_are_measured_in_the_time_they_may_take():
    device = torch.device("cpu")
    began = time.perf_counter()
    product, copy = measured_rates(device, side=256, n_bytes=2**20)
    assert time.perf_counter() - began < 5
    assert 1e7 < product < 1e14
    assert 1e7 < copy < 1e13
    assert measured_rates(device, side=256, n_bytes=2**20) == (product, copy), "once for a job"


def test_a_fit_goes_on_by_the_route_it_began_with(tmp_path):
    model = get_model("ae_nmf")(4)
    rates = {"product": 1.0, "copy": 1.0, "source": "pretended"}
    choice = SolverChoice("statistics", "gram", {"sparse": 2.0, "gram": 1.0}, "", None, rates)
    assert model._as_before(choice, tmp_path) == choice, "there is no state yet"
    for route in ("sparse", "gram"):
        state = Checkpoint(tmp_path / route, {"route": route, "solver": "statistics"}, "")
        state.save({}, {})
        assert model._as_before(choice, tmp_path / route).route == route
    impossible = replace(choice, seconds={"sparse": None, "gram": 1.0})
    assert model._as_before(impossible, tmp_path / "sparse").route == "gram"
