"""Minibatches on a card: dense blocks, residency and windows, gradients, fits, resumption.

The processor stands in for the card, with the plain step in place of the recorded one; the same tests run on
CUDA, recorded, where there is a device.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_models as dense
from card_fits import FITS, after, fitted, numbers, put
from nmfbench.errors import InputError
from nmfbench.models import AENMF, CAENMF1, CAENMF2, get_model
from nmfbench.models.autoencoder import card_layout, on_card
from nmfbench.models.autoencoder.card_labels import projectors
from nmfbench.models.autoencoder.card_layout import DonorTiles, tile_rows
from nmfbench.models.autoencoder.card_steps import CardSteps
from nmfbench.models.autoencoder.penalties import group_sums, one_hot_sums
from nmfbench.models.labels import FitData, encode_conditions, encode_strata
from nmfbench.rows import card as card_module
from nmfbench.rows.batches import Batch
from nmfbench.rows.card import ResidentRows, WindowedRows
from nmfbench.rows.card_memory import CardPlacement, dense_on_card, place_on_card
from nmfbench.rows.dense import DenseRows, products_in
from nmfbench.rows.memory import InMemoryRows

N, P, K = 60, 35, 5
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu", "cuda"}))
    return request.param


@pytest.fixture(params=["resident", "windows"])
def place(request, monkeypatch):
    """Where the cells lie, whatever the memory."""
    put(request.param, monkeypatch)
    return request.param


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(1)
    X = rng.gamma(0.6, 2.0, (N, P)) * (rng.random((N, P)) < 0.4)
    X[5] = X[-1] = 0  # cells without a nonzero, also at the end
    donor = np.array(["a", "b", "c"])[rng.integers(3, size=N)]
    donor[7] = "lone"
    kind = rng.integers(4, size=N).astype(str)
    kind[11] = "only one"
    sex = np.array(["f", "m"])[rng.integers(2, size=N)]
    return X, donor, kind, sex


def rows_on(device, X, windows=None):
    source, device = InMemoryRows(sp.csr_matrix(X)), torch.device(device)
    return ResidentRows(source, device) if windows is None else WindowedRows(source, device, windows)


# Rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [None, 500])
@pytest.mark.parametrize("size", [7, 60, 100])
def test_blocks_are_the_cells(cells, device, windows, size, monkeypatch):
    X, *_ = cells
    monkeypatch.setattr(card_module, "block_rows", lambda *sizes: size)
    found = np.full_like(X, np.nan)
    for start, block in rows_on(device, X, windows).blocks():
        found[start : start + block.shape[0]] = block.X.cpu().numpy()
    assert np.array_equal(found, X)


@pytest.mark.parametrize("windows", [None, 1, 900, 10**6])
@pytest.mark.parametrize("first", [0, 2])
def test_batches_are_their_cells_and_nothing_else(cells, device, windows, first):
    """Windows of one batch, of a few, of all; also from the middle of an epoch, and of a second epoch."""
    X, *_ = cells
    _, data, problem = problem_of(AENMF(K), X, device=device)
    steps = CardSteps(problem, rows_on_like(device, data, windows), 9, record=False)
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(N)
        batches = [Batch(rows) for rows in np.array_split(order, 8)]  # of 8 and 7 cells
        steps.begin(batches, [1.0] * 8, first, epoch)
        for i in range(first, 8):
            steps.reach(i)
            block, batch, _ = steps.present()
            rows = batches[i].rows
            assert np.array_equal(block.X[: len(rows)].cpu().numpy(), X[rows])
            assert not block.X[len(rows) :].any()
            assert batch.cells.tolist() == [*rows, *[N] * (9 - len(rows))]
            steps._at += 1


def test_dense_rows_have_the_products_of_sparse_ones():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.random((12, 7)))
    D, H = torch.from_numpy(rng.random((7, 3))), torch.from_numpy(rng.random((12, 3)))
    rows, out = DenseRows(X), torch.ones(7, 3, dtype=X.dtype)
    torch.testing.assert_close(rows.times(D), X @ D)
    torch.testing.assert_close(rows.transposed_times(H), X.T @ H)
    torch.testing.assert_close(rows.transposed_times(H, out, accumulate=True), 1 + X.T @ H)
    torch.testing.assert_close(rows.transposed_times(H, out), X.T @ H)
    for members in ([2, 3, 4], [1, 4, 5, 9], [3]):
        assert torch.equal(rows.subset(np.array(members)).X, X[members])


def test_sums_by_one_hots_are_those_by_index():
    rng = np.random.default_rng(0)
    H = torch.from_numpy(rng.random((30, 4)))
    codes = torch.from_numpy(np.stack([rng.integers(3, size=30), 3 + rng.integers(2, size=30)], axis=1))
    torch.testing.assert_close(one_hot_sums(H, codes, 5), group_sums(H, codes, 5))


# Batches of several donors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_donors", "batch_size"), [(1, 7), (3, 32), (16, 512), (40, 30), (300, 512), (4, 1)]
)
def test_every_cell_has_a_place_in_a_tile_of_its_donor(n_donors, batch_size):
    rng = np.random.default_rng(0)
    codes = np.concatenate(
        [np.arange(n_donors), rng.choice(n_donors, 2000, p=rng.dirichlet(np.ones(n_donors)))]
    )
    tiles = DonorTiles(codes, n_donors, batch_size)
    each = rng.permutation(n_donors)[:batch_size]  # as many donors as go into a batch: the most tiles
    filled = np.append(each, np.repeat(each[:1], batch_size - len(each)))
    alone = np.zeros(batch_size, np.int64)
    drawn = [rng.permutation(len(codes))[:size] for size in (batch_size, max(batch_size // 3, 1), 1)]
    for rows in (filled, alone, *drawn):
        batch = tiles.arranged(Batch(rows))
        places, donors = tiles.places(batch), tiles.donors(batch)
        assert sorted(batch.rows) == sorted(rows)
        assert len(np.unique(places)) == len(rows)
        assert places.max() < tiles.n_places == tiles.size * len(donors)
        assert np.array_equal(donors[places // tiles.size], codes[batch.rows])


def test_tiles_are_of_the_size_that_is_estimated_to_be_fastest():
    def cost(rows, n_donors, batch_size):
        return rows * n_donors + 40 * batch_size / rows

    assert tile_rows(16, 512) == 32
    for n_donors, batch_size in ((2, 512), (16, 512), (16, 4096), (100, 512)):
        size = tile_rows(n_donors, batch_size)
        others = [cost(other, n_donors, batch_size) for other in (8, 16, 32, 64, 128, 256)]
        assert cost(size, n_donors, batch_size) == min(others)
    assert (tile_rows(300, 512), tile_rows(1, 5), tile_rows(1, 1)) == (8, 8, 1)


# Labels of several columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_projectors_without_decomposition_are_those_of_the_pseudo_inverse(seed):
    """Also where labels fall into parts that share no value, and where a column follows from another."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 80))
    donor, tissue = rng.integers(12, size=n), rng.integers(5, size=n)
    tissue[donor < 4] %= 2
    tissue[donor >= 4] = 2 + tissue[donor >= 4] % 3
    columns = [donor, tissue, donor % 3, rng.integers(2, size=n)]
    main, others = (
        np.concatenate([np.eye(12)[c] for c in some], axis=1) for some in (columns[:1], columns[1:])
    )
    kind = rng.integers(3, size=n)
    found = np.zeros((n, n))
    same = torch.from_numpy((kind[:, None] == kind).astype(float))
    R = np.zeros_like(others)
    for t in np.unique(kind):
        rows = np.flatnonzero(kind == t)
        P_main = main[rows] @ np.linalg.pinv(main[rows])
        R[rows] = others[rows] - P_main @ others[rows]
        found[np.ix_(rows, rows)] = P_main
    found += projectors(torch.from_numpy(R), same).numpy()
    for t in np.unique(kind):
        rows = np.flatnonzero(kind == t)
        C = np.concatenate([main[rows], others[rows]], axis=1)
        assert found[np.ix_(rows, rows)] == pytest.approx(C @ np.linalg.pinv(C), abs=1e-10)


