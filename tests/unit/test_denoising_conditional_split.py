"""Split counts told the donors: objectives against dense autograd, what is not copied, both routes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nmfbench.data import normalise_block
from nmfbench.data.halves import mean_and_difference
from nmfbench.errors import InputError, NotApplicable
from nmfbench.gram_cost import gram_bytes
from nmfbench.models import CAENMF1, CAENMF2, AENMFSplit, CAENMF1Split, CAENMF2Split
from nmfbench.models.autoencoder.exact import (
    DonorObjective,
    GramOperator,
    SparseOperator,
    TiedObjective,
    minimise,
)
from nmfbench.models.autoencoder.exact.denoising import unique_squares
from nmfbench.models.denoising.conditional import clusters_of
from nmfbench.models.denoising.halves import Halves
from nmfbench.rows.memory import InMemoryRows
from nmfbench.rows.scaled import ScaledRows

N, P, K, M = 60, 17, 3, 3
RIDGE, RIDGE_U = 0.01, 0.05
CODES = np.arange(N) % M
OF_DONOR = [np.arange(N) % M == c for c in range(M)]
FACTORS = np.linspace(0.5, 2, P)
UNIQUE = np.linspace(0, 40, P)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 1.0, (N, K)) @ rng.gamma(0.5, 2.0, (K, P))
    return sp.csr_matrix(rng.poisson(mean).astype(np.float32))


@pytest.fixture(scope="module")
def halves(counts):
    """Dense mean and half the difference of scaled genes, double precision."""
    parts = mean_and_difference(counts, 0, 3, target_sum=1e3)
    return [part.toarray().astype(np.float64) * FACTORS for part in parts]


def operator_of(parts, route):
    """The mean of each donor, then the difference of each; few genes in a block, so that blocks matter."""
    if route == "sparse":
        groups = np.concatenate([CODES, M + CODES])
        return SparseOperator(sp.csr_matrix(np.vstack(parts)), groups=groups, n_cells=N, block_size=5)
    grams = [part[OF_DONOR[c]].T @ part[OF_DONOR[c]] for part in parts for c in range(M)]
    return GramOperator(np.stack(grams), n_cells=N, block_size=5)


def dense_objective(halves, W, U):
    """Model 2 of split counts, from its definition: each half written from the other by the donor's W + U."""
    A, B = (torch.as_tensor(halves[0] + sign * halves[1]) for sign in (1, -1))
    shared = torch.stack([(A * B)[OF_DONOR[c]].sum(0) for c in range(M)]).clamp(min=0)
    own = torch.as_tensor(UNIQUE) * shared / shared.sum(0).clamp(min=1e-300)
    total = 0.0
    for c in range(M):
        a, b, V = A[OF_DONOR[c]], B[OF_DONOR[c]], W + U[c]
        total = total + ((b - a @ W.T @ V) ** 2).sum() / 2 + ((a - b @ W.T @ V) ** 2).sum() / 2
        total = total + 2 * (own[c] * (W * V).sum(0)).sum()
    return total / N + RIDGE * (W**2).sum() + RIDGE_U * (U**2).sum()


@pytest.mark.parametrize("route", ["sparse", "gram"])
def test_loadings_of_donors_and_split_counts_against_dense_autograd(halves, route):
    rng = np.random.default_rng(1)
    W, U = np.abs(rng.normal(size=(K, P))) * 0.3, np.abs(rng.normal(size=(M, K, P))) * 0.1
    given = {"penalty_W": RIDGE, "penalty_U": RIDGE_U, "unique": UNIQUE, "split": True}
    objective = DonorObjective(operator_of(halves, route), W, U, **given)
    objective.refresh()
    value = sum(objective.evaluate()[0].values())
    expected = float(dense_objective(halves, *map(torch.as_tensor, (W, U))))
    assert value == pytest.approx(expected, rel=1e-12)
    # one sweep of exact steps: no move of the entry that moved last helps
    objective.sweep(1.0)
    ends = [objective.W.T.copy(), objective.U.transpose(0, 2, 1).copy()]
    best = float(dense_objective(halves, *map(torch.as_tensor, ends)))
    for step in (-1e-4, 1e-4):
        moved = ends[0].copy()
        moved[K - 1, P - 1] = max(moved[K - 1, P - 1] + step, 0)
        assert float(dense_objective(halves, *map(torch.as_tensor, (moved, ends[1])))) >= best - 1e-12 * best
    found = minimise(DonorObjective(operator_of(halves, route), W, U, **given), tol=1e-12, max_iter=3000)
    values = [row["objective"] for row in found.history]
    assert (np.diff(values) <= 1e-12 * values[0]).all(), "never uphill"
    ends = [torch.tensor(array, requires_grad=True) for array in (found.W, found.U)]
    dense = dense_objective(halves, *ends)
    assert found.objective == pytest.approx(float(dense.detach()), rel=1e-10)
    dense.backward()
    for array in ends:
        at, slope = array.detach().numpy(), array.grad.numpy()
        assert np.abs(np.where(at > 0, slope, np.minimum(slope, 0))).max() < 1e-4 * values[0]


