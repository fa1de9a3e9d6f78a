"""The likelihood from nonzeros against dense distributions: values, gradients, minibatches, memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import special

import reference_bayesian as dense
from nmfbench.errors import InputError
from nmfbench.models import nonzeros
from nmfbench.models.bayesian import terms
from nmfbench.models.bayesian.cavi import FullAscent, Problem
from nmfbench.models.bayesian.counts import CellCounts, Weights, check_counts
from nmfbench.models.bayesian.device_counts import DeviceCounts
from nmfbench.models.bayesian.factor import GammaFactor
from nmfbench.models.bayesian.kernels import digamma
from nmfbench.models.bayesian.posterior import Marginals
from nmfbench.models.bayesian.prior import GammaPrior

X = dense.sparse_counts()
D = torch.from_numpy(X.toarray())
N, G = D.shape
DONORS = torch.arange(N) % 3
P_GENE = torch.linspace(0.1, 0.9, G, dtype=torch.float64)
P_DONOR = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
CELL_U, GENE_U = np.linspace(0.5, 2, N), np.linspace(0.4, 3, G)
HALF = torch.full((1,), 0.5, dtype=torch.float64)


def both(csr):
    return CellCounts(csr), DeviceCounts.from_csr(csr, torch.device("cpu"))


CASES = {
    "nb": (Weights(), terms.Probability("all", HALF), lambda t: dense.negative_binomial(D, t, 0.5)),
    "nb 0.2": (
        Weights(2.0),
        terms.Probability("all", HALF * 0.4),
        lambda t: 2 * dense.negative_binomial(D, t, 0.2),
    ),
    "nb by gene": (
        Weights(),
        terms.Probability("gene", P_GENE),
        lambda t: dense.negative_binomial(D, t, P_GENE[None, :]),
    ),
    "nb by donor": (
        Weights(),
        terms.Probability("donor", P_DONOR, DONORS),
        lambda t: dense.negative_binomial(D, t, P_DONOR[DONORS][:, None]),
    ),
    "poisson": (
        Weights(0.0, poisson=10.0),
        terms.Probability("all", HALF),
        lambda t: 10 * dense.poisson(D, t),
    ),
    "chi-squared": (
        Weights(0.0, chi_squared=1.0),
        terms.Probability("all", HALF),
        lambda t: -dense.chi_squared(D, t),
    ),
    "chi-squared, separable": (
        Weights(0.0, chi_squared=0.5, cell_u=CELL_U, gene_u=GENE_U),
        terms.Probability("all", HALF),
        lambda t: -0.5 * dense.chi_squared(D, t, np.outer(CELL_U, GENE_U)),
    ),
    "all three": (
        Weights(1.0, 10.0, 1.0),
        terms.Probability("all", HALF),
        lambda t: dense.negative_binomial(D, t, 0.5) + 10 * dense.poisson(D, t) - dense.chi_squared(D, t),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", [0, 1], ids=["compiled", "torch"])
def test_value_and_gradients_are_those_of_dense_distributions(name, backend):
    weights, probability, reference = CASES[name]
    counts = both(X)[backend]
    P, A = dense.factors()
    expected = reference(P @ A.T)
    slopes = torch.autograd.grad(expected, (P, A))
    found = terms.log_likelihood(P, A, counts, weights, probability) + terms.constant(
        counts, weights, probability
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found, (P, A)), slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("backend", [0, 1], ids=["compiled", "torch"])
def test_single_precision_is_near_double(backend):
    counts = both(X.astype(np.float32))[backend]
    exact, near = dense.factors(), dense.factors(dtype=torch.float32)
    near = [f.detach().float().requires_grad_() for f in exact]
    values = []
    for factors, data in ((exact, CellCounts(X)), (near, counts)):
        value = terms.log_likelihood(*factors, data, Weights(1.0, 1.0, 1.0), CASES["nb"][1])
        values.append((value.item(), *torch.autograd.grad(value, factors)))
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-6)
    for ours, theirs in zip(values[1][1:], values[0][1:], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3 * float(theirs.abs().max()))


def test_the_products_of_a_device_without_sparse_ones(monkeypatch):
    P, A = (f.detach() for f in dense.factors())
    counts = both(X)[1]
    expected = counts.cells_walk(P, A, Weights())[1], counts.genes_walk(P, A, Weights())[1]
    monkeypatch.setattr(nonzeros, "ELEMENTS_AT_ONCE", 35)  # several chunks
    counts = both(X)[1]
    counts.block_kind = nonzeros.GatheredBlock
    torch.testing.assert_close(counts.cells_walk(P, A, Weights())[1], expected[0])
    torch.testing.assert_close(counts.genes_walk(P, A, Weights())[1], expected[1])


@pytest.mark.parametrize("name", ["nb", "all three"])
def test_blocks_on_a_device_change_nothing(name, monkeypatch):
    weights = CASES[name][0]
    monkeypatch.setattr(nonzeros, "NONZEROS_OF_A_BLOCK", X.nnz // 5)
    whole, blocks = both(X)
    assert len(blocks.blocks) > 3
    P, A = dense.factors()
    for ours, theirs in zip(blocks.walks(P, A, weights), whole.walks(P, A, weights), strict=True):
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-10, atol=1e-9)
    assert blocks.inner(P, A) == pytest.approx(whole.inner(P, A), rel=1e-12)
    np.testing.assert_array_equal(blocks.larger_than(2)[0], whole.larger_than(2)[0])


def test_large_counts_and_small_thetas_on_a_device():
    """Counts beyond a sum of parts, and thetas where a logarithm is large, against SciPy."""
    counts = np.array([[1.0, 2, 16, 17, 40, 5000], [3, 0, 1, 0, 0, 2]])
    P = torch.tensor([[1e-5], [3.0]], dtype=torch.float64)
    A = torch.tensor([[0.1], [2.0], [5.0], [1.0], [1e6], [1e10]], dtype=torch.float64)
    value, slope, _ = DeviceCounts.from_csr(sp.csr_matrix(counts), torch.device("cpu")).walks(P, A, Weights())
    theta = np.maximum((P @ A.T).numpy(), 1e-8)
    parts = special.gammaln(counts + theta) - special.gammaln(theta)
    assert value == pytest.approx(parts[counts > 0].sum(), rel=1e-9)
    w = [
        [sum(1 / (t + j) for j in range(int(d))) for d, t in zip(*row, strict=True)]
        for row in zip(counts, theta, strict=True)
    ]
    np.testing.assert_allclose(slope.numpy(), np.array(w) @ A.numpy(), rtol=1e-8)


def test_a_sweep_on_a_device_takes_few_products(monkeypatch):
    """Two of each kind, as a sweep of the Poisson factorisation; a step of gradients one of thetas."""
    from nmfbench.models.nonzeros import Block

    made = []
    for name in ("rates", "times", "transposed"):
        plain = getattr(Block, name)
        monkeypatch.setattr(Block, name, lambda *a, plain=plain, name=name: (made.append(name), plain(*a))[1])
    counts = both(X)[1]
    P, A = (f.detach().requires_grad_() for f in dense.factors())
    terms.log_likelihood(P, A, counts, *CASES["nb"][:2]).backward()
    assert made == ["rates", "times", "transposed"]
    made.clear()
    start = [torch.ones(n, 3, dtype=torch.float64) + torch.rand(n, 3, dtype=torch.float64) for n in (N, G)]
    factors = [GammaFactor(part, None, GammaPrior(3, 1.0, 1.0, "fixed", "matrix")) for part in start]
    ascent = FullAscent(Problem(counts, Weights(), CASES["nb"][1]), *factors, 0)
    made.clear()
    ascent.advance()
    assert sorted(made) == ["rates", "rates", "times", "transposed"]


@pytest.mark.parametrize("backend", [0, 1], ids=["compiled", "torch"])
@pytest.mark.parametrize("name", ["nb", "nb by donor", "all three", "chi-squared, separable"])
def test_batches_that_tile_the_cells_add_up_to_the_whole(name, backend):
    weights, probability, _ = CASES[name]
    counts = both(X)[backend]
    P, A = dense.factors()
    whole = terms.log_likelihood(P, A, counts, weights, probability)
    total, n_batches = 0.0, 6
    order = np.random.default_rng(0).permutation(N)
    for rows in np.split(order, n_batches):
        part = terms.log_likelihood(P[rows], A, counts.rows(rows), weights.rows(rows), probability.rows(rows))
        total = total + (N / len(rows)) * part / n_batches  # the mean of the batches' estimates
    torch.testing.assert_close(total, whole, rtol=1e-11, atol=0)
    slopes = torch.autograd.grad(total, (P, A)), torch.autograd.grad(whole, (P, A))
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["nb", "nb by gene", "nb by donor"])
def test_the_best_p_is_where_the_likelihood_is_flat(name):
    probability = CASES[name][1]
    P, A = (f.detach() for f in dense.factors())
    counts = CellCounts(X)
    found = terms.Probability(probability.by, probability.p.clone(), probability.donors)
    found.update(counts, P, A)

    def likelihood(p):
        shared = p[found.donors][:, None] if found.by == "donor" else p[None, :]
        return dense.negative_binomial(D, P @ A.T, shared)

    p = found.p.clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood(p), p)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    assert likelihood(found.p) > likelihood(probability.p)


def test_gene_moments_are_those_of_dense_theta():
    P, A = (f.detach() for f in dense.factors())
    mean, variance = terms.gene_moments(P, A)
    theta = P @ A.T
    torch.testing.assert_close(mean, theta.mean(0))
    torch.testing.assert_close(variance, theta.var(0, correction=0))


def test_relative_error_and_chi_squared_are_the_dense_ones():
    P, A = (f.detach() for f in dense.factors())
    theta = P @ A.T
    for counts in both(X):
        assert terms.chi_squared(P, A, counts, Weights()) == pytest.approx(
            float(dense.chi_squared(D, theta)), rel=1e-10
        )
        expected = float(((theta - D) ** 2).sum() / (D**2).sum())
        assert terms.relative_error(P, A, counts) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "weights", [Weights(), Weights(cell_u=CELL_U, gene_u=GENE_U)], ids=["plain", "separable"]
)
@pytest.mark.parametrize("family", ["gamma", "lognormal"])
def test_expected_chi_squared_is_that_of_the_dense_moments_and_of_draws(family, weights):
    first, second = ([part.detach() for part in dense.factors(k=3, seed=seed)] for seed in (1, 2))
    cells, genes = (
        Marginals(family, 5 * a + 1, b + 4) if family == "gamma" else Marginals(family, a - 1, 0.1 * b)
        for a, b in zip(first, second, strict=True)
    )
    mP, mA, vP, vA = cells.mean(), genes.mean(), cells.sd() ** 2, genes.sd() ** 2
    zero = np.outer(CELL_U, GENE_U) if weights.cell_u is not None else 0.3
    u = torch.maximum(torch.as_tensor(zero, dtype=D.dtype), 0.1 * D)
    mean = mP @ mA.T
    square = mean**2 + mP**2 @ vA.T + vP @ (mA**2).T + vP @ vA.T
    expected = float(((square - 2 * D * mean + D**2) / u**2).sum())
    for counts in both(X):
        assert terms.expected_chi_squared(cells, genes, counts, weights) == pytest.approx(expected, rel=1e-10)
    rng = np.random.default_rng(0)
    drawn = [
        float((((torch.from_numpy(cells.draw(rng) @ genes.draw(rng).T) - D) / u) ** 2).sum())
        for _ in range(600)
    ]
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / np.sqrt(600))


def test_the_digamma_function():
    x = np.concatenate([np.geomspace(1e-8, 1e9, 200), np.arange(1.0, 30)])
    np.testing.assert_allclose([digamma(v) for v in x], special.digamma(x), rtol=1e-11, atol=1e-12)


def test_the_number_of_threads_changes_nothing():
    P, A = (f.detach() for f in dense.factors())
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(CellCounts(X).cells_walk(P, A, Weights(1.0, 1.0, 1.0), True))
    torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_nothing_of_cells_times_genes_is_allocated():
    n, g = 4000, 3000
    csr = dense.sp.random(n, g, 0.002, "csr", rng=np.random.default_rng(0), dtype=np.float64)
    csr.data[:] = 1
    counts = CellCounts(csr)
    P, A = dense.factors(n, g, 3)
    weights = Weights(1.0, 1.0, 1.0)
    terms.log_likelihood(P, A, counts, weights, CASES["nb"][1]).backward()  # compiled, transposed
    tracemalloc.start()
    terms.log_likelihood(P, A, counts, weights, CASES["nb"][1]).backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * g / 8  # numpy's part; a mask of one bit an entry would be too much


def test_values_that_are_not_counts_are_refused():
    wrong = X.copy()
    wrong.data[7] = 1.5
    with pytest.raises(InputError, match=r"1 values that are not whole, the first 1\.5 \(cell 0"):
        check_counts(wrong, "PyroGammaNB")
    zero = X.copy()
    zero.data[3] = 0
    assert check_counts(zero, "PyroGammaNB").nnz == X.nnz - 1
