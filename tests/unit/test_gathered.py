"""Fits from statistics that were gathered before: from a filtered file to the objective of its cells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import nmfbench
import reference_models as dense
from nmfbench.data import filter_donors, load_normalised, read_filtered
from nmfbench.data.filtered import FilteredCounts
from nmfbench.errors import InputError
from nmfbench.job import Interrupted
from nmfbench.models import get_model
from nmfbench.models.autoencoder.embed import embed
from nmfbench.models.autoencoder.from_cells import gram_operator
from nmfbench.models.autoencoder.from_statistics import fit_file
from nmfbench.rows.disk import FilteredRows
from nmfbench.rows.memory import InMemoryRows
from nmfbench.statistics import load, merge_files
from nmfbench.statistics.shards import gather_file, lay_out

NAMES = ["ae_nmf", "cae_nmf1", "cae_nmf2"]
every_autoencoder = pytest.mark.parametrize("name", NAMES)
NORMALISATION = {"target_sum": 1e3, "log1p": True}
SETTINGS = {"normalisation": NORMALISATION, "condition_columns": ["donor_id"], "memory_mb": 100.0}


def make(name, k=4, **more):
    return get_model(name)(k, **{"solver": "statistics", "random_state": 0, "device": "cpu"} | more)


def filtered_file(folder, X, obs):
    anndata.AnnData(sparse.csr_matrix(X), obs=obs).write_h5ad(folder / "cells.h5ad")
    columns = [name for name in obs if name not in ("cell_type", "donor_id")]
    filter_donors(
        folder / "cells.h5ad",
        folder / "filtered.h5ad",
        folder / "donors.tsv",
        condition_columns=["donor_id", *columns],
        min_cells_per_donor=1,
    )
    return folder / "filtered.h5ad"


def counts(**more):
    X, _, donor, kind = dense.planted(**{"n": 180, "p": 50} | more)
    X = np.random.default_rng(1).poisson(X.toarray() * 4).astype(np.float32)
    X[:, 0] += 1
    X[:, 7] = 0  # a gene that no cell has
    index = [f"cell {i}" for i in range(len(X))]
    return X, pd.DataFrame({"cell_type": kind, "donor_id": donor}, index=index)


def gather(filtered, path, n_shards=3, **changes):
    options = {**SETTINGS, "donor_grams": True, "passes": 4, **changes}
    parts = [path.with_name(f"{path.stem}-{shard}.h5") for shard in range(n_shards)]
    for shard, part in enumerate(parts):
        gather_file(filtered, part, shard=shard, n_shards=n_shards, **options)
    merge_files(parts, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A filtered file and the statistics of its cells."""
    folder = tmp_path_factory.mktemp("gathered")
    filtered = filtered_file(folder, *counts())
    return filtered, gather(filtered, folder / "all.h5")


def labels_of(data):
    return pd.DataFrame({"donor_id": data.label("donor_id")})


def in_memory(name, filtered, **more):
    data = read_filtered(filtered)
    X = load_normalised(filtered, **NORMALISATION)
    model = make(name, **more)
    return model.fit(X, conditions=labels_of(data), strata=data.label("cell_type"), progress=False)


@every_autoencoder
def test_the_same_fit_as_from_the_cells(name, files):
    filtered, path = files
    data = read_filtered(filtered)
    model = make(name)
    conditions = labels_of(data) if model._conditional else None
    assert fit_file(model, path, data, NORMALISATION, conditions=conditions, progress=False)
    expected = in_memory(name, filtered)
    assert model.objective_ == pytest.approx(expected.objective_, rel=1e-4)
    assert model.relative_error_ == pytest.approx(expected.relative_error_, rel=1e-4)
    assert model.uses_labels_ == expected.uses_labels_
    assert model.converged_
    assert model.solver_choice_.solver == "statistics"
    assert set(model.loadings()) == set(expected.loadings())
    parts: dict = {}
    for _, block in model.embedding_blocks(FilteredRows(data, NORMALISATION), size=64):
        for key, values in block.items():
            parts.setdefault(key, []).append(values)
    X = load_normalised(filtered, **NORMALISATION).toarray()
    for key, values in expected.embeddings().items():
        assert np.concatenate(parts[key]).shape == values.shape
    np.testing.assert_allclose(
        np.concatenate(parts[f"H_shared_k{4}"]), X @ model.components_.T, rtol=1e-4, atol=1e-4
    )


