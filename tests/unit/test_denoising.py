"""Split counts and the blind spot: splits, objectives against dense autograd, what is not copied."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import yaml

from nmfbench.config import load_config
from nmfbench.data import normalise_block
from nmfbench.data.halves import mean_and_difference, split_counts
from nmfbench.errors import InputError
from nmfbench.models import AENMF, AENMFBlind, AENMFCommon, AENMFSplit
from nmfbench.models.autoencoder.exact import (
    GramOperator,
    SparseOperator,
    TiedObjective,
    minimise,
    sums_of_blocks,
)
from nmfbench.models.autoencoder.exact.denoising import (
    BlindObjective,
    start_of_blind,
    start_of_halves,
    unique_squares,
)

N, P, K = 60, 23, 3
LAMBDA = 0.01


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 1.0, (N, K)) @ rng.gamma(0.5, 2.0, (K, P))
    return sp.csr_matrix(rng.poisson(mean).astype(np.float32))


@pytest.fixture(scope="module")
def halves(counts):
    """Mean and difference, double precision, of halves scaled to 1,000."""
    return [part.astype(np.float64) for part in mean_and_difference(counts, target_sum=1e3)]


# The split ---------------------------------------------------------------------------------------------


def test_the_halves_add_up_and_do_not_know_the_blocks(counts):
    one, other = split_counts(counts, 0, 7)
    np.testing.assert_array_equal(one + other, counts.data)
    assert one.min() >= 0
    assert other.min() >= 0
    assert np.array_equal(one, one.round())
    for size in (1, 7, N):
        cut = [split_counts(counts[a : a + size], a, 7)[0] for a in range(0, N, size)]
        np.testing.assert_array_equal(np.concatenate(cut), one)
    assert (split_counts(counts, 0, 8)[0] != one).any()
    assert (split_counts(counts[1:], 0, 7)[0] != split_counts(counts[1:], 1, 7)[0]).any()


@pytest.mark.parametrize("count", [1, 5, 64, 65, 200])
def test_each_molecule_falls_like_a_fair_coin_apart_from_all_others(count):
    n, p = 400, 50
    one = split_counts(sp.csr_matrix(np.full((n, p), count, np.float32)), 0, 1)[0].reshape(n, p) - count / 2
    sd = np.sqrt(count) / 2
    assert abs(one.mean()) < 4 * sd / np.sqrt(n * p)
    assert one.var() == pytest.approx(sd**2, rel=0.04)
    together = one.T @ one / n / sd**2  # genes know nothing of one another, nor do cells
    assert np.abs(together - np.diag(np.diag(together))).max() < 5 / np.sqrt(n)
    together = one @ one.T / p / sd**2
    assert np.abs(together - np.diag(np.diag(together))).max() < 6 / np.sqrt(p)


def test_halves_are_normalised_like_cells_and_an_empty_one_stays_zero():
    dense = np.array([[1, 0, 0], [40, 60, 100]], np.float32)
    X = sp.csr_matrix(dense)
    mean, difference = mean_and_difference(X, target_sum=1e3)
    one = sp.csr_matrix((split_counts(X)[0], X.indices, X.indptr), X.shape).toarray()
    for half, sign in ((one, 1), (dense - one, -1)):
        total = half.sum(1, keepdims=True)
        expected = np.log1p(np.divide(1e3 * half, total, out=np.zeros_like(half), where=total > 0))
        np.testing.assert_allclose((mean + sign * difference).toarray(), expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_count_is_not_split(counts):
    with pytest.raises(InputError, match="whole numbers"):
        AENMFSplit(2).fit(counts * 0.5)


# The objectives ----------------------------------------------------------------------------------------


def operators(parts):
    """K of the groups through the nonzeros, and whole; of few genes in a block, so that blocks matter."""
    group = np.repeat(np.arange(len(parts)), N)
    yield SparseOperator(sp.vstack(parts), groups=group, n_cells=N, block_size=5)
    yield GramOperator(np.stack([(part.T @ part).toarray() for part in parts]), n_cells=N, block_size=5)


UNIQUE = np.linspace(0, 50, P)


def written_from_the_other_half(halves, W, unique=None):
    """The objective of split counts, dense, from its definition."""
    A, B = (torch.as_tensor((halves[0] + sign * halves[1]).toarray()) for sign in (1, -1))
    through = W.T @ W
    error = ((B - A @ through) ** 2).sum() + ((A - B @ through) ** 2).sum()
    own = 0 if unique is None else 2 * (torch.as_tensor(unique) * (W**2).sum(0)).sum() / N
    return error / (2 * N) + own + LAMBDA * (W**2).sum()


def written_from_other_genes(X, W):
    """The objective with a blind spot, dense, from its definition."""
    X, through = torch.as_tensor(X.toarray()), W.T @ W
    return ((X - X @ (through - torch.diag(torch.diag(through)))) ** 2).sum() / N + LAMBDA * (W**2).sum()


def written_from_all_genes(X, W):
    """The plain objective, dense."""
    X = torch.as_tensor(X.toarray())
    return ((X - X @ W.T @ W) ** 2).sum() / N + LAMBDA * (W**2).sum()


def cases(halves):
    for operator in operators(halves):
        yield (
            lambda W, o=operator: TiedObjective(o, W, penalty_W=LAMBDA, split=True),
            start_of_halves(operator, K, "nndsvd", seed=0, ridge=LAMBDA * N),
            lambda W: written_from_the_other_half(halves, W),
        )
        yield (
            lambda W, o=operator: TiedObjective(o, W, penalty_W=LAMBDA, split=True, unique=UNIQUE),
            None,
            lambda W: written_from_the_other_half(halves, W, UNIQUE),
        )
    for operator in operators(halves[:1]):
        yield (
            lambda W, o=operator: TiedObjective(o, W, penalty_W=LAMBDA, unique=UNIQUE),
            None,
            lambda W: (
                written_from_all_genes(halves[0], W) + 2 * (torch.as_tensor(UNIQUE) * (W**2).sum(0)).sum() / N
            ),
        )
        yield (
            lambda W, o=operator: BlindObjective(o, W, penalty_W=LAMBDA),
            start_of_blind(operator, K, "nndsvd", seed=0, ridge=LAMBDA * N),
            lambda W: written_from_other_genes(halves[0], W),
        )


@pytest.mark.parametrize("case", range(8))
def test_exact_forms_are_those_of_dense_autograd(halves, case):
    make, W0, dense = list(cases(halves))[case]
    W = np.abs(np.random.default_rng(1).normal(size=(K, P))) * 0.2
    objective = make(W)
    objective.refresh()
    assert sum(objective.evaluate()[0].values()) == pytest.approx(float(dense(torch.as_tensor(W))), rel=1e-12)
    if W0 is None:
        W0 = W
    else:  # the start has the best scale there is
        value = [float(dense(torch.as_tensor(a * W0))) for a in (0.999, 1, 1.001)]
        assert value[1] == min(value)
    found = minimise(make(W0), tol=1e-11, max_iter=2000)
    values = [row["objective"] for row in found.history]
    assert (np.diff(values) <= 1e-12 * values[0]).all(), "never uphill"
    assert found.objective == pytest.approx(float(dense(torch.as_tensor(found.W))), rel=1e-10)
    W = torch.tensor(found.W, requires_grad=True)
    dense(W).backward()
    slope = np.where(found.W > 0, W.grad.numpy(), np.minimum(W.grad.numpy(), 0))
    assert np.abs(slope).max() < 1e-4 * values[0], "a stationary point of the dense objective"


def test_one_entry_goes_to_its_exact_minimum(halves):
    """After a sweep of exact steps no move of the entry that moved last helps."""
    for make, W0, dense in cases(halves):
        objective = make(np.full((K, P), 0.1) if W0 is None else W0)
        objective.refresh()
        objective.evaluate()
        objective.sweep(1.0)
        W = objective.W.T.copy()
        best = float(dense(torch.as_tensor(W)))
        for step in (-1e-4, 1e-4):
            moved = W.copy()
            moved[K - 1, P - 1] = max(moved[K - 1, P - 1] + step, 0)
            assert float(dense(torch.as_tensor(moved))) >= best - 1e-12 * best


def test_additive_profiles_and_denoising_add_up(halves):
    """Model 1's profiles beside split counts and the genes' own variance, against the dense form."""
    rng = np.random.default_rng(6)
    codes = np.arange(N) % 3
    C = torch.as_tensor(np.eye(3)[codes])
    A, B = (torch.as_tensor((halves[0] + sign * halves[1]).toarray()) for sign in (1, -1))

    def dense(W, U):
        through, added = W.T @ W, C @ U
        error = ((B - A @ through - added) ** 2).sum() + ((A - B @ through - added) ** 2).sum()
        own = 2 * (torch.as_tensor(UNIQUE) * (W**2).sum(0)).sum()
        return float((error / 2 + own) / N + LAMBDA * (W**2).sum() + 0.1 * (U**2).sum())

    W, U = np.abs(rng.normal(size=(K, P))) * 0.2, np.abs(rng.normal(size=(3, P)))
    objective = TiedObjective(
        next(operators(halves)), W, U, penalty_W=LAMBDA, penalty_U=0.1, split=True, unique=UNIQUE,
        conditions=sums_of_blocks(halves[0], codes),
    )  # fmt: skip
    objective.refresh()
    before = sum(objective.evaluate()[0].values())
    assert before == pytest.approx(dense(torch.as_tensor(W), torch.as_tensor(U)), rel=1e-12)
    found = minimise(objective, max_iter=30, tol=0.0)
    assert (np.diff([row["objective"] for row in found.history]) <= 1e-12 * before).all()
    assert found.objective == pytest.approx(dense(*map(torch.as_tensor, (found.W, found.U))), rel=1e-10)


def test_split_counts_are_agreement_of_the_halves_beside_their_own_reconstruction(halves):
    """Written from the other half = written from itself + 2 ||difference of the halves' embeddings||²."""
    A, B = ((halves[0] + sign * halves[1]).toarray() for sign in (1, -1))
    W = np.abs(np.random.default_rng(2).normal(size=(K, P))) * 0.2
    own = np.square(A - A @ W.T @ W).sum() + np.square(B - B @ W.T @ W).sum()
    other = own + 2 * np.square(A @ W.T - B @ W.T).sum()
    cross = float(written_from_the_other_half(halves, torch.as_tensor(W))) - LAMBDA * np.square(W).sum()
    assert cross * 2 * N == pytest.approx(other, rel=1e-12)


