"""Starts: the leading vectors, NNDSVD, and the scale of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import reference_models as dense
from nmfbench.linalg import SparseRows
from nmfbench.models import start
from nmfbench.rows.memory import InMemoryRows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def X():
    return dense.planted()[0]


def test_leading_vectors_are_those_of_the_svd(X):
    left, singular, right = start.leading_vectors(SparseRows(X), 6, np.random.default_rng(0))
    _, expected, vectors = np.linalg.svd(X.toarray(), full_matrices=False)
    np.testing.assert_allclose(singular, expected[:6], rtol=1e-3)
    strong = slice(0, 4)  # the planted ones; beyond them the singular values lie close together
    np.testing.assert_allclose(np.abs((right.T @ vectors[:6].T)[strong, strong]), np.eye(4), atol=1e-3)
    np.testing.assert_allclose((left * singular)[:, strong], (X @ right)[:, strong], atol=1e-3)


def test_nndsvd_takes_the_stronger_sign():
    left = np.array([[0.8, -0.6], [0.6, 0.8]])
    right = np.array([[0.6, -0.8], [0.8, 0.6], [0.0, 0.0]])
    W = start.nndsvd(left, np.array([2.0, 1.0]), right)
    np.testing.assert_allclose(W[:, 0], [0.6, 0.8, 0])
    # second: positive parts 0.8 * 0.6, negative parts 0.6 * 0.8, a tie goes to the positive
    np.testing.assert_allclose(W[:, 1], [0, 1, 0])


@pytest.mark.parametrize("kind", ["nndsvd", "random"])
def test_the_first_reconstruction_has_the_scale_of_the_data(kind, X):
    W = start.start_loadings(InMemoryRows(X), 4, kind, 0, unit_rows=False, device=CPU)
    Xd = torch.from_numpy(X.toarray())
    reconstruction = Xd @ W @ W.T

    def error(a):
        return float(((a * reconstruction - Xd) ** 2).sum())

    assert error(1.0) < min(error(0.99), error(1.01))


def test_a_large_matrix_is_sampled(X, monkeypatch):
    monkeypatch.setattr(start, "LARGEST_SAMPLE", 100)
    W = start.start_loadings(InMemoryRows(X), 4, "nndsvd", 0, unit_rows=False, device=CPU)
    again = start.start_loadings(InMemoryRows(X), 4, "nndsvd", 0, unit_rows=False, device=CPU)
    assert torch.equal(W, again)
    assert W.shape == (X.shape[1], 4)


def test_zeros_have_a_start():
    empty = InMemoryRows(SparseRows(dense.planted()[0] * 0.0).csr)
    for kind in start.STARTS:
        W = start.start_loadings(empty, 3, kind, 0, unit_rows=False, device=CPU)
        assert torch.isfinite(W).all()