def test_conditions_in_two_columns(tmp_path):
    X, obs = counts()
    obs["batch"] = np.where(np.random.default_rng(2).random(len(obs)) < 0.4, "one", "two")
    filtered = filtered_file(tmp_path, X, obs)
    path = gather(filtered, tmp_path / "all.h5", condition_columns=["donor_id", "batch"])
    data = read_filtered(filtered)
    conditions = pd.DataFrame({name: data.label(name) for name in ("donor_id", "batch")})
    more = {"penalty_invariance": 0.05, "penalty_hsic": 0.02}
    model = make("cae_nmf1", **more)
    fit_file(model, path, data, NORMALISATION, conditions=conditions, progress=False)
    expected = make("cae_nmf1", **more).fit(
        load_normalised(filtered, **NORMALISATION),
        conditions=conditions,
        strata=data.label("cell_type"),
        progress=False,
    )
    assert model.objective_ == pytest.approx(expected.objective_, rel=1e-4)
    with pytest.raises(InputError, match="one column"):
        fit_file(make("cae_nmf2"), path, data, NORMALISATION, conditions=conditions)
    with pytest.raises(InputError, match="condition columns"):
        fit_file(model, path, data, NORMALISATION, conditions=conditions[["donor_id"]])


@every_autoencoder
def test_the_fit_reads_no_cell_and_leaves_a_large_gram_matrix_on_disk(name, files, monkeypatch):
    _, path = files

    def never(*_, **__):
        raise AssertionError("cells were read")

    held = make(name).fit_statistics(load(path), progress=False)
    monkeypatch.setattr(FilteredCounts, "blocks", never)
    monkeypatch.setattr(FilteredCounts, "spans", never)
    mapped = load(path, memory_map=True)
    for memory in (0, 6144):
        model = make(name, gram_memory_mb=memory)
        assert isinstance(model.gram_of(mapped)._K[0], np.memmap) == (memory == 0)
        model.fit_statistics(mapped, progress=False)
        np.testing.assert_array_equal(model.components_, held.components_)


def test_one_operator_serves_many_fits(files):
    statistics = load(files[1], memory_map=True)
    operator = make("ae_nmf").gram_of(statistics)
    for k, seed in ((3, 0), (5, 1)):
        shared = make("ae_nmf", k, random_state=seed).fit_statistics(statistics, operator=operator)
        alone = make("ae_nmf", k, random_state=seed).fit_statistics(statistics)
        np.testing.assert_array_equal(shared.components_, alone.components_)


@every_autoencoder
def test_stopped_and_resumed_equals_unbroken_and_other_settings_are_named(name, files, tmp_path):
    statistics = load(files[1])
    unbroken = make(name).fit_statistics(statistics, progress=False)
    sweeps = iter(range(1000))
    stopped = make(name).fit_statistics(
        statistics, checkpoint=tmp_path, should_stop=lambda: next(sweeps) > 12, progress=False
    )
    assert stopped.stop_reason_ == "interrupted"
    with pytest.raises(InputError, match=r"other settings \(penalty_W\)"):
        make(name, penalty_W=0.5).fit_statistics(statistics, checkpoint=tmp_path)
    other = load(gather(files[0], tmp_path / "other.h5", n_shards=2))
    with pytest.raises(InputError, match="other data"):
        make(name).fit_statistics(other, checkpoint=tmp_path)
    resumed = make(name).fit_statistics(statistics, checkpoint=tmp_path, progress=False)
    np.testing.assert_array_equal(resumed.components_, unbroken.components_)


def test_statistics_of_other_data_or_settings_are_refused_by_name(files, tmp_path):
    filtered, path = files
    data = read_filtered(filtered)
    with pytest.raises(InputError, match="normalisation"):
        fit_file(make("ae_nmf"), path, data, {"target_sum": 1e4, "log1p": True}, conditions=None)
    X, obs = counts(seed=5)
    other = read_filtered(filtered_file(tmp_path, X, obs))
    with pytest.raises(InputError, match="fingerprint"):
        fit_file(make("ae_nmf"), path, other, NORMALISATION, conditions=None)


@pytest.mark.parametrize("only", [{"row_norm": True}, {"init": "uniform"}])
def test_what_only_minibatches_have_is_refused(only, files):
    with pytest.raises(InputError, match=next(iter(only))):
        make("ae_nmf", solver="auto", **only).fit_statistics(load(files[1]))


def test_a_rank_above_the_genes_is_refused(files):
    with pytest.raises(InputError, match="n_components=51"):
        make("ae_nmf", 51).fit_statistics(load(files[1]))


def test_a_gene_of_zeros_has_no_weight(files):
    for name in NAMES:
        model = make(name).fit_statistics(load(files[1]), progress=False)
        assert np.isfinite(model.components_).all()
        assert (model.components_[:, 7] == 0).all()


