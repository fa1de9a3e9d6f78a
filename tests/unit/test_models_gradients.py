"""Objectives and gradients of the exact sparse forms against automatic differentiation of the dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_models as dense
from nmfbench.linalg import SparseRows
from nmfbench.models import AENMF, CAENMF1, CAENMF2
from nmfbench.models.labels import FitData, encode_conditions, encode_strata
from nmfbench.rows.batches import Batch, Sampler
from nmfbench.rows.memory import InMemoryRows

N, P, K = 60, 35, 5
RELATIVE = 1e-9


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(1)
    X = rng.gamma(0.6, 2.0, (N, P)) * (rng.random((N, P)) < 0.4)
    donor = np.array(["a", "b", "c", "lone"])[np.minimum(rng.integers(4, size=N), 2)]
    donor[7] = "lone"
    kind = rng.integers(5, size=N).astype(str)
    kind[kind == "4"] = "3"
    kind[11] = "only one"
    sex = np.array(["f", "m"])[rng.integers(2, size=N)]
    return X, donor, kind, sex


def make(model, X, conditions, strata, *, weights=None):
    """The problem that a fit of `model` would train, at random weights."""
    X = sp.csr_matrix(X)
    data = FitData(
        InMemoryRows(X), encode_conditions(conditions, X.shape[0]), encode_strata(strata, X.shape[0])
    )
    model.seed_ = 0
    rng = np.random.default_rng(2)
    W = torch.from_numpy(rng.random((P, K)) * 0.2)
    problem = model._batch_objective(data, W)
    for name, w in problem._weights.items():
        if name == "U":
            w.copy_(torch.from_numpy(rng.random(tuple(w.shape))))
    return problem, data


def found_gradients(problem, batch, epoch):
    """All gradients, in the shapes of the dense twins (k x genes)."""
    found = {}
    for g in problem.gradients(problem.rows(batch.rows), batch, epoch):
        weights = problem._weights[g.name]
        stacked = weights.ndim == 3
        whole = g.scale * g.tensor + g.decay * (weights[g.part] if stacked else weights)
        if stacked:
            found.setdefault(g.name, torch.full_like(weights, float("nan")))[g.part] = whole
        else:
            found[g.name] = whole.clone()
    return {name: value if name == "U" and value.ndim == 2 else value.mT for name, value in found.items()}


def agree(found, expected):
    scale = expected.abs().max()
    torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=RELATIVE * float(scale))


def batches():
    rng = np.random.default_rng(3)
    return [Batch(np.arange(N)), Batch(rng.permutation(N)[:23]), Batch(np.array([7, 11, 30]))]


@pytest.mark.parametrize("batch", batches(), ids=["all", "part", "three"])
def test_ae_nmf_gradient(cells, batch):
    X, *_ = cells
    problem, _ = make(AENMF(K, penalty_W=0.3), X, None, None)
    _, expected = dense.gradients(
        lambda W: dense.ae_nmf_loss(torch.from_numpy(X[batch.rows]), W, penalty_W=0.3), W=problem.W.T
    )
    agree(found_gradients(problem, batch, 0)["W"], expected["W"])


@pytest.mark.parametrize("batch", batches(), ids=["all", "part", "three"])
@pytest.mark.parametrize("epoch", [0, 4], ids=["warm-up", "after"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("with_strata", [True, False])
def test_cae_nmf1_gradients(cells, batch, epoch, centred, columns, with_strata):
    X, donor, kind, sex = cells
    conditions = donor if columns == 1 else np.stack([donor, sex], axis=1)
    model = CAENMF1(
        K,
        penalty_W=0.3,
        penalty_U=0.2,
        penalty_invariance=0.7,
        penalty_hsic=0.05,
        warmup_epochs=4,
        centred_invariance=centred,
        update_U="adam",
    )
    problem, data = make(model, X, conditions, kind if with_strata else None)
    on = epoch >= 4
    rows = batch.rows
    _, expected = dense.gradients(
        lambda W, U: dense.cae_nmf1_loss(
            torch.from_numpy(X[rows]),
            W,
            U,
            C=dense.one_hot(data.conditions.codes[rows], data.conditions.size),
            types=kind[rows],
            penalty_W=0.3,
            penalty_U=0.2,
            gamma=0.7 * on * with_strata,
            eta=0.05 * on,
            centred=centred,
        ),
        W=problem.W.T,
        U=problem.U,
    )
    found = found_gradients(problem, batch, epoch)
    agree(found["W"], expected["W"])
    agree(found["U"], expected["U"])


@pytest.mark.parametrize("batch", batches(), ids=["all", "part", "three"])
def test_cae_nmf2_gradients_of_mixed_batches(cells, batch):
    X, donor, *_ = cells
    problem, data = make(CAENMF2(K, penalty_W=0.3, penalty_U=0.2, batches="random"), X, donor, None)
    rows = batch.rows
    _, expected = dense.gradients(
        lambda W, U: dense.cae_nmf2_loss(
            torch.from_numpy(X[rows]),
            W,
            U,
            donors=data.conditions.codes[rows, 0],
            penalty_W=0.3,
            penalty_U=0.2,
        ),
        W=problem.W.T,
        U=problem.U.mT,
    )
    found = found_gradients(problem, batch, 0)
    agree(found["W"], expected["W"])
    agree(found["U"], expected["U"])


def test_mean_gradient_of_batches_by_condition_is_that_of_the_full_objective(cells):
    """Donors of any size, batches of any size: the epoch's mean gradient is exact."""
    X, donor, *_ = cells
    problem, data = make(CAENMF2(K, penalty_W=0.3, penalty_U=0.2), X, donor, None)
    sampler = Sampler("by_condition", N, 7, seed=5, conditions=data.conditions.codes[:, 0])
    mean = {"W": torch.zeros(K, P, dtype=torch.float64), "U": torch.zeros(4, K, P, dtype=torch.float64)}
    epoch = sampler.epoch(0)
    assert len({len(batch.rows) for batch in epoch}) > 2, "the case must have unequal batches"
    for batch in epoch:
        for name, gradient in found_gradients(problem, batch, 0).items():
            mean[name] += torch.nan_to_num(gradient) / len(epoch)  # untouched conditions have no gradient
    _, expected = dense.gradients(
        lambda W, U: dense.cae_nmf2_loss(
            torch.from_numpy(X), W, U, donors=data.conditions.codes[:, 0], penalty_W=0.3, penalty_U=0.2
        ),
        W=problem.W.T,
        U=problem.U.mT,
    )
    agree(mean["W"], expected["W"])
    agree(mean["U"], expected["U"])


