"""Scorers of the perturbation task: slow twins, cell-eval's values, conventions that differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from nmfbench.errors import InputError
from nmfbench.perturbation.scoring import metrics, rank_sums
from nmfbench.perturbation.scoring.backends import BACKENDS
from nmfbench.perturbation.scoring.ceiling import replicate_ceiling
from nmfbench.perturbation.scoring.cells import Cells, normalise
from nmfbench.perturbation.scoring.registry import overall
from nmfbench.perturbation.scoring.score import score_prediction, summarise
from nmfbench.perturbation.scoring.truth import build_truth, read_truth
from nmfbench.perturbation.scoring.truth_cache import TruthCache

FIXTURES = Path(__file__).parent / "fixtures"


def cells_of(counts: np.ndarray, labels) -> Cells:
    names = sorted(set(labels) - {"non-targeting"})
    place = {name: number for number, name in enumerate(names)} | {"non-targeting": -1}
    group = np.array([place[label] for label in labels])
    return Cells(sparse.csr_matrix(counts.astype(np.float32)), group, names)


@pytest.fixture(scope="module")
def pair():
    """Real and predicted cells that cell-eval has scored; the last target has no DE gene."""
    with np.load(FIXTURES / "cell_eval_pair.npz") as stored:
        arrays = dict(stored)
    real, predicted = (cells_of(arrays[side], arrays[f"{side}_target"]) for side in ("real", "pred"))
    genes = arrays["genes"].tolist()
    own = np.array([genes.index(name) for name in real.names])
    return real, predicted, genes, own


def truth_of(pair, backend="house", target_sum=300.0, cells=None):
    real, _, genes, own = pair
    return build_truth(cells or real, BACKENDS[backend], genes, own, target_sum=target_sum, fdr=0.05)


def scores(pair, backend="house", predicted=None, **options):
    table, _ = score_prediction(truth_of(pair, backend), predicted or pair[1], **options)
    return table


# ---- the tests


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("continuity", [True, False])
def test_sparse_rank_sums_are_those_of_scipy(seed, continuity):
    rng = np.random.default_rng(seed)
    group, control = rng.poisson(0.8, (23, 30)), rng.poisson(0.6, (40, 30))
    group[:, 0], control[:, 0], control[:, 1] = 0, 0, 0
    prepared = rank_sums.prepare(sparse.csr_matrix(control.astype(np.float32)))
    p = rank_sums.compare(sparse.csr_matrix(group.astype(np.float32)), prepared, continuity=continuity)
    for gene in range(1, 30):
        expected = stats.mannwhitneyu(
            group[:, gene], control[:, gene], method="asymptotic", use_continuity=continuity
        ).pvalue
        assert p[gene] == pytest.approx(expected, rel=1e-9)
    assert p[0] == 1


def test_adjusted_p_values_are_those_of_scipy():
    p = np.random.default_rng(0).uniform(size=50) ** 2
    np.testing.assert_allclose(rank_sums.benjamini_hochberg(p), stats.false_discovery_control(p))
    assert len(rank_sums.benjamini_hochberg(np.array([]))) == 0


# ---- cell-eval


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        ("MAE", "mae", 1e-6),
        ("PearsonDelta", "pearson_delta", 1e-6),
        ("PDS", "discrimination_score_l1", 1e-12),
        ("DES", "overlap_at_N", 1e-12),
        ("DE_precision", "precision_at_N", 1e-12),
        ("n_DE_real", "de_nsig_counts_real", 0),
        ("n_DE_predicted", "de_nsig_counts_pred", 0),
    ],
)
def test_vcc_is_cell_eval(pair, ours, theirs, tolerance):
    expected = json.loads((FIXTURES / "cell_eval.json").read_text())
    table = scores(pair, "vcc")
    assert table["target"].tolist() == expected["targets"]
    np.testing.assert_allclose(table[ours], expected[theirs], atol=tolerance, rtol=0)


def test_vcc_is_cell_eval_where_targets_are_mixed_up(pair):
    expected = json.loads((FIXTURES / "cell_eval.json").read_text())["mixed_up"]
    predicted = pair[1]
    names = [expected["label_of"][name] for name in predicted.names]
    table = scores(pair, "vcc", Cells(predicted.counts, predicted.group, names))
    assert 0 < table["PDS"].mean() < 1
    for ours, theirs in (("MAE", "mae"), ("PDS", "discrimination_score_l1"), ("DES", "overlap_at_N")):
        np.testing.assert_allclose(table[ours], expected[theirs], atol=1e-6, rtol=0)


def test_legacy_de_genes_are_those_of_scanpy(pair):
    import anndata
    import pandas as pd
    import scanpy

    real = pair[0]
    truth = truth_of(pair, "legacy")
    label = np.array([*real.names, "control"], dtype=object)[real.group]
    obs = pd.DataFrame({"target": pd.Categorical(label)}, index=[f"cell-{row}" for row in range(len(label))])
    data = anndata.AnnData(real.counts.copy(), obs=obs, var=pd.DataFrame(index=pair[2]))
    scanpy.pp.normalize_total(data, target_sum=1e4)
    scanpy.pp.log1p(data)
    scanpy.tl.rank_genes_groups(data, "target", reference="control", method="wilcoxon")
    for row, name in enumerate(real.names):
        table = scanpy.get.rank_genes_groups_df(data, name).set_index("names").loc[pair[2]]
        np.testing.assert_allclose(truth.differential.q[row], table["pvals_adj"], rtol=0.01, atol=1e-12)
        change = truth.differential.log2_fold_change[row]
        np.testing.assert_allclose(change, table["logfoldchanges"], rtol=1e-3, atol=1e-3)


def test_scorers_differ_where_a_target_has_no_de_gene(pair):
    last = {name: scores(pair, name).iloc[-1] for name in BACKENDS}
    assert last["vcc"]["n_DE_real"] == last["house"]["n_DE_real"] == 0
    assert last["vcc"]["DES"] == 0
    assert np.isnan(last["house"]["DES"])
    assert last["legacy"]["DES"] == 1


# ---- what a score must be


def test_the_truth_has_perfect_scores(pair):
    real = pair[0]
    table = scores(pair, "house", real)
    assert (table["PDS"] == 1).all()
    assert (table["PDS_cosine"] == 1).all()
    assert table["MAE"].max() == 0
    assert (table["DES"].dropna() == 1).all()
    np.testing.assert_allclose(table["PearsonDelta"], 1)
    np.testing.assert_allclose(table["MSE_corrected"], -2 * truth_of(pair).variances.mean(axis=1))


@pytest.mark.parametrize(
    ("ties", "expected"), [("middle", 0.5), ("position", 0.5 + 1 / (2 * 30)), ("strict", 1.0)]
)
def test_a_constant_prediction_knows_nothing(ties, expected):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(30, 40))
    equal = np.zeros((30, 30))  # as far from all real profiles
    assert metrics.discrimination(equal, ties).mean() == pytest.approx(expected)
    # one profile for all targets: each target is as often near as far
    one = metrics.distances(np.tile(real.mean(axis=0), (30, 1)), real, np.full(30, -1))
    assert metrics.discrimination(one, "middle").mean() == pytest.approx(0.5)
    assert metrics.discrimination(one, "position").mean() == pytest.approx(0.5 + 1 / 60)


def test_the_target_is_left_out_of_distances_where_it_is_measured():
    rng = np.random.default_rng(1)
    predicted, real = rng.normal(size=(2, 3, 8))
    found = metrics.distances(predicted, real, np.array([2, -1, 5]))
    for row, kept in enumerate((np.arange(8) != 2, np.ones(8, bool), np.arange(8) != 5)):
        expected = np.abs(real[:, kept] - predicted[row, kept]).sum(axis=1)
        np.testing.assert_allclose(found[row], expected)


def test_predicted_control_cells_do_not_matter(pair):
    predicted = pair[1]
    control = predicted.group == -1
    heavier = sparse.csr_matrix(sparse.diags(np.where(control, 7.0, 1.0)) @ predicted.counts)
    kept = ~(control & (np.arange(len(control)) % 2 == 0))
    others = Cells(heavier[kept], predicted.group[kept], predicted.names)
    one, two = scores(pair), scores(pair, predicted=others)
    assert one.drop(columns="depth_ratio").equals(two.drop(columns="depth_ratio"))


def test_a_cell_counted_several_times_over_scores_the_same(pair):
    predicted = pair[1]
    factor = np.random.default_rng(0).integers(1, 5, len(predicted.group)).astype(np.float32)
    multiplied = sparse.csr_matrix(sparse.diags(factor) @ predicted.counts)
    times = Cells(multiplied, predicted.group, predicted.names)
    one, two = (scores(pair, predicted=cells) for cells in (predicted, times))
    one, two = (table.drop(columns=["target", "depth_ratio"]).to_numpy(float) for table in (one, two))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_a_missing_target_is_refused_and_named(pair):
    predicted = pair[1]
    kept = predicted.group != 2
    with pytest.raises(InputError, match=predicted.names[2]):
        scores(pair, predicted=Cells(predicted.counts[kept], predicted.group[kept], predicted.names))


def test_the_real_control_is_the_reference_and_can_be_split(pair):
    truth = truth_of(pair)
    from dataclasses import replace

    shifted = replace(truth, train_control_profile=truth.control_profile + 0.5)
    profiles = truth.profiles * 0.9
    real, _ = score_prediction(shifted, pair[1], profiles=profiles)
    split, _ = score_prediction(shifted, pair[1], profiles=profiles, control_reference="split")
    assert np.abs(real["PearsonDelta"] - split["PearsonDelta"]).max() < 1e-9  # a constant shift
    np.testing.assert_allclose(real["MAE"], np.abs(profiles - truth.profiles).mean(axis=1))


def test_moments_are_those_of_the_dense_matrix(pair):
    real = pair[0]
    values = normalise(real, 300.0)
    means, variances, linear = values.moments()
    counts = real.counts.toarray().astype(float)
    dense = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 300)
    for group in range(-1, len(real.names)):
        mine = dense[real.group == group]
        np.testing.assert_allclose(means[group + 1], mine.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(variances[group + 1], mine.var(axis=0, ddof=1), atol=1e-6)
        np.testing.assert_allclose(linear[group + 1], np.expm1(mine).mean(axis=0), rtol=1e-5)


def test_the_likelihood_is_that_of_the_moment_matched_sum():
    rng = np.random.default_rng(0)
    log_rate, theta = rng.normal(size=(2, 5)), rng.uniform(0.5, 5, 5)
    size, squared = np.array([30.0, 4.0]), np.array([40.0, 5.0])
    y = rng.poisson(20, (2, 5)).astype(float)
    found = metrics.log_likelihood(log_rate, theta, y, size, squared)
    for row in range(2):
        r = theta * size[row] ** 2 / squared[row]
        mu = size[row] * np.exp(log_rate[row])
        expected = stats.nbinom.logpmf(y[row], r, r / (r + mu)).mean()
        assert found[row] == pytest.approx(expected)


def test_pearson_of_what_does_not_vary_is_zero():
    x = np.random.default_rng(0).normal(size=(2, 9))
    assert metrics.pearson(np.full((2, 9), 0.3), x).tolist() == [0, 0]
    np.testing.assert_allclose(metrics.pearson(x, 2 * x + 1), 1)
    kept = np.ones((2, 9), dtype=bool)
    kept[:, 3] = False
    expected = np.corrcoef(x[0, kept[0]], x[1, kept[0]])[0, 1]
    assert metrics.pearson(x[:1], x[1:], kept[:1])[0] == pytest.approx(expected)


def test_the_ceiling_is_of_disjoint_halves_and_corrected(pair):
    real, _, genes, own = pair
    responsive = truth_of(pair).responsive(5)
    table = replicate_ceiling(
        real, BACKENDS["house"], genes, own, target_sum=300, fdr=0.05, responsive=responsive, reference=None
    ).set_index(["metric", "targets"])  # fmt: skip
    r = table.loc[("PearsonDelta", "responsive"), "value"]
    assert 0.6 < r < 0.99
    assert table.loc[("PearsonDelta", "responsive"), "corrected"] == pytest.approx(2 * r / (1 + r))
    assert np.isnan(table.loc[("MAE", "all"), "corrected"])


def test_responsive_targets_follow_from_the_truth_and_have_rows_of_their_own(pair):
    truth = truth_of(pair)
    responsive = truth.responsive(5)
    assert responsive.tolist() == [True] * 5 + [False]
    summary = summarise(scores(pair), responsive).set_index(["metric", "targets"])
    assert summary.loc[("MAE", "all"), "n"] == 6
    assert summary.loc[("MAE", "responsive"), "n"] == 5
    assert summary.loc[("DES", "all"), "n"] == 5  # the target without a DE gene is dropped, and not counted


def test_a_truth_survives_its_file(pair, tmp_path):
    truth = truth_of(pair)
    truth.save(tmp_path / "truth.npz")
    again = read_truth(tmp_path / "truth.npz")
    one, _ = score_prediction(truth, pair[1])
    two, _ = score_prediction(again, pair[1])
    assert one.equals(two)
    assert again.fingerprint == truth.fingerprint


# ---- a truth made before


@pytest.fixture
def published(pair, tmp_path):
    """The truth of the pair by the scorer of cell-eval, as a folder in the published layout."""
    truth = truth_of(pair, "vcc")
    bulk = {"bulk_keys": np.array(["non-targeting", *truth.names]), "genes": np.array(pair[2])}
    profiles = np.vstack([truth.control_profile, truth.profiles]).astype(np.float32)
    np.savez(tmp_path / "ground_truth_bulk.npz", bulk_values=profiles, **bulk)
    target, gene = np.indices(truth.differential.p.shape).reshape(2, -1)
    table = {"target": np.array(truth.names)[target], "feature": np.array(pair[2])[gene]}
    table |= {"p_value": truth.differential.p.ravel().astype(np.float32), "fdr": 0.5, "log2_fold_change": 9.0}
    pd.DataFrame(table).sample(frac=1, random_state=0).to_csv(tmp_path / "real_de.tsv", sep="\t", index=False)
    described = {"pert_col": "target_gene", "control": "non-targeting", "real_de_file": "real_de.tsv"}
    (tmp_path / "metadata.json").write_text(json.dumps(described))
    return tmp_path, truth


def from_cache(pair, folder, backend="vcc", column="target_gene", cells=None):
    real, _, genes, own = pair
    cache = TruthCache.read(folder, column=column, control="non-targeting", scorer=backend)
    options = {"target_sum": 300.0, "fdr": 0.05, "cache": cache}
    return build_truth(cells or real, BACKENDS[backend], genes, own, **options)


def test_p_values_of_a_truth_made_before_are_taken_over_and_the_rest_is_ours(pair, published, monkeypatch):
    folder, truth = published
    monkeypatch.setattr(rank_sums, "compare", None)  # no test is made again
    again = from_cache(pair, folder)
    np.testing.assert_allclose(again.differential.p, truth.differential.p, rtol=1e-6)
    np.testing.assert_allclose(again.differential.q, truth.differential.q, rtol=1e-6)
    change = truth.differential.log2_fold_change
    np.testing.assert_array_equal(again.differential.log2_fold_change, change)


def test_a_truth_of_this_workflow_is_one_in_that_layout(pair, published):
    folder, truth = published
    truth.save(folder / "truth.npz")
    described = {"pert_col": "target_gene", "control": "non-targeting", "real_de_file": "truth.npz"}
    described |= {"scorer": "vcc", "content_sha256": truth.fingerprint}
    (folder / "metadata.json").write_text(json.dumps(described))
    np.testing.assert_array_equal(from_cache(pair, folder).differential.q, truth.differential.q)
    (folder / "metadata.json").write_text(json.dumps({**described, "content_sha256": "0" * 64}))
    with pytest.raises(InputError, match="content_sha256"):
        from_cache(pair, folder)
    (folder / "metadata.json").write_text(json.dumps({**described, "scorer": "legacy"}))
    with pytest.raises(InputError, match="scorer"):
        from_cache(pair, folder)


def test_a_truth_of_other_cells_genes_or_targets_is_refused(pair, published):
    folder, _ = published
    real, _, genes, own = pair
    with pytest.raises(InputError, match="pert_col 'gene'"):
        from_cache(pair, folder, column="gene")
    with pytest.raises(InputError, match="profiles that differ"):
        from_cache(pair, folder, "house")  # of another depth
    one_cell_less = np.arange(len(real.group)) > 0
    fewer = Cells(real.counts[one_cell_less], real.group[one_cell_less], real.names)
    with pytest.raises(InputError, match="profiles that differ"):
        from_cache(pair, folder, cells=fewer)
    with pytest.raises(InputError, match="another order"):
        from_cache((real, None, genes[::-1], own), folder)
    renamed = Cells(real.counts, real.group, ["new", *real.names[1:]])
    with pytest.raises(InputError, match="none of new"):
        from_cache(pair, folder, cells=renamed)
    table = pd.read_csv(folder / "real_de.tsv", sep="\t")
    table.iloc[1:].to_csv(folder / "real_de.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="1 are missing"):
        from_cache(pair, folder)
    (folder / "metadata.json").unlink()
    with pytest.raises(InputError, match=r"metadata\.json"):
        from_cache(pair, folder)


def test_overall_is_cut_to_what_is_better_than_the_baseline():
    found = overall({"DES": 0.2, "PDS": 0.4, "MAE": 0.01}, {"DES": 0.1, "PDS": 0.5, "MAE": 0.02})
    assert found["Overall"] == pytest.approx(100 * (0.1 / 0.9 + 0 + 0.5) / 3)
    assert found["Overall_wo_MAE"] == pytest.approx(100 * (0.1 / 0.9) / 3)
