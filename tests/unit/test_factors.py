"""Factors described: every number against its definition, planted programs found back, gaps stated."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import nnls
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from nmfbench.errors import InputError
from nmfbench.factors import association, moments, scores, statistics
from nmfbench.factors.describe import describe_factors
from nmfbench.factors.genes import GeneNames
from nmfbench.factors.stored import StoredFit
from nmfbench.metrics.matching import match_by_cosine
from nmfbench.models import BaseNMF
from nmfbench.tables.files import read_table
from planted import Planted

LOG = {"target_sum": 1e4, "log1p": True}
FILES = {
    **{"factors": "factors.tsv", "summary": "factor_summary.tsv", "labels_table": "factor_labels.tsv"},
    **{"pairs": "factor_pairs.tsv.gz", "top_genes": "top_genes.tsv", "programs": "programs.h5ad"},
}


@pytest.fixture(scope="module")
def planted():
    return Planted.draw()


@pytest.fixture(scope="module")
def filtered(planted, tmp_path_factory):
    return planted.filtered(tmp_path_factory.mktemp("planted"))


def describe(filtered, result, folder, **change):
    labels = ["cell_type", "donor_id"]
    files = {key: folder / name for key, name in FILES.items()}
    describe_factors(filtered, result, **files, labels=labels, normalisation=LOG, **change)
    return {key: read_table(path) for key, path in files.items() if key != "programs"}


def sums(planted, filtered, path, H=None, block_rows=100):
    W = None if H is None else planted.programs.T[:, : H.shape[1]]
    fit = StoredFit(planted.result(path / "result.h5ad", H, W))
    return moments.gather_moments(filtered, fit, LOG, block_rows=block_rows)


def dense(planted, H):
    """The slow twin's inputs: counts per million, normalised values, the embedding; float64."""
    counts = planted.counts.astype(np.float64)
    share = counts / counts.sum(axis=1, keepdims=True)
    return 1e6 * share, np.log1p(1e4 * share), H.astype(np.float32).astype(np.float64)


# ---- gene scores


@pytest.mark.parametrize("collinear", [False, True])
def test_gene_scores_are_least_squares_of_z_scores(planted, filtered, tmp_path, collinear):
    H = planted.usage.copy()
    if collinear:  # as embeddings of autoencoders are
        H = H @ (np.ones((5, 5)) + 0.2 * np.eye(5))
    H *= [1, 5, 1e-3, 200, 1]
    T, _, H = dense(planted, H)
    Z = (T - T.mean(axis=0)) / T.std(axis=0)
    expected = np.linalg.lstsq(H, Z, rcond=None)[0]
    found = scores.gene_scores(sums(planted, filtered, tmp_path, H))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_the_size_of_the_blocks_does_not_matter(planted, filtered, tmp_path):
    one, other = (sums(planted, filtered, tmp_path, block_rows=rows) for rows in (37, 10_000))
    np.testing.assert_allclose(scores.gene_scores(one), scores.gene_scores(other), rtol=1e-9)


def test_spectra_are_non_negative_least_squares_on_the_shares(planted, filtered, tmp_path):
    T, _, H = dense(planted, planted.usage * 7)
    shares = H / H.sum(axis=1, keepdims=True)
    found = scores.spectra(sums(planted, filtered, tmp_path, planted.usage * 7))
    expected = np.array([nnls(shares, column)[0] for column in T.T]).T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert np.corrcoef(found[0], planted.programs[0])[0, 1] > 0.99


def test_a_gene_that_never_changes_and_a_factor_that_nobody_uses_have_no_scores(planted, filtered, tmp_path):
    H = planted.usage.copy()
    H[:, 2] = 0
    found = sums(planted, filtered, tmp_path, H)
    flat = found.gene_sums.copy()
    flat[0] = 0
    changed = moments.FactorMoments(
        **{**vars(found), "gene_sums": flat, "gene_squares": np.where(flat == 0, 0, found.gene_squares)}
    )
    score = scores.gene_scores(changed)
    assert np.isnan(score[2]).all()
    assert np.isnan(score[:, 0]).all()
    assert np.isfinite(np.delete(score[:, 1:], 2, axis=0)).all()
    assert np.isnan(scores.spectra(changed)[2]).all()


def test_an_embedding_with_negative_entries_has_scores_but_no_spectra(planted, filtered, tmp_path):
    found = sums(planted, filtered, tmp_path)
    signed = moments.FactorMoments(**{**vars(found), "signed": True})
    assert np.isfinite(scores.gene_scores(signed)).all()
    assert np.isnan(scores.spectra(signed)).all()


