"""Reading the filtered file and normalising its counts."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

import data_files
from nmfbench.data import AS_COUNTED, filter_donors, load_normalised, normalise_block, read_filtered
from nmfbench.errors import InputError

COUNTS = data_files.make_counts()


@pytest.fixture
def filtered(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad")
    filter_donors(path, tmp_path / "filtered.h5ad", tmp_path / "donors.tsv", min_cells_per_donor=10)
    return tmp_path / "filtered.h5ad"


@pytest.mark.parametrize("block_size", [1, 7, 60, 4096])
def test_blocks(filtered, block_size):
    counts = read_filtered(filtered)
    starts, blocks = zip(*counts.blocks(block_size), strict=True)
    assert list(starts) == list(range(0, 60, block_size))
    assert all(block.dtype == np.float32 and sparse.issparse(block) for block in blocks)
    np.testing.assert_array_equal(sparse.vstack(blocks).toarray(), COUNTS)


def test_what_is_known_without_reading_counts(filtered):
    counts = read_filtered(filtered)
    assert (counts.n_cells, counts.n_genes, counts.nnz) == (60, 20, np.count_nonzero(COUNTS))
    assert counts.obs["donor_id"].tolist() == data_files.make_obs()["donor_id"].tolist()
    assert counts.var.index.tolist() == data_files.make_var().index.tolist()
    assert counts.fingerprint == counts.provenance["fingerprint"]
    assert len(counts.fingerprint) == 64
    assert counts.provenance["counts"]["source"] == "X"
    assert counts.provenance["warnings"] == []


def reference(counts, target_sum=1e4, log1p=True):
    """Plain float64 twin of `normalise_block`."""
    result = counts.astype(np.float64)
    if target_sum is not None:
        sums = result.sum(axis=1, keepdims=True)
        result = np.divide(result * target_sum, sums, out=np.zeros_like(result), where=sums > 0)
    return np.log1p(result) if log1p else result


@pytest.mark.parametrize("target_sum", [1e4, 1.0, None])
@pytest.mark.parametrize("log1p", [True, False])
def test_normalisation(target_sum, log1p):
    counts = COUNTS.copy()
    counts[[4, -1]] = 0
    block = sparse.csr_matrix(counts)
    result = normalise_block(block, target_sum, log1p)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.toarray(), reference(counts, target_sum, log1p), rtol=1e-6)
    np.testing.assert_array_equal(block.toarray(), counts)  # the input is left alone
    assert result[4].nnz == 0


def test_normalisation_equals_scanpy():
    import scanpy as sc

    adata = anndata.AnnData(sparse.csr_matrix(COUNTS))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(
        normalise_block(sparse.csr_matrix(COUNTS)).toarray(), adata.X.toarray(), rtol=1e-6
    )


def test_load_normalised(filtered):
    matrix = load_normalised(filtered)
    assert matrix.dtype == np.float32
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert matrix.has_canonical_format
    np.testing.assert_allclose(matrix.toarray(), reference(COUNTS), rtol=1e-6)
    np.testing.assert_allclose(
        load_normalised(filtered, target_sum=1e6, log1p=False).toarray(),
        reference(COUNTS, 1e6, False),
        rtol=1e-6,
    )


def test_file_of_other_origin(tmp_path):
    path = data_files.write(tmp_path / "atlas.h5ad")
    with pytest.raises(InputError, match="filter_donors"):
        read_filtered(path)


def test_truncated(filtered):
    content = filtered.read_bytes()
    filtered.write_bytes(content[:-100])
    with pytest.raises(InputError, match="truncated"):
        read_filtered(filtered)


def test_damaged_counts(filtered):
    with h5py.File(filtered) as file:
        offset = file["X/data"].id.get_chunk_info(0).byte_offset
    with filtered.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * 20)
    with pytest.raises(InputError, match="X, rows 0 to 60"):
        list(read_filtered(filtered).blocks())


def test_models_of_counts_get_the_counts(filtered):
    loaded = load_normalised(filtered, **AS_COUNTED)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded.toarray(), COUNTS)


@pytest.mark.parametrize("block_size", [1, 8, 4096])
def test_ranges_of_rows_are_put_together(filtered, block_size):
    counts = read_filtered(filtered)
    spans = [(0, 3), (3, 5), (9, 10), (40, 47), (58, 60)]
    found = list(counts.spans(spans, block_size))
    rows = np.concatenate([rows for rows, _ in found])
    np.testing.assert_array_equal(rows, np.concatenate([np.arange(*span) for span in spans]))
    np.testing.assert_array_equal(sparse.vstack([block for _, block in found]).toarray(), COUNTS[rows])
    assert len(found) == {1: 5, 8: 2, 4096: 1}[block_size]
    assert list(counts.spans([], block_size)) == []


def with_coordinates(tmp_path, values):
    path = data_files.write(tmp_path / "atlas.h5ad")
    adata = anndata.read_h5ad(path)
    adata.obsm["spatial"] = values
    adata.write_h5ad(path)
    # the donor of ten cells is dropped
    filter_donors(path, tmp_path / "filtered.h5ad", tmp_path / "donors.tsv", min_cells_per_donor=11)
    return adata, read_filtered(tmp_path / "filtered.h5ad")


def test_coordinates_follow_their_cells(tmp_path):
    values = np.random.default_rng(0).uniform(size=(60, 2))
    adata, counts = with_coordinates(tmp_path, values)
    kept = adata.obs_names.get_indexer(counts.obs.index)
    assert len(kept) == 50
    np.testing.assert_array_equal(counts.coordinates, values[kept])
    before = counts.fingerprint
    values[kept[0]] += 1
    assert with_coordinates(tmp_path, values)[1].fingerprint != before


@pytest.mark.parametrize(
    ("values", "note"),
    [(np.ones((60, 5)), "not a matrix of two or three columns"), (np.full((60, 2), np.nan), "not finite")],
)
def test_coordinates_that_cannot_be_used_are_left_out_and_said(tmp_path, values, note):
    _, counts = with_coordinates(tmp_path, values)
    assert counts.coordinates is None
    assert note in counts.provenance["warnings"][0]


def test_data_without_coordinates(filtered):
    assert read_filtered(filtered).coordinates is None
