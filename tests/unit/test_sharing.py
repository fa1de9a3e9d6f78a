"""`shared_statistics: auto`: the rule at its boundaries, and that time does not change the decision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data_files import make_counts, write
from nmfbench import sharing
from nmfbench.config import load_config
from nmfbench.data import filter_donors
from nmfbench.gram_cost import gram_bytes

ATLAS = {"n_cells": 592_000, "n_genes": 20_000, "mean_counts": 1000}


def config(simulate=None, dataset=None, **more):
    models = {"ae_nmf": {}, "cae_nmf1": {}}
    section = {"simulate": {**ATLAS, **(simulate or {})}} if dataset is None else dataset
    return load_config({"models": models, "datasets": {"d": section}, **more})


def decide(*arguments, **changes):
    return sharing.decide(config(*arguments, **changes), "d", "nowhere.h5ad")


def saved(found):
    ways = found.seconds
    return ways["from_cells"] - ways["pass"] - ways["jobs"] - ways["from_statistics"]


def test_the_estimate_is_the_formula_of_the_docs():
    n, p, k, sweeps, products = 592_000, 20_000, 80, 20, 28
    z = p * (1 - math.exp(-1000 / p))
    nnz = int(n * z)
    inner = sweeps * k**2 * p / 0.7e9
    gathering = nnz**2 / n / 2 / 0.7e9
    gram = products * p**2 * k / 44e9 + inner
    found = decide()
    assert found.size == {"n_cells": n, "n_genes": p, "n_nonzeros": nnz}
    assert found.n_fits == 2
    assert found.seconds == pytest.approx(
        {
            "pass": gathering,
            "jobs": 2 * (4 + 1),
            "from_statistics": 2 * gram,
            "from_cells": 2 * min(products * 2 * nnz * k / 2.5e9 + inner, gathering + gram),
        }
    )
    assert found.shared
    assert found.record()["seconds"] == found.seconds


def test_a_pass_is_made_from_the_saving_that_is_stated_on(monkeypatch):
    found = decide()
    for least, shared in ((saved(found), True), (math.nextafter(saved(found), math.inf), False)):
        monkeypatch.setattr(sharing, "LEAST_SAVED", least)
        assert decide().shared is shared
    assert not decide(seeds=[0], models={"ae_nmf": {}}).shared, "one fit shares with nobody"
    assert not decide({"n_cells": 20_000, "n_genes": 2_000}).shared


@pytest.mark.parametrize("key", ["statistics", "models"])
def test_a_gram_matrix_beyond_the_memory_is_not_gathered(key):
    p = ATLAS["n_genes"]
    for spare, shared in ((0.0, True), (-0.01, False)):
        if key == "statistics":
            change = {"statistics": {"memory_mb": gram_bytes(p) / 2**20 + spare}}
        else:
            room = {"gram_memory_mb": 4 * p * p / 2**20 + spare}
            change = {"models": {"ae_nmf": room, "cae_nmf1": {}}}
        found = decide(**change)
        assert found.shared is shared
    assert f"needs {gram_bytes(p) / 2**20:.0f} MiB" in found.reason


def test_many_fits_of_few_cells_share_and_a_rank_selection_makes_the_pass_anyway():
    few = {"n_cells": 20_000, "n_genes": 2_000, "mean_counts": 600}
    grid = {"ranks": [5, 10, 20, 40, 80], "seeds": list(range(10))}
    assert decide(few, **grid).shared
    assert not decide(few, ranks=[80], seeds=[0]).shared
    with_ranks = decide(few, **grid, rank_selection={"models": ["ae_nmf"]})
    assert (with_ranks.seconds["pass"], with_ranks.seconds["jobs"]) == (0.0, sharing.JOB_SECONDS)


def test_donors_whose_matrices_do_not_fit_save_nothing():
    models = {"cae_nmf2": {}}
    many = decide({"n_donors": 40}, models=models, seeds=[0, 1])
    assert many.seconds["from_statistics"] == many.seconds["from_cells"]
    assert not many.shared


def test_what_is_set_is_done_and_only_some_models_share():
    source = {"simulate": {"n_cells": 100, "n_genes": 50}}
    for setting in (True, False):
        found = decide(dataset={**source, "shared_statistics": setting}, ranks=[5])
        assert (found.shared, found.reason) == (setting, "as set")
    models = {
        "base_nmf": {}, "ae_nmf": {}, "a": {"kind": "ae_nmf", "solver": "minibatch"},
        "b": {"kind": "ae_nmf", "init": "uniform"}, "c": {"kind": "cae_nmf1", "row_norm": True},
    }  # fmt: skip
    assert list(sharing.sharers(config(models=models))) == ["ae_nmf"]


def test_a_download_is_never_shared_unless_it_is_asked_for():
    source = {"url": "https://x.org/a.h5ad", "sha256": "0" * 64, "size": 2 * 10**10}
    found = decide(dataset=source, seeds=[0, 1, 2])
    assert not found.shared
    assert "download" in found.reason


@pytest.mark.parametrize("genes", [{}, {"select": "hvg", "n_top": 5}])
def test_a_file_decides_the_same_before_and_after_it_was_filtered_and_removed(tmp_path, genes):
    path, filtered = write(tmp_path / "cells.h5ad"), tmp_path / "filtered.h5ad"
    dataset = {"path": str(path), "min_cells_per_donor": 15, "obs_filters": {"donor_id": ["A", "B"]}}
    known = config(dataset={**dataset, "genes": genes}, ranks=[5])
    before = sharing.decide(known, "d", filtered)
    share = 5 / 20 if genes else 1
    expected = {"n_cells": 60, "n_genes": int(20 * share)}
    stored = int(np.count_nonzero(make_counts()) * share)
    assert before.size == {**expected, "n_nonzeros": stored}
    filter_donors(
        path, filtered, tmp_path / "donors.tsv", obs_filters=dataset["obs_filters"], min_cells_per_donor=15
    )
    assert sharing.decide(known, "d", filtered) == before
    path.unlink()
    assert sharing.decide(known, "d", filtered) == before


def test_a_file_that_tells_no_nonzeros_is_not_shared(tmp_path):
    dense, broken = write(tmp_path / "dense.h5ad", make_counts()), tmp_path / "broken.h5ad"
    broken.write_bytes(b"no h5ad")
    for path in (dense, broken, tmp_path / "missing.h5ad"):
        found = decide(dataset={"path": str(path)}, seeds=[0, 1])
        assert not found.shared
        assert found.reason == "the number of nonzeros is not known"
