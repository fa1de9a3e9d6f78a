"""XᵀX on a card: sparse by dense in tiles, left where it was made; the processor stands in for the card."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_models as dense
from nmfbench.errors import InputError
from nmfbench.gram_cost import card_gram_bytes, gram_bytes
from nmfbench.models import get_model
from nmfbench.models.autoencoder import from_cells
from nmfbench.models.autoencoder.solver_choice import SolverChoice
from nmfbench.rows import memory as memory_module
from nmfbench.rows.memory import InMemoryRows
from nmfbench.statistics import card_gram
from nmfbench.statistics.card_gram import check_card, gram_on_card
from nmfbench.statistics.card_products import Sender, SparseByDense

DEVICES = [
    "cpu:0",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
device = pytest.fixture(params=DEVICES)(lambda request: torch.device(request.param))


def cells(n=70, p=90, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.gamma(0.6, 2.0, (n, p)) * (rng.random((n, p)) < 0.3)
    X[3] = X[-1] = 0  # cells and genes without a nonzero
    X[:, 5] = X[:, -1] = 0
    return sp.csr_matrix(X, dtype=dtype)


def blocks_of(X, size, codes=None):
    for start in range(0, X.shape[0], size):
        yield X[start : start + size], None if codes is None else codes[start : start + size]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("size", [70, 16, 1])
def test_the_gram_matrix_is_that_of_the_cells(device, monkeypatch, dtype, tolerance, size):
    monkeypatch.setattr(card_gram, "TILE_ROWS", 32)  # three tiles, the last one shorter
    X = cells(dtype=dtype)
    kind = torch.float64 if dtype == np.float64 else torch.float32
    (K,), squared_norm = gram_on_card(blocks_of(X, size), 90, device, dtype=kind)
    exact = X.astype(np.float64).toarray()
    expected = exact.T @ exact
    np.testing.assert_allclose(K.cpu().numpy(), expected, rtol=tolerance, atol=tolerance * expected.max())
    assert K.device.type == device.type
    assert torch.equal(K, K.T)
    assert squared_norm == pytest.approx(np.square(exact).sum(), rel=1e-12)


def test_each_group_has_its_own(device, monkeypatch):
    """Also one of a single cell, and blocks that have no cell of a group."""
    monkeypatch.setattr(card_gram, "TILE_ROWS", 64)
    X = cells()
    codes = np.repeat([0, 1, 2], [30, 39, 1])
    grams, _ = gram_on_card(blocks_of(X, 16, codes), 90, device, n_groups=3, dtype=torch.float64)
    for c, K in enumerate(grams):
        own = X[codes == c].toarray()
        np.testing.assert_allclose(K.cpu().numpy(), own.T @ own, rtol=1e-12, atol=1e-12)


def test_products_of_a_tile(device):
    X, tiles = cells(), [(0, 7), (40, 90)]
    sender = Sender(device)
    sent = sender.send(X)
    sender.arrive(sent)
    held, dense = SparseByDense(sent, tiles), X.toarray()
    for a, b in tiles:
        found = held.product((a, b)).cpu().numpy()
        np.testing.assert_allclose(found, dense[:, a:b].T @ dense[:, a:], rtol=1e-12, atol=1e-12)


def test_blocks_come_in_order_with_the_next_one_on_its_way(device):
    taken = []

    def blocks():
        for i in range(4):
            taken.append(i)
            yield sp.csr_matrix(np.full((1, 2), i + 1.0))

    for i, sent in enumerate(Sender(device).ahead(blocks())):
        assert float(sent.data[0]) == i + 1
        assert taken == list(range(min(i + 2, 4)))


@pytest.mark.parametrize("codes", [None, np.arange(70) % 3])
def test_the_operator_of_a_fit_is_left_on_the_card(device, codes, monkeypatch):
    monkeypatch.setattr(from_cells, "CARDS", frozenset({"cuda", "cpu"}))
    monkeypatch.setattr(memory_module, "BLOCK_ROWS", 32)
    source, rng = InMemoryRows(cells()), np.random.default_rng(1)
    there = from_cells.gram_operator(source, codes, None, str(device))
    monkeypatch.setattr(from_cells, "CARDS", frozenset())
    here = from_cells.gram_operator(source, codes, None, "cpu")
    assert all(isinstance(K, torch.Tensor) and K.device.type == device.type for K in there._K)
    W = rng.random((4, 90))
    for ours, theirs in zip(there.product(W), here.product(W), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert there.squared_norm == pytest.approx(here.squared_norm, rel=1e-12)
    assert there.n_groups == here.n_groups == (1 if codes is None else 3)


def test_a_card_without_room_is_refused_before_the_first_block():
    there = torch.device("cuda:0")
    check_card(60_606, 1, 4096, 4, 39.4 * 2**30, there)
    with pytest.raises(InputError, match="keep fewer genes"):
        check_card(60_606, 1, 4096, 4, 24 * 2**30, there)
    with pytest.raises(InputError, match="24 donors"):
        check_card(20_000, 24, 4096, 4, 39.4 * 2**30, there)


def test_what_a_card_needs():
    p = 60_606
    assert 8 * p**2 < card_gram_bytes(p) < 8.5 * p**2, "the upper half in float64, then the whole in float32"
    assert card_gram_bytes(p) < gram_bytes(p, method="dense") == 12 * p**2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["ae_nmf", "cae_nmf2"])
def test_a_fit_through_the_card_ends_where_one_on_the_cpu_does(name):
    X, _, donor, _ = dense.planted()
    found = {}
    for where in ("cpu", "cuda"):
        model = get_model(name)(4, solver="statistics", max_iter=20, random_state=0, device=where)
        model._solver_taken = None if where == "cuda" else SolverChoice("statistics", "gram", {}, "forced")
        found[where] = model.fit(sp.csr_matrix(X, dtype=np.float32), conditions=donor, progress=False)
    card, cpu = found["cuda"], found["cpu"]
    assert card.device_.startswith("cuda")
    assert card.objective_ == pytest.approx(cpu.objective_, rel=1e-3)
    told = card.solver_choice_.record()
    assert told["route"] == "gram"
    assert told["rates"]["source"].startswith("measured on")
    assert "free on the card" in told["memory"]["granted_by"]
