"""The shuffled store: the same cells, read a few shards at a time; training from it is training in memory."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pytest

from nmfbench.data import filter_donors, load_normalised, read_filtered, simulate_atlas
from nmfbench.errors import InputError
from nmfbench.fitting import checkpoint as checkpoint_module
from nmfbench.models import get_model
from nmfbench.models.autoencoder import on_card
from nmfbench.rows import memory as rows_module
from nmfbench.rows.batches import WindowSampler
from nmfbench.rows.card_memory import CardPlacement
from nmfbench.rows.disk import FilteredRows, prefetched
from nmfbench.rows.memory import InMemoryRows, RowSource
from nmfbench.rows.shuffle import shuffle_cells
from nmfbench.rows.shuffled import SHUFFLE_KEY, ShuffledRows

SHARD = 48
NORMALISATION = {"target_sum": 1e4, "log1p": True}
ATLAS = {
    "n_cells": 700,
    "n_genes": 60,
    "n_donors": 3,
    "n_small_donors": 0,
    "min_cells": 50,
    "n_cell_types": 4,
}
NOT_COMPARED = {"seconds", "cells_per_s", "peak_mb"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    simulate_atlas(folder / "source.h5ad", mean_counts=60.0, **ATLAS)
    filter_donors(
        folder / "source.h5ad", folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=50
    )
    for name, by_type in (("typed", True), ("plain", False)):
        shuffle_cells(folder / "filtered.h5ad", folder / f"{name}.h5ad", by_type=by_type, shard_rows=SHARD)
    return folder


@pytest.fixture(scope="module")
def counts(folder):
    return read_filtered(folder / "filtered.h5ad")


@pytest.fixture(scope="module")
def X(folder):
    return load_normalised(folder / "filtered.h5ad", **NORMALISATION)


@pytest.fixture
def store(folder, counts):
    with ShuffledRows(folder / "typed.h5ad", counts, NORMALISATION) as store:
        yield store


def equal(one, other):
    assert one.shape == other.shape
    assert (one != other).nnz == 0


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_filtered_rows_are_the_normalised_counts(counts, X, size):
    source = FilteredRows(counts, NORMALISATION)
    assert isinstance(source, RowSource)
    assert (source.n_rows, source.n_columns, source.nnz) == (*X.shape, X.nnz)
    for start, block in source.blocks(size):
        equal(block, X[start : start + size])
    for wanted in ([3], [400, 2, 2, 699], np.arange(700)):
        equal(source.rows(np.array(wanted)), X[wanted])


@pytest.mark.parametrize("name", ["typed", "plain"])
def test_a_store_holds_every_cell_once(folder, counts, X, name):
    with ShuffledRows(folder / f"{name}.h5ad", counts, NORMALISATION) as store:
        assert sorted(store.order) == list(range(700))
        assert not np.array_equal(store.order, np.arange(700))
        starts, blocks = zip(*store.blocks(), strict=True)
        assert list(starts) == list(range(0, 700, SHARD))
        for start, block in zip(starts, blocks, strict=True):
            equal(block, X[store.order[start : start + SHARD]])
        equal(store.rows(np.array([5, 600, 5])), X[store.order[[5, 600, 5]]])
    assert not list(folder.glob("*.scratch"))


def test_a_store_is_an_anndata_file(folder, counts):
    adata = anndata.read_h5ad(folder / "typed.h5ad")
    assert list(adata.obs_names) == [str(cell) for cell in adata.obs["cell"]]
    assert list(adata.var_names) == list(counts.var.index)
    equal(adata.X, anndata.read_h5ad(counts.path).X[adata.obs["cell"]])


def test_types_are_spread_evenly_only_where_asked(folder, counts):
    types = counts.label("cell_type").codes
    shares = np.bincount(types) / len(types)

    def largest_deviation(name):
        with ShuffledRows(folder / f"{name}.h5ad", counts, NORMALISATION) as store:
            shards = [types[store.order[store.shard_of(s)]] for s in range(store.n_shards)]
        return max(abs(np.bincount(s, minlength=len(shares)) - shares * len(s)).max() for s in shards)

    assert largest_deviation("typed") <= 1
    assert largest_deviation("plain") > 2


def test_the_same_seed_gives_the_same_order(folder, counts, tmp_path):
    for name, seed in (("again", 0), ("other", 1)):
        shuffle_cells(counts.path, tmp_path / f"{name}.h5ad", by_type=True, seed=seed, shard_rows=SHARD)
    orders = [
        ShuffledRows(path, counts, NORMALISATION).order
        for path in (folder / "typed.h5ad", tmp_path / "again.h5ad", tmp_path / "other.h5ad")
    ]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


ORDERS = ["proportional", "round_robin", "random", "by_condition"]


def sampler_of(store, order, counts, batch_size=20):
    types, donors = (counts.label(name).codes[store.order] for name in ("cell_type", "donor_id"))
    return WindowSampler(order, store, batch_size, 3, types, donors, shards_in_window=4), types, donors


@pytest.mark.parametrize("order", ORDERS)
def test_an_epoch_has_every_cell_once_in_windows(store, counts, order):
    sampler, types, donors = sampler_of(store, order, counts)
    batches = list(sampler.epoch(0))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(700))
    assert max(len(batch.rows) for batch in batches) <= 20
    again = list(sampler.epoch(0))
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(batches, again, strict=True))
    other = list(sampler.epoch(1))
    assert not np.array_equal(batches[0].rows, other[0].rows)
    if order == "proportional":
        whole = np.bincount(types) / 700
        for batch in batches:
            assert abs(np.bincount(types[batch.rows], minlength=4) - whole * len(batch.rows)).max() < 2.5
    if order == "by_condition":
        assert all(np.unique(donors[batch.rows]).tolist() == [batch.condition] for batch in batches)
        # the mean over the epoch's batches is the mean over the cells
        mean = np.mean([batch.weight * donors[batch.rows].mean() for batch in batches])
        assert mean == pytest.approx(donors.mean())
        shares = {batch.condition: batch.condition_share for batch in batches}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares[0] == np.mean([batch.condition == 0 for batch in batches])


@pytest.mark.parametrize("order", ORDERS)
def test_batches_have_the_cells_they_name(store, counts, X, order):
    sampler, _, _ = sampler_of(store, order, counts)
    for batch in sampler.epoch(2):
        equal(store.rows(batch.rows), X[store.order[batch.rows]])


def test_an_epoch_entered_in_the_middle_reads_the_right_window(store, counts, X):
    batches = sampler_of(store, "proportional", counts)[0].epoch(0)
    for i in (len(batches) - 1, 3, 20):
        rows = batches[i].rows
        equal(store.rows(rows), X[store.order[rows]])


class InTheStoresOrder(InMemoryRows):
    """The matrix of a store, in memory, with its plan of batches."""

    def __init__(self, store, X):
        super().__init__(X[store.order], store.fingerprint())
        self.order, self.n_shards, self.shard_of = store.order, store.n_shards, store.shard_of

    def follow(self, plan):
        pass

    def blocks(self, size=0):
        return super().blocks(SHARD)


MODELS = {
    "ae_nmf": {"batches": "proportional"},
    "cae_nmf1": {"update_U": "adam", "warmup_epochs": 1},
    "cae_nmf2": {"batches": "by_condition"},
}


def make(name, **more):
    settings = {"solver": "minibatch", "max_iter": 4, "batch_size": 30, "random_state": 2}
    return get_model(name)(4, **settings | MODELS[name] | more)


def fit(model, source, counts, **more):
    labels = {"conditions": counts.label("donor_id"), "strata": counts.label("cell_type")}
    return model.fit_rows(source, **labels, progress=False, **more)


def same(one, other):
    assert np.array_equal(one.components_, other.components_)
    rows = [
        [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in m.history_] for m in (one, other)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", MODELS)
def test_out_of_core_takes_the_steps_of_in_memory_to_the_last_bit(store, counts, X, name, monkeypatch):
    out_of_core = fit(make(name), store, counts)
    memory = InTheStoresOrder(store, X)
    monkeypatch.setattr("nmfbench.models.autoencoder.with_batches.ShuffledRows", InTheStoresOrder)
    same(fit(make(name), memory, counts), out_of_core)
    assert out_of_core.history_[-1]["objective"] < out_of_core.history_[0]["objective"]


@pytest.mark.parametrize("where", ["resident", "windows"])
@pytest.mark.parametrize(
    ("name", "more"), [*((name, {}) for name in MODELS), ("cae_nmf2", {"batches": "proportional"})]
)
def test_a_card_takes_the_steps_of_the_store(store, counts, name, more, where, monkeypatch):
    """The processor stands in for it; windows are of other batches than those that the store is read by."""
    passes, plain = [], FilteredRows.rows
    monkeypatch.setattr(FilteredRows, "rows", lambda self, rows: (passes.append(1), plain(self, rows))[1])
    on_the_host = fit(make(name, **more), store, counts)
    started = len(passes)
    placement = CardPlacement(where, 100_000, 0.0, 0.0, 0.0)
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu"}))
    monkeypatch.setattr(on_card, "place_on_card", lambda *sizes, **more: placement)
    card = fit(make(name, **more), store, counts)
    assert (card.minibatches_["rows"], card.minibatches_["products"]) == (where, "dense")
    assert len(passes) == 2 * started, "none over the whole file for a batch"
    ours, theirs = ([row["objective"] for row in model.history_] for model in (card, on_the_host))
    assert ours == pytest.approx(theirs, rel=2e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("after", [1, 13, 40])
def test_resumed_equals_unbroken(folder, store, counts, name, after, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "LARGEST_SHARE", float("inf"))
    unbroken = fit(make(name), store, counts)
    asked = iter(range(1000))
    stopped = fit(
        make(name), store, counts, checkpoint=tmp_path, should_stop=lambda: next(asked) + 1 >= after
    )
    assert stopped.stop_reason_ == "interrupted"
    with ShuffledRows(folder / "typed.h5ad", counts, NORMALISATION) as reopened:
        same(fit(make(name), reopened, counts, checkpoint=tmp_path), unbroken)


def test_a_checkpoint_of_another_order_is_refused(folder, store, counts, tmp_path):
    fit(make("ae_nmf", max_iter=1), store, counts, checkpoint=tmp_path)
    with (
        ShuffledRows(folder / "plain.h5ad", counts, NORMALISATION) as plain,
        pytest.raises(InputError, match="other data"),
    ):
        fit(make("ae_nmf"), plain, counts, checkpoint=tmp_path)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 48, 4096])
def test_streamed_embeddings_are_those_in_memory(counts, X, name, size):
    labels = {"conditions": counts.label("donor_id"), "strata": counts.label("cell_type"), "progress": False}
    model = make(name, max_iter=1).fit(X, **labels)
    whole = model.embeddings()
    for start, parts in model.embedding_blocks(FilteredRows(counts, NORMALISATION), size=size):
        assert parts.keys() == whole.keys()
        for key, values in parts.items():
            assert np.array_equal(values, whole[key][start : start + size])


def test_statistics_from_disk_are_those_in_memory(counts, X):
    from_disk = make("ae_nmf", solver="statistics", max_iter=20)
    fit(from_disk, FilteredRows(counts, NORMALISATION), counts)
    assert from_disk.solver_choice_.route == "gram"
    in_memory = make("ae_nmf", solver="statistics", max_iter=20).fit(X, progress=False)
    assert from_disk.objective_ == pytest.approx(in_memory.objective_, rel=1e-5)


def test_minibatches_without_a_store_are_refused_before_any_work(counts):
    with pytest.raises(InputError, match="shuffled store"):
        fit(make("ae_nmf"), FilteredRows(counts, NORMALISATION), counts)
    model = make("ae_nmf", solver="auto")
    fit(model, FilteredRows(counts, NORMALISATION), counts)
    assert model.solver_choice_.route == "gram"


def copied(path, tmp_path):
    (tmp_path / "copy.h5ad").write_bytes(path.read_bytes())
    return tmp_path / "copy.h5ad"


def test_a_damaged_store_is_refused(folder, counts, tmp_path):
    path = copied(folder / "typed.h5ad", tmp_path)
    with h5py.File(path, "r+") as file:
        file["X/data"][-1] += 1
    with ShuffledRows(path, counts, NORMALISATION) as store:
        next(store.blocks())
        with pytest.raises(InputError, match=r"(?s)shard 14, cells from 672.*checksum"):
            list(store.blocks())
        with pytest.raises(InputError, match="checksum"):
            fit(make("ae_nmf"), store, counts)
    with h5py.File(path, "r+") as file:
        file["obs/cell"][:2] = file["obs/cell"][:2][::-1]
    with pytest.raises(InputError, match="order of the cells"):
        ShuffledRows(path, counts, NORMALISATION)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="truncated"):
        ShuffledRows(path, counts, NORMALISATION)


def test_a_store_of_other_data_is_refused(folder, counts, tmp_path):
    path = copied(folder / "typed.h5ad", tmp_path)
    with h5py.File(path, "r+") as file:
        file[f"uns/{SHUFFLE_KEY}/fingerprint"][()] = "f" * 64
    with pytest.raises(InputError, match=r"a store of other data(.|\n)*delete the file"):
        ShuffledRows(path, counts, NORMALISATION)
    with pytest.raises(InputError, match="shuffle_cells"):
        ShuffledRows(counts.path, counts, NORMALISATION)


def test_a_store_that_cannot_be_finished_leaves_nothing(counts, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nmfbench.rows.shuffle._gather", full)
    with pytest.raises(InputError, match="no space left"):
        shuffle_cells(counts.path, tmp_path / "store.h5ad", by_type=True)
    assert not list(tmp_path.iterdir())


def test_no_more_than_two_windows_are_held(store, counts, monkeypatch):
    """Training never holds more than the window in use, the one read ahead and the shard being added."""
    held, most = {}, [0]
    join = ShuffledRows._join

    def watched(self, number):
        import weakref

        csr = join(self, number)
        held[number] = weakref.ref(csr)
        most[0] = max(most[0], sum(ref() is not None for ref in held.values()))
        return csr

    monkeypatch.setattr(ShuffledRows, "_join", watched)
    fit(make("ae_nmf", max_iter=2), store, counts)
    assert 1 <= most[0] <= 2  # how far ahead the reading thread gets is up to the machine


def test_items_are_made_one_ahead_and_errors_come_through():
    made = []

    def items():
        for i in range(5):
            made.append(i)
            yield i
        raise InputError("the sixth", "one", "none", "none")

    stream = prefetched(items())
    assert next(stream) == 0
    assert next(stream) == 1
    stream.close()
    assert len(made) <= 3
    with pytest.raises(InputError, match="sixth"):
        list(prefetched(items()))


def test_the_start_of_a_large_store_is_a_sample(store, monkeypatch):
    monkeypatch.setattr("nmfbench.models.start.LARGEST_SAMPLE", 100)
    assert rows_module.BLOCK_ROWS > SHARD
    import torch

    from nmfbench.models.start import start_loadings

    W = start_loadings(store, 3, "nndsvd", 0, unit_rows=False, device=torch.device("cpu"))
    assert W.shape == (60, 3)
