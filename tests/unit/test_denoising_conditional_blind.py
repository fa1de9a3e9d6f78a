"""Conditional models with a blind spot: objectives against dense autograd, and what one donor leaves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nmfbench.errors import InputError
from nmfbench.models import AENMFBlind, CAENMF1Blind, CAENMF2Blind
from nmfbench.models.autoencoder.exact import GramOperator, SparseOperator, minimise, sums_of_blocks
from nmfbench.models.autoencoder.exact.blind_conditional import AdditiveBlindObjective, DonorBlindObjective
from nmfbench.models.autoencoder.exact.denoising import BlindObjective
from nmfbench.models.denoising.conditional import clusters_of
from nmfbench.statistics import Layout, gather_shard

N, P, K, M = 60, 17, 3, 3
RIDGE, RIDGE_U, INVARIANCE = 0.01, 0.05, 2.0
FACTORS = np.linspace(0.5, 2, P)
"""What gene scaling multiplies each gene with."""


@pytest.fixture(scope="module")
def cells():
    """Values scaled by gene, double precision; donor, a second condition and type of each cell."""
    rng = np.random.default_rng(1)
    X = rng.gamma(0.5, 1.0, (N, P)) * (rng.random((N, P)) < 0.6) + 0.01
    return SimpleNamespace(
        X=X * FACTORS, donors=np.arange(N) % M, second=np.arange(N) // 7 % 2, types=np.arange(N) // 4 % 2
    )


def operator_of(X, route, donors=None):
    """XᵀX, of each donor where they are told; of few genes in a block, so that blocks matter."""
    if route == "sparse":
        return SparseOperator(sp.csr_matrix(X), groups=donors, block_size=5)
    parts = [X] if donors is None else [X[donors == c] for c in range(M)]
    return GramOperator(np.stack([part.T @ part for part in parts]), n_cells=N, block_size=5)


def without_diagonal(through):
    return through - torch.diag(torch.diag(through))


def dense_additive(cells, W, U):
    """Model 1 from its definition, with two columns of conditions."""
    X = torch.as_tensor(cells.X)
    C = np.hstack([np.eye(M)[cells.donors], np.eye(2)[cells.second]])
    H, apart = X @ W.T, 0.0
    for t in range(2):
        mine = cells.types == t
        projector = torch.as_tensor(C[mine] @ np.linalg.pinv(C[mine]))
        apart = apart + ((projector @ (H[mine] - H[mine].mean(0))) ** 2).sum()
    error = ((X - X @ without_diagonal(W.T @ W) - torch.as_tensor(C) @ U) ** 2).sum()
    return (error + INVARIANCE * apart) / N + RIDGE * (W**2).sum() + RIDGE_U * (U**2).sum()


def dense_donors(cells, W, U):
    """Model 2 from its definition."""
    error = 0.0
    for c in range(M):
        X = torch.as_tensor(cells.X[cells.donors == c])
        error = error + ((X - X @ without_diagonal(W.T @ (W + U[c]))) ** 2).sum()
    return error / N + RIDGE * (W**2).sum() + RIDGE_U * (U**2).sum()


def cases(cells, route):
    rng = np.random.default_rng(2)
    W = np.abs(rng.normal(size=(K, P))) * 0.3
    codes = np.stack([cells.donors, cells.second], axis=1)
    sums = sums_of_blocks(sp.csr_matrix(cells.X), codes, cells.types)
    given = {"penalty_W": RIDGE, "penalty_U": RIDGE_U}
    U = np.abs(rng.normal(size=(M + 2, P))) * 0.1
    operator = operator_of(cells.X, route)
    additive = AdditiveBlindObjective(operator, W, U, conditions=sums, penalty_invariance=INVARIANCE, **given)
    yield additive, W, U, dense_additive
    U = np.abs(rng.normal(size=(M, K, P))) * 0.1
    yield DonorBlindObjective(operator_of(cells.X, route, cells.donors), W, U, **given), W, U, dense_donors


@pytest.mark.parametrize("route", ["sparse", "gram"])
def test_exact_forms_are_those_of_dense_autograd(cells, route):
    for objective, W, U, dense in cases(cells, route):
        objective.refresh()
        value = sum(objective.evaluate()[0].values())
        assert value == pytest.approx(float(dense(cells, *map(torch.as_tensor, (W, U)))), rel=1e-12)
        found = minimise(objective, tol=1e-12, max_iter=3000)
        values = [row["objective"] for row in found.history]
        assert (np.diff(values) <= 1e-12 * value).all(), "never uphill"
        assert found.objective < 0.8 * value
        ends = [torch.tensor(array, requires_grad=True) for array in (found.W, found.U)]
        at_the_end = dense(cells, *ends)
        assert found.objective == pytest.approx(at_the_end.item(), rel=1e-10)
        at_the_end.backward()
        for array in ends:
            at, slope = array.detach().numpy(), array.grad.numpy()
            assert at.min() == 0.0
            assert np.abs(np.where(at > 0, slope, np.minimum(slope, 0))).max() < 1e-4 * value


@pytest.mark.parametrize("route", ["sparse", "gram"])
def test_a_sweep_leaves_the_last_gene_at_its_minimum(cells, route):
    """The gene that moved last, whose parabolas the rest of a sweep does not move; of W its last entry."""
    for objective, _, _, dense in cases(cells, route):
        objective.refresh()
        objective.evaluate()
        objective.sweep(1.0)
        W, U = objective.W.T.copy(), np.ascontiguousarray(np.swapaxes(objective.U, -1, -2))
        best = float(dense(cells, *map(torch.as_tensor, (W, U))))
        for step in (-1e-4, 1e-4):
            moved = W.copy()
            moved[K - 1, P - 1] = max(moved[K - 1, P - 1] + step, 0)
            assert float(dense(cells, *map(torch.as_tensor, (moved, U)))) >= best * (1 - 1e-12)


def test_without_weights_of_donors_it_is_the_blind_spot(cells):
    """With one donor, and a penalty that leaves U none: sweep by sweep the objective that is not told."""
    W = np.abs(np.random.default_rng(3).normal(size=(K, P))) * 0.3
    operator = operator_of(cells.X, "gram")
    plain = minimise(BlindObjective(operator, W, penalty_W=RIDGE), max_iter=30, tol=0.0)
    sums = sums_of_blocks(sp.csr_matrix(cells.X), np.zeros(N, np.int64))
    given = {"penalty_W": RIDGE, "penalty_U": 1e20}
    for objective in (
        AdditiveBlindObjective(operator, W, conditions=sums, **given),
        DonorBlindObjective(operator, W, **given),
    ):
        found = minimise(objective, max_iter=30, tol=0.0)
        assert found.U.max() < 1e-10
        np.testing.assert_allclose(found.W, plain.W, rtol=1e-9, atol=1e-12)
        assert [row["objective"] for row in found.history] == pytest.approx(
            [row["objective"] for row in plain.history], rel=1e-12
        )


# The models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(cells):
    return sp.csr_matrix(cells.X.astype(np.float32))


def test_clusters_and_start_are_those_of_the_model_that_is_not_told(cells, rows):
    given = {"random_state": 0, "max_iter": 5}
    model = CAENMF1Blind(K, n_clusters=2, penalty_invariance=INVARIANCE, **given)
    model.fit(rows, conditions=cells.donors, strata=cells.types)
    assert model.uses_labels_ is False
    first = AENMFBlind(K, random_state=0).fit(rows)
    sums = sums_of_blocks(rows.astype(np.float64), cells.donors, clusters_of(first.embedding_, 2, 0))
    apart = float(np.square(model.components_ @ sums.invariance_rows(N, centred=True).T).sum())
    assert model.history_[-1]["invariance"] == pytest.approx(INVARIANCE * apart / N, rel=1e-3)
    begun = model.history_[0]
    assert begun["penalty_W"] == pytest.approx(1e-2 * np.square(first.components_).sum(), rel=1e-5)
    alone = CAENMF1Blind(K, penalty_invariance=0.0, **given).fit(rows, conditions=cells.donors)
    assert alone.history_[-1]["invariance"] == 0.0
    with pytest.raises(InputError, match=r"finds clusters(.|\n)*cae_nmf2_blind"):
        model.fit_statistics(SimpleNamespace(n_cells=N))


def test_both_routes_and_gathered_sums_give_one_fit(cells, rows):
    def fit(**options):
        return CAENMF2Blind(K, random_state=0, max_iter=5, **options)

    sparse = fit(gram_memory_mb=0).fit(rows, conditions=cells.donors)
    assert sparse.solver_choice_.route == "sparse"
    layout = Layout(
        fingerprint="", genes=tuple(map(str, range(P))), n_cells=N, conditions={"donor": ("a", "b", "c")},
        donor_grams=True,
    )  # fmt: skip
    unscaled = sp.csr_matrix(rows / FACTORS.astype(np.float32))
    statistics = gather_shard([(unscaled, cells.donors[:, None], None)], layout).scaled(FACTORS)
    gathered = fit().fit_statistics(statistics)
    for model in (fit().fit(rows, conditions=cells.donors), gathered):
        assert model.solver_choice_.route == "gram"
        np.testing.assert_allclose(model.components_, sparse.components_, atol=1e-4)
        np.testing.assert_allclose(model.condition_loadings_, sparse.condition_loadings_, atol=1e-4)
    np.testing.assert_allclose(sparse.embedding_, rows @ sparse.components_.T, rtol=1e-5)


@pytest.mark.parametrize("model", [CAENMF1Blind, CAENMF2Blind])
def test_a_stopped_fit_goes_on_to_the_same_bits(cells, rows, tmp_path, model):
    options = {"tol": 0.0, "max_iter": 25, "random_state": 0}
    whole = model(K, **options).fit(rows, conditions=cells.donors)
    asked = iter([False] * 13)
    stopped = model(K, **options).fit(
        rows, conditions=cells.donors, checkpoint=tmp_path, should_stop=lambda: next(asked, True)
    )
    assert stopped.stop_reason_ == "interrupted"
    resumed = model(K, **options).fit(rows, conditions=cells.donors, checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.components_, whole.components_)
