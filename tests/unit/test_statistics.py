"""Statistics against the dense computation, the laws of merging, and damaged files."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

import reference_solvers as reference
from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact import sums_of_blocks
from nmfbench.statistics import (
    Layout,
    check_memory,
    choose_method,
    gather_shard,
    gather_to_disk,
    gram_bytes,
    load,
    merge,
    merge_files,
    save,
)
from nmfbench.statistics.grams import TILE_ROWS, check_gpu_memory, gpu_bytes
from nmfbench.statistics.tiles import check_disk, tile_height

N, P = 90, 31


def cells():
    """X in float32 with an all-zero gene and an all-zero cell, (donor, batch) codes and cell types."""
    rng = np.random.default_rng(5)
    X = reference.counts(N, P, seed=6).astype(np.float32).tolil()
    X[:, 4] = 0
    X[7] = 0
    codes = np.column_stack([rng.integers(3, size=N), rng.integers(2, size=N)])
    return sp.csr_matrix(X), codes, rng.integers(4, size=N)


def layout(**changes) -> Layout:
    values = {
        "fingerprint": "abc",
        "genes": tuple(f"gene {i}" for i in range(P)),
        "n_cells": N,
        "n_shards": 4,
        "normalisation": {"target_sum": 1e4, "log1p": True},
        "conditions": {"donor_id": ("a", "b", "ç/,"), "batch": ("x", "y")},
        "types": ("T", "B", "NK", "Mono"),
        "dtype": "float64",
    }
    return Layout(**(values | changes))


def rows_of(plan: Layout, shard: int) -> np.ndarray:
    return np.concatenate([np.zeros(0, int), *(np.arange(a, b) for a, b in plan.spans(shard))])


def blocks(plan: Layout, shard: int, size: int = 10):
    X, codes, types = cells()
    of_shard = rows_of(plan, shard)
    for low in range(0, len(of_shard), size):
        rows = of_shard[low : low + size]
        yield X[rows], codes[rows], types[rows]


def gather(plan: Layout, shard: int = 0, **options):
    return gather_shard(blocks(plan, shard), plan, shard, **options)


def gathered(plan: Layout):
    return merge(gather(plan, shard) for shard in range(plan.n_shards))


@pytest.mark.parametrize("method", ["sparse", "dense"])
@pytest.mark.parametrize("n_shards", [1, 4])
def test_equal_to_dense(method, n_shards):
    X, codes, types = cells()
    found = gathered(layout(method=method, n_shards=n_shards, donor_grams=True))
    dense = X.toarray().astype(float)
    tight = {"rtol": 1e-12, "atol": 1e-12} if method == "sparse" else {"rtol": 1e-6, "atol": 1e-5}
    np.testing.assert_allclose(found.gram, dense.T @ dense, **tight)
    for c in range(3):
        rows = dense[codes[:, 0] == c]
        np.testing.assert_allclose(found.donor_grams[c], rows.T @ rows, **tight)
    assert found.squared_norm == pytest.approx((dense**2).sum(), rel=1e-12)
    np.testing.assert_allclose(found.gene_sums, dense.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.gene_squares, (dense**2).sum(axis=0), rtol=1e-12)
    expected = sums_of_blocks(X, codes, types)
    np.testing.assert_allclose(found.group_sums, expected.sums, rtol=1e-12)
    np.testing.assert_array_equal(found.group_counts, expected.counts)
    np.testing.assert_array_equal(found.type_sizes, np.bincount(types))
    assert found.complete
    assert found.n_cells == N
    assert found.gram.dtype == np.float64


def test_single_precision_result_and_symmetry():
    found = gathered(layout(dtype="float32"))
    assert found.gram.dtype == np.float32
    np.testing.assert_array_equal(found.gram, found.gram.T)
    np.testing.assert_allclose(found.gram, gathered(layout()).gram, rtol=1e-6)


def test_dense_on_torch_equals_numpy():
    plan = layout(method="dense", n_shards=1, donor_grams=True)
    # "cpu:0" is torch's name for the processor: the way a GPU goes, without one
    here, there = gather(plan), gather(plan, device="cpu:0")
    np.testing.assert_allclose(there.gram, here.gram, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there.donor_grams, here.donor_grams, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="dense"):
        gather(layout(n_shards=1), device="cpu:0")


def test_without_conditions_or_types():
    X, *_ = cells()
    plan = layout(conditions={}, types=("",), n_shards=1)
    found = gather_shard([(X, np.zeros((N, 0)), None)], plan)
    assert found.group_sums.shape == (1, 0, P)
    assert found.type_sizes.tolist() == [N]


def test_block_size_does_not_change_the_checksum():
    plan = layout(n_shards=1)
    parts = [gather_shard(blocks(plan, 0, size), plan) for size in (7, 90)]
    assert parts[0].digests == parts[1].digests
    other = layout(n_shards=1, conditions={"donor_id": ("a", "b", "c"), "batch": ("x", "y", "z")})
    assert gather_shard(blocks(plan, 0), other).digests == parts[0].digests
    X, codes, types = cells()
    X.data[3] += 1e-3
    assert gather_shard([(X, codes, types)], plan).digests != parts[0].digests


def test_order_of_shards_does_not_matter():
    plan = layout(dtype="float32")
    shards = [gather(plan, shard) for shard in range(4)]
    forward, backward = merge(shards), merge(shards[::-1])
    np.testing.assert_array_equal(forward.gram, backward.gram)
    np.testing.assert_array_equal(forward.group_sums, backward.group_sums)
    assert forward.digests == backward.digests
    assert shards[0].shards == (0,), "merging leaves its input as it was"
    np.testing.assert_array_equal(shards[0].gram, gather(plan, 0).gram)


def test_same_bits_from_one_and_two_processes():
    plan = layout(dtype="float32", donor_grams=True)
    here = gathered(plan)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        there = merge(pool.starmap(gather, [(plan, shard) for shard in range(plan.n_shards)]))
    for name in ("gram", "donor_grams", "group_sums", "gene_sums", "gene_squares"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert here.squared_norm == there.squared_norm
    assert here.digests == there.digests


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"fingerprint": "other"}, "fingerprint"),
        ({"genes": tuple(f"other {i}" for i in range(P))}, "genes"),
        ({"normalisation": {"target_sum": 1e3, "log1p": True}}, "normalisation"),
        ({"dtype": "float32"}, "dtype"),
        ({"n_shards": 5}, "n_shards"),
        ({"piece_rows": 5}, "piece_rows"),
        ({"conditions": {"batch": ("x", "y"), "donor_id": ("a", "b", "ç/,")}}, "conditions"),
    ],
)
def test_merge_refuses_mismatched_shards(change, word):
    shards = [gather(layout(), shard) for shard in range(4)]
    shards[2] = replace(shards[2], layout=replace(shards[2].layout, **change))
    with pytest.raises(InputError, match=word):
        merge(shards)


def test_merge_refuses_missing_and_doubled_shards():
    shards = [gather(layout(), shard) for shard in range(4)]
    with pytest.raises(InputError, match=r"missing: \[2\]"):
        merge([shards[0], shards[1], shards[3]])
    with pytest.raises(InputError, match="twice"):
        merge([*shards, shards[1]])
    with pytest.raises(InputError, match="at least one"):
        merge([])
    with pytest.raises(InputError, match="cells"):
        merge([replace(shards[0], n_cells=3), *shards[1:]])


def test_changed_number_of_cells_is_refused():
    with pytest.raises(InputError, match="22 cells"):
        gather_shard(blocks(layout(), 1), layout(), 0)


@pytest.mark.parametrize("wrong", ["genes", "codes", "types", "nan", "columns"])
def test_bad_blocks_are_refused(wrong):
    X, codes, types = cells()
    if wrong == "genes":
        X = X[:, :-1]
    elif wrong == "codes":
        codes[3, 0] = 3
    elif wrong == "types":
        types[0] = -1
    elif wrong == "nan":
        X.data[0] = np.nan
    else:
        codes = codes[:, :1]
    with pytest.raises(InputError):
        gather_shard([(X, codes, types)], layout(n_shards=1))


def test_save_and_load(tmp_path):
    found = gathered(layout(dtype="float32", donor_grams=True))
    save(found, tmp_path / "statistics.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.h5"]
    for memory_map in (False, True):
        again = load(tmp_path / "statistics.h5", memory_map=memory_map)
        assert again.layout == found.layout
        assert list(again.layout.conditions) == ["donor_id", "batch"], "the first column tells the donors"
        assert again.digests == found.digests
        assert again.squared_norm == found.squared_norm
        for name in ("gram", "donor_grams", "group_sums", "group_counts", "type_sizes", "gene_squares"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        assert isinstance(again.gram, np.memmap) == memory_map
    again.require(fingerprint="abc", normalisation={"target_sum": 1e4, "log1p": True})
    with pytest.raises(InputError, match="fingerprint"):
        again.require(fingerprint="another")
    with pytest.raises(InputError, match="missing"):
        gather(layout(), 1).require()


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "flipped", "header", "foreign"])
def test_damaged_files_are_refused(tmp_path, damage):
    import h5py

    path = tmp_path / "statistics.h5"
    if damage != "missing":
        save(gathered(layout()), path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "text":
        path.write_text("not an HDF5 file")
    elif damage in {"flipped", "header"}:
        with h5py.File(path, "r+") as file:
            if damage == "flipped":
                file["gram"][3, 8] += 1e-3
            else:
                file.attrs["n_cells"] = 17
    elif damage == "foreign":
        with h5py.File(path, "w") as file:
            file["x"] = 1
    with pytest.raises(InputError, match=r"statistics\.h5"):
        load(path)


def test_statistics_that_contradict_themselves_are_refused():
    found = gathered(layout())
    with pytest.raises(InputError, match="trace"):
        replace(found, gram=found.gram * 1.01).check()


def test_memory_is_refused_before_work():
    assert gram_bytes(20_000) == 20_000**2 * 12
    assert gram_bytes(1000, n_grams=5) > 5 * gram_bytes(1000) * 0.9
    plan = layout(n_shards=1)

    def never():
        raise AssertionError("work began")
        yield

    need = gram_bytes(P, dtype="float64") / 2**20
    with pytest.raises(InputError, match="MiB"):
        gather_shard(never(), plan, memory_mb=need * 0.9)
    with pytest.raises(InputError, match="donors"):
        check_memory(layout(donor_grams=True), need)
    check_memory(plan, need * 1.01)


def test_method_depends_on_density_alone():
    assert choose_method(1000, 2000, 100_000) == "sparse"
    assert choose_method(1000, 2000, 600_000) == "dense"


ARRAYS = ("gram", "donor_grams", "group_sums", "group_counts", "type_sizes", "gene_sums", "gene_squares")


def assert_same_bits(one, other) -> None:
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert (one.squared_norm, one.digests, one.shards) == (other.squared_norm, other.digests, other.shards)


@pytest.mark.parametrize("piece_rows", [1, 4, 7, 90, 1000])
def test_pieces_deal_every_cell_to_one_shard(piece_rows):
    plan = layout(piece_rows=piece_rows)
    dealt = [rows_of(plan, shard) for shard in range(4)]
    assert sorted(np.concatenate(dealt)) == list(range(N))
    assert [plan.size(shard) for shard in range(4)] == [len(rows) for rows in dealt]
    tight = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(gathered(plan).gram, gathered(layout(n_shards=1)).gram, **tight)


def test_shards_of_pieces_are_mixed_whatever_the_order_of_the_file():
    plan = layout(n_cells=100_000, n_shards=8, piece_rows=256)
    donors = np.repeat(np.arange(10), 10_000)
    for shard in range(8):
        rows = rows_of(plan, shard)
        share = np.bincount(donors[rows], minlength=10) / len(rows)
        assert share.min() > 0.02, "a shard holds cells of every donor"
    assert plan.spans(0)[:2] == [(1792, 2048), (2048, 2304)], "the deal is part of the files' format"


@pytest.mark.parametrize("method", ["sparse", "dense"])
@pytest.mark.parametrize("donor_grams", [False, True])
def test_files_are_merged_to_the_same_bits(tmp_path, method, donor_grams):
    plan = layout(method=method, donor_grams=donor_grams, dtype="float32", piece_rows=5)
    paths = [tmp_path / f"{shard}.h5" for shard in range(4)]
    for shard, path in enumerate(paths):
        save(gather(plan, shard), path)
    whole = merge(gather(plan, shard) for shard in range(4))
    assert_same_bits(merge_files(paths[::-1], tmp_path / "all.h5"), whole)
    assert_same_bits(load(tmp_path / "all.h5"), whole)
    part = merge_files(paths[1:3], tmp_path / "part.h5", shards=[1, 2])
    assert part.shards == (1, 2)
    assert not part.complete
    assert part.n_cells == plan.size(1) + plan.size(2)
    np.testing.assert_array_equal(
        part.group_counts, gather(plan, 1).group_counts + gather(plan, 2).group_counts
    )


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    plan = layout()
    paths = [tmp_path / f"{shard}.h5" for shard in range(4)]
    for shard, path in enumerate(paths):
        save(gather(plan, shard), path)
    out = tmp_path / "all.h5"
    with pytest.raises(InputError, match=r"missing: \[2\]"):
        merge_files([paths[0], paths[1], paths[3]], out)
    with pytest.raises(InputError, match="twice"):
        merge_files([*paths, paths[1]], out)
    with pytest.raises(InputError, match=r"\[3\] too"):
        merge_files(paths, out, shards=[0, 1, 2])
    with pytest.raises(InputError, match="at least one"):
        merge_files([], out)
    other = layout(fingerprint="of another file")
    save(gather(other, 2), paths[2])
    with pytest.raises(InputError, match="fingerprint of shard 2"):
        merge_files(paths, out)
    other = layout(normalisation={"target_sum": 1e3, "log1p": True})
    save(gather(other, 2), paths[2])
    with pytest.raises(InputError, match="normalisation of shard 2"):
        merge_files(paths, out)
    paths[2].write_bytes(paths[1].read_bytes()[:5000])
    with pytest.raises(InputError, match=r"2\.h5"):
        merge_files(paths, out)
    assert not out.exists(), "nothing half-written"


@pytest.mark.parametrize("method", ["sparse", "dense"])
def test_the_number_of_threads_does_not_change_a_bit(monkeypatch, method):
    import numba

    from nmfbench.statistics import grams

    monkeypatch.setattr(grams, "TILE_ROWS", 8)  # many tiles, so that threads share them
    plan = layout(method=method, dtype="float32", n_shards=1)
    found = []
    for n in (1, 2):
        if n > numba.config.NUMBA_NUM_THREADS:
            pytest.skip("one core")
        monkeypatch.setattr(grams.numba, "get_num_threads", lambda n=n: n)
        before = numba.get_num_threads()
        numba.set_num_threads(n)
        found.append(gather(plan))
        numba.set_num_threads(before if before <= numba.config.NUMBA_NUM_THREADS else 1)
    assert_same_bits(*found)


@pytest.mark.parametrize("donor_grams", [False, True])
def test_several_devices_share_the_work_to_the_same_bits(monkeypatch, donor_grams):
    from nmfbench.statistics import grams

    monkeypatch.setattr(grams, "TILE_ROWS", 8)
    plan = layout(method="dense", n_shards=1, donor_grams=donor_grams, dtype="float32")
    one = gather(plan, device="cpu:0")
    # "cpu" and "cpu:0" are one processor under two names: the way that two GPUs go, without one
    for devices in (("cpu", "cpu:0"), ("cpu:0", "cpu:0")):
        assert_same_bits(gather(plan, device=devices), one)
    expected = gather(plan)
    np.testing.assert_allclose(one.gram, expected.gram, rtol=1e-5, atol=1e-5)


def test_gpu_memory_is_refused_before_work():
    plan = layout(method="dense", genes=tuple(map(str, range(20_000))))
    upper, block = 20_000**2 / 2 * 8, 20_000 * 4096 * 8
    assert upper + block < gpu_bytes(plan, 1, 4096) < 1.2 * upper + 3 * block
    saved = gpu_bytes(plan, 1, 4096) - gpu_bytes(plan, 2, 4096)
    assert saved == pytest.approx(upper / 2, rel=0.15), "each holds half of the sum"
    assert gpu_bytes(plan, 1, 4096, TILE_ROWS) < gpu_bytes(plan, 1, 4096) - 0.8 * upper
    with pytest.raises(InputError, match=r"20000 genes on 2 GPUs[\s\S]*MiB[\s\S]*gpu_memory_mb"):
        check_gpu_memory(plan, ["cuda:0", "cuda:1"], 4096, 1000)
    check_gpu_memory(plan, ["cuda:0", "cuda:1"], 4096, 10_000)
    check_gpu_memory(plan, ["cpu"], 4096, 1)


@pytest.mark.parametrize("method", ["sparse", "dense"])
def test_tiles_on_disk_equal_memory(tmp_path, method):
    plan = layout(n_shards=1, method=method)
    calls = []

    def read():
        calls.append(1)
        return blocks(plan, 0)

    expected = gather(plan)
    path = tmp_path / "tiles.h5"
    found = gather_to_disk(read, plan, path, memory_mb=P * 9 * 8 / 2**20)
    assert len(calls) == 4, "one pass for each tile of rows"
    assert isinstance(found.gram, np.memmap)
    tight = {"rtol": 1e-12} if method == "sparse" else {"rtol": 1e-6, "atol": 1e-5}
    np.testing.assert_allclose(found.gram, expected.gram, **tight)
    np.testing.assert_array_equal(found.gram, np.asarray(found.gram).T)
    assert [item.name for item in tmp_path.iterdir()] == ["tiles.h5"]
    with pytest.raises(InputError, match="row"):
        gather_to_disk(read, plan, path, memory_mb=1e-6)


@pytest.mark.parametrize("method", ["sparse", "dense"])
@pytest.mark.parametrize("donor_grams", [False, True])
def test_a_shard_in_tiles_on_disk_has_the_bits_of_memory(tmp_path, monkeypatch, method, donor_grams):
    from nmfbench.statistics import grams, tiles

    for module in (grams, tiles):
        monkeypatch.setattr(module, "TILE_ROWS", 8)
    plan = layout(method=method, dtype="float32", donor_grams=donor_grams, piece_rows=3)
    rows = 3 * P * 8 * plan.n_grams / 2**20  # memory of three rows for each Gram matrix
    for shard, n in ((0, 6), (2, 3)):
        calls = []

        def read(shard=shard, calls=calls):
            calls.append(1)
            return blocks(plan, shard)

        path = tmp_path / f"{shard}.h5"
        found = gather_to_disk(read, plan, path, shard, memory_mb=rows * n, passes=4)
        assert len(calls) == {6: 2, 3: 4}[n]
        assert_same_bits(found, gather(plan, shard))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["0.h5", "2.h5"]


def test_too_many_passes_or_too_little_disk_are_refused_before_work(tmp_path, monkeypatch):
    plan = layout(genes=tuple(map(str, range(60_000))))
    with pytest.raises(InputError) as refusal:
        tile_height(plan, 2000, passes=4)
    text = str(refusal.value)
    assert "60000 genes" in text
    assert "15 passes of 4096 rows (27466 MiB in all)" in text
    enough = float(text.split("statistics.memory_mb to ")[1].split()[0])
    assert 60_000 / tile_height(plan, enough, passes=4) <= 4
    with pytest.raises(InputError, match="passes"):
        tile_height(plan, enough * 0.9, passes=4)
    with pytest.raises(InputError, match="one row"):
        tile_height(plan, 0.1)
    check_disk(layout(), tmp_path / "a.h5")
    shard = tmp_path / "0.h5"
    save(gather(layout(n_shards=1)), shard)
    from nmfbench.statistics import tiles

    monkeypatch.setattr(tiles.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**30}))
    with pytest.raises(InputError, match=r"54932 MiB of free space[\s\S]*1024 MiB[\s\S]*larger disk"):
        check_disk(plan, tmp_path / "a.h5", copies=2)
    monkeypatch.setattr(tiles.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 0}))
    with pytest.raises(InputError, match="free space"):
        merge_files([shard], tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()