# The models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """Four programs of 12 genes, and three genes of much noise and nothing else; two draws of the counts."""
    rng = np.random.default_rng(3)
    programs = np.kron(np.eye(4), np.full(12, 1.0)) + 0.05
    usage = rng.gamma(0.4, 1.0, (500, 4))
    usage /= usage.sum(1, keepdims=True)
    rate = np.hstack([usage @ programs * 10, np.full((500, 3), 1.2)])
    return [sp.csr_matrix(rng.poisson(rate).astype(np.float32)) for _ in range(2)]


def own_gene(W):
    """Largest share of a factor's square that one gene has, of each factor."""
    return np.square(W).max(1) / np.square(W).sum(1)


def test_a_noisy_gene_is_copied_by_the_plain_objective_alone(planted):
    seen, unseen = planted
    X, later = normalise_block(seen), normalise_block(unseen).toarray()
    fits = {
        "plain": AENMF(7, solver="statistics", random_state=0).fit(X),
        "split": AENMFSplit(7, random_state=0).fit(seen),
        "blind": AENMFBlind(7, random_state=0).fit(X),
    }
    fits["noise left out alone"] = AENMFSplit(7, random_state=0, communality=False).fit(seen)
    error, noisy = {}, {}
    for name, model in fits.items():
        W = model.components_
        through = W.T @ W
        if name == "blind":
            np.fill_diagonal(through, 0)
        error[name] = np.square(later - X @ through).sum()
        noisy[name] = int(((W.argmax(1) >= 48) & (own_gene(W) > 0.5)).sum())
    assert noisy["plain"] >= 2
    assert noisy["split"] == noisy["noise left out alone"] == 0
    assert (np.square(fits["split"].components_[:, 48:]).sum(0) < 0.3).all(), "nor in a mixture"
    assert error["split"] < 0.97 * error["plain"]
    assert error["blind"] < 0.97 * error["plain"]
    np.testing.assert_allclose(
        fits["split"].embedding_, X @ fits["split"].components_.T, rtol=1e-5, atol=1e-5
    )


