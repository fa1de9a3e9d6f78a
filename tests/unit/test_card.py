"""Minibatches on a card: dense blocks, residency and windows, gradients, fits, resumption.

The processor stands in for the card, with the plain step in place of the recorded one; the same tests run on
CUDA, recorded, where there is a device.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_models as dense
from nmfbench.errors import InputError
from nmfbench.models import AENMF, CAENMF1, CAENMF2, get_model
from nmfbench.models.autoencoder import on_card
from nmfbench.models.autoencoder.card_steps import CardSteps, products_in
from nmfbench.models.autoencoder.penalties import group_sums, one_hot_sums
from nmfbench.models.labels import FitData, encode_conditions, encode_strata
from nmfbench.rows import card as card_module
from nmfbench.rows.batches import Batch
from nmfbench.rows.card import ResidentRows, WindowedRows
from nmfbench.rows.card_memory import CardPlacement, dense_on_card, place_on_card
from nmfbench.rows.dense import DenseRows
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
NOT_COMPARED = {"seconds", "cells_per_s", "peak_mb"}


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu", "cuda"}))
    return request.param


@pytest.fixture(params=["resident", "windows"])
def place(request, monkeypatch):
    """Where the cells lie, whatever the memory."""
    placement = CardPlacement(request.param, 2000, 0.0, 0.0, 0.0)
    monkeypatch.setattr(on_card, "place_on_card", lambda *sizes, **more: placement)
    monkeypatch.setattr(card_module, "LONGEST_WINDOW", 3)
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
    ("epoch", "centred", "columns"), [(0, False, 1), (4, False, 1), (4, True, 1), (4, True, 2)]
)
def test_gradients_of_cae_nmf1(cells, device, rows, epoch, centred, columns):
    X, donor, kind, sex = cells
    model = CAENMF1(
        K, penalty_W=0.3, penalty_U=0.2, penalty_invariance=0.7, penalty_hsic=0.05, warmup_epochs=4,
        centred_invariance=centred, update_U="adam",
    )  # fmt: skip
    conditions = donor if columns == 1 else np.stack([donor, sex], axis=1)
    _, data, problem = problem_of(model, X, conditions, kind, device=device)
    assert problem.has_fixed_steps(False) == (columns == 1)
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


@pytest.mark.parametrize("case", ["mixed", "one donor", "lone"])
def test_gradients_of_cae_nmf2(cells, device, case):
    X, donor, *_ = cells
    _, data, problem = problem_of(CAENMF2(K, penalty_W=0.3, penalty_U=0.2), X, donor, device=device)
    codes = data.conditions.codes[:, 0]
    of = None if case == "mixed" else int(codes[7 if case == "lone" else 0])
    rows = BATCHES[1] if of is None else np.flatnonzero(codes == of)
    assert case != "lone" or len(rows) == 1
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

FITS = {
    "ae_nmf": {},
    "ae_nmf, unit rows": {"row_norm": True, "init": "uniform"},
    "cae_nmf1": {"warmup_epochs": 2, "penalty_invariance": 0.1, "penalty_hsic": 0.05},
    "cae_nmf1, adam": {"update_U": "adam", "penalty_invariance": 0.1, "warmup_epochs": 2, "row_norm": True},
    "cae_nmf2": {},
    "cae_nmf2, mixed": {"batches": "round_robin"},
}


def fitted(name, device, dtype=np.float64, n_epochs=5, **around):
    X, _, donor, kind = dense.planted()
    donor[13] = "lone"
    settings = {"max_iter": n_epochs, "batch_size": 32, "solver": "minibatch", "random_state": 0}
    model = get_model(name.split(",")[0])(4, device=device, **settings, **FITS[name])
    labels = {"strata": kind} | ({} if name.startswith("ae") else {"conditions": donor})
    return model.fit(sp.csr_matrix(X, dtype=dtype), **labels, progress=False, **around)


def numbers(history):
    return [{key: value for key, value in row.items() if key not in NOT_COMPARED} for row in history]


def after(steps):
    """Says that it is time to stop when it has been asked so often."""
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


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
    assert card.minibatches_["recorded"] == (device == "cuda" and "mixed" not in name)
    assert len(card.history_) == len(cpu.history_) == 6
    for ours, theirs in zip(numbers(card.history_), numbers(cpu.history_), strict=True):
        assert ours.keys() == theirs.keys()
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=tolerance, abs=1e-12)
    assert card.components_ == pytest.approx(cpu.components_, rel=tolerance, abs=10 * tolerance)


@pytest.mark.parametrize("name", ["ae_nmf", "cae_nmf1, adam", "cae_nmf2", "cae_nmf2, mixed"])
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
    X = sp.random(300, 400, 0.01, "csr", dtype=np.float64, random_state=rng)
    model = get_model("ae_nmf")(3, solver="minibatch", max_iter=1, device=device, random_state=0)
    model.fit(X, progress=False)
    assert (model.minibatches_["products"], model.minibatches_["rows"]) == ("sparse", "host")
    assert not dense_on_card(1_000, 300, 400)
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


def test_a_card_without_room_for_a_batch_is_refused():
    with pytest.raises(InputError, match="lower batch_size"):
        pretend(2 * 2**30, batch_rows=100_000)


# The recorded step, with a recording that the processor can make ------------------------------------------


class Recording:
    """Stands in for a CUDA graph: what is recorded does not happen, and a replay is of the same memory."""

    made: ClassVar[list] = []

    def __init__(self):
        self.steps = None
        self.made.append(self)

    def begin(self, steps):
        self.steps, self.held = steps, (dict(steps._tables), steps._densifier, steps.rows.nonzeros)
        self.epoch_phase = steps.objective.phase(steps._epoch)
        self.before = [t.clone() for t in (*steps.objective.changing(), steps._at)]

    def end(self):
        for tensor, before in zip(
            (*self.steps.objective.changing(), self.steps._at), self.before, strict=True
        ):
            tensor.copy_(before)

    def replay(self):
        tables, densifier, nonzeros = self.held
        assert all(self.steps._tables[name] is table for name, table in tables.items()), "other tables"
        assert len(tables) == len(self.steps._tables)
        assert (self.steps._densifier, self.steps.rows.nonzeros) == (densifier, nonzeros), "another buffer"
        assert self.steps.objective.phase(self.steps._epoch) == self.epoch_phase, "other terms"
        self.steps._step()


@pytest.fixture
def recording(monkeypatch):
    """CUDA's calls of a recording, made on the processor."""
    present = []

    @contextmanager
    def graph(recorded, capture_error_mode):
        recorded.begin(present[-1])
        yield
        recorded.end()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda of: nullcontext())
    plain = CardSteps.__init__

    def recorded(self, objective, *given, by_condition=False, **more):
        able = objective.has_fixed_steps(by_condition)
        plain(self, objective, *given, by_condition=by_condition, **more | {"record": able})
        present.append(self)

    Recording.made.clear()
    return lambda: monkeypatch.setattr(CardSteps, "__init__", recorded)