def test_explained_variance_is_that_of_the_regressions(planted, filtered, tmp_path):
    size = np.random.default_rng(0).gamma(5, size=(len(planted.usage), 1))
    _, L, H = dense(planted, planted.usage * size)
    total = np.square(L - L.mean(axis=0)).sum()
    k = H.shape[1]

    def r2(columns):
        design = np.column_stack([np.ones(len(L)), H[:, columns]])
        rest = L - design @ np.linalg.lstsq(design, L, rcond=None)[0]
        return 1 - np.square(rest).sum() / total

    found = scores.explained_variance(sums(planted, filtered, tmp_path, H))
    np.testing.assert_allclose(found["alone"], [r2([j]) for j in range(k)], rtol=1e-6)
    assert found["all"] == pytest.approx(r2(list(range(k))), rel=1e-6)
    unique = [found["all"] - r2([i for i in range(k) if i != j]) for j in range(k)]
    np.testing.assert_allclose(found["uniquely"], unique, rtol=1e-5)
    # one that two factors share is neither's own
    found = scores.explained_variance(sums(planted, filtered, tmp_path, H[:, [0, 1, 2, 0]]))
    np.testing.assert_allclose(found["uniquely"][[0, 3]], 0)
    assert found["all"] == pytest.approx(r2([0, 1, 2]), rel=1e-6)


# ---- statistics and association


def test_statistics_of_a_column():
    found = statistics.column_statistics(np.array([0, 3.0, 0, 3.0]))
    assert found == pytest.approx({"zeros": 0.5, "L1": 6, "L2": np.sqrt(18), "effective": 2})
    assert np.isnan(statistics.column_statistics(np.zeros(3))["effective"])


def test_cosines_orthogonality_and_pairs():
    W = np.random.default_rng(0).gamma(1, size=(30, 4))
    W[:, 3] = 0
    gram = W.T @ W
    cosine = statistics.cosines(gram)
    assert cosine[0, 1] == pytest.approx(W[:, 0] @ W[:, 1] / np.prod(np.linalg.norm(W[:, :2], axis=0)))
    assert np.isnan(cosine[3]).all()
    assert np.isnan(np.diag(cosine)).all()
    assert statistics.orthogonality(gram).sum() == pytest.approx(np.linalg.norm(gram - np.eye(4)) ** 2)
    mean, largest, which = statistics.nearest(cosine)
    assert largest[0] == np.nanmax(cosine[0])
    assert mean[0] == pytest.approx(np.nanmean(cosine[0]))
    assert (np.isnan(largest[3]), which[3]) == (True, 0)
    assert len(statistics.pair_table(cosine, cosine)) == 6
    one = statistics.nearest(statistics.cosines(np.ones((1, 1))))  # rank 1: there is no other factor
    assert np.isnan(one[0]).all()
    assert one[2][0] == 0


def test_ranks_are_scipys():
    rng = np.random.default_rng(0)
    values, codes = np.round(rng.gamma(0.3, size=200), 1), rng.integers(-1, 3, 200).astype(np.int32)
    ranks = rankdata(values[codes >= 0])
    found = association.rank_sums(values, np.argsort(values), codes, 3)
    np.testing.assert_array_equal(found, np.bincount(codes[codes >= 0], ranks))


def test_association_is_the_roc_area_and_eta_squared():
    rng = np.random.default_rng(1)
    codes = rng.integers(-1, 3, 400).astype(np.int32)
    h = np.round(rng.gamma(1 + codes.clip(0)), 1) * (rng.random(400) < 0.6)
    label = association.Label.of("cell_type", codes, np.array(["a", "b", "c"], dtype=object))
    found = association.label_associations(h, [label])[0]
    known = codes >= 0
    areas = [roc_auc_score(codes[known] == c, h[known]) for c in range(3)]
    np.testing.assert_allclose(found["auroc"], areas)
    groups = [h[codes == c] for c in range(3)]
    between = sum(len(g) * (g.mean() - h[known].mean()) ** 2 for g in groups)
    assert found["eta2"] == pytest.approx(between / np.square(h[known] - h[known].mean()).sum())
    assert found["share"].sum() == pytest.approx(1)
    constant = association.label_associations(np.ones(400), [label])[0]
    assert np.isnan(constant["auroc"]).all()
    small = association.Label.of("x", np.array([0] * 20 + [1] * 3, np.int32), np.array(["a", "b"], object))
    assert list(small.classes) == ["a"]
    assert np.isnan(association.label_associations(np.arange(23.0), [small])[0]["eta2"])


def test_variance_between_donors_is_zero_without_donor_effects_and_found_with_them():
    rng = np.random.default_rng(2)
    types, donors = rng.integers(3, size=3000), rng.integers(30, size=3000)
    of = [
        association.Label.of(name, codes.astype(np.int32), np.arange(codes.max() + 1).astype(str))
        for name, codes in (("cell_type", types), ("donor_id", donors))
    ]
    chance = [
        association.variance_components(rng.gamma(1 + types), association.Nested.of(*of)) for _ in range(20)
    ]
    assert abs(np.mean([found["between_donors"] for found in chance])) < 3e-3
    assert not any(association.is_donor_factor(found) for found in chance)
    found = association.variance_components(
        rng.normal(size=3000) + 1.0 * (donors % 2), association.Nested.of(*of)
    )
    assert found["between_donors"] == pytest.approx(0.2, abs=0.03)
    assert association.is_donor_factor(found)
    alone = association.Label.of("donor_id", np.zeros(3000, np.int32), np.array(["one"]))
    assert np.isnan(
        association.variance_components(rng.gamma(1 + types), association.Nested.of(of[0], alone))[
            "between_donors"
        ]
    )