@pytest.fixture(scope="module")
def with_genes_of_their_own(planted):
    """The same with three genes that vary from cell to cell, each for itself: both halves know of it."""
    rng = np.random.default_rng(4)
    own = rng.poisson(30 * rng.gamma(0.5, 2.0, (500, 3))).astype(np.float32)
    return sp.hstack([planted[0][:, :48], own], format="csr")


def test_what_a_gene_has_for_itself_is_found_and_not_copied(with_genes_of_their_own):
    X = normalise_block(with_genes_of_their_own)
    K = (X.T @ X).toarray().astype(np.float64)
    unique = unique_squares(GramOperator(K, n_cells=500), 5)
    assert (unique >= 0).all()
    assert (unique <= np.diag(K) * (1 + 1e-9)).all()
    left = K - np.diag(unique)  # of rank 5, but for what is no axis' own
    values = np.linalg.eigvalsh(left)[::-1]
    assert np.abs(values[5:]).sum() < 0.6 * np.abs(np.linalg.eigvalsh(K)[::-1][5:]).sum()
    copies = {}
    for communality in (False, True):
        W = AENMFSplit(7, random_state=0, communality=communality).fit(with_genes_of_their_own).components_
        copies[communality] = int(((W.argmax(1) >= 48) & (own_gene(W) > 0.5)).sum())
    assert copies[False] >= 2, "split counts alone do not help: the halves share it"
    assert copies[True] == 0
    for model, least, most in ((AENMF(6, solver="statistics"), 2, 3), (AENMFCommon(6), 0, 0)):
        W = model.set_params(random_state=0).fit(X).components_
        assert least <= ((W.argmax(1) >= 48) & (own_gene(W) > 0.5)).sum() <= most


