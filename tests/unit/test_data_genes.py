"""Variable genes against scanpy, and the other ways to select genes."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse

import data_files
from nmfbench.data import simulate_counts
from nmfbench.data.genes import gene_moments, select_genes, standardised_variance
from nmfbench.errors import InputError


@pytest.fixture(scope="module")
def atlas():
    counts, *_ = simulate_counts(n_cells=600, n_genes=400, min_cells=50, seed=3)
    counts = counts.tolil()
    counts[:, 11] = 0
    counts[:, 12] = 2
    return counts.tocsr()


def blocks_of(counts, rows=97):
    """A function that gives a fresh pass over `counts`."""
    return lambda: (counts[start : start + rows] for start in range(0, counts.shape[0], rows))


@pytest.mark.parametrize("n_top", [1, 50, 200])
def test_variable_genes_equal_scanpy(atlas, n_top):
    import scanpy as sc

    adata = anndata.AnnData(atlas.copy())
    sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_top)
    choice = select_genes(blocks_of(atlas), atlas.shape[1], select="hvg", n_top=n_top)
    np.testing.assert_array_equal(choice.keep, adata.var["highly_variable"])
    np.testing.assert_allclose(choice.variances_norm, adata.var["variances_norm"], rtol=1e-6, atol=1e-12)


def test_moments_equal_numpy(atlas):
    moments = gene_moments(blocks_of(atlas)(), atlas.shape[1])
    dense = atlas.toarray().astype(np.float64)
    np.testing.assert_allclose(moments.mean, dense.mean(axis=0))
    np.testing.assert_allclose(moments.variance, dense.var(axis=0, ddof=1), atol=1e-12)
    np.testing.assert_array_equal(moments.n_nonzero, (dense > 0).sum(axis=0))
    assert moments.variance[12] == 0


def test_standardised_variance_as_defined(atlas):
    """The formula of the docstring, gene by gene, with the trend taken from scikit-misc directly."""
    from skmisc.loess import loess

    dense = atlas.toarray().astype(np.float64)
    mean, variance, n = dense.mean(axis=0), dense.var(axis=0, ddof=1), len(dense)
    varies = variance > 0
    trend = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=0.3, degree=2)
    trend.fit()
    expected = np.ones(mean.size)
    expected[varies] = np.sqrt(10**trend.outputs.fitted_values)
    z = np.minimum((dense - mean) / expected, np.sqrt(n))
    result = standardised_variance(blocks_of(atlas), gene_moments(blocks_of(atlas)(), mean.size))
    np.testing.assert_allclose(result, (z**2).sum(axis=0) / (n - 1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("least", [1, 100, 300])
def test_min_cells(atlas, least):
    choice = select_genes(blocks_of(atlas), atlas.shape[1], select="min_cells", min_cells=least)
    np.testing.assert_array_equal(choice.keep, (atlas.toarray() > 0).sum(axis=0) >= least)


def test_none_reads_nothing():
    def blocks():
        raise AssertionError

    assert select_genes(blocks, 5).keep.all()


def test_more_variable_genes_than_there_are(atlas):
    choice = select_genes(blocks_of(atlas), atlas.shape[1], select="hvg", n_top=1000)
    assert choice.keep.all()
    assert "all are kept" in choice.warnings[0]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"select": "min_cells", "min_cells": 61}, "genes.min_cells"),
        ({"select": "hvg", "n_top": 0}, "genes.n_top"),
        ({"select": "seurat"}, "genes.select"),
    ],
)
def test_settings_that_cannot_work(settings, word):
    counts = sparse.csr_matrix(data_files.make_counts())
    with pytest.raises(InputError, match=word):
        select_genes(blocks_of(counts), 20, **settings)


def test_too_few_genes_for_a_trend():
    counts = sparse.csr_matrix(np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match="trend"):
        select_genes(blocks_of(counts), 3, select="hvg", n_top=2)