def test_a_donor_of_fewer_cells_than_the_rank(tmp_path):
    X, obs = counts()
    obs["donor_id"] = np.where(np.arange(len(obs)) < 2, "rare", obs["donor_id"])
    filtered = filtered_file(tmp_path, X, obs)
    path = gather(filtered, tmp_path / "all.h5")
    for name in ("cae_nmf1", "cae_nmf2"):
        model = make(name).fit_statistics(load(path), progress=False)
        assert model.objective_ == pytest.approx(in_memory(name, filtered).objective_, rel=1e-4)


def test_donor_gram_matrices_that_do_not_fit_are_left_out(files, tmp_path, caplog):
    filtered, _ = files
    small = 50 * 50 * 13 / 2**20  # room for one, not for three
    path = gather(filtered, tmp_path / "all.h5", memory_mb=small)
    assert "no Gram matrix for each of the 3" in caplog.text
    assert load(path).donor_grams is None
    model, data = make("cae_nmf2"), read_filtered(filtered)
    assert not fit_file(model, path, data, NORMALISATION, conditions=labels_of(data))
    assert "cells themselves" in caplog.text
    with pytest.raises(InputError, match="donor"):
        model.fit_statistics(load(path))


def test_a_gram_matrix_larger_than_memory_is_made_in_tiles_or_refused(files, tmp_path):
    filtered, _ = files
    options = {"n_shards": 1, "donor_grams": False, "memory_mb": 50 * 8 * 20 / 2**20}
    tiles = gather(filtered, tmp_path / "tiles.h5", **options)
    whole = gather(filtered, tmp_path / "whole.h5", n_shards=1, donor_grams=False)
    np.testing.assert_allclose(load(tiles).gram, load(whole).gram, rtol=1e-5)
    with pytest.raises(InputError, match=r"3 passes of 20 rows[\s\S]*statistics.passes to 3"):
        gather(filtered, tmp_path / "refused.h5", **options, passes=2)
    assert not (tmp_path / "refused-0.h5").exists()


def test_a_gpu_without_room_is_refused_with_numbers_before_the_fit(files, monkeypatch):
    from nmfbench.models.autoencoder import estimator

    free = files[1].stat().st_size // 100
    monkeypatch.setattr(estimator, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**30))
    with pytest.raises(InputError, match=r"XᵀX of 50 genes on cuda[\s\S]*free[\s\S]*device: cpu"):
        make("ae_nmf", device="cuda").fit_statistics(load(files[1]))
    with pytest.raises(InputError, match=r"50 genes[\s\S]*free on cuda:0[\s\S]*keep fewer"):
        gram_operator(InMemoryRows(sparse.csr_matrix(counts()[0])), None, None, "cuda:0")


def test_a_killed_shard_is_gathered_again_and_leaves_nothing_behind(files, tmp_path):
    filtered, whole = files
    options = {**SETTINGS, "n_shards": 3, "donor_grams": False, "passes": 4}
    options["memory_mb"] = 50 * 8 * 20 / 2**20  # tiles on disk, which is where a kill leaves most
    code = (
        "import os, signal, sys; from nmfbench.statistics import shards, tiles\n"
        "tiles.PartialGrams.fill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"shards.gather_file({str(filtered)!r}, {str(tmp_path / '0.h5')!r}, shard=0, **{options!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(nmfbench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.suffix for path in tmp_path.iterdir()].count(".gram") == 1
    gather_file(filtered, tmp_path / "0.h5", shard=0, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["0.h5"]
    again, once = load(tmp_path / "0.h5"), load(whole.with_name("all-0.h5"))
    assert again.digests == once.digests
    np.testing.assert_allclose(again.gram, once.gram, rtol=1e-5)


def test_a_shard_gives_up_when_the_job_is_told_to_stop(files, tmp_path):
    with pytest.raises(Interrupted, match="run the same command again"):
        gather_file(
            files[0], tmp_path / "0.h5", shard=0, n_shards=3, donor_grams=False, passes=1,
            should_stop=lambda: True, **SETTINGS,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_layout_depends_on_data_and_settings_alone(files):
    data = read_filtered(files[0])
    options = {**SETTINGS, "n_shards": 4, "donor_grams": False}
    plan = lay_out(data, **options)
    assert plan == lay_out(data, **options)
    assert plan.conditions == {"donor_id": ("d0", "d1", "d2")}
    assert plan.genes == tuple(data.var.index)
    assert 1 <= plan.piece_rows <= 180 // 4
    assert lay_out(data, **options, on_gpu=True).method == "dense"


def test_embedding_in_one_array_equals_the_blocks(files):
    filtered, path = files
    model = make("ae_nmf").fit_statistics(load(path), progress=False)
    rows = FilteredRows(read_filtered(filtered), NORMALISATION)
    whole = embed(model.components_, rows)
    np.testing.assert_array_equal(
        whole, np.concatenate([part["H_shared_k4"] for _, part in model.embedding_blocks(rows, size=50)])
    )