def test_as_many_axes_as_factors_give_single_genes_an_axis(planted):
    """Three genes of much variation, each with a companion of a sixtieth of its counts: hardly common."""
    rng = np.random.default_rng(4)
    level = rng.gamma(0.5, 2.0, (500, 3))
    faint = np.hstack([rng.poisson(30 * level), rng.poisson(0.5 * level)]).astype(np.float32)
    X = normalise_block(sp.hstack([planted[0][:, :48], faint], format="csr"))
    copies = {}
    for n_axes in (4, 12):
        W = AENMFCommon(12, n_axes=n_axes, random_state=0).fit(X).components_
        copies[n_axes] = int((np.square(W).max(1) > 0.5 * np.square(W).sum(1)).sum())
    assert copies[12] >= copies[4] + 2
    with pytest.raises(InputError, match="n_axes"):
        AENMFCommon(3, n_axes=0).fit(X)


def test_own_parts_that_are_drawn_anew(planted):
    """The objective of common variance is the expected error where each gene's own part is another one."""
    rng = np.random.default_rng(5)
    common, own = planted[0].toarray().astype(float), np.linspace(0.5, 3, 51)
    W = np.abs(rng.normal(size=(4, 51))) * 0.1
    errors, expected = [], []
    for _ in range(40):
        one, other = (common + own * rng.normal(size=common.shape) for _ in range(2))
        errors.append(np.square(other - one @ W.T @ W).sum())
        unique = np.square(one - common).sum(0)
        expected.append(np.square(one - one @ W.T @ W).sum() + 2 * (unique * np.square(W).sum(0)).sum())
    difference = np.subtract(errors, expected)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(40)
    assert abs(difference.mean()) < 0.01 * np.mean(errors)


def test_both_routes_and_many_splits(counts):
    def fit(**options):
        given = {"random_state": 1, "max_iter": 4, "communality": False, **options}
        return AENMFSplit(3, **given).fit(counts)

    routes = [fit(gram_memory_mb=0), fit()]
    assert [model.solver_choice_.route for model in routes] == ["sparse", "gram"]
    np.testing.assert_allclose(routes[0].components_, routes[1].components_, atol=1e-4)
    np.testing.assert_array_equal(fit().components_, routes[1].components_)
    assert np.abs(fit(random_state=2).components_ - routes[1].components_).max() > 1e-3, "another split"
    # the objective of several splits is the mean of theirs
    many = fit(n_splits=4)
    W = torch.as_tensor(many.components_, dtype=torch.float64)
    values = []
    for split in range(4):
        parts = [part.astype(np.float64) for part in mean_and_difference(counts, 0, [1, split])]
        values.append(float(written_from_the_other_half(parts, W)))
    assert many.objective_ == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("model", [AENMFSplit, AENMFBlind, AENMFCommon])
def test_a_stopped_fit_goes_on_to_the_same_bits(counts, tmp_path, model):
    X = counts if model is AENMFSplit else normalise_block(counts)
    options = {"tol": 0.0, "max_iter": 25, "random_state": 0}
    whole = model(3, **options).fit(X)
    asked = iter([False] * 13)
    stopped = model(3, **options).fit(X, checkpoint=tmp_path, should_stop=lambda: next(asked, True))
    assert stopped.stop_reason_ == "interrupted"
    resumed = model(3, **options).fit(X, checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.components_, whole.components_)
    assert len(resumed.history_) == len(whole.history_)


def test_the_recommended_config_is_one(repository):
    """What docs/which_model.md recommends can be asked for, and differs from a default where it says so."""
    config = load_config(yaml.safe_load((repository / "config" / "recommended.yaml").read_text()))
    assert list(config.models) == ["nmf_harmony", "base_nmf", "ae_nmf_common", "pca", "harmony"]
    assert config.datasets["mydata"].gene_scaling == "sqrt"
    assert (config.ranks, len(config.seeds)) == ([50], 5)
    assert config.rank_selection.by_unseen_molecules == ["ae_nmf_common"]
