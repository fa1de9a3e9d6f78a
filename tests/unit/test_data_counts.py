"""Where counts are found, in which forms, and which values are refused."""

from __future__ import annotations

from itertools import product

import h5py
import numpy as np
import pytest
from scipy import sparse

import data_files
from nmfbench.data import counts as counts_module
from nmfbench.data.check import ValueCheck
from nmfbench.data.counts import locate_counts, open_counts
from nmfbench.data.csc import rows_from_columns
from nmfbench.data.h5ad import open_h5ad
from nmfbench.errors import InputError

COUNTS = data_files.make_counts()


def read_all(path, source="auto", keep=None):
    """All blocks as one dense array, and the rows they hold."""
    with open_h5ad(path) as file:
        location = locate_counts(file, path, source)
        with open_counts(file, location, path, path.with_suffix(".rows")) as reader:
            parts = list(reader.blocks(keep))
    rows = np.concatenate([rows for rows, _ in parts])
    return rows, sparse.vstack([block for _, block in parts]).toarray()


def check_all(path, source="auto", **settings):
    """Check the values of a file; gives the check."""
    with open_h5ad(path) as file:
        location = locate_counts(file, path, source)
        with open_counts(file, location, path, path.with_suffix(".rows")) as reader:
            cells = [f"cell{number}" for number in range(reader.n_cells)]
            genes = [f"gene{number}" for number in range(reader.n_genes)]
            check = ValueCheck(file, path, location, cells, genes, **settings)
            for rows, block in reader.blocks():
                check.update(rows, block)
    return check


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        *product(
            [sparse.csr_matrix, sparse.csc_matrix, np.asarray],
            ["float32", "float64", "int64", "int32", "uint16", "bool"],
        ),
        (np.asarray, "float16"),  # scipy has no such sparse matrix
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_every_form_and_type(tmp_path, monkeypatch, dtype, form, small):
    if small:
        monkeypatch.setattr(counts_module, "MAX_BLOCK_NONZEROS", 50)
        monkeypatch.setattr(counts_module, "MAX_DENSE_BYTES", 500)
    path = data_files.write(tmp_path / "atlas.h5ad", X=form(COUNTS.astype(dtype)))
    rows, values = read_all(path)
    np.testing.assert_array_equal(rows, np.arange(len(COUNTS)))
    np.testing.assert_array_equal(values, COUNTS.astype(dtype))
    assert check_all(path).report()["whole_numbers"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("chunk", [1, 7, 100, 10_000])
def test_columns_become_rows(tmp_path, chunk):
    dense = COUNTS.copy()
    dense[[3, 4, -1]] = 0
    dense[:, [5, -1]] = 0
    path = data_files.write(tmp_path / "atlas.h5ad", X=sparse.csc_matrix(dense))
    scratch = tmp_path / "scratch"
    with open_h5ad(path) as file:
        location = locate_counts(file, path)
        with rows_from_columns(file["X"], location, path, scratch, chunk) as twin:
            result = sparse.csr_matrix((twin["data"][:], twin["indices"][:], twin["indptr"][:]), dense.shape)
            assert result.has_canonical_format
            np.testing.assert_array_equal(result.toarray(), dense)
    assert not scratch.exists()


def test_only_wanted_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(counts_module, "MAX_BLOCK_NONZEROS", 50)
    path = data_files.write(tmp_path / "atlas.h5ad")
    keep = np.zeros(len(COUNTS), dtype=bool)
    keep[[2, 3, 40]] = True
    rows, values = read_all(path, keep=keep)
    np.testing.assert_array_equal(rows, [2, 3, 40])
    np.testing.assert_array_equal(values, COUNTS[keep])


def test_unsorted_double_and_zero_entries(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad", X=sparse.csr_matrix((60, 20), dtype=np.float32))
    with h5py.File(path, "r+") as file:
        for name, values in {
            "data": np.array([1, 2, 3, 0], dtype=np.float32),
            "indices": np.array([4, 1, 4, 2], dtype=np.int32),
            "indptr": np.array([0, *[4] * 60], dtype=np.int32),
        }.items():
            del file["X"][name]
            file["X"][name] = values
    _, values = read_all(path)
    assert values.sum() == 6
    assert (values[0, 1], values[0, 4]) == (2, 4)


@pytest.mark.parametrize(
    ("source", "found", "factor"),
    [("auto", "raw.X", 1), ("raw", "raw.X", 1), ("X", "X", 2), ("thrice", "layers['thrice']", 3)],
)
def test_where_counts_are_found(tmp_path, source, found, factor):
    layers = {"thrice": sparse.csr_matrix(3 * COUNTS)}
    path = data_files.write(
        tmp_path / "a.h5ad", X=sparse.csr_matrix(2 * COUNTS), raw=sparse.csr_matrix(COUNTS), layers=layers
    )
    with open_h5ad(path) as file:
        assert locate_counts(file, path, source).source == found
    np.testing.assert_array_equal(read_all(path, source)[1], factor * COUNTS)


def test_auto_without_raw_takes_X(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad", layers={"other": sparse.csr_matrix(2 * COUNTS)})
    with open_h5ad(path) as file:
        assert locate_counts(file, path).source == "X"


@pytest.mark.parametrize("source", ["raw", "decontXcounts"])
def test_no_such_matrix(tmp_path, source):
    path = data_files.write(tmp_path / "atlas.h5ad", layers={"spliced": sparse.csr_matrix(COUNTS)})
    with open_h5ad(path) as file, pytest.raises(InputError) as caught:
        locate_counts(file, path, source)
    assert "there are X, layers['spliced']" in caught.value.got
    assert "matrix.source" in caught.value.remedy


def test_without_X(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad")
    with h5py.File(path, "r+") as file:
        del file["X"]
    with open_h5ad(path) as file, pytest.raises(InputError, match="a file without X, raw or layers"):
        locate_counts(file, path)


@pytest.mark.parametrize("shape", [(0, 20), (60, 0)])
def test_empty_matrix(tmp_path, shape):
    path = data_files.write(tmp_path / "atlas.h5ad", X=sparse.csr_matrix(shape, dtype=np.float32))
    with open_h5ad(path) as file, pytest.raises(InputError, match="empty matrix"):
        locate_counts(file, path)


def test_text_for_counts(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad")
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = np.full((60, 20), b"1")
    with open_h5ad(path) as file, pytest.raises(InputError, match="a dense, CSR or CSC matrix of numbers"):
        locate_counts(file, path)


@pytest.mark.parametrize(("shape", "frame"), [((59, 20), "obs"), ((60, 19), "var")])
def test_shape_that_does_not_fit(tmp_path, shape, frame):
    path = data_files.write(tmp_path / "atlas.h5ad")
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = shape
    with open_h5ad(path) as file, pytest.raises(InputError, match=f"as {frame} has rows"):
        locate_counts(file, path)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("indptr", lambda values: np.append(values[:-1], values[-1] + 5)),
        ("indptr", lambda values: values[::-1]),
        ("indices", lambda values: values + 100),
        ("indices", lambda values: values - 100),
        ("indices", lambda values: values[:-3]),
    ],
)
def test_damaged_sparse_matrix(tmp_path, form, part, change):
    path = data_files.write(tmp_path / "atlas.h5ad", X=form(COUNTS))
    with h5py.File(path, "r+") as file:
        values = change(file["X"][part][:])
        del file["X"][part]
        file["X"][part] = values
    with pytest.raises(InputError) as caught:
        read_all(path)
    assert f"{path}: X" in caught.value.thing
    assert "again" in caught.value.remedy
    assert list(tmp_path.iterdir()) == [path]


def test_damage_in_the_middle(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad")
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        place = file["X"].create_dataset("data", data=values, compression="gzip", chunks=(100,))
        offset = place.id.get_chunk_info(2).byte_offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * 20)
    with pytest.raises(InputError, match="damaged"):
        read_all(path)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (-1, "negative")]
)
@pytest.mark.parametrize("settings", [{}, {"allow_non_integer": True}, {"assume": "counts"}])
def test_values_that_are_never_accepted(tmp_path, form, value, word, settings):
    values = COUNTS.copy()
    values[7, 3] = value
    path = data_files.write(tmp_path / "atlas.h5ad", X=form(values))
    with pytest.raises(InputError) as caught:
        check_all(path, **settings)
    assert caught.value.thing == f"{path}: X"
    assert f"1 {word} value(s)" in caught.value.got
    assert "cell 'cell7' (row 7), gene 'gene3'" in caught.value.got
    assert "matrix.source" in caught.value.remedy


def test_normalised_data_are_recognised(tmp_path):
    path = data_files.write(
        tmp_path / "a.h5ad", X=data_files.log_normalised(COUNTS), raw=sparse.csr_matrix(COUNTS)
    )
    with pytest.raises(InputError) as caught:
        check_all(path, "X")
    assert "log1p of library-size normalised values (10000 a cell)" in caught.value.got
    assert "whole numbers are in matrix.source: raw" in caught.value.remedy
    assert "{source: X, assume: counts}" in caught.value.remedy
    assert "allow_non_integer: true" in caught.value.remedy


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param(COUNTS / COUNTS.sum(1, keepdims=True) * 1e4, "library-size normalised", id="per-cell"),
        pytest.param(np.log1p(COUNTS), "normalised or log-transformed", id="plain-log"),
        pytest.param(COUNTS * 37.7, "", id="no-telling"),
    ],
)
def test_other_fractions(tmp_path, values, words):
    path = data_files.write(tmp_path / "a.h5ad", X=sparse.csr_matrix(values.astype(np.float32)))
    with pytest.raises(InputError, match="fractions") as caught:
        check_all(path)
    assert ("looks like" in caught.value.got) == bool(words)
    assert words in caught.value.got


