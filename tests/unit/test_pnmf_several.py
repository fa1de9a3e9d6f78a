"""Several starts of PNMF, and what is said where gradient training stops short."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment

from nmfbench.models import PNMF
from nmfbench.models.pnmf.coordinate import LatentState, sweep
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.several import FURTHER_SWEEPS, choose_start, gain_of_sweeps
from nmfbench.models.pnmf.start import start_factors

K = 10


@pytest.fixture(scope="module")
def planted():
    """Counts of ten factors, one on average; the loadings (genes x factors)."""
    rng = np.random.default_rng(0)
    H, W = np.exp(rng.normal(0, 1, (800, K))), rng.gamma(0.3, 1.0, (250, K))
    W *= 1.0 / (H @ W.T).mean()
    return sp.csr_matrix(rng.poisson(H @ W.T).astype(np.float64)), W


def recovery(W, components):
    """Mean correlation of planted loadings with their matches."""
    correlation = np.corrcoef(W.T, components)[:K, K:]
    return correlation[linear_sum_assignment(-correlation)].mean()


def slow_bound(X, state):
    """Jensen's bound, every rate formed, in double precision."""
    mu, v, W = (t.double() for t in (state.mu, state.v, state.W))
    rate = torch.exp(mu) @ W.T
    value = (X * rate.clamp(min=1e-300).log()).sum() - (torch.exp(mu + v / 2) @ W.T).sum()
    value -= torch.lgamma(X + 1).sum()
    return float(value - 0.5 * (mu**2 + v - 1 - v.log()).sum())


def test_of_several_starts_the_one_of_the_highest_bound_is_taken(planted):
    X, truth = planted
    counts, scales = Counts(X), RateScales()
    W, mu = choose_start(counts, K, "several", 0, scales)
    assert W.shape == (250, K)
    assert mu.shape == (800, K)

    def bound_after(W, mu, sweeps):
        state = LatentState(
            mu.clone(), torch.full_like(mu, 0.105**2), W.clone(), torch.ones_like(W[0]), scales
        )
        for _ in range(sweeps):
            sweep(counts, state)
        return slow_bound(torch.from_numpy(X.toarray()), state)

    chosen = bound_after(W, mu, 5)
    for seed in range(3):
        W1, H1 = start_factors(counts, K, "random", seed)
        assert chosen > bound_after(W1, H1.log(), 15)
    settings = {"mode": "lower-bound", "max_iter": 100, "random_state": 0}
    several, one = PNMF(K, init="several", **settings).fit(X), PNMF(K, **settings).fit(X)
    assert recovery(truth, several.components_) >= 0.96
    assert several.elbo_ >= one.elbo_ - 1e-4 * abs(one.elbo_)


def test_what_is_left_is_what_sweeps_gain(planted):
    X, counts = planted[0], Counts(planted[0])
    W, H = start_factors(counts, K, "random", 0)
    mu = H.log()
    state = LatentState(mu, torch.full_like(mu, 0.01), W, torch.ones_like(W[0]), RateScales())
    kept = mu.clone(), W.clone()
    gain = gain_of_sweeps(counts, state)
    assert torch.equal(state.mu, kept[0])
    assert torch.equal(state.W, kept[1])
    dense = torch.from_numpy(X.toarray())
    before = slow_bound(dense, state)
    for _ in range(FURTHER_SWEEPS):
        sweep(counts, state)
    assert gain == pytest.approx((slow_bound(dense, state) - before) / abs(before), rel=1e-9)


def test_minibatches_that_stop_short_say_so(planted, caplog):
    X, truth = planted
    with caplog.at_level(logging.WARNING):
        short = PNMF(K, batch_size=100, max_iter=60, random_state=0).fit(X)
    assert recovery(truth, short.components_) < 0.6
    assert short.further_gain_ > 0.01
    assert short.outcome() == {"further_gain": short.further_gain_}
    assert "far from an optimum" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        whole = PNMF(K, mode="lower-bound", max_iter=100, random_state=0).fit(X)
    assert whole.further_gain_ is None
    assert not caplog.text
