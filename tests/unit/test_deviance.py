"""Deviance explained of counts set aside: its formula, its ends, and models that say what they expect."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import mean_poisson_deviance

from nmfbench.data import filter_donors, load_normalised, read_filtered
from nmfbench.data.filtered import normalise_block
from nmfbench.data.held_out import thin_counts
from nmfbench.errors import NotApplicable
from nmfbench.held_out_counts import score_held_out_counts
from nmfbench.inapplicable import write_stub
from nmfbench.metrics.deviance import FLOOR, score_deviance
from nmfbench.models import get_model
from nmfbench.tables.deviance import collect_deviance
from nmfbench.tables.files import write_table

NORMALISATION = {"target_sum": 1e4, "log1p": True}
FRACTION = 0.2


def drawn(n=300, p=40, seed=0):
    rng = np.random.default_rng(seed)
    types = rng.integers(3, size=n)
    rates = rng.gamma(0.6, 25.0, (3, p))[types] * rng.gamma(5, 0.2, (n, 1)) + 0.02
    return sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), rates, types


def scored(train, test, mu, fraction=FRACTION, size=7):
    """In blocks of few cells, as they come."""

    def blocks(array):
        return lambda: (array[start : start + size] for start in range(0, len(array), size))

    return score_deviance(blocks(train), blocks(test), blocks(mu), fraction)


def test_the_score_is_the_formula():
    X, _, _ = drawn()
    train, test = (part.toarray().astype(np.float64) for part in thin_counts(X, FRACTION, 1))
    mu = np.random.default_rng(1).gamma(1, 2, X.shape)
    found = scored(train, test, mu)
    depth = train.sum(axis=1, keepdims=True)
    right = np.maximum(mu * train.sum(axis=0) / mu.sum(axis=0) * FRACTION / (1 - FRACTION), FLOOR * depth)
    null = np.maximum(depth * train.sum(axis=0) / train.sum() * FRACTION / (1 - FRACTION), FLOOR * depth)
    D, D0 = (test.size * mean_poisson_deviance(test.ravel(), m.ravel()) for m in (right, null))
    assert found.deviance == pytest.approx(D, rel=1e-10)
    assert found.null_deviance == pytest.approx(D0, rel=1e-10)
    assert found.deviance_explained == pytest.approx(1 - D / D0, rel=1e-9)
    assert found.bits_per_molecule == pytest.approx((D0 - D) / 2 / np.log(2) / test.sum(), rel=1e-9)
    assert found.molecules == test.sum()


def test_the_null_is_0_the_truth_is_above_it_and_chance_below():
    X, rates, _ = drawn()
    train, test = (part.toarray().astype(np.float64) for part in thin_counts(X, FRACTION, 1))
    depth = train.sum(axis=1, keepdims=True)
    null = scored(train, test, depth * train.mean(axis=0) * 3.0)
    assert null.deviance_explained == pytest.approx(0, abs=1e-9), "also at another level of every gene"
    truth = scored(train, test, rates * (1 - FRACTION))
    chance = scored(train, test, np.random.default_rng(0).permutation(rates))
    assert chance.deviance_explained < 0 < truth.deviance_explained
    worst = scored(train, test, np.zeros(X.shape))
    assert np.isfinite(worst.deviance_explained), "what is impossible costs much and not everything"
    assert worst.deviance_explained < chance.deviance_explained


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deviance")
    X, rates, types = drawn()
    donors = np.arange(X.shape[0]) % 2
    obs = pd.DataFrame(
        {"cell_type": [f"t{t}" for t in types], "donor_id": [f"d{d}" for d in donors]},
        index=[f"c{i}" for i in range(len(types))],
    ).astype("category")
    var = pd.DataFrame(index=[f"g{i}" for i in range(X.shape[1])])
    anndata.AnnData(X=X, obs=obs, var=var).write_h5ad(folder / "source.h5ad")
    kept = folder / "filtered.h5ad"
    filter_donors(folder / "source.h5ad", kept, folder / "donors.tsv", min_cells_per_donor=5)
    return kept, rates


class Run:
    threads = 1

    @staticmethod
    def stop_requested():
        return False


def of_model(filtered, kind, tmp_path, gene_scaling="none", **settings):
    return score_held_out_counts(
        str(filtered), kind=kind, settings=settings, rank=4, seed=0, device="cpu",
        normalisation=NORMALISATION, condition_columns=["donor_id"], fraction=FRACTION, thinning_seed=1,
        run=Run(), scratch=tmp_path / "scratch", gene_scaling=gene_scaling,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        *("base_nmf", "ae_nmf", "cae_nmf1", "cae_nmf2", "ae_nmf_split", "pca", "control_cell_type"),
        *("pnmf", "pnmf_donor", "pyro_gamma_nb", "pyro_exponential"),
    ],
)
def test_models_explain_more_than_the_null_and_less_than_the_truth(kind, filtered, tmp_path):
    path, rates = filtered
    found = of_model(path, kind, tmp_path)
    counts = load_normalised(path, None, log1p=False)
    train, test = (part.toarray().astype(np.float64) for part in thin_counts(counts, FRACTION, 1))
    truth = scored(train, test, rates * (1 - FRACTION)).deviance_explained
    assert 0 < found.deviance_explained < truth + 0.02
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("scaling", ["none", "unit_variance"])
def test_the_fit_never_saw_what_it_is_asked(filtered, scaling, tmp_path):
    path, _ = filtered
    train, test = thin_counts(load_normalised(path, None, log1p=False), FRACTION, 1)
    values = normalise_block(train, **NORMALISATION)
    factors = np.ones(values.shape[1])
    if scaling == "unit_variance":  # of the counts that are left
        sd = values.toarray().astype(np.float64).std(axis=0)
        factors = 1 / np.where(sd > 0, sd, 1.0)
        values = sparse.csr_matrix(values.multiply(factors.astype(np.float32)))
    model = get_model("base_nmf")(4, random_state=0).fit(values)
    depth = np.asarray(train.sum(axis=1), dtype=np.float64)
    values_expected = model.embedding_.astype(np.float64) @ model.components_ / factors
    mu = np.expm1(np.minimum(values_expected, np.log1p(1e4))) * depth / 1e4
    expected = scored(train.toarray(), test.toarray(), mu)
    found = of_model(path, "base_nmf", tmp_path, scaling)
    assert found.deviance == pytest.approx(expected.deviance, rel=1e-6 if scaling == "none" else 1e-3)


@pytest.mark.parametrize("kind", ["ae_nmf", "ae_nmf_split", "pca", "pnmf"])
def test_scaled_genes_are_scaled_back_before_counts_are_expected_of_them(kind, filtered, tmp_path):
    path, rates = filtered
    found = of_model(path, kind, tmp_path, "sqrt", **({"max_iter": 20} if kind == "pnmf" else {}))
    train, test = thin_counts(load_normalised(path, None, log1p=False), FRACTION, 1)
    truth = scored(train.toarray(), test.toarray(), rates * (1 - FRACTION)).deviance_explained
    assert 0.25 * truth < found.deviance_explained < truth + 0.02
    if kind == "pnmf":  # a model of counts has no scaling
        assert found == of_model(path, kind, tmp_path, max_iter=20)
    assert read_filtered(path).nnz >= train.nnz


def test_what_says_nothing_of_a_gene_of_a_cell_has_no_score(filtered, tmp_path):
    for kind, words in (("scvi", "a network"), ("external", "made elsewhere"), ("consensus", "agree")):
        with pytest.raises(NotApplicable, match=words):
            of_model(filtered[0], kind, tmp_path)


def test_a_model_of_depth_and_genes_alone_is_about_the_null(filtered, tmp_path):
    found = of_model(filtered[0], "nb_hierarchical", tmp_path)
    assert found.deviance_explained == pytest.approx(0, abs=0.02)


def test_a_model_of_counts_sets_nothing_more_aside(filtered, tmp_path):
    plain = of_model(filtered[0], "pyro_exponential", tmp_path, max_iter=20)
    asked = of_model(filtered[0], "pyro_exponential", tmp_path, max_iter=20, held_out_fraction=0.3)
    assert asked == plain


EXPECTED = {
    "pnmf": {"exposure": "total", "max_iter": 20},
    "pnmf_donor": {"exposure": "total", "max_iter": 20},
    "pyro_gamma_nb": {"exposure": "total", "learn_probs": "gene", "max_iter": 20},
    "pyro_exponential": {"learn_probs": "donor", "max_iter": 20},
    "nb_hierarchical": {},
}


@pytest.mark.parametrize(("kind", "settings"), EXPECTED.items())
def test_counts_that_models_expect_have_the_sums_that_their_optimum_has(kind, settings):
    X, _, _ = drawn(n=120, p=25)
    donors = np.array(["a", "b"])[np.arange(120) % 2]
    model = get_model(kind)(3, random_state=0, device="cpu", **settings).fit(X, conditions=donors)
    whole = model.expected_values(X, slice(0, 120))
    assert whole.shape == X.shape
    assert (whole >= 0).all()
    np.testing.assert_allclose(model.expected_values(X, slice(30, 70)), whole[30:70], rtol=1e-12)
    assert whole.sum() == pytest.approx(X.sum(), rel=0.06)
    of_cells = np.asarray(X.sum(axis=1)).ravel()
    assert np.corrcoef(whole.sum(axis=1), of_cells)[0, 1] > 0.9
    if kind == "nb_hierarchical":  # not its counts' sums, but its effects'
        effects = model.gene_total_ + (model.cell_effect_ + model.size_)[:, None]
        np.testing.assert_allclose(whole, np.exp(effects), rtol=1e-9)
        return
    if kind == "pyro_exponential":  # its chances are each donor's
        found, given = (pd.DataFrame(m).sum(axis=1).groupby(donors).sum() for m in (whole, X.toarray()))
    else:
        found, given = whole.sum(axis=0), np.asarray(X.sum(axis=0)).ravel()
    np.testing.assert_allclose(found, given, rtol=0.15)


def test_the_table_tells_gaps_from_what_has_no_score(tmp_path):
    fits = [
        {"dataset": "a", "model": name, "rank": 4, "seed": 1, "file": str(tmp_path / f"{name}.tsv")}
        for name in ("one", "two", "three")
    ]
    row = {"deviance_explained": 0.2, "bits_per_molecule": 0.1, "fraction": 0.1, "seed": 7}
    write_table(pd.DataFrame([row]), tmp_path / "one.tsv")
    write_stub(tmp_path / "two.tsv", "a file")
    table = collect_deviance(fits)
    assert table["status"].tolist() == ["ok", "not applicable", "missing"]
    assert table.loc[0, ["seed", "seed_of_draw"]].tolist() == [1, 7]
    assert table["deviance_explained"].isna().tolist() == [False, True, True]
