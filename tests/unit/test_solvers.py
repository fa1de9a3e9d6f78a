"""Solvers on sufficient statistics against dense definitions, and their behaviour at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_solvers as reference
from nmfbench.errors import InputError
from nmfbench.fitting import loop
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.models.autoencoder.exact import (
    DonorObjective,
    GramOperator,
    SparseOperator,
    Sweeps,
    TiedObjective,
    minimise,
    start,
    sums_of_blocks,
)
from nmfbench.models.autoencoder.exact.start import leading_eigenvectors

N_DONORS, N_TYPES = 3, 4


@pytest.fixture
def data():
    """X, donors, types and two condition columns; one gene is zero, one cell type has a single cell."""
    rng = np.random.default_rng(1)
    X = reference.counts(70, 23, seed=2).tolil()
    X[:, 5] = 0.0
    donors = np.concatenate([np.arange(N_DONORS), rng.integers(N_DONORS, size=67)])
    types = np.concatenate([np.arange(N_TYPES), rng.integers(N_TYPES - 1, size=66)])
    batch = np.concatenate([[0, 1], rng.integers(2, size=68)])
    return sp.csr_matrix(X), donors, types, np.column_stack([donors, batch])


def operators(X, donors=None):
    """Both operators of the same data, with small blocks."""
    if donors is None:
        gram = (X.T @ X).toarray()
    else:
        gram = np.stack([(X[donors == c].T @ X[donors == c]).toarray() for c in range(donors.max() + 1)])
    return {
        "sparse": SparseOperator(X, groups=donors, block_size=7, n_parts=5),
        "gram": GramOperator(gram, n_cells=X.shape[0], block_size=6),
        # "cpu:0" is torch's name for the processor: the way a GPU goes, without one
        "torch": GramOperator(gram, n_cells=X.shape[0], block_size=6, device="cpu:0", dtype=X.dtype),
    }


def begin(operator, k, penalty, init="nndsvd", seed=0):
    return start(operator, k, init, seed=seed, ridge=penalty * operator.n_cells)


def fit_ae_nmf(operator, k, *, penalty_W=1e-2, init="nndsvd", **options):
    return minimise(
        TiedObjective(operator, begin(operator, k, penalty_W, init), penalty_W=penalty_W), **options
    )


def fit_cae_nmf1(operator, k, sums, *, penalties=None, init="nndsvd", **options):
    weights = {"penalty_W": 1e-2, "penalty_U": 0.1, "penalty_invariance": 1e-3, "penalty_hsic": 5e-4}
    W = begin(operator, k, 1e-2, init)
    return minimise(TiedObjective(operator, W, conditions=sums, **weights | (penalties or {})), **options)


def fit_cae_nmf2(operator, k, *, penalty_U=5e-2, init="nndsvd", **options):
    W = begin(operator, k, 1e-2, init)
    return minimise(DonorObjective(operator, W, penalty_W=1e-2, penalty_U=penalty_U), **options)


def evaluated(objective):
    objective.refresh()
    return objective.evaluate()


def slopes(value, *arrays):
    """Gradients of a dense definition by automatic differentiation."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    value(*tensors).backward()
    return [t.grad.numpy() for t in tensors]


def loadings(k, p, seed=0):
    return np.random.default_rng(seed).gamma(1.0, 0.2, (k, p)) * (
        np.random.default_rng(seed + 1).random((k, p)) < 0.7
    )


