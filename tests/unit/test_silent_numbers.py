"""Numbers that cannot be right stop a run; unlikely ones are said to the reader of the results."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import data_files
from nmfbench.data import filter_donors
from nmfbench.data.check import LARGEST_COUNT
from nmfbench.errors import InputError


@pytest.fixture
def run(tmp_path):
    """Filter a file; gives what anndata reads of it, the table of donors and the warnings."""

    def go(X, change=None, obs=None, **settings):
        path = data_files.write(tmp_path / "atlas.h5ad", X=X, obs=obs)
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
        settings = {"min_cells_per_donor": 1} | settings
        found = filter_donors(path, tmp_path / "filtered.h5ad", tmp_path / "donors.tsv", **settings)
        donors = pd.read_csv(tmp_path / "donors.tsv", sep="\t", keep_default_na=False)
        return anndata.read_h5ad(tmp_path / "filtered.h5ad"), donors, found["warnings"]

    return go


def doubled(kind, value):
    """Two entries of `value` for each cell in gene 3, stored as `kind`."""

    def change(file):
        n = len(file["obs/_index"])
        for part in ("data", "indices", "indptr"):
            del file[f"X/{part}"]
        file["X/data"] = np.full(2 * n, value).astype(kind)
        file["X/indices"] = np.full(2 * n, 3, np.int32)
        file["X/indptr"] = (2 * np.arange(n + 1)).astype(np.int32)

    return change


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("u1", 200),
        ("i1", 100),
        ("u2", 60_000),
        ("i2", 30_000),
        ("i4", 2**20),
        ("f4", 2**23 + 1),
        ("f2", 2000),
    ],
)
def test_entries_given_twice_are_added_in_a_type_that_holds_the_sum(run, kind, value):
    adata, _, warnings = run(data_files.make_counts(), change=doubled_dense(kind, value))
    assert adata.X[:, 3].toarray().ravel().tolist() == [2 * value] * 60
    assert any("60 entries for a cell and gene that had one already" in note for note in warnings)


def doubled_dense(kind, value):
    """As `doubled`, in the place of a dense matrix."""

    def change(file):
        n, genes = file["X"].shape
        del file["X"]
        group = file.create_group("X")
        shape = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array([n, genes])}
        group.attrs.update(shape)
        for part in ("data", "indices", "indptr"):
            group[part] = [0]
        doubled(kind, value)(file)

    return change


def test_true_is_one(run):
    """Logicals given twice are two."""
    adata, _, _ = run(data_files.make_counts(), change=doubled_dense("?", True))
    assert adata.X[:, 3].toarray().ravel().tolist() == [2.0] * 60


def test_negative_entries_do_not_hide_behind_others(run):
    def change(file):
        doubled_dense("i4", 5)(file)
        file["X/data"][1] = -3

    with pytest.raises(InputError, match="negative"):
        run(data_files.make_counts(), change=change)


@pytest.mark.parametrize("value", [1e300, 1e30, 2.0 * LARGEST_COUNT, 3.5e38])
@pytest.mark.parametrize("settings", [{}, {"assume": "counts"}, {"allow_non_integer": True}])
def test_no_count_is_so_large(run, value, settings):
    X = data_files.make_counts().astype(np.float64)
    X[7, 2] = value
    with pytest.raises(InputError, match=f"larger than {LARGEST_COUNT}") as caught:
        run(X, matrix=settings)
    assert "cell 'cell7'" in caught.value.got


def deep(n=400, seed=1, genes=60, depth=4000.0, spread=0.35):
    """Counts of cells whose depth has a log-normal spread."""
    rng = np.random.default_rng(seed)
    profile = rng.gamma(0.5, 1.0, genes)
    totals = depth * np.exp(rng.normal(0, spread, n))
    return rng.poisson(np.outer(totals, profile / profile.sum())).astype(np.float32)


def per_million(X, target=1e6):
    return np.rint(X / X.sum(axis=1, keepdims=True) * target).astype(np.float32)


def alike(warnings):
    return [note for note in warnings if "nearly the same total" in note]


@pytest.mark.parametrize("target", [1e6, 1e5])
def test_rounded_normalised_values_are_noticed(run, target):
    assert alike(run(sparse.csr_matrix(per_million(deep(), target)))[2])


def test_half_of_the_cells_normalised_is_noticed(run):
    X = deep()
    X[::2] = per_million(X[::2])
    assert "200 of 400 cells" in alike(run(sparse.csr_matrix(X))[2])[0]


def test_equal_depths_of_a_simulation_are_no_reason_to_warn(run):
    for depth in (40.0, 400.0, 40_000.0):
        assert not alike(run(sparse.csr_matrix(deep(depth=depth, spread=0.0)))[2])
    assert run(sparse.csr_matrix(deep()))[2] == []


def test_a_few_cells_with_most_of_the_counts(run):
    X = deep()
    X[[3, 50, 120, 333]] *= 200
    (note,) = run(sparse.csr_matrix(X))[2]
    assert "hold" in note
    assert "of 400 cells" in note
    assert "Smart-seq" in note


def test_deep_cells_of_a_dropped_donor_do_not_count(run):
    X, obs = deep(), data_files.make_obs(400)
    X[:4] *= 200
    obs["donor_id"] = ["deep"] * 4 + ["D"] * 396
    assert run(sparse.csr_matrix(X), obs=obs, min_cells_per_donor=10)[2] == []


def test_scaled_counts_are_noticed(run):
    (note,) = run(sparse.csr_matrix(deep() * 7))[2]
    assert "smallest count that is not zero is 7" in note


def test_donors_emptied_by_the_choice_of_genes(run):
    """Donor B's cells have counts only in genes that few cells share."""
    X, obs = np.zeros((60, 20), np.float32), data_files.make_obs()
    X[:, 0] = 1
    of_b = (obs["donor_id"] == "B").to_numpy()
    X[of_b, 0] = 0
    X[of_b, 1 + np.arange(of_b.sum()) % 19] = 3
    adata, donors, _ = run(sparse.csr_matrix(X), obs=obs, genes={"select": "min_cells", "min_cells": 5})
    assert sorted(adata.obs["donor_id"].unique()) == ["A", "C"]
    told = donors.set_index("donor")
    assert not told.loc["B", "kept"]
    assert "chosen genes" in told.loc["B", "reason"]
    assert told.loc[["A", "C"], "n_cells"].tolist() == [30, 10]


def test_the_minimum_holds_after_the_choice_of_genes(run):
    X, obs = data_files.make_counts(), data_files.make_obs()
    first_of_b = np.flatnonzero(obs["donor_id"] == "B")[:15]
    X[first_of_b] = 0
    X[first_of_b, 19] = 1
    X[np.setdiff1d(np.arange(60), first_of_b), 19] = 0
    adata, donors, _ = run(
        sparse.csr_matrix(X), obs=obs, genes={"select": "min_cells", "min_cells": 16}, min_cells_per_donor=8
    )
    told = donors.set_index("donor")
    assert told.loc["B", "n_cells"] == 5
    assert not told.loc["B", "kept"]
    assert "B" not in set(adata.obs["donor_id"])
