"""Files that are no h5ad files, and the small parts of those that are."""

from __future__ import annotations

import subprocess
import sys

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import data_files
from nmfbench.data.frames import frame_column, frame_columns, frame_index, frame_length
from nmfbench.data.h5ad import open_h5ad
from nmfbench.data.labels import clean_labels, likely_columns
from nmfbench.errors import InputError


def test_import_is_light(repository):
    heavy = "anndata", "scanpy", "pandas", "h5py", "torch", "sklearn", "matplotlib", "pooch"
    code = f"import sys, nmfbench.data; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository / "scripts", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("content", "got", "remedy"),
    [
        pytest.param(None, "no such file", "datasets.<name>.path", id="missing"),
        pytest.param(b"", "empty file", "again", id="empty"),
        pytest.param(b"gene\tcell1\n", "not HDF5", "write_h5ad", id="text"),
        pytest.param(b"\x1f\x8b\x08\x00" * 9, "gzip", "gunzip", id="gzip"),
        pytest.param(b"<!DOCTYPE html>", "web page", "download the file itself", id="html"),
        pytest.param(b"\x89HDF\r\n\x1a\nrubbish", "damaged", "again", id="signature-only"),
    ],
)
def test_not_hdf5(tmp_path, content, got, remedy):
    path = tmp_path / "atlas.h5ad"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_h5ad(path)
    assert str(path) in caught.value.thing
    assert got in caught.value.got
    assert remedy in caught.value.remedy


def test_folder(tmp_path):
    with pytest.raises(InputError, match="a folder"):
        open_h5ad(tmp_path)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated(tmp_path, part):
    path = data_files.write(tmp_path / "atlas.h5ad")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match="truncated") as caught:
        open_h5ad(path)
    assert "sha256" in caught.value.remedy


def test_hdf5_without_obs(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(InputError, match="weights"):
        open_h5ad(path)


def test_layout_of_old_anndata(tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((2, 2))
        for name in ("obs", "var"):
            file[name] = np.zeros(2, dtype=[("index", "S4"), ("n", "i4")])
    with pytest.raises(InputError, match="older layout"):
        open_h5ad(path)


def test_nullable_text(tmp_path):
    obs = data_files.make_obs()
    obs["donor_id"] = obs["donor_id"].astype("string")
    obs.index = obs.index.astype("string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        path = data_files.write(tmp_path / "atlas.h5ad", obs=obs)
    with open_h5ad(path) as file:
        assert list(frame_index(file["obs"])) == list(obs.index)
        assert frame_length(file["obs"]) == 60
        assert list(clean_labels(frame_column(file["obs"], "donor_id"))) == list(obs["donor_id"])


def test_parts_of_a_frame(tmp_path):
    obs = data_files.make_obs().assign(n=np.arange(60))
    with open_h5ad(data_files.write(tmp_path / "atlas.h5ad", obs=obs)) as file:
        assert frame_columns(file["obs"]) == ["cell_type", "donor_id", "n"]
        assert list(frame_index(file["obs"])) == list(obs.index)
        assert list(frame_column(file["obs"], "donor_id")) == list(obs["donor_id"])
        assert list(frame_column(file["obs"], "n")) == list(range(60))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            ["b", None, "a", float("nan"), "", " nan ", "NaN"], ["b", None, "a"] + 4 * [None], id="text"
        ),
        pytest.param([1.0, np.nan, 2.0, 1.0], ["1", None, "2", "1"], id="float"),
        pytest.param([3, 1, 3], ["3", "1", "3"], id="int"),
        pytest.param([True, False], ["True", "False"], id="bool"),
        pytest.param(
            ["T/B, 'x' \"y\"", "Zelle größer", "µ"], ["T/B, 'x' \"y\"", "Zelle größer", "µ"], id="odd"
        ),
        pytest.param(["unknown", "na"], ["unknown", "na"], id="terms-of-the-schema"),
        pytest.param(pd.array([1, None], dtype="Int64"), ["1", None], id="nullable"),
        pytest.param(pd.Categorical([1.0, 1.5, None]), ["1", "1.5", None], id="numeric-categories"),
    ],
)
def test_clean_labels(values, expected):
    values = values if hasattr(values, "dtype") else np.array(values, dtype=object)
    labels = clean_labels(values)
    assert [None if pd.isna(label) else label for label in labels] == expected
    assert set(labels.categories) == {label for label in expected if label is not None}


def test_unused_categories_go():
    assert list(clean_labels(pd.Categorical(["a"], categories=["z", "a"])).categories) == ["a"]


@pytest.mark.parametrize(
    ("name", "key", "columns", "expected"),
    [
        ("cell_type", "cell_type_column", ["x", "CellType"], ["CellType"]),
        ("donor_id", "donor_column", ["sex", "patient"], ["patient"]),
        ("tissue", "keep_obs", ["Tissue", "x"], ["Tissue"]),
        ("donor_id", "donor_column", ["x"], []),
    ],
)
def test_likely_columns(name, key, columns, expected):
    assert likely_columns(name, columns, key) == expected