# Gradients -----------------------------------------------------------------------------------------------


def problem_of(model, X, conditions=None, strata=None, device="cpu"):
    X = sp.csr_matrix(X)
    n = X.shape[0]
    data = FitData(InMemoryRows(X), encode_conditions(conditions, n), encode_strata(strata, n))
    model.seed_ = 0
    rng = np.random.default_rng(2)
    problem = model._batch_objective(data, torch.from_numpy(rng.random((P, K)) * 0.2).to(device))
    for name, w in problem._weights.items():
        if name == "U":
            w.copy_(torch.from_numpy(rng.random(tuple(w.shape))))
    return model, data, problem


def rows_on_like(device, data, windows=None):
    return rows_on(device, data.source.csr, windows)


def found_gradients(problem, rows, batch, epoch, by_condition=False):
    steps = CardSteps(problem, rows, len(batch.rows) + 4, by_condition=by_condition, record=False)
    steps.begin([batch], [1.0], 0, epoch)
    steps.reach(0)
    X, on_device, _ = steps.present()
    found = {}
    for g in problem.gradients(X, on_device, epoch):
        w = problem._weights[g.name]
        part = int(g.part)
        whole = g.scale * g.tensor + g.decay * (w[part] if w.ndim == 3 else w)
        if w.ndim == 3:
            found.setdefault(g.name, {})[part] = whole.mT.cpu()
        else:
            found[g.name] = (whole if g.name == "U" else whole.mT).clone().cpu()
    return found


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