@pytest.mark.parametrize(("name", "most"), [("ae_nmf, unit rows", 2), ("cae_nmf1, adam", 4), ("cae_nmf2", 2)])
def test_a_recorded_step_is_the_step_and_is_recorded_anew_where_it_must(
    name, most, place, recording, monkeypatch
):
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu"}))
    plain = fitted(name, "cpu")
    recording()
    found = fitted(name, "cpu")
    assert found.minibatches_["recorded"]
    assert numbers(found.history_) == numbers(plain.history_)
    assert np.array_equal(found.components_, plain.components_)
    assert 1 <= len(Recording.made) <= most, "once, and again for other terms or larger batches"
    assert len(Recording.made) >= 1 + ("cae_nmf1" in name), "the warm-up ends"


def test_steps_that_are_not_of_one_shape_are_not_recorded(recording, monkeypatch):
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu"}))
    recording()
    assert not fitted("cae_nmf2, mixed", "cpu", n_epochs=1).minibatches_["recorded"]
    assert not Recording.made


def test_a_step_that_cannot_be_recorded_is_taken_all_the_same(recording, monkeypatch, caplog):
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu"}))
    plain = fitted("cae_nmf1, adam", "cpu")
    recording()

    def refuse(recorded, capture_error_mode):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    found = fitted("cae_nmf1, adam", "cpu")
    assert "could not be recorded (operation not permitted)" in caplog.text
    assert not found.minibatches_["recorded"]
    assert numbers(found.history_) == numbers(plain.history_)
    assert np.array_equal(found.components_, plain.components_)