def test_without_loadings_of_donors_it_is_the_model_that_is_not_told_them(halves):
    W = np.abs(np.random.default_rng(2).normal(size=(K, P))) * 0.3
    operator = operator_of(halves, "gram")
    told = DonorObjective(operator, W, penalty_W=RIDGE, penalty_U=1e12, unique=UNIQUE, split=True)
    together = GramOperator(np.stack([part.T @ part for part in halves]), n_cells=N)
    plain = TiedObjective(together, W, penalty_W=RIDGE, unique=UNIQUE, split=True)
    # the genes' own parts are found from the donors' halves as from all
    given = {"halves": True, "seed": 0}
    np.testing.assert_allclose(unique_squares(operator, 3, **given), unique_squares(together, 3, **given))
    ends = [minimise(objective, max_iter=20, tol=0.0) for objective in (told, plain)]
    np.testing.assert_allclose(ends[0].W, ends[1].W, rtol=1e-6, atol=1e-9)
    assert ends[0].objective == pytest.approx(ends[1].objective, rel=1e-9)


def test_halves_are_two_groups_of_each_donor(counts, halves):
    """By both routes, of any blocks, and of the donors' sums."""
    source = Halves(InMemoryRows(counts), 3, 1, 1e3, True, FACTORS.astype(np.float32))
    for route in ("sparse", "gram"):
        operator = source.operator(route, 100, "cpu", CODES)
        assert (operator.n_groups, operator.n_cells) == (2 * M, N)
        for group, expected in enumerate(operator_of(halves, "gram").diagonal_block(0, P)):
            np.testing.assert_allclose(operator.diagonal_block(0, P)[group], expected, rtol=1e-4, atol=1e-4)
    sums = source.sums_of_means(CODES[:, None], M)
    expected = np.stack([halves[0][OF_DONOR[c]].sum(0) for c in range(M)])
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    several = Halves(InMemoryRows(counts), 3, 2, 1e3, True)
    parts = [mean_and_difference(counts, 0, [3, split], target_sum=1e3)[0].toarray() for split in range(2)]
    expected = np.stack([sum(part[OF_DONOR[c]].sum(0) for part in parts) / 2 for c in range(M)])
    np.testing.assert_allclose(several.sums_of_means(CODES[:, None], M), expected, rtol=1e-5)
    odd = GramOperator(np.zeros((3, P, P)), n_cells=N)
    with pytest.raises(InputError, match="two groups of rows for each donor"):
        DonorObjective(odd, np.ones((K, P)), penalty_W=1, penalty_U=1, split=True)


# The models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """Four programs, a level of its own of each of three donors in six genes, and three genes of noise."""
    rng = np.random.default_rng(0)
    types, donors = np.arange(300) % 4, (np.arange(300) // 4) % 3
    rate = 0.3 + 6 * np.kron(np.eye(4), np.ones(8))[types]
    shifted = 2 + 6 * (np.arange(6) % 3 == donors[:, None])
    rate = np.hstack([rate, shifted, np.full((300, 3), 1.2)])
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32)), np.array(["a", "b", "c"])[donors]


def one_gene(W):
    """Factors of which one gene of noise has more than half the square."""
    return int(((W.argmax(1) >= 38) & (np.square(W).max(1) > 0.5 * np.square(W).sum(1))).sum())


@pytest.mark.parametrize(("model", "copying"), [(CAENMF1Split, CAENMF1), (CAENMF2Split, CAENMF2)])
def test_a_noisy_gene_is_not_copied_and_cells_of_other_donors_have_a_place(planted, model, copying):
    counts, donors = planted
    X = normalise_block(counts)
    plain = copying(9, solver="statistics", random_state=0).fit(X, conditions=donors)
    told = model(9, random_state=0).fit(counts, conditions=donors)
    assert one_gene(plain.components_) >= 2
    assert one_gene(told.components_) == 0
    assert told.uses_labels_ is False
    np.testing.assert_allclose(told.embedding_, X @ told.components_.T, rtol=1e-5, atol=1e-5)
    later = sp.csr_matrix(np.random.default_rng(9).poisson(2, (5, 41)).astype(np.float32))
    expected = normalise_block(later) @ told.components_.T
    np.testing.assert_allclose(told.transform(later), expected, rtol=1e-5)


