"""Genes divided by their standard deviations: as by hand, wherever it is done, and undone in results."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import data_files
from nmfbench.config import load_config
from nmfbench.data import filter_donors, load_normalised, read_filtered
from nmfbench.data.halves import mean_and_difference
from nmfbench.errors import InputError
from nmfbench.factors.project import _transform
from nmfbench.factors.restore import restore
from nmfbench.job import Job
from nmfbench.models import AENMF, AENMFSplit
from nmfbench.models.denoising.halves import Halves
from nmfbench.rows.memory import InMemoryRows
from nmfbench.rows.scaled import ScaledRows, gene_factors, gene_moments, scaled_rows
from nmfbench.statistics import Layout, gather_shard
from nmfbench.train import train

NORMALISATION = {"target_sum": 1e3, "log1p": True}


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 1.0, (80, 3)) @ rng.gamma(0.5, 2.0, (3, 30)) * rng.gamma(1.0, 1.0, 30)
    dense = rng.poisson(mean).astype(np.float32)
    dense[:, 5] = 0
    dense[:, 0] += 1
    return sp.csr_matrix(dense)


@pytest.fixture(scope="module")
def filtered(counts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    obs = data_files.make_obs(counts.shape[0])
    source = data_files.write(folder / "source.h5ad", counts, obs=obs, var=data_files.make_var(30))
    filter_donors(source, folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=1)
    return folder / "filtered.h5ad"


def by_hand(X, scaling):
    """Columns divided by sd, or by its root, of all cells; (matrix, factors), float64."""
    X = X.toarray().astype(np.float64)
    sd = X.std(axis=0)
    sd[sd == 0] = 1
    factors = 1 / (sd if scaling == "unit_variance" else np.sqrt(sd))
    return X * factors, factors


@pytest.mark.parametrize("scaling", ["unit_variance", "sqrt"])
def test_rows_and_statistics_are_those_of_dense_scaling(filtered, scaling):
    X = load_normalised(filtered, **NORMALISATION)
    expected, by = by_hand(X, scaling)
    source = InMemoryRows(X)
    factors = gene_factors(scaling, *gene_moments(source), X.shape[0])
    np.testing.assert_allclose(factors, by, rtol=1e-5)
    for rows in (scaled_rows(source, factors), ScaledRows(source, factors)):
        got = sp.vstack([block for _, block in rows.blocks(7)]).toarray()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            rows.rows(np.array([3, 1])).toarray(), expected[[3, 1]], rtol=1e-5, atol=1e-6
        )
        assert rows.fingerprint() != source.fingerprint()
    assert (load_normalised(filtered, **NORMALISATION) != X).nnz == 0, "the values themselves are untouched"
    codes = np.arange(X.shape[0]) % 2
    layout = Layout(
        "", tuple(map(str, range(30))), X.shape[0], conditions={"donor": ("a", "b")}, donor_grams=True,
        dtype="float64",
    )  # fmt: skip
    scaled = gather_shard([(X, codes[:, None], None)], layout).scaled(factors)
    scaled.check()
    np.testing.assert_allclose(scaled.gram, expected.T @ expected, rtol=1e-4, atol=1e-5)
    for c in (0, 1):
        part = expected[codes == c]
        np.testing.assert_allclose(scaled.donor_grams[c], part.T @ part, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scaled.group_sums[0, c], part.sum(0), rtol=1e-4, atol=1e-5)
    assert scaled.squared_norm == pytest.approx(np.square(expected).sum(), rel=1e-5)


def test_halves_are_scaled_by_the_genes_of_whole_cells(counts):
    factors = np.linspace(0.5, 2, 30).astype(np.float32)
    found = list(Halves(InMemoryRows(counts), 3, 1, 1e3, True, factors).blocks())
    for part, plain in zip(found[0][1], mean_and_difference(counts, 0, 3, target_sum=1e3), strict=True):
        np.testing.assert_allclose(part.toarray(), plain.toarray() * factors, rtol=1e-6)


def fit(filtered, folder, kind, scaling, **options):
    """A job's files."""
    folder.mkdir()
    train(
        str(filtered), result=str(folder / "result.h5ad"), history=str(folder / "history.tsv"),
        record=str(folder / "run.json"), kind=kind, name=kind, display_name=kind, settings=options, rank=3,
        seed=0, device="cpu", normalisation=NORMALISATION, condition_columns=["donor_id"],
        run=Job(threads=1), gene_scaling=scaling,
    )  # fmt: skip
    return anndata.read_h5ad(folder / "result.h5ad"), json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("kind", ["ae_nmf", "base_nmf", "ae_nmf_split"])
def test_a_job_fits_scaled_genes_and_writes_loadings_on_the_scale_of_the_values(filtered, tmp_path, kind):
    result, record = fit(filtered, tmp_path / "a", kind, "unit_variance")
    assert record["gene_scaling"] == "unit_variance"
    X = load_normalised(filtered, **NORMALISATION)
    scaled, factors = by_hand(X, "unit_variance")
    np.testing.assert_allclose(result.uns["gene_scaling"]["factors"], factors, rtol=1e-5)
    W = next(value for name, value in result.varm.items() if name.startswith("W_"))
    H = result.obsm[result.uns["nmfbench"]["embedding"]]
    if kind != "base_nmf":
        np.testing.assert_allclose(H, scaled @ (W * factors[:, None]), rtol=1e-3, atol=1e-4)
    if kind == "ae_nmf":
        own = AENMF(3, random_state=0).fit(sp.csr_matrix(scaled.astype(np.float32)))
        np.testing.assert_allclose(W, own.components_.T / factors[:, None], atol=5e-3)
    # new cells are embedded as the cells of the fit were
    restored = restore(tmp_path / "a" / "result.h5ad")
    again = np.vstack([_transform(restored, block) for _, block in read_filtered(filtered).blocks()])
    np.testing.assert_allclose(again, H, rtol=5e-2 if kind == "base_nmf" else 1e-4, atol=0.05 * H.max())


def test_without_scaling_nothing_is_written_of_it(filtered, tmp_path):
    result, record = fit(filtered, tmp_path / "a", "ae_nmf", "none")
    assert "gene_scaling" not in record
    assert "gene_scaling" not in result.uns


def test_a_scaling_that_is_none_is_refused():
    with pytest.raises(InputError, match="gene_scaling"):
        gene_factors("log", np.ones(2), np.ones(2), 3)


def test_the_split_of_a_checkpoint_is_that_of_its_scaling(counts, tmp_path):
    model = AENMFSplit(3, random_state=0, max_iter=30, tol=0.0)
    asked = iter([False] * 12)
    model.fit(counts, checkpoint=tmp_path, should_stop=lambda: next(asked, True))
    assert model.stop_reason_ == "interrupted"
    other = AENMFSplit(3, random_state=0, max_iter=30, tol=0.0)
    other.gene_factors = np.full(30, 2, np.float32)
    with pytest.raises(InputError, match="genes"):
        other.fit(counts, checkpoint=tmp_path)


def test_what_would_fit_the_values_as_they_are_is_refused_beside_it():
    config = {"datasets": {"d": {"simulate": {}, "gene_scaling": "sqrt"}}, "models": {"ae_nmf": {}}}
    load_config(config | {"donor_transfer": {"enabled": True}, "deviance": {"enabled": True}})
    with pytest.raises(InputError, match="gene_scaling"):
        load_config(config | {"rank_selection": {"models": ["ae_nmf"]}})
    load_config(config | {"rank_selection": {"models": ["ae_nmf"], "criterion": "unseen_molecules"}})
