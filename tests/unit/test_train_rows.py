"""A fit of the workflow with its cells in memory and on disk: the same result, and run.json says which."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nmfbench.data import filter_donors, load_normalised, simulate_atlas
from nmfbench.errors import InputError
from nmfbench.job import Interrupted, Job
from nmfbench.models import get_model
from nmfbench.results import read_result
from nmfbench.rows.opening import place
from nmfbench.rows.shuffle import shuffle_cells
from nmfbench.train import train

NORMALISATION = {"target_sum": 1e4, "log1p": True}
ATLAS = {"n_cells": 500, "n_genes": 80, "n_cell_types": 4}
DONORS = {"n_donors": 3, "n_small_donors": 0, "min_cells": 50}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    simulate_atlas(folder / "source.h5ad", mean_counts=80.0, **ATLAS, **DONORS)
    filter_donors(
        folder / "source.h5ad", folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=50
    )
    shuffle_cells(folder / "filtered.h5ad", folder / "shuffled.h5ad", by_type=True, shard_rows=64)
    return folder


def fit(folder, out, kind="cae_nmf1", run=None, solver="statistics", **where):
    out.mkdir(exist_ok=True)
    names = {"result": "result.h5ad", "history": "history.tsv", "record": "run.json"}
    train(
        str(folder / "filtered.h5ad"),
        **{key: str(out / name) for key, name in names.items()},
        kind=kind,
        name=kind,
        display_name=kind,
        settings={"solver": solver, "max_iter": {"minibatch": 3, "statistics": 30}, "batch_size": 50},
        rank=4,
        seed=0,
        device="cpu",
        normalisation=NORMALISATION,
        condition_columns=["donor_id"],
        run=run or Job(threads=1),
        **where,
    )
    return read_result(out / "result.h5ad"), json.loads((out / "run.json").read_text())


@pytest.mark.parametrize("kind", ["ae_nmf", "cae_nmf1", "cae_nmf2"])
def test_the_cells_on_disk_give_the_fit_of_the_cells_in_memory(folder, tmp_path, kind):
    memory, told_memory = fit(folder, tmp_path / "memory", kind, out_of_core=False)
    disk, told_disk = fit(folder, tmp_path / "disk", kind, out_of_core=True)
    assert told_memory["rows"]["out_of_core"] is False
    assert told_disk["rows"] == {
        "out_of_core": True,
        "setting": True,
        "estimated_mb": pytest.approx(16 * told_disk["nonzeros"] / 2**20),
        "in_memory_mb": float("inf"),
        "shuffled": False,
    }
    # the one goes through XᵀX, the other through the nonzeros: equal to rounding
    assert told_disk["solver"]["route"] == "gram"
    assert told_disk["objective"] == pytest.approx(told_memory["objective"], rel=1e-3)
    assert disk.obsm.keys() == memory.obsm.keys()
    pd.testing.assert_frame_equal(disk.obs, memory.obs)
    model = get_model(kind)
    X = load_normalised(folder / "filtered.h5ad", **NORMALISATION)
    key = f"{model._loadings_name}_k4"
    np.testing.assert_allclose(disk.obsm["H_shared_k4"], X @ disk.varm[key], rtol=2e-5, atol=1e-6)


def test_minibatches_from_the_store(folder, tmp_path):
    where = {"solver": "minibatch", "out_of_core": True, "shuffled": str(folder / "shuffled.h5ad")}
    result, told = fit(folder, tmp_path / "whole", **where)
    assert told["rows"]["shuffled"]
    assert told["solver"]["solver"] == "minibatch"
    history = pd.read_csv(tmp_path / "whole" / "history.tsv", sep="\t")
    assert history["objective"].is_monotonic_decreasing
    # killed in the second epoch and run again: the same bits
    asked = iter(range(100))
    run = type("StoppedJob", (Job,), {"stop_requested": lambda self: next(asked) >= 15})(threads=1)
    with pytest.raises(Interrupted, match="epoch 1"):
        fit(folder, tmp_path / "stopped", run=run, **where)
    again, told_again = fit(folder, tmp_path / "stopped", **where)
    assert told_again["objective"] == told["objective"]
    for key in result.obsm:
        assert np.array_equal(again.obsm[key], result.obsm[key])


def test_minibatches_without_a_store_say_what_to_do(folder, tmp_path):
    with pytest.raises(InputError, match="out_of_core: true"):
        fit(folder, tmp_path, solver="minibatch", out_of_core=True)
    assert not list(tmp_path.glob("*.*"))


def test_auto_goes_by_the_size():
    assert not place(1000, "auto", 1.0).out_of_core
    assert place(100_000, "auto", 1.0).out_of_core
    assert place(1000, True, 1e9).out_of_core
    assert not place(10**12, False, 1.0).out_of_core
