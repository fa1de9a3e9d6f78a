"""Filtering: which cells and donors stay, what is written, and what a failure leaves behind."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import textwrap

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import data_files
from nmfbench.data import counts as counts_module
from nmfbench.data import filter_donors, read_filtered
from nmfbench.data.filtered import PROVENANCE_KEY
from nmfbench.data.writer import CsrWriter, disk_problem
from nmfbench.errors import InputError

COUNTS = data_files.make_counts()


@pytest.fixture
def run(tmp_path):
    """Filter a file that is made from the keywords for `write`; gives obs, counts and the rest."""

    def go(files=None, **settings):
        path = data_files.write(tmp_path / "atlas.h5ad", **(files or {}))
        output, table = tmp_path / "out" / "filtered.h5ad", tmp_path / "out" / "donors.tsv"
        settings = {"min_cells_per_donor": 15} | settings
        provenance = filter_donors(path, output, table, **settings)
        donors = pd.read_csv(table, sep="\t", keep_default_na=False, dtype={"donor": str})
        return anndata.read_h5ad(output), donors, provenance

    return go


def nothing_left(tmp_path):
    """Whether the output folder holds nothing, hidden files included."""
    return not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_keeps_large_donors(run, tmp_path):
    adata, donors, provenance = run()
    keep = data_files.make_obs()["donor_id"].isin(["A", "B"]).to_numpy()
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS[keep])
    assert adata.X.dtype == np.float32
    assert adata.obs_names.tolist() == data_files.make_obs().index[keep].tolist()
    assert adata.var_names.tolist() == data_files.make_var().index.tolist()
    assert list(adata.obs["donor_id"].cat.categories) == ["A", "B"]  # C is gone from the categories too
    assert donors.to_dict("list") == {
        "donor": ["A", "B", "C"],
        "n_cells": [30, 20, 10],
        "kept": [True, True, False],
        "reason": ["", "", "fewer than 15 cells"],
    }
    assert provenance["dropped_cells"]["small_donor"] == 10
    assert provenance["n_cells"], provenance["n_cells_before"] == (50, 60)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["donors.tsv", "filtered.h5ad"]
    assert read_filtered(tmp_path / "out" / "filtered.h5ad").provenance == provenance


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_form_and_blocks_do_not_matter(run, monkeypatch, form, dtype):
    expected, _, provenance = run()
    monkeypatch.setattr(counts_module, "MAX_BLOCK_NONZEROS", 30)
    monkeypatch.setattr(counts_module, "MAX_DENSE_BYTES", 1)
    adata, _, other = run({"X": form(COUNTS.astype(dtype))})
    np.testing.assert_array_equal(adata.X.toarray(), expected.X.toarray())
    assert other["fingerprint"] == provenance["fingerprint"]


def test_cellxgene_layout(run):
    adata, _, provenance = run(
        {"X": data_files.log_normalised(COUNTS), "raw": sparse.csr_matrix(COUNTS)}, keep_obs=["cell_type"]
    )
    assert set(np.unique(adata.X.data)) <= set(range(30))
    assert "feature_name" in adata.var
    assert provenance["counts"]["source"] == "raw.X"
    assert provenance["normalised"] is False


def test_published_input_can_be_reproduced(run, tmp_path):
    files = {"X": data_files.log_normalised(COUNTS), "raw": sparse.csr_matrix(COUNTS)}
    with pytest.raises(InputError, match="assume: counts"):
        run(files, matrix={"source": "X"})
    assert nothing_left(tmp_path)
    adata, _, provenance = run(files, matrix={"source": "X", "assume": "counts"})
    assert adata.X.max() > adata.X.data.min() > 1
    assert any("taken as counts" in note for note in provenance["warnings"])


def test_fingerprint_changes_with_content(run):
    first = run()[2]["fingerprint"]
    counts = COUNTS.copy()
    counts[0, 0] += 1
    labels = data_files.make_obs()
    labels["cell_type"] = labels["cell_type"].cat.rename_categories(["x", "y"])
    others = [
        run({"X": sparse.csr_matrix(counts)}),
        run({"obs": labels}),
        run({"obs": data_files.make_obs().rename(index=str.upper)}),
        run({"var": data_files.make_var().rename(index=str.lower)}),
    ]
    assert len({first, *(provenance["fingerprint"] for *_, provenance in others)}) == 5
    assert run()[2]["fingerprint"] == first


@pytest.mark.parametrize("column", ["cell_type", "donor_id"])
@pytest.mark.parametrize("missing", [np.nan, None, "", "nan"])
def test_cells_without_label_are_dropped(run, column, missing):
    obs = data_files.make_obs().astype(object)
    obs.loc[["cell0", "cell2"], column] = missing
    adata, _, provenance = run({"obs": obs.astype("category")})
    assert adata.n_obs == 48
    reason = {"cell_type": "missing_label", "donor_id": "missing_donor"}[column]
    assert provenance["dropped_cells"][reason] == 2


def test_all_zero_cells_and_genes(run, caplog):
    counts = COUNTS.copy()
    counts[[0, 2, 6]] = 0  # of donor A
    counts[:, 7] = 0
    with caplog.at_level("INFO"):
        adata, donors, provenance = run({"X": sparse.csr_matrix(counts)})
    assert provenance["dropped_cells"]["no_counts"] == 3
    assert "3 cells: no counts" in caplog.text
    assert donors.set_index("donor").loc["A", "n_cells"] == 27
    assert adata.shape == (47, 20)
    assert provenance["n_genes_all_zero"] == 1
    assert adata.var["n_cells"].iloc[7] == 0


def test_stored_zeros_are_no_counts(run):
    matrix = sparse.csr_matrix(COUNTS)
    matrix.data[matrix.indptr[4] : matrix.indptr[5]] = 0
    assert run({"X": matrix})[2]["dropped_cells"]["no_counts"] == 1


def test_nothing_but_zeros(run, tmp_path):
    with pytest.raises(InputError, match="only zeros"):
        run({"X": sparse.csr_matrix((60, 20), dtype=np.float32)})
    assert nothing_left(tmp_path)


def test_all_donors_too_small(run, tmp_path):
    with pytest.raises(InputError) as caught:
        run(min_cells_per_donor=5000)
    assert "atlas.h5ad: obs['donor_id']" in caught.value.thing
    assert "the largest, 'A', with 30" in caught.value.got
    assert "min_cells_per_donor" in caught.value.remedy
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("cell_type_column", "celltype"),
        ("donor_column", "Donor"),
        ("keep_obs", ["tissue"]),
        ("condition_columns", ["batch"]),
        ("obs_filters", {"assay": "x"}),
    ],
)
def test_missing_column(run, tmp_path, setting, name):
    with pytest.raises(InputError) as caught:
        run(**{setting: name})
    assert "there are 'cell_type', 'donor_id'" in caught.value.got
    assert f"datasets.<name>.{setting}" in caught.value.remedy
    assert ("perhaps 'cell_type'" in caught.value.remedy) == (setting == "cell_type_column")
    assert nothing_left(tmp_path)


def test_odd_labels_come_through(run):
    names = ["CD8+ T/NK, 'x' \"y\"", "Größe µ\u03b1", "a  b"]
    obs = data_files.make_obs()
    obs["cell_type"] = pd.Categorical(np.array(names)[np.arange(60) % 3], categories=[*names, "unused"])
    obs["donor_id"] = pd.Categorical(
        np.array(["D/1, é", "D 2"])[np.arange(60) % 2], categories=["z", "D/1, é", "D 2"]
    )
    adata, donors, _ = run({"obs": obs})
    assert adata.obs["cell_type"].tolist() == obs["cell_type"].tolist()
    assert set(adata.obs["cell_type"].cat.categories) == set(names)
    assert set(donors["donor"]) == {"D/1, é", "D 2"}


@pytest.mark.parametrize("dtype", [int, float, "category"])
def test_numeric_donors(run, dtype):
    obs = data_files.make_obs()
    obs["donor_id"] = pd.Series(np.arange(60) % 2 + 10, index=obs.index).astype(dtype)
    adata, donors, _ = run({"obs": obs})
    assert adata.obs["donor_id"].tolist() == [str(number % 2 + 10) for number in range(60)]
    assert sorted(donors["donor"]) == ["10", "11"]


def test_columns_with_other_names(run):
    obs = data_files.make_obs().rename(columns={"cell_type": "author label", "donor_id": "patient"})
    obs["cell_type"] = "something else"
    adata, _, provenance = run(
        {"obs": obs},
        cell_type_column="author label",
        donor_column="patient",
        condition_columns=["donor_id"],
        keep_obs=["cell_type"],
    )
    assert adata.obs["cell_type"].tolist() == adata.obs["author label"].tolist()
    assert adata.obs["donor_id"].tolist() == adata.obs["patient"].tolist()
    assert set(adata.obs["source_cell_type"]) == {"something else"}
    assert any("'author label'" in note for note in provenance["warnings"])


def test_kept_columns(run):
    obs = data_files.make_obs().assign(
        tissue=pd.Categorical(["blood"] * 60, categories=["blood", "gut"]),
        age=np.arange(60),
        primary=True,
        note=["x", None] * 30,
        batch=[1, 2] * 30,
    )
    obs.loc["cell1", "batch"] = np.nan
    names = ["tissue", "age", "primary", "note"]
    adata, _, provenance = run({"obs": obs}, keep_obs=names, condition_columns=["donor_id", "batch"])
    assert list(adata.obs) == ["cell_type", "donor_id", "batch", *names]
    assert list(adata.obs["tissue"].cat.categories) == ["blood"]
    assert adata.obs["age"].dtype.kind == "i"
    assert adata.obs["primary"].dtype == bool
    assert set(adata.obs["batch"]) == {"1", "2"}
    assert provenance["dropped_cells"]["missing_condition"] == 1


def test_obs_filters(run, tmp_path):
    obs = data_files.make_obs()
    obs["assay"] = pd.Categorical(np.array(["10x 3' v3", "10x 5' v2", "Smart-seq2"])[np.arange(60) % 3])
    obs["is_primary_data"] = np.arange(60) % 2 == 0
    obs["plate"] = np.arange(60) // 30
    adata, donors, provenance = run(
        {"obs": obs},
        obs_filters={"assay": ["10x 3' v3", "10x 5' v2", "10x 9'"], "is_primary_data": True, "plate": [0, 1]},
        min_cells_per_donor=10,
    )
    expected = obs[(np.arange(60) % 3 < 2) & obs["is_primary_data"]]
    assert adata.n_obs == (expected["donor_id"] == "A").sum() == 20
    assert provenance["dropped_cells"]["obs_filters"] == 40
    assert any("10x 9'" in note for note in provenance["warnings"])
    assert set(donors["reason"]) == {"", "no usable cell"}

    (tmp_path / "out" / "filtered.h5ad").unlink()
    (tmp_path / "out" / "donors.tsv").unlink()
    with pytest.raises(InputError) as caught:
        run({"obs": obs}, obs_filters={"is_primary_data": True, "assay": "Drop-seq"})
    assert "'10x 3' v3' (10)" in caught.value.got.replace('"', "'")
    assert "obs_filters.assay" in caught.value.remedy
    assert nothing_left(tmp_path)


def test_repeated_names_are_made_unique(run):
    var = data_files.make_var()
    var.index = ["gene", "gene", "gene-1", *var.index[3:]]
    obs = data_files.make_obs()
    obs.index = ["cell", "cell", *obs.index[2:]]
    with pytest.warns(UserWarning, match="not unique"):
        adata, _, provenance = run({"var": var, "obs": obs})
    assert adata.var_names.is_unique
    assert adata.obs_names.is_unique
    assert adata.obs_names[:2].tolist() == ["cell", "cell-1"]
    assert sum("duplicates" in note for note in provenance["warnings"]) == 2


def test_gene_selection(run):
    counts = COUNTS.copy()
    counts[:, 5] = 0
    counts[30, 5] = 1
    adata, _, provenance = run(
        {"X": sparse.csr_matrix(counts)}, genes={"select": "min_cells", "min_cells": 2}
    )
    assert adata.n_vars == 19
    assert (provenance["n_genes"], provenance["n_genes_before"]) == (19, 20)
    np.testing.assert_array_equal(adata.var["n_cells"], (adata.X.toarray() > 0).sum(axis=0))


def test_cells_without_counts_in_chosen_genes(run):
    counts = np.zeros((60, 20), dtype=np.float32)
    counts[:, 0] = 1
    counts[:4, 0], counts[:4, 1] = 0, 1
    adata, _, provenance = run(
        {"X": sparse.csr_matrix(counts)}, genes={"select": "min_cells", "min_cells": 5}
    )
    assert provenance["dropped_cells"]["no_counts_in_chosen_genes"] == 3  # the fourth is of donor C
    assert (adata.X.sum(axis=1) > 0).all()


def test_failure_on_writing_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CsrWriter, "append", fail)
    with pytest.raises(InputError) as caught:
        run()
    assert "filtered.h5ad" in caught.value.thing
    assert "no space left" in caught.value.got
    assert "larger disk" in caught.value.remedy
    assert nothing_left(tmp_path)


def test_failure_on_the_table_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(InputError, match=r"donors\.tsv"):
        run()
    assert nothing_left(tmp_path)


def test_other_failures_keep_their_type(run, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("too little")

    monkeypatch.setattr(CsrWriter, "append", fail)
    with pytest.raises(MemoryError):
        run()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_disk_full(tmp_path, form):
    """The system refuses to let a file grow: what HDF5 makes of it is recognised."""
    counts = sparse.random(4000, 300, 0.3, form, np.float32, random_state=np.random.default_rng(0))
    counts.data = np.ceil(counts.data * 1000)
    data_files.write(tmp_path / "atlas.h5ad", X=counts)
    code = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        from nmfbench.data import filter_donors
        from nmfbench.errors import InputError
        try:
            filter_donors("atlas.h5ad", "out/filtered.h5ad", "out/donors.tsv", min_cells_per_donor=1)
        except InputError as error:
            print(error)
            sys.exit(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "file size limit reached" in done.stdout
    assert "larger disk" in done.stdout
    assert not done.stderr
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "x"),
        OSError(
            "Can't write data (file write failed: errno = 28, error message = 'No space left on device')"
        ),
        RuntimeError("Unable to flush file: errno = 122"),
    ],
)
def test_disk_problem_is_recognised(error):
    assert disk_problem(error)


@pytest.mark.parametrize("error", [OSError("errno = 5"), RuntimeError("x"), OSError(errno.EACCES, "x")])
def test_other_problem(error):
    assert disk_problem(error) is None


def test_killed_run_does_not_spoil_the_next(run, tmp_path):
    (tmp_path / "out").mkdir()
    for name in (".filtered.h5ad.part", ".filtered.h5ad.rows", ".donors.tsv.part"):
        (tmp_path / "out" / name).write_bytes(b"half a file")
    adata, *_ = run({"X": sparse.csc_matrix(COUNTS)})
    assert adata.n_obs == 50
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_same_input_same_file(run, tmp_path):
    digests = set()
    for _ in range(2):
        run()
        with h5py.File(tmp_path / "out" / "filtered.h5ad") as file:
            assert PROVENANCE_KEY in file["uns"]
            digests.add(hashlib.sha256(file["X/data"][:].tobytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.real
def test_real_data(real_h5ad, tmp_path):
    provenance = filter_donors(
        real_h5ad, tmp_path / "filtered.h5ad", tmp_path / "donors.tsv", min_cells_per_donor=300
    )
    assert provenance["counts"]["whole_numbers"]
    assert provenance["n_cells"] > 0
