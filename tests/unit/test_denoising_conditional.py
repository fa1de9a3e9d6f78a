"""Conditional models of common variance: objectives against dense autograd, donors alike within clusters."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nmfbench.data import normalise_block
from nmfbench.errors import InputError
from nmfbench.models import CAENMF2, AENMFCommon, CAENMF1Common, CAENMF2Common
from nmfbench.models.autoencoder.exact import GramOperator, SparseOperator, minimise
from nmfbench.models.autoencoder.exact.coordinate import DonorObjective
from nmfbench.models.denoising.conditional import clusters_of

N, P, K, M = 60, 17, 3, 3
RIDGE, RIDGE_U = 0.01, 0.05


@pytest.fixture(scope="module")
def donors_and_cells():
    """Four programs, and of each of three donors a level of its own in six genes; 300 cells."""
    rng = np.random.default_rng(0)
    types, donors = np.arange(300) % 4, (np.arange(300) // 4) % 3
    rate = 0.3 + 6 * np.kron(np.eye(4), np.ones(8))[types]
    shifted = 1 + 3 * (np.arange(6) % 3 == donors[:, None])
    counts = rng.poisson(np.hstack([rate, 2 * shifted])).astype(np.float32)
    return normalise_block(sp.csr_matrix(counts)), np.array(["a", "b", "c"])[donors], types


def dense_objective(X, codes, unique, W, U):
    """Model 2 of common variance from its definition."""
    X, total = torch.as_tensor(X), 0.0
    for c in range(M):
        cells, V = X[codes == c], W + U[c]
        share = (cells**2).sum(0) / (X**2).sum(0)
        total = total + ((cells - cells @ W.T @ V) ** 2).sum()
        total = total + 2 * (share * torch.as_tensor(unique) * (W * V).sum(0)).sum()
    return total / len(X) + RIDGE * (W**2).sum() + RIDGE_U * (U**2).sum()


@pytest.mark.parametrize("route", ["sparse", "gram"])
def test_loadings_of_donors_and_common_variance_against_dense_autograd(route):
    rng = np.random.default_rng(1)
    X = rng.gamma(0.5, 1.0, (N, P)) * (rng.random((N, P)) < 0.6) + 0.01
    codes, unique = np.arange(N) % M, np.linspace(0, 20, P)
    if route == "sparse":
        operator = SparseOperator(sp.csr_matrix(X), groups=codes, block_size=5)
    else:
        grams = np.stack([X[codes == c].T @ X[codes == c] for c in range(M)])
        operator = GramOperator(grams, n_cells=N, block_size=5)
    W, U = np.abs(rng.normal(size=(K, P))) * 0.3, np.abs(rng.normal(size=(M, K, P))) * 0.1
    objective = DonorObjective(operator, W, U, penalty_W=RIDGE, penalty_U=RIDGE_U, unique=unique)
    np.testing.assert_allclose(objective.unique.sum(axis=0), unique, rtol=1e-12)
    objective.refresh()
    value = sum(objective.evaluate()[0].values())
    assert value == pytest.approx(
        float(dense_objective(X, codes, unique, *map(torch.as_tensor, (W, U)))), rel=1e-12
    )
    found = minimise(objective, tol=1e-12, max_iter=3000)
    values = [row["objective"] for row in found.history]
    assert (np.diff(values) <= 1e-12 * values[0]).all(), "never uphill"
    ends = [torch.tensor(array, requires_grad=True) for array in (found.W, objective.U.transpose(0, 2, 1))]
    dense_objective(X, codes, unique, *ends).backward()
    for array in ends:
        at, slope = array.detach().numpy(), array.grad.numpy()
        assert np.abs(np.where(at > 0, slope, np.minimum(slope, 0))).max() < 1e-4 * values[0]


def test_without_own_parts_it_is_model_2(donors_and_cells):
    X, donors, _ = donors_and_cells
    options = {"random_state": 0, "max_iter": 5}
    plain = CAENMF2(3, solver="statistics", random_state=0, max_iter={"statistics": 5}).fit(
        X, conditions=donors
    )
    common = CAENMF2Common(3, **options).fit(X, conditions=donors)
    assert common.objective_ > plain.objective_, "what a gene has for itself is not earned"
    assert common.embedding_.min() >= 0


def test_donors_are_alike_within_clusters_at_the_weights_price(donors_and_cells):
    X, donors, types = donors_and_cells
    dense, codes = X.toarray().astype(float), np.unique(donors, return_inverse=True)[1]
    options = {"random_state": 0, "n_clusters": 4}
    apart, scale = {}, {}
    for weight in (0.0, 100.0):
        model = CAENMF1Common(5, penalty_invariance=weight, **options).fit(X, conditions=donors)
        assert model.uses_labels_ is False
        np.testing.assert_allclose(model.embedding_, X @ model.components_.T, rtol=1e-5)
        H = dense @ model.components_.T.astype(float)
        H /= H.std(axis=0)
        means = np.stack([[H[(types == t) & (codes == c)].mean(0) for c in range(3)] for t in range(4)])
        apart[weight] = np.square(means - means.mean(1, keepdims=True)).mean()
        scale[weight] = np.square(means.mean(1) - means.mean((0, 1))).mean()
    assert apart[100.0] < 0.4 * apart[0.0], "donors"
    assert scale[100.0] > 0.8 * scale[0.0], "and types stay apart"


def test_the_objective_is_that_of_its_own_clusters(donors_and_cells):
    """From the definition, dense, with the clusters of the first fit's embedding; no cell type is used."""
    X, donors, types = donors_and_cells
    options = {"random_state": 0, "n_clusters": 4, "penalty_invariance": 10.0, "max_iter": 20}
    model = CAENMF1Common(4, **options).fit(X, conditions=donors, strata=types)
    without = CAENMF1Common(4, **options).fit(X, conditions=donors)
    np.testing.assert_array_equal(model.components_, without.components_)
    first = AENMFCommon(4, random_state=0).fit(X)
    clusters = clusters_of(first.embedding_, 4, 0)
    dense, W = X.toarray().astype(float), model.components_.astype(float)
    codes, H = np.unique(donors, return_inverse=True)[1], X.toarray().astype(float) @ model.components_.T
    apart = sum(
        (both := (clusters == t) & (codes == c)).sum()
        * np.square(H[both].mean(0) - H[clusters == t].mean(0)).sum()
        for t in np.unique(clusters)
        for c in range(3)
        if ((clusters == t) & (codes == c)).any()
    )
    parts = model.history_[-1]
    assert parts["invariance"] == pytest.approx(10.0 * apart / len(dense), rel=1e-3)
    U = model.condition_profiles_.astype(float)
    error = np.square(dense - H @ W - U[codes]).sum() / len(dense)
    assert parts["reconstruction"] > error, "the genes' own parts are in it"
    assert parts["penalty_U"] == pytest.approx(0.1 * np.square(U).sum(), rel=1e-4)


def test_clusters_are_looked_for_among_cells_alone():
    with pytest.raises(InputError, match="finds clusters"):
        CAENMF1Common(3).fit_statistics(SimpleNamespace(n_cells=300))


@pytest.mark.parametrize("model", [CAENMF1Common, CAENMF2Common])
def test_a_stopped_fit_goes_on_to_the_same_bits(donors_and_cells, tmp_path, model):
    X, donors, _ = donors_and_cells
    options = {"tol": 0.0, "max_iter": 25, "random_state": 0}
    whole = model(3, **options).fit(X, conditions=donors)
    asked = iter([False] * 13)
    stopped = model(3, **options).fit(
        X, conditions=donors, checkpoint=tmp_path, should_stop=lambda: next(asked, True)
    )
    assert stopped.stop_reason_ == "interrupted"
    resumed = model(3, **options).fit(X, conditions=donors, checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.components_, whole.components_)
