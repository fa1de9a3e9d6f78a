"""What the workflow wrote is what it reads: a changed file is refused, by name."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pandas as pd
import pytest

import data_files
from nmfbench.data import filter_donors, load_normalised, read_filtered
from nmfbench.errors import InputError
from nmfbench.results import read_embedding, write_result


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A filtered file and a result, as bytes."""
    folder = tmp_path_factory.mktemp("sound")
    source = data_files.write(folder / "atlas.h5ad")
    filter_donors(source, folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=1)
    counts = read_filtered(folder / "filtered.h5ad")
    rng = np.random.default_rng(0)
    checksum = write_result(
        folder / "result.h5ad",
        obs=counts.obs,
        var=counts.var,
        obsm={"H": rng.random((60, 3), dtype=np.float32)},
        varm={"W": rng.random((20, 3), dtype=np.float32)},
        uns={"model_name": "AE_NMF"},
        record={
            "model": "ae_nmf",
            "display_name": "AE_NMF",
            "rank": 3,
            "seed": 42,
            "embedding": "H",
            "uses_labels": "",
        },
    )
    return {name: (folder / name).read_bytes() for name in ("filtered.h5ad", "result.h5ad")} | {
        "checksum": checksum
    }


@pytest.fixture
def files(sound, tmp_path):
    """Fresh copies of both."""
    for name in ("filtered.h5ad", "result.h5ad"):
        (tmp_path / name).write_bytes(sound[name])
    return tmp_path


def change(path, key, new):
    with h5py.File(path, "r+") as file:
        file[key][...] = new(file[key][:])


def test_sound_files_are_read(files):
    counts = read_filtered(files / "filtered.h5ad")
    assert load_normalised(counts.path).shape == (60, 20)
    assert len(counts.obs) == len(counts.label("donor_id")) == 60
    H, obs = read_embedding(files / "result.h5ad", {"model": "ae_nmf", "rank": "3", "seed": "42"})
    assert H.shape == (60, 3)
    assert list(obs.columns) == ["cell_type", "donor_id"]


@pytest.mark.parametrize("key", ["X/data", "X/indices"])
def test_changed_counts(files, key):
    change(files / "filtered.h5ad", key, lambda values: values[::-1])
    with pytest.raises(InputError, match="the content that the workflow wrote") as caught:
        load_normalised(files / "filtered.h5ad")
    assert key in caught.value.thing


def test_a_flipped_bit_in_a_packed_chunk(files):
    path = files / "filtered.h5ad"
    with h5py.File(path) as file:
        place = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + place.size // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match="X, rows 0 to"):
        next(iter(read_filtered(path).spans([(0, 5)])))  # a part is enough: HDF5 compares the chunk's own sum


def test_reversed_labels(files):
    path = files / "filtered.h5ad"
    change(path, "obs/donor_id/codes", lambda codes: codes[::-1])
    counts = read_filtered(path)
    for read in (lambda: counts.label("donor_id"), lambda: counts.obs):
        with pytest.raises(InputError, match="obs/donor_id/codes"):
            read()
    assert len(counts.label("cell_type")) == 60  # the others are as they were


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("obsm/H", lambda values: values + np.float32(1e-7)),
        ("obs/donor_id/codes", lambda codes: codes[::-1]),
        ("varm/W", lambda values: values[::-1]),
        ("obs/_index", lambda names: names[::-1]),
    ],
)
def test_changed_results(files, key, new):
    change(files / "result.h5ad", key, new)
    with pytest.raises(InputError, match="the content that the workflow wrote") as caught:
        read_embedding(files / "result.h5ad")
    assert key in caught.value.thing
    assert "trained anew" in caught.value.remedy


def test_an_array_more_or_less(files):
    with h5py.File(files / "result.h5ad", "r+") as file:
        file["obsm/X_umap"] = np.zeros((60, 2))
    with pytest.raises(InputError, match="obsm/X_umap"):
        read_embedding(files / "result.h5ad")


def test_the_result_of_another_fit(files, sound):
    path = files / "result.h5ad"
    for wanted in ({"model": "base_nmf"}, {"rank": "4"}, {"seed": "1"}):
        with pytest.raises(InputError, match="another fit"):
            read_embedding(path, {"model": "ae_nmf", "rank": "3", "seed": "42"} | wanted)
    record = files / "run.json"
    record.write_text(json.dumps({"result_checksum": sound["checksum"]}), encoding="utf-8")
    read_embedding(path)
    record.write_text(json.dumps({"result_checksum": "0" * 64}), encoding="utf-8")
    with pytest.raises(InputError, match="it is not the result that"):
        read_embedding(path)


def test_attributes_count(files):
    """Order of the categories, names of columns: what stands in attributes."""
    with h5py.File(files / "result.h5ad", "r+") as file:
        file["obs"].attrs["column-order"] = np.array(["donor_id", "cell_type"], dtype=object)
    with pytest.raises(InputError, match="obs"):
        read_embedding(files / "result.h5ad")


def test_checksums_do_not_depend_on_how_it_is_packed(tmp_path):
    from nmfbench.data.checksum import checksums

    found = []
    for options in ({}, {"compression": "gzip"}, {"chunks": (7,)}):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("a/numbers", data=np.arange(50), **options)
            file.create_dataset(
                "a/words", data=np.array(["x", "γ"] * 25, object), dtype=h5py.string_dtype(), **options
            )
            file["a/none"], file["a/one"] = np.zeros((0, 3)), "text"
            found.append(checksums(file, "a", "absent"))
    assert found[0] == found[1] == found[2]
    assert set(found[0]) == {"a", "a/numbers", "a/words", "a/none", "a/one"}
    assert len(set(found[0].values())) >= 4


def test_frames_survive(files):
    """Sealing changes nothing in the content."""
    _, obs = read_embedding(files / "result.h5ad")
    pd.testing.assert_frame_equal(obs, read_filtered(files / "filtered.h5ad").obs, check_index_type=False)