def test_a_batch_of_one_condition_touches_its_weights_only(cells):
    X, donor, *_ = cells
    problem, data = make(CAENMF2(K), X, donor, None)
    before = problem.U.clone()
    rows = np.flatnonzero(data.conditions.codes[:, 0] == 1)
    problem.step(Batch(rows, 1.0, 1, 0.5), 0, 1.0)
    changed = (before != problem.U).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False, False]
    assert problem.adams["U"].steps.tolist() == [0, 1, 0, 0]


def test_ae_nmf_objective(cells):
    X, *_ = cells
    problem, _ = make(AENMF(K, penalty_W=0.3), X, None, None)
    expected = float(dense.ae_nmf_loss(torch.from_numpy(X), problem.W.T, penalty_W=0.3))
    assert problem.evaluate().objective == pytest.approx(expected, rel=RELATIVE)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
def test_cae_nmf1_objective_has_every_term(cells, centred, columns):
    X, donor, kind, sex = cells
    conditions = donor if columns == 1 else np.stack([donor, sex], axis=1)
    model = CAENMF1(
        K,
        penalty_W=0.3,
        penalty_U=0.2,
        penalty_invariance=0.7,
        penalty_hsic=0.05,
        centred_invariance=centred,
        update_U="adam",
        batch_size=N,
    )
    problem, data = make(model, X, conditions, kind)
    C = dense.one_hot(data.conditions.codes, data.conditions.size)
    W, U = problem.W.T, problem.U
    expected = dense.cae_nmf1_loss(
        torch.from_numpy(X),
        W,
        U,
        C=C,
        types=kind,
        penalty_W=0.3,
        penalty_U=0.2,
        gamma=0.7,
        eta=0.05,
        centred=centred,
    )
    found = problem.evaluate()
    assert found.objective == pytest.approx(float(expected), rel=RELATIVE)
    H = torch.from_numpy(X) @ W.T
    assert found.parts["hsic"] == pytest.approx(0.05 * float(dense.hsic(H, C)) / N, rel=RELATIVE)
    invariance = 0.7 * float(dense.invariance(H, C, kind, centred)) / N
    assert found.parts["invariance"] == pytest.approx(invariance, rel=RELATIVE)
    assert found.parts["penalty_U"] == pytest.approx(0.2 * float((U**2).sum()), rel=RELATIVE)


