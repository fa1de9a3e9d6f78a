"""Files as other tools than anndata write them: read where they are sound, else refused with the place."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import data_files
from nmfbench.data import filter_donors
from nmfbench.data.frames import as_str
from nmfbench.errors import InputError

COUNTS = data_files.make_counts()


@pytest.fixture
def run(tmp_path):
    """Filter a file that `change` was let loose on; gives what anndata reads of it and the warnings."""

    def go(change=None, **settings):
        path = data_files.write(tmp_path / "atlas.h5ad")
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
        settings = {"min_cells_per_donor": 1} | settings
        found = filter_donors(path, tmp_path / "filtered.h5ad", tmp_path / "donors.tsv", **settings)
        return anndata.read_h5ad(tmp_path / "filtered.h5ad"), found["warnings"]

    return go


def text(file, key, values, charset="utf-8"):
    """Put text in the place of a dataset, with its attributes."""
    attributes = dict(file[key].attrs) if key in file else {}
    if key in file:
        del file[key]
    file.create_dataset(key, data=np.array(values, object), dtype=h5py.string_dtype(charset)).attrs.update(
        attributes
    )


def replace(file, key, values):
    attributes = dict(file[key].attrs)
    del file[key]
    file.create_dataset(key, data=values).attrs.update(attributes)


def same_cells(adata):
    return np.array_equal(adata.X.toarray(), COUNTS) and adata.obs_names.tolist() == [
        f"cell{i}" for i in range(60)
    ]


def nullable_strings(file):
    """pandas 3 and anndata 0.13 write text so."""
    for key in ("var/feature_name", "obs/_index"):
        values = file[key][:]
        del file[key]
        group = file.create_group(key)
        group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
        group.create_dataset("values", data=values, dtype=h5py.string_dtype())
        mask = np.zeros(len(values), bool)
        mask[1] = key.startswith("var")
        group["mask"] = mask


def fixed_attributes(file):
    """HDF5.jl, rhdf5 and some Rust writers: h5py gives bytes."""

    def fix(_, item):
        for key, value in list(item.attrs.items()):
            if isinstance(value, str):
                item.attrs.create(key, np.bytes_(value.encode()))
            elif getattr(value, "dtype", np.dtype(int)).kind == "O":
                item.attrs.create(key, np.array([word.encode() for word in value], dtype="S"))

    file.visititems(fix)


def one_word_arrays(file):
    """Some writers put a word into an array of one."""
    for item in (file["X"], file["obs"], file["var"], file["obs/cell_type"]):
        for key in ("encoding-type", "_index"):
            if key in item.attrs:
                item.attrs[key] = np.array([item.attrs[key].encode()], dtype="S32")


def seurat(file):
    """The index under another name, a column called _index, categories kept apart."""
    var = file["var"]
    var.move("_index", "features")
    text(file, "var/_index", [f"G{i}" for i in range(20)])
    var.attrs["_index"] = "features"
    var.attrs["column-order"] = np.array(["_index", "feature_name"], dtype=h5py.string_dtype())
    obs = file["obs"]
    codes, categories = obs["cell_type/codes"][:], obs["cell_type/categories"][:]
    del obs["cell_type"]
    obs["cell_type"] = codes
    obs.create_group("__categories").create_dataset("cell_type", data=categories, dtype=h5py.string_dtype())
    del obs.attrs["encoding-version"]


def no_marks(file):
    """A writer that leaves no attribute at all."""
    for item in (file["X"], file["obs"], file["var"]):
        for key in list(item.attrs):
            if key != "_index":
                del item.attrs[key]


def unsigned(file):
    """Rust: indices and pointers without a sign."""
    for part in ("indices", "indptr"):
        replace(file, f"X/{part}", file[f"X/{part}"][:].astype(np.uint64))
    replace(file, "obs/cell_type/codes", file["obs/cell_type/codes"][:].astype(np.uint32))


def big_endian(file):
    for key, kind in (("X/data", ">f8"), ("X/indptr", ">i8"), ("obs/donor_id/codes", ">i2")):
        replace(file, key, file[key][:].astype(kind))


def fixed_text(file):
    for key in ("obs/_index", "obs/cell_type/categories", "var/_index"):
        replace(file, key, np.array(file[key][:].tolist(), dtype="S"))


@pytest.mark.parametrize(
    "change",
    [nullable_strings, fixed_attributes, one_word_arrays, seurat, no_marks, unsigned, big_endian, fixed_text],
)
def test_sound_files_of_other_writers_are_read(run, change):
    adata, _ = run(change)
    assert same_cells(adata)
    assert (
        adata.obs["cell_type"].astype(str).tolist() == data_files.make_obs()["cell_type"].astype(str).tolist()
    )
    assert (
        adata.obs["donor_id"].astype(str).tolist() == data_files.make_obs()["donor_id"].astype(str).tolist()
    )
    assert adata.var_names.tolist() == data_files.make_var().index.tolist()


def test_gaps_in_nullable_text_stay_gaps(run):
    adata, _ = run(nullable_strings)
    assert adata.var["feature_name"].isna().tolist() == [i == 1 for i in range(20)]


def test_a_column_called_index_is_left_out(run):
    adata, warnings = run(seurat)
    assert "_index" not in adata.var
    assert any("var['_index'] is left out" in note for note in warnings)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("Müller γδ".encode(), "Müller γδ"),
        ("Müller".encode("latin-1"), "Müller"),
        (b"\x93quoted\x94", "“quoted”"),  # Windows
        (b"\x81", "\x81"),
        ("plain", "plain"),
        ("M\udcfcller", "Müller"),  # as h5py gives bytes of attributes that are not UTF-8
        (np.array([b"one"], dtype="S3"), "one"),
    ],
)
def test_text_of_any_encoding(raw, said):
    assert as_str(raw) == said


@pytest.mark.parametrize("charset", ["ascii", "utf-8"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_letters_beyond_ascii(run, charset, encoding):
    labels = ["Kupffer cell µ", "Müller cell"]
    adata, warnings = run(
        lambda file: text(
            file, "obs/cell_type/categories", [label.encode(encoding) for label in labels], charset
        )
    )
    assert sorted(adata.obs["cell_type"].cat.categories) == labels
    assert any("not UTF-8" in note for note in warnings) == (encoding == "latin-1")


def test_cell_ids_that_are_not_utf8(run):
    names = [f"zelle_ä{i}".encode("latin-1") for i in range(60)]
    adata, warnings = run(lambda file: text(file, "obs/_index", names))
    assert adata.obs_names[3] == "zelle_ä3"
    assert any("cell ids: 60 values are not UTF-8" in note for note in warnings)


def test_numbers_for_names(run):
    def change(file):
        replace(file, "obs/_index", np.arange(100, 160))
        replace(file, "var/_index", np.arange(20))

    adata, _ = run(change)
    assert adata.obs_names[:2].tolist() == ["100", "101"]
    assert adata.var_names[:2].tolist() == ["0", "1"]


def test_logicals_of_r(run):
    """hdf5r writes TRUE, FALSE and NA as an enumeration."""

    def change(file):
        kind = h5py.enum_dtype({"FALSE": 0, "TRUE": 1, "NA": 2}, basetype=np.int8)
        values = np.arange(60) % 3
        file["obs"].create_dataset("treated", data=values.astype(np.int8), dtype=kind)
        file["obs"].attrs["column-order"] = np.array(["cell_type", "donor_id", "treated"], dtype=object)

    adata, _ = run(change, keep_obs=["treated"])
    assert adata.obs["treated"].astype(object).fillna("-").tolist()[:3] == ["FALSE", "TRUE", "-"]


@pytest.mark.parametrize("kind", ["encoding", "length", "two-dimensional", "complex", "code", "slash"])
def test_a_column_of_var_that_nobody_needs_is_left_out(run, kind):
    def change(file):
        var = file["var"]
        if kind == "encoding":
            var.create_group("odd").attrs["encoding-type"] = "awkward-array"
        elif kind == "code":
            odd = var.create_group("odd")
            odd["codes"], odd["categories"] = np.full(20, 9), np.arange(3)
        else:
            values = {"length": np.arange(7), "two-dimensional": np.zeros((20, 2)), "slash": np.arange(20)}
            var["odd/x" if kind == "slash" else "odd"] = values.get(kind, np.zeros(20, complex))
        names = ["feature_name", "odd/x" if kind == "slash" else "odd"]
        var.attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())

    adata, warnings = run(change)
    assert list(adata.var.columns)[:1] == ["feature_name"]
    assert not any(name.startswith("odd") for name in adata.var)
    assert any("is left out" in note and "odd" in note for note in warnings)


def link(group, name, other=False):
    del group[name]
    group[name] = h5py.ExternalLink("elsewhere.h5", "/x") if other else h5py.SoftLink("/nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: replace(f, "obs/cell_type/codes", np.full(60, -2, np.int8)),
            ["obs['cell_type']", "code -2"],
        ),
        (
            lambda f: replace(f, "obs/cell_type/codes", np.full(60, 2, np.int8)),
            ["obs['cell_type']", "code 2"],
        ),
        (
            lambda f: replace(f, "obs/cell_type/codes", np.zeros(59, np.int8)),
            ["obs['cell_type']", "59 values"],
        ),
        (lambda f: replace(f, "obs/cell_type/codes", np.zeros(60)), ["obs['cell_type']", "no whole numbers"]),
        (lambda f: link(f, "obs"), ["link to /nowhere"]),
        (lambda f: link(f, "X", other=True), ["elsewhere.h5"]),
        (lambda f: link(f["obs/cell_type"], "categories"), ["obs['cell_type']", "link to /nowhere"]),
        (lambda f: replace(f, "X/indptr", f["X/indptr"][:].astype(float)), ["indptr", "float64"]),
        (
            lambda f: replace(f, "X/indptr", f["X/indptr"][:] - np.int32(2**31 - 1)),
            ["row pointers", "32 bits"],
        ),
        (lambda f: replace(f, "obs/_index", np.zeros((60, 2))), ["shape (60, 2)"]),
        (lambda f: f["X"].attrs.__setitem__("encoding-type", "coo_matrix"), ["X", "coo"]),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_place(run, change, words):
    with pytest.raises(InputError) as caught:
        run(change)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_column_that_is_needed_and_cannot_be_read(run):
    def change(file):
        file["obs"]["odd"] = np.zeros((60, 2))
        file["obs"].attrs["column-order"] = np.array(["cell_type", "donor_id", "odd"], dtype=object)

    with pytest.raises(InputError, match=r"obs\['odd'\]") as caught:
        run(change, keep_obs=["odd"])
    assert "shape (60, 2)" in caught.value.got


def container(tmp_path, kind):
    """A file or folder that is no h5ad file."""
    path = tmp_path / "atlas.h5ad"
    if kind == "zarr":
        (tmp_path / "store.zarr").mkdir()
        (tmp_path / "store.zarr" / "zarr.json").write_text("{}", encoding="utf-8")
        return tmp_path / "store.zarr"
    if kind == "rds":
        import gzip

        path.write_bytes(gzip.compress(b"X\n\0\0\0\3\0\4"))
        return path
    if kind == "mtx":
        path.write_bytes(b"%%MatrixMarket matrix coordinate\n")
        return path
    if kind == "dead link":
        path.symlink_to("gone.h5ad")
        return path
    with h5py.File(path, "w") as file:
        if kind == "mudata":
            file.create_group("mod/rna")
            for name in ("obs", "var"):
                file.create_group(name)
        if kind == "loom":
            file["matrix"], file["row_attrs/x"], file["col_attrs/x"] = np.zeros((2, 2)), [1], [1]
        if kind == "10x":
            for name in ("barcodes", "data", "indices", "indptr", "shape"):
                file[f"matrix/{name}"] = [1]
        if kind == "h5seurat":
            file["cell.names"], file["meta.data/x"] = [1], [1]
    return path


@pytest.mark.parametrize(
    ("kind", "got", "remedy"),
    [
        ("zarr", "zarr store", "read_zarr"),
        ("mudata", "MuData", "read_h5mu"),
        ("loom", "loom file", "read_loom"),
        ("10x", "10x Genomics", "read_10x_h5"),
        ("h5seurat", "h5Seurat", "SeuratDisk"),
        ("rds", "R object", "zellkonverter"),
        ("mtx", "MatrixMarket", "read_10x_mtx"),
        ("dead link", "link to gone.h5ad", "mend the link"),
    ],
)
def test_other_containers_are_named(tmp_path, kind, got, remedy):
    from nmfbench.data.h5ad import open_h5ad

    with pytest.raises(InputError) as caught:
        open_h5ad(container(tmp_path, kind))
    assert got in caught.value.got
    assert remedy in caught.value.remedy


def test_a_missing_compression_plugin_is_named(run, monkeypatch):
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: code == 1)

    def change(file):
        values = file["X/data"][:]
        del file["X/data"]
        file["X"].create_dataset("data", data=values, compression="lzf")

    with pytest.raises(InputError, match="compressed with lzf") as caught:
        run(change)
    assert "hdf5plugin" in caught.value.remedy


def test_a_file_that_is_open_for_writing_says_so(tmp_path):
    import subprocess
    import sys

    from nmfbench.data.h5ad import open_h5ad

    path = data_files.write(tmp_path / "atlas.h5ad")
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match="another program holds open") as caught:
            open_h5ad(path)
        other.communicate(b"\n")
    assert "notebook" in caught.value.remedy


def test_a_user_block_is_stepped_over(tmp_path):
    from nmfbench.data.h5ad import open_h5ad

    path = tmp_path / "atlas.h5ad"
    with h5py.File(path, "w", userblock_size=2048) as file:
        for name in ("obs", "var"):
            file.create_group(name)
    with open_h5ad(path) as file:
        assert "obs" in file


def test_fuzzing(tmp_path):
    """Damaged at random, each file is refused or read as a slow reader reads it."""
    import logging

    import fuzzing

    logging.disable()
    try:
        counted = fuzzing.trials(70, seed=3, folder=tmp_path)
    finally:
        logging.disable(logging.NOTSET)
    assert counted["read"] > 10
    assert counted["refused"] > 10


def test_the_slow_reader_reads_sound_files(tmp_path):
    import fuzzing

    for form in fuzzing.FORMS:
        fuzzing.sound_file(tmp_path / "sound.h5ad", form)
        assert len(fuzzing.slow_read(tmp_path / "sound.h5ad")) == fuzzing.N_CELLS
        assert fuzzing.tried(tmp_path / "sound.h5ad", tmp_path) == "read"


def test_pandas_frames_are_what_anndata_reads(tmp_path):
    """Our reader and anndata's agree on anndata's own file, type for type."""
    from nmfbench.data.frames import read_frame

    obs = data_files.make_obs().assign(
        n=np.arange(60),
        x=np.linspace(0, 1, 60),
        yes=np.arange(60) % 2 == 0,
        word=[f"w{i % 7}" for i in range(60)],
    )
    obs["maybe"] = pd.array([1, None] * 30, dtype="Int64")
    obs["truth"] = pd.array([True, None] * 30, dtype="boolean")
    obs["level"] = pd.Categorical(["lo", "hi"] * 30, categories=["lo", "hi"], ordered=True)
    path = data_files.write(tmp_path / "atlas.h5ad", X=sparse.csr_matrix(COUNTS), obs=obs)
    with h5py.File(path) as file:
        ours = read_frame(file["obs"])
    pd.testing.assert_frame_equal(ours, anndata.read_h5ad(path).obs, check_index_type=False)