def test_layer_with_counts_is_proposed(tmp_path):
    path = data_files.write(
        tmp_path / "a.h5ad",
        X=data_files.log_normalised(COUNTS),
        layers={"umi": sparse.csr_matrix(COUNTS), "scaled": COUNTS - 0.5},
    )
    with pytest.raises(InputError) as caught:
        check_all(path)
    assert "(whole numbers are in matrix.source: umi)" in caught.value.remedy


def test_fractions_on_purpose(tmp_path):
    path = data_files.write(tmp_path / "a.h5ad", X=sparse.csr_matrix(0.95 * COUNTS))
    check = check_all(path, allow_non_integer=True)
    assert not check.report()["whole_numbers"]
    assert check.report()["n_fractions"] == check.n_fractions > 0
    assert "fractions among" in check.warnings()[0]


def test_log_values_taken_as_counts(tmp_path):
    path = data_files.write(tmp_path / "a.h5ad", X=data_files.log_normalised(COUNTS))
    check = check_all(path, assume="counts")
    assert check.report()["assume"] == "counts"
    assert "taken as counts" in check.warnings()[0]
    assert "it looks like log1p" in check.warnings()[1]


def test_counts_too_large_for_float32(tmp_path):
    values = COUNTS.astype(np.int64)
    values[0, 0] = 2**24 + 1
    path = data_files.write(tmp_path / "a.h5ad", X=sparse.csr_matrix(values))
    assert "float32 rounds" in check_all(path).warnings()[0]