# ---- the whole


def test_planted_programs_are_found_back_with_their_genes_and_the_donors_is_flagged(
    planted, filtered, tmp_path
):
    from nmfbench.data import load_normalised

    X = load_normalised(filtered, **LOG)
    model = BaseNMF(5, random_state=0, max_iter=300).fit(X)
    result = planted.result(tmp_path / "result.h5ad", model.embedding_, model.components_.T)
    tables = describe(filtered, result, tmp_path, n_top_genes=10)
    match = match_by_cosine(model.components_.T, planted.programs.T)[1].set_index("other_factor")
    assert match["cosine"].min() > 0.8
    factors = tables["factors"].set_index("factor")
    genes = tables["top_genes"].groupby("factor")["symbol"].apply(set)
    for program in range(5):
        factor = match.loc[program + 1, "factor"]
        own = {f"GENE{number}" for number in range(10 * program, 10 * program + 10)}
        assert len(genes[factor] & own) >= 9
        row = factors.loc[factor]
        if program == 4:
            assert (row["donor_factor"], row["donor_id_top"]) == (True, "D0")
            assert row["donor_id_auroc"] > 0.95
        else:
            assert (row["donor_factor"], row["cell_type_top"]) == (False, f"type {program}")
            assert row["cell_type_auroc"] > 0.95
    assert tables["summary"]["donor_factors"].item() == 1
    total = np.linalg.norm(model.components_ @ model.components_.T - np.eye(5)) ** 2
    assert tables["summary"]["orthogonality"].item() == pytest.approx(total, rel=1e-4)
    assert len(tables["pairs"]) == 10
    assert set(tables["labels_table"]["label"]) == {"cell_type", "donor_id"}
    programs = anndata.read_h5ad(tmp_path / "programs.h5ad")
    assert programs.shape == (5, planted.counts.shape[1])
    best = programs.var["symbol"].iloc[int(programs.X[0].argmax())]
    assert best == tables["top_genes"].query("factor == 1 and position == 1")["symbol"].item()


def test_dead_and_constant_factors_and_rank_one_are_stated(planted, filtered, tmp_path):
    H = planted.usage.copy()
    H[:, 0], H[:, 1] = 0, 1
    result = planted.result(tmp_path / "result.h5ad", H)
    tables = describe(filtered, result, tmp_path)
    factors = tables["factors"].set_index("factor")
    assert list(factors["status"]) == ["dead", "constant", "ok", "ok", "ok"]
    assert factors.loc[1, ["effective_cells", "variance_explained", "H_cosine_max"]].isna().all()
    assert factors.loc[2, ["cell_type_auroc", "donor_factor"]].isna().all()
    assert 1 not in set(tables["top_genes"]["factor"])
    assert (tables["summary"]["dead"].item(), tables["summary"]["constant"].item()) == (1, 1)
    one = planted.result(tmp_path / "one.h5ad", planted.usage[:, :1], planted.programs[:1].T)
    tables = describe(filtered, one, tmp_path)
    assert len(tables["factors"]) == 1
    assert tables["factors"][["W_cosine_max", "H_nearest"]].isna().all(axis=None)
    assert len(tables["pairs"]) == 0


def test_counts_of_another_dataset_are_refused(planted, filtered, tmp_path):
    result = Planted.draw(n_cells=300).result(tmp_path / "result.h5ad")
    with pytest.raises(InputError, match="300 x 80"):
        describe(filtered, result, tmp_path)


def test_names_of_genes_with_versions_columns_and_gaps():
    var = pd.DataFrame(
        {"gene_ids": ["ENSG00000000001.4", "ENSMUSG00000000002"], "feature_name": ["A", None]},
        index=["a", "b"],
    )
    names = GeneNames.of(var)
    assert list(names.ids) == ["ENSG00000000001", "ENSMUSG00000000002"]
    assert list(names.symbols) == ["A", "b"]
    plain = GeneNames.of(pd.DataFrame(index=["CD3D", "LYZ"]))
    assert list(plain.symbols) == ["CD3D", "LYZ"]
    assert not any(plain.ids)


def test_matching_by_cosine():
    rng = np.random.default_rng(0)
    A = rng.gamma(0.5, size=(60, 4))
    B = A[:, [2, 0, 1]] * [1, 7, 0.1] + 0.01 * rng.random((60, 3))
    A = np.column_stack([A, np.zeros(60)])
    cosine, matches = match_by_cosine(A, B)
    assert dict(zip(matches["factor"], matches["other_factor"], strict=True)) == {3: 1, 1: 2, 2: 3}
    assert matches["reciprocal"].all()
    assert np.isnan(cosine[4]).all()
