"""Starts: the leading vectors, NNDSVD, and the scale of the data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
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


def test_parts_of_counts_are_those_of_a_dense_decomposition():
    """Value by value, by numpy's own decomposition of the counts over the square roots of their totals."""
    from nmfbench.models.start import SMALLEST_SHARE, parts_of_counts

    rng = np.random.default_rng(0)
    D = rng.poisson(rng.gamma(0.5, 1.0, (40, 3)) @ rng.gamma(0.5, 2.0, (3, 25))).astype(np.float64)
    D[:, 0] += 1
    D[0] += 1
    cells, genes = parts_of_counts(sp.csr_matrix(D), 2, np.random.default_rng(1))
    rows, columns = D.sum(1), D.sum(0)
    U, S, Vt = np.linalg.svd(D / np.sqrt(rows[:, None] * columns[None, :]), full_matrices=False)
    for k in range(2):
        best = None
        for sign in (1, -1):
            u, v = np.maximum(sign * U[:, k], 0), np.maximum(sign * Vt[k], 0)
            if best is None or np.linalg.norm(u) * np.linalg.norm(v) > best[0]:
                best = np.linalg.norm(u) * np.linalg.norm(v), u, v
        for found, part, totals, scale in ((cells, best[1], rows, S[k]), (genes, best[2], columns, 1.0)):
            twin = np.sqrt(totals) * part
            twin = np.maximum(twin / twin.mean(), SMALLEST_SHARE * (totals / totals.mean() + 1e-3)) * scale
            np.testing.assert_allclose(found[:, k], twin, rtol=1e-3)
    assert cells.min() > 0
    assert genes.min() > 0
