"""The sparse objectives of PNMF against dense ones: values, gradients, updates."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_pnmf as dense
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.likelihood import (
    MODES,
    log_likelihood,
    multiplicative_step,
    poisson_deviance,
    relative_error,
    value_with_control,
)
from nmfbench.models.pnmf.scales import RateScales

N, D, K = 50, 30, 4
every_mode = pytest.mark.parametrize("mode", MODES)
every_dtype = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 4e-6)], ids=["double", "single"]
)


@pytest.fixture(scope="module")
def case():
    X, *_ = dense.counts(N, D, K)
    X = X.tolil()
    X[3] = 0
    X[:, 5] = 0
    X = X.tocsr()
    mu, sigma, W, eps = dense.parameters(N, D, K)
    W[7] = 1e-12  # rates under the floor where there are counts
    X[2, 7] = 2
    return X.tocsr(), mu, sigma, W, eps


def near(ours, theirs, tolerance):
    scale = float(theirs.abs().max())
    np.testing.assert_allclose(ours.double().numpy(), theirs.numpy(), rtol=0, atol=tolerance * scale)


@every_dtype
@every_mode
@pytest.mark.parametrize("block", [None, 100])
def test_values_and_gradients(case, mode, dtype, tolerance, block):
    X, mu, sigma, W, eps = case
    leaves = [t.clone().requires_grad_() for t in (mu, sigma, W)]
    expected = dense.log_likelihood(torch.from_numpy(X.toarray()), *leaves, mode, eps)
    expected.backward()
    counts = Counts(X.astype(str(dtype)[6:]), block=block)
    assert len(counts.blocks) > 1 or block is None
    mu, sigma, W, eps = (t.to(dtype) for t in (mu, sigma, W, eps))
    terms = log_likelihood(counts, mu, sigma, W, mode, draws=eps, latent=True, loadings="gradient")
    assert terms.value == pytest.approx(expected.item(), rel=tolerance)
    for ours, leaf in zip((terms.mu, terms.sigma, terms.W), leaves, strict=True):
        near(ours, leaf.grad, tolerance)


@every_dtype
@every_mode
def test_the_multiplicative_update(case, mode, dtype, tolerance):
    X, mu, sigma, W, eps = case
    expected = dense.multiplicative(torch.from_numpy(X.toarray()), mu, sigma, W, mode, eps)
    counts = Counts(X.astype(str(dtype)[6:]))
    terms = log_likelihood(
        counts, mu.to(dtype), sigma.to(dtype), W.to(dtype), mode, draws=eps.to(dtype), loadings="ratio"
    )
    near(multiplicative_step(W.to(dtype), terms), expected, tolerance)


@every_mode
def test_multiplicative_updates_never_lower_their_objective(case, mode):
    X, mu, sigma, W, eps = case
    counts = Counts(X)
    values = []
    for _ in range(30):
        terms = log_likelihood(counts, mu, sigma, W, mode, draws=eps, loadings="ratio")
        values.append(terms.value)
        W = multiplicative_step(W, terms)
    steps = np.diff(values[1:])  # the first step brings rates back from under the floor
    assert steps.min() > -1e-7 * abs(values[-1])
    assert values[-1] > values[0]


@every_mode
def test_exposure_and_donor_multipliers(case, mode):
    X, mu, sigma, W, eps = case
    rng = np.random.default_rng(1)
    exposure = rng.gamma(2.0, 0.5, N)
    donors = rng.integers(0, 3, N)
    gamma = torch.from_numpy(rng.gamma(3.0, 1 / 3, (3, D)))
    counts = Counts(X)
    scales = RateScales.of(counts, exposure, donors)
    scales.multipliers = gamma
    leaves = [t.clone().requires_grad_() for t in (mu, sigma, W)]
    X = torch.from_numpy(X.toarray())
    per_cell = gamma[torch.from_numpy(donors)]
    expected = dense.log_likelihood(X, *leaves, mode, eps, torch.from_numpy(exposure), per_cell)
    expected.backward()
    terms = log_likelihood(
        counts, mu, sigma, W, mode, draws=eps, scales=scales, latent=True, loadings="gradient"
    )
    # The floor is on exp(F) Wᵀ, without the scales, in both.
    assert terms.value == pytest.approx(expected.item(), rel=1e-12)
    for ours, leaf in zip((terms.mu, terms.sigma, terms.W), leaves, strict=True):
        near(ours, leaf.grad, 1e-12)


def test_the_multiplier_update_is_the_maximum(case):
    X, mu, sigma, W, _ = case
    donors = np.arange(N) % 3
    counts = Counts(X)
    scales = RateScales.of(counts, None, donors, strength=2.0)

    def value(gamma):
        scales.multipliers = gamma
        return log_likelihood(counts, mu, sigma, W, "lower-bound", scales=scales).value

    scales.update(scales.sums(torch.exp(mu + sigma**2 / 2)), W)
    best = scales.multipliers
    top = value(best)
    assert top > value(torch.ones_like(best))
    for seed in range(5):
        noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed), dtype=best.dtype)
        assert value(best * torch.exp(0.05 * noise)) < top
    A = torch.exp(mu + sigma**2 / 2)
    rate = torch.stack([(A[donors == b] @ W.T).sum(dim=0) for b in range(3)])
    total = torch.from_numpy(np.stack([X.toarray()[donors == b].sum(axis=0) for b in range(3)]))
    torch.testing.assert_close(best, (2.0 + total) / (2.0 + rate))


def test_monte_carlo_modes_are_unbiased_and_the_bound_is_below(case):
    X, mu, sigma, W, _ = case
    W = W.clamp(min=1e-3)
    counts = Counts(X)
    eps = torch.randn((1500, N, K), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = {
        mode: np.array([log_likelihood(counts, mu, sigma, W, mode, draws=e[None]).value for e in eps])
        for mode in ("simple", "expanded")
    }
    bound = log_likelihood(counts, mu, sigma, W, "lower-bound").value
    error = np.hypot(*(v.std() / np.sqrt(len(v)) for v in values.values()))
    assert abs(values["simple"].mean() - values["expanded"].mean()) < 4 * error
    assert bound < values["expanded"].mean() - 4 * error
    controlled = value_with_control(counts, mu, sigma, W, eps[:500])
    assert abs(controlled - values["expanded"].mean()) < 4 * error
    short = [value_with_control(counts, mu, sigma, W, eps[i : i + 1]) for i in range(200)]
    assert np.std(short) < 0.5 * values["expanded"].std()


def test_a_sample_of_genes_is_unbiased(case):
    X, mu, sigma, W, eps = case
    whole = log_likelihood(Counts(X), mu, sigma, W, "expanded", draws=eps, latent=True)
    weights = W.sum(dim=0, keepdim=True)
    values, gradients = [], []
    for genes in np.arange(D).reshape(3, 10):  # a partition: the mean over its parts is exact
        terms = log_likelihood(
            Counts(X).select(None, genes),
            mu, sigma, W[genes], "expanded", draws=eps, latent=True, log_scale=3.0, weights=weights,
        )  # fmt: skip
        values.append(terms.value)
        gradients.append(terms.mu)
    assert np.mean(values) == pytest.approx(whole.value, rel=1e-12)
    torch.testing.assert_close(sum(gradients) / 3, whole.mu)


def test_deviance_and_relative_error(case):
    X, mu, _, W, _ = case
    W = W.clamp(min=1e-3)
    M, counts = torch.exp(mu), Counts(X)
    full = torch.from_numpy(X.toarray())
    assert poisson_deviance(counts, M, W) == pytest.approx(float(dense.deviance(full, M @ W.T)), rel=1e-12)
    error = float(((full - M @ W.T) ** 2).sum() / (full**2).sum())
    assert relative_error(counts, M, W) == pytest.approx(error, rel=1e-10)
    donors = np.arange(N) % 2
    scales = RateScales.of(counts, np.linspace(0.5, 2, N), donors)
    scales.multipliers = torch.rand((2, D), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rate = torch.linspace(0.5, 2, N, dtype=torch.float64)[:, None] * (M @ W.T) * scales.multipliers[donors]
    error = float(((full - rate) ** 2).sum() / (full**2).sum())
    assert relative_error(counts, M, W, scales) == pytest.approx(error, rel=1e-10)


def test_sums_of_many_counts_lose_none():
    """From 2^24 on single precision no longer counts by ones."""
    column = np.array([[2**24], [1], [1], [1], [1]], dtype=np.float32)
    for X, sums in ((column, "gene_sums"), (column.T, "cell_sums")):
        counts = Counts(sp.csr_matrix(X), torch.device("cpu"))
        assert getattr(counts, sums)().tolist() == [2**24 + 4]