def test_the_objective_is_that_of_its_own_clusters_and_halves(planted):
    """From the definition, dense: halves from one another and the profiles; donors alike in all counts."""
    counts, donors = planted
    factors = np.linspace(0.5, 2, 41).astype(np.float32)
    options = {"random_state": 0, "n_splits": 2}
    first = AENMFSplit(4, **options)
    model = CAENMF1Split(4, penalty_invariance=10.0, n_clusters=4, max_iter=12, communality=False, **options)
    first.gene_factors = model.gene_factors = factors
    first.set_params(communality=False)
    model.fit(counts, conditions=donors)
    X = normalise_block(counts).toarray().astype(float) * factors
    codes, clusters = (
        np.unique(donors, return_inverse=True)[1],
        clusters_of(first.fit(counts).embedding_, 4, 0),
    )
    W, U = model.components_.astype(float), model.condition_profiles_.astype(float)
    error = 0.0
    for split in range(2):
        mean, apart = (part.toarray() * factors for part in mean_and_difference(counts, 0, [0, split]))
        for sign in (1, -1):
            written = (mean + sign * apart) @ W.T @ W + U[codes]
            error += np.square(mean - sign * apart - written).sum() / 4
    H = X @ W.T
    alike = sum(
        (both := (clusters == t) & (codes == c)).sum()
        * np.square(H[both].mean(0) - H[clusters == t].mean(0)).sum()
        for t in np.unique(clusters)
        for c in range(3)
        if ((clusters == t) & (codes == c)).any()
    )
    parts = model.history_[-1]
    assert parts["reconstruction"] == pytest.approx(error / 300, rel=1e-4)
    assert parts["invariance"] == pytest.approx(10.0 * alike / 300, rel=1e-3)
    assert parts["penalty_U"] == pytest.approx(0.1 * np.square(U).sum(), rel=1e-4)
    values = [row["objective"] for row in model.history_]
    assert (np.diff(values) <= 1e-5 * values[0]).all()


@pytest.mark.parametrize("model", [CAENMF1Split, CAENMF2Split])
def test_routes_rows_on_disk_and_stops_come_to_the_same(planted, tmp_path, model):
    counts, donors = planted
    options = {"tol": 0.0, "max_iter": 14, "random_state": 0}
    whole = model(3, **options).fit(counts, conditions=donors)
    assert whole.solver_choice_.route == "gram"
    sparse = model(3, **options, gram_memory_mb=0).fit(counts, conditions=donors)
    assert sparse.solver_choice_.route == "sparse"
    scale = whole.components_.max()
    np.testing.assert_allclose(sparse.components_, whole.components_, atol=2e-3 * scale)
    elsewhere = ScaledRows(InMemoryRows(counts), np.ones(41, np.float32))  # has no matrix in memory
    np.testing.assert_array_equal(
        model(3, **options).fit_rows(elsewhere, conditions=donors, progress=False).components_,
        whole.components_,
    )
    asked = iter([False] * 11)
    around = {"conditions": donors, "checkpoint": tmp_path}
    stopped = model(3, **options).fit(counts, should_stop=lambda: next(asked, True), **around)
    assert stopped.stop_reason_ == "interrupted"
    resumed = model(3, **options).fit(counts, **around)
    np.testing.assert_array_equal(resumed.components_, whole.components_)
    # each donor of model 2 has two matrices, and they are counted
    n_grams = 2 * M if model is CAENMF2Split else 1
    need = whole.solver_choice_.memory["need_mb"] * 2**20
    assert need == gram_bytes(41, n_grams=n_grams, method="dense")
    few = model(3, **options, gram_memory_mb=need / 2**21)
    with pytest.raises(InputError, match="Gram"):
        few.fit_rows(elsewhere, conditions=donors, progress=False)


@pytest.mark.parametrize("model", [CAENMF1Split, CAENMF2Split])
def test_what_cannot_be_split_or_told_is_refused(planted, model):
    counts, donors = planted
    with pytest.raises(InputError, match="whole numbers"):
        model(2).fit(counts * 0.5, conditions=donors)
    with pytest.raises(InputError, match="a label for every cell"):
        model(2).fit(counts, conditions=np.where(donors == "a", None, donors))
    with pytest.raises(NotApplicable, match="one category"):
        model(2).fit(counts, conditions=np.full(300, "a"))
    with pytest.raises(InputError, match="cells"):
        model(2).fit_statistics(SimpleNamespace(n_cells=300))