BATCHES = [np.arange(N), np.random.default_rng(3).permutation(N)[:23], np.array([7, 11, 30])]


@pytest.mark.parametrize("rows", BATCHES, ids=["all", "part", "three"])
def test_gradient_of_ae_nmf(cells, device, rows):
    X, *_ = cells
    _, data, problem = problem_of(AENMF(K, penalty_W=0.3), X, device=device)
    _, expected = dense.gradients(
        lambda W: dense.ae_nmf_loss(torch.from_numpy(X[rows]), W, penalty_W=0.3), W=problem.W.T.cpu()
    )
    agree(found_gradients(problem, rows_on_like(device, data), Batch(rows), 0)["W"], expected["W"])


@pytest.mark.parametrize("rows", BATCHES, ids=["all", "part", "three"])
@pytest.mark.parametrize(
    ("epoch", "centred", "columns"),
    [(0, False, 1), (4, False, 1), (4, True, 1), (4, True, 2), (4, False, 3), (0, False, 3)],
)
def test_gradients_of_cae_nmf1(cells, device, rows, epoch, centred, columns):
    """The second column crosses the first; the third is larger, and the first follows from it."""
    X, donor, kind, sex = cells
    sample = np.char.add(donor.astype(str), np.random.default_rng(5).integers(2, size=N).astype(str))
    model = CAENMF1(
        K, penalty_W=0.3, penalty_U=0.2, penalty_invariance=0.7, penalty_hsic=0.05, warmup_epochs=4,
        centred_invariance=centred, update_U="adam",
    )  # fmt: skip
    conditions = np.stack([donor, sex, sample][:columns], axis=1)
    _, data, problem = problem_of(model, X, conditions, kind, device=device)
    on = epoch >= 4
    C = dense.one_hot(data.conditions.codes[rows], data.conditions.size)
    _, expected = dense.gradients(
        lambda W, U: dense.cae_nmf1_loss(
            torch.from_numpy(X[rows]), W, U, C=C, types=kind[rows], penalty_W=0.3, penalty_U=0.2,
            gamma=0.7 * on, eta=0.05 * on, centred=centred,
        ),
        W=problem.W.T.cpu(),
        U=problem.U.cpu(),
    )  # fmt: skip
    found = found_gradients(problem, rows_on_like(device, data), Batch(rows), epoch)
    agree(found["W"], expected["W"])
    agree(found["U"], expected["U"])


MIXED = {"mixed": BATCHES[1], "mixed, all": BATCHES[0], "mixed, three": BATCHES[2]}
"""Batches of several donors; `three` has two donors, one of them with one cell, and lacks the others."""


