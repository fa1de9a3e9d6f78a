"""The hierarchical negative binomial as an estimator: recovery, symmetries, offsets, files, messages."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats
from scipy.optimize import minimize_scalar

import reference_nb_hierarchical as dense
from nmfbench.data.held_out import thin_counts
from nmfbench.errors import InputError
from nmfbench.models import NBHierarchical
from nmfbench.models.held_out_entries import score_entries
from nmfbench.models.nb_hierarchical.nulls import NULLS, fit_nulls

QUICK = {"draws": 20, "device": "cpu", "random_state": 0}


def fit(X, k=3, **more):
    given = {
        key: more.pop(key) for key in ("obs", "var", "cell_names", "gene_names", "checkpoint") if key in more
    }
    stop = more.pop("should_stop", None)
    return NBHierarchical(k, **(QUICK | more)).fit(X, progress=False, should_stop=stop, **given)


@pytest.fixture(scope="module")
def simulated():
    return dense.simulate(400, 120)


@pytest.fixture(scope="module")
def fitted(simulated):
    return fit(simulated[0], mask_fraction=0.1, offset="none")


def test_effects_and_dispersions_are_recovered(simulated, fitted):
    _, a, b, log_alpha = simulated
    assert fitted.converged_
    assert np.corrcoef(fitted.gene_total_, a)[0, 1] > 0.99
    assert np.corrcoef(fitted.cell_effect_, b)[0, 1] > 0.95
    expressed = np.exp(a) > 0.3  # a gene without counts says nothing of its dispersion
    assert np.corrcoef(fitted.log_alpha_[expressed], log_alpha[expressed])[0, 1] > 0.8
    shared = fitted.posterior_.globals()
    assert shared["sigma_gene"][0] == pytest.approx(np.std(a), rel=0.1)
    assert shared["sigma_cell"][0] == pytest.approx(np.std(b), rel=0.1)
    z = (fitted.gene_total_ - a - b.mean()) / fitted.gene_sd_
    assert 0.7 < np.std(z[expressed]) < 1.4, "the posterior is as wide as its errors"


def test_the_model_beats_its_nulls_in_their_order(fitted):
    table = fitted.held_out_[fitted.held_out_["stratum"] == "all"].set_index("source")["value"]
    order = [table[name] for name in NULLS] + [table["nb_hierarchical"]]
    assert order[0] < order[1] < order[2] <= order[3] + 1e-4
    assert order[4] > order[2]
    assert fitted.held_out_["delta"].notna().all()
    assert fitted.held_out_log_likelihood_ is None, "entries are not comparable with molecules"


def test_held_out_cells_are_scored_on_genes_that_their_effect_has_not_seen(simulated):
    X = simulated[0][:160, :60]
    model = fit(X, n_cells=80, offset="none", max_iter=60)
    table = model.held_out_[model.held_out_["split"] == "cells"].set_index("source")["value"]
    assert table["gene_poisson"] < table["rank_one_poisson"] < table["nb_hierarchical"]
    others = np.setdiff1d(np.arange(160), model.cells_)
    seen = np.zeros(60, dtype=bool)
    seen[np.random.default_rng([model.seed_, 5]).permutation(60)[:30]] = True
    rate, alpha = np.exp(model.means_.c[0] + model.means_.log_alpha), model.means_.alpha
    sd, values = model._cell_prior()[1], []
    for y in X[others][:, model.genes_].toarray():  # the most probable effect, by a search of one number

        def loss(b, y=y):
            return 0.5 * (b / sd) ** 2 - dense.log_pmf(y[seen], rate[seen] * np.exp(b), alpha[seen]).sum()

        b = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-8}).x
        values.append(dense.log_pmf(y[~seen], rate[~seen] * np.exp(b), alpha[~seen]).mean())
    assert table["nb_hierarchical"] == pytest.approx(np.mean(values), abs=1e-6)


def test_molecules_are_those_of_the_other_models_and_scored_on_every_gene():
    X, *_ = dense.simulate(80, 30, seed=3)
    values = X.toarray()
    values[:, 5], values[:, 6] = 0, 0
    values[4, 5] = 1  # its one molecule is set aside or fitted
    X = sp.csr_matrix(values)
    seed = next(k for k in range(50) if thin_counts(X, 0.3, k)[1][4, 5])
    model = fit(X, held_out_fraction=0.3, offset="none", random_state=seed, max_iter=40)
    train, test = (part.toarray() for part in thin_counts(X, 0.3, seed))
    assert not model.gene_columns()["nbh_used"][[5, 6]].any()
    table = model.held_out_[model.held_out_["stratum"] == "all"].set_index("source")
    assert (table["n_entries"] == 80 * 30).all()
    alpha = np.exp(model.log_alpha_)
    mu = np.exp(model.gene_total_ + model.cell_effect_[:, None])
    value = dense.log_pmf(test, mu * 0.3 / 0.7, alpha)
    half = 0.5 * np.exp(model.cell_effect_) / np.exp(model.cell_effect_).sum() * 0.3 / 0.7
    for gene in (5, 6):
        value[:, gene] = scipy.stats.poisson.logpmf(test[:, gene], half)
    assert model.held_out_log_likelihood_ == pytest.approx(value.mean(), abs=1e-6)
    assert train[:, 5].sum() == 0
    panel = fit(X, held_out_fraction=0.3, n_genes=20, max_iter=20)
    assert panel.held_out_log_likelihood_ is None, "a panel's entries are others"


@pytest.mark.real
def test_nulls_stand_in_their_order_on_real_cells(real_h5ad):
    import anndata

    from nmfbench.data.by_name import keys_of, mask_entries, without

    adata = anndata.read_h5ad(real_h5ad)
    X = sp.csr_matrix(adata.X[:600][:, :600]).astype(np.float32)
    X = X[np.asarray(X.sum(1)).ravel() > 0]
    mask = mask_entries(keys_of(None, X.shape[0], 0, "c"), keys_of(None, 600, 0, "g"), 0.1)
    rows, _ = score_entries(fit_nulls(without(X, mask), mask), X, mask)
    values = [row["value"] for row in rows if row["stratum"] == "all"]
    assert values[0] < values[1] < values[2] <= values[3]


# Symmetries ------------------------------------------------------------------------------------------------


def test_cells_and_genes_in_another_order_have_the_same_fit(simulated):
    X = simulated[0][:120, :50]
    cells, genes = [f"c{k}" for k in range(120)], [f"g{k}" for k in range(50)]
    settings = {"mask_fraction": 0.1, "max_iter": 40, "n_cells": 100}
    one = fit(X, cell_names=cells, gene_names=genes, **settings)
    rng = np.random.default_rng(1)
    i, j = rng.permutation(120), rng.permutation(50)
    names = {"cell_names": [cells[k] for k in i], "gene_names": [genes[k] for k in j]}
    other = fit(X[i][:, j], **names, **settings)
    np.testing.assert_allclose(other.gene_total_, one.gene_total_[j], atol=1e-6)
    np.testing.assert_allclose(other.cell_effect_, one.cell_effect_[i], atol=1e-6)
    assert other.elbo_ == pytest.approx(one.elbo_, rel=1e-8)


def test_a_constant_depth_goes_into_the_mean_of_the_genes(simulated):
    X = simulated[0]
    depth = pd.DataFrame({"depth": np.random.default_rng(0).lognormal(0, 0.3, X.shape[0])})
    fits = []
    for factor in (1.0, np.e):
        # `constant` is a shift of every cell; `column` is relative to its median and must not move at all
        fits.append(fit(X, obs=depth * factor, offset="column", depth_column="depth", max_iter=60))
    np.testing.assert_allclose(fits[0].gene_total_, fits[1].gene_total_, atol=1e-8)
    shifted = [
        fit(X, obs=depth * f, offset="constant", depth_column="depth", max_iter=60) for f in (1.0, np.e)
    ]
    np.testing.assert_allclose(shifted[0].gene_total_ - 1, shifted[1].gene_total_, atol=0.02)
    np.testing.assert_allclose(shifted[0].cell_effect_, shifted[1].cell_effect_, atol=0.02)


def test_a_cells_own_depth_lowers_its_effect(simulated):
    X = simulated[0]
    depth = np.ones(X.shape[0])
    obs = [pd.DataFrame({"depth": depth}), pd.DataFrame({"depth": np.r_[2.0, depth[1:]]})]
    one, other = (fit(X, obs=table, offset="column", depth_column="depth") for table in obs)
    sd, prior = one.cell_sd_[0], one.posterior_.globals()["sigma_cell"][0]
    kept = 1 - sd**2 / prior**2  # what the prior leaves of a shift
    assert one.cell_effect_[0] - other.cell_effect_[0] == pytest.approx(kept * np.log(2), abs=0.05)
    np.testing.assert_allclose(one.cell_effect_[1:], other.cell_effect_[1:], atol=0.03)


# Offsets and covariates ------------------------------------------------------------------------------------


def test_missing_depths_fall_back_by_cell_and_say_so(simulated, caplog):
    X = simulated[0]
    totals = np.asarray(X.sum(1)).ravel()
    depth = 100.0 * totals
    depth[[3, 7]] = np.nan, -1.0
    model = fit(X, obs=pd.DataFrame({"depth": depth}), offset="column", depth_column="depth", max_iter=20)
    assert model.said_()["cells_by_total"] == 2
    assert "2 cells" in caplog.text
    np.testing.assert_allclose(model.size_, np.log(totals / np.median(totals)), atol=1e-6)


def test_published_fallbacks_are_only_taken_by_name_and_said(simulated):
    X = simulated[0][:60, :30]
    model = fit(X, preset="published", max_iter=200)
    said = model.said_()
    assert said["depth_simulated"]
    assert said["length_simulated"]
    assert said["engine"] == "entries"
    assert said["forms"] == "gene non-centred, cell non-centred"
    np.testing.assert_allclose(model.size_, np.log(0.1))
    lengths = 2000 * np.exp(model.length_)
    assert lengths.min() > 1000
    assert lengths.max() < 3000
    plain = fit(X, max_iter=20).said_()
    assert not plain["length_simulated"]
    assert "depth_simulated" not in plain


def test_covariates_have_their_effects_found():
    X, *_ = dense.simulate(500, 40, seed=4)
    rng = np.random.default_rng(0)
    condition = np.array(["ctrl", "stim"])[rng.integers(0, 2, 500)]
    values = X.toarray()
    up = condition == "stim"
    values[np.ix_(up, range(5))] += rng.poisson(3.0 * values[np.ix_(up, range(5))] + 0.5)
    obs = pd.DataFrame({"condition": pd.Categorical(condition, ["ctrl", "stim"])})
    model = fit(sp.csr_matrix(values), obs=obs, covariates=["condition"], offset="none")
    mean = model.loadings()["nbh_covariate_mean"][:, 0]
    assert model.effects_ == ["condition=stim"]
    assert mean[:5].min() > 0.8
    assert np.abs(mean[5:]).mean() < 0.25
    assert model.uses_columns_ == ["condition"]


# Files, resume, engines ------------------------------------------------------------------------------------


def test_files_are_written_whole(fitted, tmp_path, monkeypatch):
    fitted.write_files(tmp_path)
    summary = pd.read_csv(tmp_path / "posterior_summary.tsv", sep="\t")
    assert {"mu_gene", "sigma_gene", "sigma_cell", "gene_total", "log_alpha"} <= set(summary["parameter"])
    assert (summary["hdi_3%"] < summary["mean"]).all()
    with h5py.File(tmp_path / "trace.nc") as file:
        draws = file["posterior/gene_total"]
        assert draws.shape == (1, 20, 120)
        assert draws.dims[2][0].name == "/posterior/gene"
        spread = draws[0].std(0) / fitted.gene_sd_
        assert 0.7 < np.median(spread) < 1.3
        assert file.attrs["engine"] == "exact"
    from nmfbench.models.nb_hierarchical import trace

    (tmp_path / "trace.nc").unlink()
    monkeypatch.setattr(trace, "_fill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted.write_files(tmp_path)
    assert not [path for path in tmp_path.iterdir() if "trace" in path.name], "nothing half-written"


def test_the_trace_opens_in_arviz(fitted, tmp_path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az = pytest.importorskip("arviz")
        fitted.write_files(tmp_path)
        data = az.from_netcdf(tmp_path / "trace.nc")
    assert list(data.posterior["gene_total"].dims) == ["chain", "draw", "gene"]
    assert len(data.posterior["cell"]) == 400


@pytest.mark.parametrize(
    "settings",
    [{"max_iter": 60}, {"preset": "published", "max_iter": 4000}, {"engine": "plates", "max_iter": 60}],
    ids=["exact", "entries", "plates"],
)
def test_a_resumed_fit_is_the_unbroken_one(settings, simulated, tmp_path):
    X = simulated[0][:80, :30]
    whole = fit(X, **settings)
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 2

    broken = fit(X, **settings, checkpoint=tmp_path / "c", should_stop=stop)
    assert broken.stop_reason_ == "interrupted"
    resumed = fit(X, **settings, checkpoint=tmp_path / "c")
    np.testing.assert_array_equal(resumed.posterior_.loc, whole.posterior_.loc)
    np.testing.assert_array_equal(resumed.embedding_, whole.embedding_)
    assert [row["elbo"] for row in resumed.history_] == [row["elbo"] for row in whole.history_]


def test_without_information_the_posterior_is_the_prior():
    """Two cells, few counts: the shared numbers stay where their priors are."""
    X = sp.csr_matrix(np.array([[1, 0], [0, 1]], dtype=np.float32))
    shared = fit(
        X, 1, offset="none", param="noncentred", dispersion="shared", max_iter=200
    ).posterior_.globals()
    assert abs(shared["mu_gene"][0]) < 3
    assert 0.3 < shared["sigma_cell"][0] < 1.5
    assert shared["sigma_cell"][1] > 0.3


def test_auto_takes_the_form_that_the_counts_can_carry():
    X, *_ = dense.simulate(300, 60, spread=0.4)
    wide = fit(X, offset="none", max_iter=60).posterior_.family.forms
    assert wide["gene"]
    assert wide["cell"]
    X, *_ = dense.simulate(300, 60, spread=0.0)
    assert not fit(X, offset="none", max_iter=60).posterior_.family.forms["cell"]


def test_new_cells_are_embedded_as_the_fitted_ones(simulated):
    model = fit(simulated[0])
    found = model.transform(simulated[0])
    assert np.abs(found - model.embedding_).max() < 0.1 * model.embedding_.std()


# Bad input -------------------------------------------------------------------------------------------------


def counts(change=lambda Y: Y):
    return sp.csr_matrix(change(np.random.default_rng(0).poisson(2.0, (20, 10)).astype(np.float32)))


def emptied(Y, cell=None, gene=None):
    if cell is not None:
        Y[cell] = 0
    if gene is not None:
        Y[:, gene] = 0
    return Y


@pytest.mark.parametrize(
    ("X", "settings", "message"),
    [
        (counts(lambda Y: Y + 0.5), {}, "counts: whole numbers"),
        (counts(lambda Y: emptied(Y, cell=3)), {}, "at least one count in every cell"),
        (counts()[:1], {}, "at least two cells"),
        (counts()[:, :1], {}, "at least two cells and two genes"),
        (counts(), {"length": "column", "length_column": "size"}, "length_column"),
        (counts(), {"offset": "column", "depth_column": "depth"}, "depth_column"),
        (counts(), {"offset": "column"}, "depth_column"),
        (counts(), {"covariates": ["batch"]}, "a column of obs"),
        (counts(), {"covariates": ["batch"], "engine": "plates"}, "engine: exact"),
        (counts(), {"mask_fraction": 0.1, "held_out_fraction": 0.1}, "one of them"),
        (counts(), {"tol": -1.0}, "tol"),
    ],
)
def test_bad_input_has_one_message(X, settings, message):
    with pytest.raises(InputError, match=message):
        fit(X, 1, **settings)


def test_a_gene_without_counts_has_no_effect_and_says_so(caplog):
    model = fit(counts(lambda Y: emptied(Y, gene=4)), 2)
    assert np.isnan(model.gene_total_[4])
    assert not model.gene_columns()["nbh_used"][4]
    assert (model.components_[:, 4] == 0).all()
    assert "1 genes have no count" in caplog.text


def test_comparisons_find_the_loadings_of_the_residuals(fitted):
    from nmfbench.comparison import choose_loadings

    found = choose_loadings("r", {}, fitted.loadings(), fitted.embedding_key_, 3)
    np.testing.assert_array_equal(found, fitted.components_.T)