def test_hsic_of_all_cells_is_weighed_as_in_a_batch(cells):
    X, donor, *_ = cells
    whole, _ = make(CAENMF1(K, batch_size=N), X, donor, None)
    small, _ = make(CAENMF1(K, batch_size=N // 4), X, donor, None)
    assert small.evaluate().parts["hsic"] == pytest.approx(whole.evaluate().parts["hsic"] / 4)


def test_cae_nmf2_objective(cells):
    X, donor, *_ = cells
    problem, data = make(CAENMF2(K, penalty_W=0.3, penalty_U=0.2), X, donor, None)
    expected = dense.cae_nmf2_loss(
        torch.from_numpy(X),
        problem.W.T,
        problem.U.mT,
        donors=data.conditions.codes[:, 0],
        penalty_W=0.3,
        penalty_U=0.2,
    )
    assert problem.evaluate().objective == pytest.approx(float(expected), rel=RELATIVE)


@pytest.mark.parametrize("columns", [1, 2])
def test_closed_form_U_minimises_the_full_objective(cells, columns):
    X, donor, kind, sex = cells
    conditions = donor if columns == 1 else np.stack([donor, sex], axis=1)
    problem, data = make(CAENMF1(K, penalty_U=0.2), X, conditions, kind)
    for _ in range(60):  # several columns are solved in turn
        problem.solve_U()
    C = dense.one_hot(data.conditions.codes, data.conditions.size)
    _, gradient = dense.gradients(
        lambda U: dense.cae_nmf1_loss(
            torch.from_numpy(X), problem.W.T, U, C=C, types=kind, penalty_W=0.0, penalty_U=0.2
        ),
        U=problem.U,
    )
    at_zero = problem.U == 0
    assert at_zero.any()
    assert (~at_zero).any()
    assert float(gradient["U"][~at_zero].abs().max()) < 1e-8
    assert float(gradient["U"][at_zero].min()) > -1e-8


@pytest.mark.parametrize("model", ["ae_nmf", "cae_nmf1", "cae_nmf2"])
def test_the_timed_dense_step_is_the_same_update(cells, model):
    """The benchmark compares like with like."""
    X, donor, kind, _ = cells
    kinds = np.unique(kind, return_inverse=True)[1]
    kinds[kinds == kinds[11]] = kinds[0]  # the dense step does not leave lone cells out
    estimator = {
        "ae_nmf": AENMF(K),
        "cae_nmf1": CAENMF1(K, update_U="adam", warmup_epochs=0),
        "cae_nmf2": CAENMF2(K, batches="random"),
    }[model]
    problem, data = make(estimator, X, donor, kinds)
    weights = {"W": problem.W.T.clone().contiguous()}
    if model != "ae_nmf":
        weights["U"] = (problem.U if model == "cae_nmf1" else problem.U.mT).clone().contiguous()
    step = dense.DenseStep(
        model,
        weights,
        {"W": 1e-3, "U": 5e-4},
        {"W": 1e-2, "U": {"cae_nmf1": 1e-1}.get(model, 5e-2)},
        gamma=1e-3,
        eta=5e-4,
    )
    for batch in batches()[:2]:
        step.step(torch.from_numpy(X[batch.rows]), data.conditions.codes[batch.rows, 0], 4, kinds[batch.rows])
        problem.step(batch, 0, 1.0)
    agree(problem.W.T, weights["W"])
    if model != "ae_nmf":
        agree(problem.U if model == "cae_nmf1" else problem.U.mT, weights["U"])


def test_rows_on_a_device_give_the_same_products(cells):
    """The products of the GPU path, run on the CPU."""
    X = sp.csr_matrix(cells[0])
    rows = SparseRows(X)
    dense_factor = torch.from_numpy(np.random.default_rng(0).random((P, K)))
    torch.testing.assert_close(torch.sparse.mm(rows._tensor(), dense_factor), rows.times(dense_factor))
    H = rows.times(dense_factor)
    torch.testing.assert_close(torch.sparse.mm(rows._transposed_tensor(), H), rows.transposed_times(H))