@pytest.mark.parametrize("tile", [None, 1, 4], ids=["tiles", "tiles of one", "tiles of four"])
@pytest.mark.parametrize("case", [*MIXED, "mixed, of one donor", "one donor", "lone"])
def test_gradients_of_cae_nmf2(cells, device, case, tile, monkeypatch):
    X, donor, *_ = cells
    if tile is not None:
        monkeypatch.setattr(card_layout, "tile_rows", lambda *sizes: tile)
        monkeypatch.setattr(card_layout, "CHUNK", 8 * K * 500)  # less than all genes at once
    _, data, problem = problem_of(CAENMF2(K, penalty_W=0.3, penalty_U=0.2), X, donor, device=device)
    codes = data.conditions.codes[:, 0]
    of = None if case.startswith("mixed") else int(codes[7 if case == "lone" else 0])
    rows = MIXED.get(case, np.flatnonzero(codes == (codes[0] if of is None else of)))
    assert case != "lone" or len(rows) == 1
    assert case != "mixed, three" or np.bincount(codes[rows]).max() == 2
    batch = Batch(rows, 1.0, of, 1.0 if of is None else 0.4)
    _, expected = dense.gradients(
        lambda W, U: dense.cae_nmf2_loss(
            torch.from_numpy(X[rows]), W, U, donors=codes[rows], penalty_W=0.3, penalty_U=0.0
        ),
        W=problem.W.T.cpu(),
        U=problem.U.mT.cpu(),
    )
    found = found_gradients(problem, rows_on_like(device, data), batch, 0, by_condition=of is not None)
    agree(found["W"], expected["W"])
    assert set(found["U"]) == (set(range(4)) if of is None else {of})
    for c, gradient in found["U"].items():
        penalty = 2 * 0.2 / batch.condition_share * problem.U[c].mT.cpu()
        agree(gradient, expected["U"][c] + penalty)


# Fits ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_the_host():
    found = {}

    def fit(name, dtype):
        if (name, dtype) not in found:
            found[name, dtype] = fitted(name, "cpu", dtype)
        return found[name, dtype]

    return fit


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        *((name, np.float64, 1e-9) for name in FITS),
        ("ae_nmf", np.float32, 2e-4),
        ("cae_nmf2", np.float32, 2e-4),
    ],
)
def test_a_fit_on_a_card_goes_the_way_of_the_cpu(
    name, dtype, tolerance, on_the_host, device, place, monkeypatch
):
    with monkeypatch.context() as plain:
        plain.setattr(on_card, "CARDS", frozenset())
        cpu = on_the_host(name, dtype)
    card = fitted(name, device, dtype)
    assert cpu.minibatches_["rows"] == "host"
    assert (card.minibatches_["rows"], card.minibatches_["products"]) == (place, "dense")
    assert card.minibatches_["recorded"] == (device == "cuda")
    assert len(card.history_) == len(cpu.history_) == 6
    for ours, theirs in zip(numbers(card.history_), numbers(cpu.history_), strict=True):
        assert ours.keys() == theirs.keys()
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=tolerance, abs=1e-12)
    assert card.components_ == pytest.approx(cpu.components_, rel=tolerance, abs=10 * tolerance)


@pytest.mark.parametrize(
    "name",
    ["ae_nmf", "cae_nmf1, adam", "cae_nmf1, crossed", "cae_nmf2", "cae_nmf2, mixed", "cae_nmf2, published"],
)
def test_resumed_equals_unbroken_to_the_bit(name, device, place, tmp_path):
    """Stopped in the middle of an epoch, and between two."""
    whole = fitted(name, device, np.float32)
    for steps in (11, 3):
        broken = fitted(name, device, np.float32, checkpoint=tmp_path, should_stop=after(steps))
        assert broken.stop_reason_ == "interrupted"
    resumed = fitted(name, device, np.float32, checkpoint=tmp_path)
    assert numbers(resumed.history_) == numbers(whole.history_)
    assert np.array_equal(resumed.components_, whole.components_)


def test_two_fits_are_one_to_the_bit(device, place):
    first, second = (fitted("cae_nmf1", device, np.float32) for _ in range(2))
    assert numbers(first.history_) == numbers(second.history_)
    assert np.array_equal(first.components_, second.components_)