@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
def test_product_matches_dense(data, kind):
    X, donors, *_ = data
    W = loadings(4, X.shape[1])
    K = (X.T @ X).toarray()
    for groups in (None, donors):
        operator = operators(X, groups)[kind]
        S, A = operator.product(W)
        np.testing.assert_allclose(S, W @ K, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(A, W @ K @ W.T, rtol=1e-12)
        assert operator.squared_norm == pytest.approx((X.data**2).sum(), rel=1e-12)
        blocks = operator.diagonal_block(3, 9)
        np.testing.assert_allclose(blocks.sum(axis=0), K[3:9, 3:9], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
def test_image_follows_changes(data, kind):
    X, donors, *_ = data
    operator = operators(X, donors)[kind]
    rng = np.random.default_rng(4)
    V = rng.random((N_DONORS, X.shape[1], 3))
    image = operator.image(V)
    delta = rng.standard_normal((N_DONORS, 5, 3))
    image.update(8, delta)
    V[:, 8:13] += delta
    expected = np.stack([(X[donors == c].T @ X[donors == c]) @ V[c] for c in range(N_DONORS)])
    np.testing.assert_allclose(image.columns(0, X.shape[1]), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
def test_tied_objective(data, kind):
    X = data[0]
    W = loadings(4, X.shape[1])
    parts, error = evaluated(TiedObjective(operators(X)[kind], W, penalty_W=0.03))
    expected = reference.tied(X.toarray(), W, 0.03)
    assert sum(parts.values()) == pytest.approx(expected, rel=1e-11)
    assert error * (X.data**2).sum() == pytest.approx(parts["reconstruction"] * X.shape[0])
    assert parts["penalty_W"] == pytest.approx(0.03 * (W**2).sum())


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
def test_additive_objective(data, kind, columns, centred):
    X, donors, types, both = data
    codes = donors if columns == 1 else both
    sums = sums_of_blocks(X, codes, types)
    W, U = loadings(4, X.shape[1]), loadings(sums.sums.shape[1], X.shape[1], 7)
    penalties = {"penalty_W": 0.03, "penalty_U": 0.2, "penalty_invariance": 0.4, "penalty_hsic": 0.05}
    objective = TiedObjective(operators(X)[kind], W, U, conditions=sums, centred=centred, **penalties)
    parts, _ = evaluated(objective)
    settings = {"lambda_W": 0.03, "lambda_U": 0.2, "gamma": 0.4, "eta": 0.05, "centred": centred}
    dense = [torch.as_tensor(a) for a in (X.toarray(), W, U)]
    for name, value in reference.additive(*dense, codes, types, **settings).items():
        assert parts[name] == pytest.approx(value.item(), rel=1e-10), name


@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
def test_donor_objective(data, kind):
    X, donors, *_ = data
    W, U = loadings(4, X.shape[1]), 0.5 * np.stack([loadings(4, X.shape[1], s) for s in range(N_DONORS)])
    parts, _ = evaluated(DonorObjective(operators(X, donors)[kind], W, U, penalty_W=0.03, penalty_U=0.2))
    expected = reference.donor_loadings(X.toarray(), W, U, donors, 0.03, 0.2)
    assert sum(parts.values()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("columns", "passes"), [(1, 1), (2, 400)])
def test_the_profiles_of_a_fit_are_the_closed_form_given_its_loadings(data, columns, passes):
    X, _, types, both = data
    sums = sums_of_blocks(X, both[:, :columns], types)
    fit = fit_cae_nmf1(operators(X)["gram"], 4, sums, penalties={"penalty_U": 0.2}, tol=1e-13, max_iter=4000)
    U = reference.closed_form_profiles(sums.total, sums.overlap, fit.W, 0.2 * X.shape[0], passes)
    assert 0.1 < (U > 0).mean() < 0.99
    np.testing.assert_allclose(fit.U, U, atol=1e-4 * U.max())


@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
def test_sweep_minimises_entry_by_entry(kind):
    X = reference.counts(15, 9, seed=3)
    first = loadings(2, 9, seed=5) + 0.05
    result = fit_ae_nmf(operators(X)[kind], 2, penalty_W=0.02, init=first, max_iter=1, relax=1.0)
    dense = X.toarray()
    expected = reference.coordinate_sweep(lambda W: reference.tied(dense, W, 0.02), first)
    np.testing.assert_allclose(result.W, expected, rtol=1e-6, atol=1e-8)
    assert result.objective == pytest.approx(reference.tied(dense, result.W, 0.02), rel=1e-11)


STRONG = {"penalty_invariance": 0.02, "penalty_hsic": 0.01}


def fits(X, donors, types, kind="sparse", **settings):
    """The three models, as functions of the remaining settings."""
    plain, grouped = operators(X)[kind], operators(X, donors)[kind]
    sums = sums_of_blocks(X, donors, types)
    return {
        "ae_nmf": lambda **more: fit_ae_nmf(plain, 4, **settings, **more),
        "cae_nmf1": lambda **more: fit_cae_nmf1(plain, 4, sums, penalties=STRONG, **settings, **more),
        "cae_nmf2": lambda **more: fit_cae_nmf2(grouped, 4, **settings, **more),
    }


MODELS = ["ae_nmf", "cae_nmf1", "cae_nmf2"]


@pytest.mark.parametrize("relax", [1.0, 1.8])
@pytest.mark.parametrize("model", MODELS)
def test_descent_is_monotone_and_stationary(data, model, relax):
    X, donors, types, _ = data
    result = fits(X, donors, types)[model](relax=relax, tol=1e-13, max_iter=4000)
    values = np.array([row["objective"] for row in result.history])
    assert (np.diff(values) <= 1e-12 * values[0]).all()
    assert result.converged
    assert result.stop_reason == "converged"
    assert sum(result.parts.values()) == pytest.approx(result.objective)
    assert (result.W >= 0).all()
    assert np.isfinite(result.W).all()
    assert (result.W[:, 5] == 0).all(), "a gene without counts has no loading"
    W, dense = result.W, torch.as_tensor(X.toarray())
    if model == "ae_nmf":
        found = slopes(lambda w: reference.tied(dense, w, 1e-2), W)
    elif model == "cae_nmf1":
        settings = {"lambda_W": 1e-2, "lambda_U": 0.1, "gamma": 0.02, "eta": 0.01}
        found = slopes(
            lambda w, u: sum(reference.additive(dense, w, u, donors, types, **settings).values()), W, result.U
        )
    else:
        found = slopes(lambda w, u: reference.donor_loadings(dense, w, u, donors, 1e-2, 5e-2), W, result.U)
    for array, slope in zip((W, result.U), found, strict=False):
        assert np.abs(np.where(array > 0, slope, np.minimum(slope, 0))).max() < 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_operators_agree(data, model):
    X, donors, types, _ = data
    kinds = ("sparse", "gram", "torch")
    sparse, *others = (fits(X, donors, types, kind)[model](max_iter=15, tol=0.0) for kind in kinds)
    for other in others:
        np.testing.assert_allclose(other.W, sparse.W, rtol=1e-5, atol=1e-7)
        assert other.objective == pytest.approx(sparse.objective, rel=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_resumed_equals_unbroken(data, model, tmp_path):
    """From the newest sweep at which the images were computed afresh."""
    X, donors, types, _ = data

    def fit(max_iter, **more):
        sums, operator = sums_of_blocks(X, donors, types), operators(X)["sparse"]
        W = begin(operator, 4, 1e-2)
        if model == "cae_nmf2":
            objective = DonorObjective(operators(X, donors)["sparse"], W, penalty_W=1e-2, penalty_U=5e-2)
        else:
            of = {"conditions": sums, "penalty_U": 0.1, **STRONG} if model == "cae_nmf1" else {}
            objective = TiedObjective(operator, W, penalty_W=1e-2, **of)
        build = lambda _: Sweeps(objective, max_iter=max_iter, tol=0.0)  # noqa: E731
        outcome = loop.fit(build, name=model, n_cells=X.shape[0], **more)
        return objective, outcome

    whole, expected = fit(37)
    keeper = Checkpoint(tmp_path, {}, "data")
    _, broken = fit(25, checkpoint=keeper)
    assert (broken.clock, broken.stop_reason, keeper.load()[1]["engine"]["clock"]) == (25, "max_iter", 20)
    resumed, outcome = fit(37, checkpoint=keeper, stored=keeper.load())
    np.testing.assert_array_equal(resumed.W, whole.W)
    if whole.U is not None:
        np.testing.assert_array_equal(resumed.U, whole.U)
    assert outcome.clock == 37
    assert [r["objective"] for r in outcome.history] == [r["objective"] for r in expected.history]


@pytest.mark.parametrize("kind", ["sparse", "gram", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planted_factors_are_found(kind, dtype):
    X, true = reference.planted()
    operator = operators(X.astype(dtype))[kind]
    assert operator.dtype == dtype
    result = fit_ae_nmf(operator, 4, penalty_W=0.0, tol=1e-9, max_iter=300)
    assert result.W.dtype == dtype
    assert result.relative_error < 1e-4
    assert reference.matched_correlation(result.W, true) > 0.999


def test_single_precision_descends():
    X, _ = reference.planted(n_cells=400, n_genes=90, rank=6, seed=3)
    X = (X + reference.counts(400, 90, seed=9)).astype(np.float32)
    single = fit_ae_nmf(SparseOperator(X), 6, max_iter=60, tol=0.0)
    double = fit_ae_nmf(SparseOperator(X.astype(np.float64)), 6, max_iter=60, tol=0.0)
    values = np.array([row["objective"] for row in single.history])
    assert (np.diff(values) <= 1e-6 * values[0]).all()
    assert single.objective == pytest.approx(double.objective, rel=2e-3)


def test_conditional_models_contain_the_tied_one(data):
    X, donors, types, _ = data
    run = fits(X, donors, types)
    tied = run["ae_nmf"](tol=1e-9)
    plain = operators(X)["sparse"]
    free = {"init": tied.W, "tol": 1e-9}
    none = {"penalty_invariance": 0.0, "penalty_hsic": 0.0}
    one = fit_cae_nmf1(plain, 4, sums_of_blocks(X, donors), penalties=none, **free)
    two = fit_cae_nmf2(operators(X, donors)["sparse"], 4, **free)
    assert one.relative_error < tied.relative_error
    assert two.relative_error < tied.relative_error
    # a penalty on U beyond reason leaves the tied model
    none = fit_cae_nmf2(operators(X, donors)["sparse"], 4, penalty_U=1e9, **free)
    assert none.objective == pytest.approx(tied.objective, rel=1e-6)


def test_donor_with_fewer_cells_than_the_rank(data):
    X, *_ = data
    donors = np.concatenate([[0, 1], np.full(X.shape[0] - 2, 2)])
    result = fit_cae_nmf2(operators(X, donors)["sparse"], 4, max_iter=30)
    assert result.U.shape == (3, 4, X.shape[1])
    assert np.isfinite(result.U).all()
    sums = sums_of_blocks(X, donors)
    assert np.isfinite(fit_cae_nmf1(operators(X)["sparse"], 4, sums, max_iter=30).objective)


def test_empty_donor_keeps_no_loadings(data):
    X, *_ = data
    operator = SparseOperator(X, groups=np.zeros(X.shape[0], int), n_groups=2)
    for penalty in (0.0, 0.05):
        result = fit_cae_nmf2(operator, 3, penalty_U=penalty, max_iter=12)
        assert (result.U[1] == 0).all()


@pytest.mark.parametrize("k", [0, 24, 71])
def test_impossible_rank_is_refused(data, k):
    with pytest.raises(InputError, match="rank"):
        fit_ae_nmf(operators(data[0])["gram"], k)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"relax": 2.0}, "relax"),
        ({"init": "svd"}, "nndsvd"),
        ({"init": -np.ones((3, 23))}, "init"),
        ({"init": np.ones((2, 23))}, "init"),
    ],
)
def test_bad_settings_are_refused(data, settings, word):
    with pytest.raises(InputError, match=word):
        fit_ae_nmf(operators(data[0])["sparse"], 3, **settings)


def test_bad_shapes_are_refused(data):
    X, donors, _types, _ = data
    with pytest.raises(InputError, match="square"):
        GramOperator(np.ones((3, 4)), n_cells=5)
    with pytest.raises(InputError, match="groups"):
        fit_ae_nmf(operators(X, donors)["sparse"], 3)
    with pytest.raises(InputError, match="genes"):
        fit_cae_nmf1(operators(X)["sparse"], 3, sums_of_blocks(X[:, :5], donors))


def test_starts_have_the_scale_of_the_data(data):
    X = data[0]
    for operator in operators(X).values():
        for init in ("nndsvd", "random"):
            W = start(operator, 5, init, seed=3)
            reconstruction = X @ W.T @ W
            best = (X.multiply(reconstruction)).sum() / (reconstruction**2).sum()
            assert best == pytest.approx(1.0, abs=1e-6), "no factor makes the first reconstruction better"
    one, again, other = (start(operator, 5, "random", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_vectors_that_lapack_turns_round_give_the_same_random_start(data, monkeypatch):
    operator, eigh = operators(data[0])["gram"], np.linalg.eigh
    expected = start(operator, 4, "random", seed=3)

    def turned(A):  # as another number of threads may do
        values, vectors = eigh(A)
        return values, vectors * np.where(np.arange(len(values)) % 2, -1, 1)

    monkeypatch.setattr(np.linalg, "eigh", turned)
    np.testing.assert_allclose(start(operator, 4, "random", seed=3), expected, rtol=1e-9)


def test_leading_eigenvectors(data):
    X = data[0]
    vectors, values = leading_eigenvectors(operators(X)["sparse"], 4, n_iter=30)
    expected = np.linalg.eigvalsh((X.T @ X).toarray())[::-1][:4]
    np.testing.assert_allclose(values, expected, rtol=1e-8)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-10)


def test_result_does_not_depend_on_threads():
    import numba

    X = reference.counts(600, 150, seed=8)  # enough work for the parallel kernels
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append(fit_ae_nmf(SparseOperator(X), 20, max_iter=12, init="random").W)
    finally:
        numba.set_num_threads(before)
    for result in results[1:]:
        np.testing.assert_array_equal(results[0], result)


def test_fit_from_statistics(data, tmp_path):
    from nmfbench.models.autoencoder.exact.gathered import conditions_of, operator_of
    from nmfbench.statistics import Layout, gather_shard, load, save

    X, donors, types, _ = data
    plan = Layout(
        fingerprint="x",
        genes=tuple(map(str, range(X.shape[1]))),
        n_cells=X.shape[0],
        conditions={"donor_id": ("a", "b", "c")},
        types=("1", "2", "3", "4"),
        donor_grams=True,
        dtype="float64",
    )
    save(gather_shard([(X, donors, types)], plan), tmp_path / "s.h5")
    statistics = load(tmp_path / "s.h5", memory_map=True)
    expected = fits(X, donors, types, "gram")
    plain = fit_cae_nmf1(operator_of(statistics), 4, conditions_of(statistics), penalties=STRONG, max_iter=20)
    assert plain.objective == pytest.approx(expected["cae_nmf1"](max_iter=20).objective, rel=1e-8)
    by_donor = fit_cae_nmf2(operator_of(statistics, by_donor=True, block_size=8), 4, max_iter=20)
    assert by_donor.objective == pytest.approx(expected["cae_nmf2"](max_iter=20).objective, rel=1e-8)
    statistics.donor_grams = None
    with pytest.raises(InputError, match="donor"):
        operator_of(statistics, by_donor=True)


@pytest.mark.parametrize("name", ["multiplicative", "accelerated", "adam", "lbfgsb"])
def test_gradient_methods_descend(data, name, repository, monkeypatch):
    from itertools import islice

    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gradient_methods

    operator = operators(data[0])["gram"]
    W = start(operator, 4, "nndsvd", ridge=1e-2 * operator.n_cells)
    steps = list(islice(getattr(gradient_methods, name)(operator, W, 1e-2), 80))
    values = [value for value, *_ in steps]
    assert steps[-1][2].min() >= 0
    assert values[-1] < 0.98 * values[0]
    if name in {"accelerated", "multiplicative"}:
        assert (np.diff(values) <= 1e-6 * values[0]).all()
    best = fit_ae_nmf(operator, 4, init=W, tol=1e-9).objective
    assert best <= min(values) * 1.002
