"""The simulated atlas: layout, determinism, and effects of the size they are meant to have."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse

from nmfbench.data import filter_donors, normalise_block, simulate_atlas, simulate_counts
from nmfbench.data import simulate as simulate_module
from nmfbench.data.simulate import Atlas, AtlasDesign
from nmfbench.errors import InputError

SMALL = {"n_cells": 800, "n_genes": 300, "n_cell_types": 5, "n_donors": 3, "min_cells": 100}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "atlas.h5ad"
    simulate_atlas(path, **SMALL)
    return path


def test_layout(atlas):
    adata = anndata.read_h5ad(atlas)
    assert adata.shape == adata.raw.X.shape == (800, 300)
    for matrix in (adata.X, adata.raw.X):
        assert sparse.issparse(matrix)
        assert matrix.format == "csr"
        assert matrix.dtype == np.float32
    counts = adata.raw.X
    assert (counts.data == np.rint(counts.data)).all()
    assert counts.data.min() >= 1
    np.testing.assert_array_equal(adata.X.toarray(), normalise_block(counts).toarray())
    assert not adata.var["feature_name"].is_unique
    assert adata.var_names.is_unique
    assert adata.var_names.equals(adata.raw.var_names)
    assert {"cell_type", "donor_id", "assay", "tissue", "sex", "is_primary_data"} <= set(adata.obs)
    assert adata.obs["cell_type"].dtype == "category"
    assert "CD4-positive, alpha-beta T cell" in adata.obs["cell_type"].cat.categories
    assert adata.uns["simulation"]["parameters"]["seed"] == 0
    assert adata.uns["simulation"]["programs"].shape == (9, 300)
    assert adata.obsm["X_umap"].shape == (800, 2)
    assert list(atlas.parent.iterdir()) == [atlas]


def test_filter_has_work(atlas, tmp_path):
    provenance = filter_donors(
        atlas, tmp_path / "filtered.h5ad", tmp_path / "donors.tsv", min_cells_per_donor=100
    )
    assert (provenance["n_donors"], provenance["n_donors_before"]) == (3, 5)
    sizes = anndata.read_h5ad(tmp_path / "filtered.h5ad").obs["cell_type"].value_counts()
    assert len(sizes) == 5
    assert 0 < sizes.iloc[-1] < 10 <= sizes.iloc[-2]
    assert sizes.iloc[0] > 2 * sizes.iloc[-2]


def test_same_seed_same_atlas(atlas):
    counts, obs, programs = simulate_counts(**SMALL)
    adata = anndata.read_h5ad(atlas)
    np.testing.assert_array_equal(counts.toarray(), adata.raw.X.toarray())
    assert obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    np.testing.assert_allclose(programs, adata.uns["simulation"]["programs"], rtol=1e-6)
    other, *_ = simulate_counts(**SMALL, seed=1)
    assert (other != counts).nnz > 0


def test_several_blocks(monkeypatch):
    monkeypatch.setattr(simulate_module, "BLOCK_BYTES", 100 * 300 * 8)
    blocks = list(Atlas(AtlasDesign(**SMALL)).blocks())
    assert [block.shape[0] for block in blocks] == [100] * 8
    assert len({block.sum() for block in blocks}) == 8


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_mean_and_variance(dispersion):
    """Counts of a gene that all cells share have the stated mean, and variance mu + dispersion mu^2."""
    settings = {"ambient": 0.0, "donor_strength": 0.0, "library_spread": 0.0, "dispersion": dispersion}
    atlas = Atlas(AtlasDesign(**(SMALL | {"n_cells": 20_000, "n_genes": 60} | settings)))
    counts = sparse.vstack(list(atlas.blocks())).toarray()
    assert counts.sum(axis=1).mean() == pytest.approx(1500, rel=0.01)
    only_base = ~(atlas.programs > 0).any(axis=0)
    assert only_base.any()
    expected = 1500 * atlas.shared_weight * atlas.base[only_base]
    np.testing.assert_allclose(counts[:, only_base].mean(axis=0), expected, rtol=0.05, atol=0.02)
    variance = expected + dispersion * expected**2
    np.testing.assert_allclose(counts[:, only_base].var(axis=0), variance, rtol=0.12, atol=0.03)


def test_cell_types_fill_bands_of_the_section_of_every_donor(atlas, tmp_path):
    simulate_atlas(tmp_path / "spatial.h5ad", **SMALL, spatial=True)
    adata, plain = anndata.read_h5ad(tmp_path / "spatial.h5ad"), anndata.read_h5ad(atlas)
    assert "spatial" not in plain.obsm
    np.testing.assert_array_equal(adata.raw.X.toarray(), plain.raw.X.toarray())
    xy = adata.obsm["spatial"]
    assert xy.shape == (800, 2)
    bands = adata.obs.assign(y=xy[:, 1]).groupby("cell_type", observed=True)["y"].agg(["min", "max"])
    bands = bands.sort_values("min")
    assert (bands["max"].to_numpy()[:-1] < bands["min"].to_numpy()[1:]).all()
    section = xy[adata.obs["donor_id"].to_numpy() == "SIM1"]
    side = np.sqrt(800 / 5)
    assert section.min() >= 0
    assert 0.9 * side < section.max() <= side
    filter_donors(
        tmp_path / "spatial.h5ad", tmp_path / "kept.h5ad", tmp_path / "donors.tsv", min_cells_per_donor=100
    )
    kept = anndata.read_h5ad(tmp_path / "kept.h5ad")
    np.testing.assert_array_equal(kept.obsm["spatial"], adata[kept.obs_names].obsm["spatial"])


def test_programs_overlap():
    atlas = Atlas(AtlasDesign())
    np.testing.assert_allclose(atlas.programs.sum(axis=1), 1)
    np.testing.assert_allclose(atlas.usage.sum(axis=1), 1)
    np.testing.assert_allclose(atlas.donor_programs.sum(axis=2), 1, rtol=1e-5)
    assert ((atlas.programs > 0).sum(axis=0) > 1).any()  # genes in several programs
    assert ((atlas.usage > 0).sum(axis=0) > 1).sum() > 4  # programs used by several types


def spread(values, labels):
    """Share of the variance of `values` (cells x features) between the groups of `labels`."""
    centred = values - values.mean(axis=0)
    means = np.array([centred[labels == label].mean(axis=0) for label in labels])
    return (means**2).sum() / (centred**2).sum()


def test_donors_differ_less_than_types():
    def both(**settings):
        counts, obs, _ = simulate_counts(n_cells=1500, min_cells=100, **settings)
        values = normalise_block(counts).toarray()
        return [spread(values, obs[name].to_numpy(str)) for name in ("cell_type", "donor_id")]

    types, donors = both()
    nothing = both(ambient=0.0, donor_strength=0.0)[1]
    assert types > 2 * donors
    assert donors > 2 * nothing


@pytest.mark.parametrize(
    "settings", [{"n_cells": 100}, {"n_donors": 0}, {"n_cell_types": 1}, {"n_genes": 5}, {"min_cells": 0}]
)
def test_numbers_that_do_not_fit(tmp_path, settings):
    with pytest.raises(InputError, match="n_cells"):
        simulate_atlas(tmp_path / "atlas.h5ad", **settings)
    assert list(tmp_path.iterdir()) == []