def test_a_state_of_the_host_goes_on_on_a_card(device, place, tmp_path, monkeypatch):
    """The same contents: what one writes the other reads."""
    with monkeypatch.context() as plain:
        plain.setattr(on_card, "CARDS", frozenset())
        whole = fitted("cae_nmf2", "cpu")
        fitted("cae_nmf2", "cpu", checkpoint=tmp_path, should_stop=after(20))
    resumed = fitted("cae_nmf2", device, checkpoint=tmp_path)
    ours, theirs = ([row["objective"] for row in model.history_] for model in (resumed, whole))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_precision_is_told_as_it_was(device):
    settings = {"solver": "minibatch", "max_iter": 2, "device": device, "random_state": 0}
    model = get_model("ae_nmf")(4, precision="tf32", **settings)
    X = sp.csr_matrix(dense.planted()[0], dtype=np.float32)
    model.fit(X, progress=False)
    able = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
    told = model.outcome()["minibatches"]["precision"]
    assert told == {"asked": "tf32", "used": "tf32" if able else "float32"}
    assert torch.get_float32_matmul_precision() == "highest", "the setting is the steps' alone"
    if not able:
        plain = get_model("ae_nmf")(4, **settings)
        assert np.array_equal(plain.fit(X, progress=False).components_, model.components_)


def test_the_steps_products_are_in_the_precision_asked_for():
    with products_in("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    with products_in("float32"):
        assert torch.get_float32_matmul_precision() == "highest"


def test_few_nonzeros_take_the_sparse_way(device):
    rng = np.random.default_rng(0)
    X = sp.random(300, 400, 0.002, "csr", dtype=np.float64, random_state=rng)
    model = get_model("ae_nmf")(3, solver="minibatch", max_iter=1, device=device, random_state=0)
    model.fit(X, progress=False)
    assert (model.minibatches_["products"], model.minibatches_["rows"]) == ("sparse", "host")
    assert not dense_on_card(250, 300, 400)
    assert dense_on_card(592_000 * 700, 592_000, 60_606), "cells of an older kit: 1.2 %"
    assert dense_on_card(592_000 * 1_740, 592_000, 60_000)


# Decisions from pretended sizes --------------------------------------------------------------------------

ATLAS = {"nnz": 592_317 * 1_900, "n_rows": 592_317, "n_columns": 60_606}


def pretend(free, weights=8 * 60_606 * 80 * 4, batch_rows=512, **sizes):
    sizes = ATLAS | sizes
    return place_on_card(
        sizes["nnz"],
        sizes["n_rows"],
        sizes["n_columns"],
        item=4,
        batch_rows=batch_rows,
        weights=weights,
        free=free,
    )


def test_rows_are_resident_where_they_fit():
    for size in (16, 24, 40, 80):
        assert pretend(size * 2**30).rows == "resident", f"{size} GiB: an atlas of 592,317 cells"
    small = pretend(8 * 2**30)
    assert small.rows == "windows"
    assert 2 * small.window + small.working_mb * 2**20 <= 0.9 * 8 * 2**30
    assert pretend(8 * 2**30, nnz=10**8).rows == "resident"
    donors = pretend(16 * 2**30, weights=300 * 8 * 60_606 * 80)
    assert donors.rows == "windows", "the loadings of 300 donors leave no room"


def test_the_room_of_batches_of_several_donors_is_counted(device, monkeypatch):
    """Empty places, the gradients of all donors' loadings, and those gathered for the tiles."""
    asked = {}

    def place(*sizes, **more):
        asked[name] = more["weights"]
        return CardPlacement("resident", 0, 0.0, 0.0, 0.0)

    monkeypatch.setattr(on_card, "place_on_card", place)
    for name in ("cae_nmf2", "cae_nmf2, mixed"):
        fitted(name, device, n_epochs=1)
    p, k, m = 90, 4, 4
    tiles = DonorTiles(np.zeros(1, int), m, 32)
    assert (tiles.size, tiles.n_places) == (16, 80)
    gathered = (m + 2 * 5) * p * k
    assert asked["cae_nmf2, mixed"] - asked["cae_nmf2"] == 8 * ((80 - 32) * p + m * p * k + gathered)
    # 300 donors of 60,606 genes: loadings are gathered a quarter of a GiB at a time
    atlas = DonorTiles(np.zeros(1, int), 300, 512).nbytes(60_606, 80, 4)
    assert 300 * 60_606 * 80 * 4 < atlas < 300 * 60_606 * 80 * 4 + 1.5 * 2**30


def test_a_card_without_room_for_a_batch_is_refused():
    with pytest.raises(InputError, match="lower batch_size"):
        pretend(2 * 2**30, batch_rows=100_000)
