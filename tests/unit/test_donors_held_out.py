"""Donors held out of classifiers and of fits: scikit-learn on the pooled cells, and planted leaks."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nmfbench.config import load_config
from nmfbench.data import filter_donors, load_normalised, read_filtered
from nmfbench.data.donor_groups import deal_donors, runs_of
from nmfbench.donor_transfer import transfer_to_donors
from nmfbench.errors import InputError, NotApplicable
from nmfbench.inapplicable import write_stub
from nmfbench.metrics.classification import classify
from nmfbench.metrics.donor_folds import DonorSplit, cells_by_donor, split_donors
from nmfbench.metrics.donors_held_out import HeldOutTables, classify_held_out_donors, score_split
from nmfbench.models import get_card, get_model
from nmfbench.refits import Fits
from nmfbench.statistics import load, merge_files
from nmfbench.statistics.shards import gather_file
from nmfbench.tables.coverage import coverage
from nmfbench.tables.donors_held_out import donors_held_out
from nmfbench.tables.files import write_table

ASKED = {"label": "cell_type", "folds": 5, "min_cells": 10, "min_donors": 2}


def atlas(n=600, n_donors=5, n_types=3, seed=0, of_donor=0.3):
    """An embedding with types and donors in it, of a number of donors."""
    rng = np.random.default_rng(seed)
    types, donors = rng.integers(n_types, size=n), rng.integers(n_donors, size=n)
    H = rng.normal(size=(n_types, 6))[types] + of_donor * rng.normal(size=(n_donors, 6))[donors]
    H += 0.6 * rng.normal(size=(n, 6))
    return H.astype(np.float32), np.array([f"t{t}" for t in types]), np.array([f"d{d}" for d in donors])


def pooled(H, y, donors):
    """Predictions of every cell by a classifier of the other donors, and the area of each fold and class."""
    found, areas = np.empty(len(y), dtype=object), {}
    for train, test in LeaveOneGroupOut().split(H, y, donors):
        knn = make_pipeline(StandardScaler(), KNeighborsClassifier(15)).fit(H[train], y[train])
        found[test] = knn.predict(H[test])
        for column, name in enumerate(knn.classes_):
            positive = y[test] == name
            if 0 < positive.sum() < positive.size:
                areas.setdefault(name, []).append(
                    roc_auc_score(positive, knn.predict_proba(H[test])[:, column])
                )
    return found.astype(str), np.mean([np.mean(values) for values in areas.values()])


def test_scores_are_those_of_all_cells_predicted_by_other_donors():
    H, y, donors = atlas()
    scores, folds, counts = classify_held_out_donors(
        H, y, donors, seeds=[42, 52], classifiers=["knn"], **ASKED
    ).frames()
    predicted, area = pooled(H, y, donors)
    row = scores.iloc[0]
    assert row["F1"] == row["F1_all"] == pytest.approx(f1_score(y, predicted, average="macro"), abs=1e-12)
    assert row["Recall"] == pytest.approx(recall_score(y, predicted, average="macro"), abs=1e-12)
    assert row["Accuracy"] == pytest.approx(np.mean(y == predicted), abs=1e-12)
    assert row["AUROC"] == pytest.approx(area, abs=1e-12)
    assert row["unseen_cells"] == 0
    assert len(scores) == 1, "another seed would hold out the same donors"
    assert list(folds["splitter"].unique()) == ["LeaveOneGroupOut"]
    assert folds["n_test"].sum() == counts["n"].sum() == len(y)
    assert sorted(folds["donors"]) == sorted(set(donors))


def test_a_class_that_a_fold_cannot_learn_is_left_out_or_counted_as_missed():
    H, y, donors = atlas(n=900, n_donors=4)
    donors[y == "t2"] = np.where(np.arange((y == "t2").sum()) % 2, "d0", "d1")
    held = cells_by_donor(y, donors)
    together = np.isin(donors, ["d0", "d1"])
    folds = tuple((np.flatnonzero(part), np.flatnonzero(~part)) for part in (together, ~together))
    tables = HeldOutTables([], [], [])
    score_split(
        lambda fold: H, held, DonorSplit(folds, "by hand"), tables,
        label="cell_type", seed=0, classifiers=["knn"],
    )  # fmt: skip
    row = tables.scores[0]
    assert row["unseen_cells"] == pytest.approx(np.mean(y == "t2"))
    assert [fold["unseen_classes"] for fold in tables.folds] == ["", "t2"]
    assert [fold["absent_classes"] for fold in tables.folds] == ["t2", ""]
    predicted = np.empty(len(y), dtype=object)
    for train, test in folds:
        knn = make_pipeline(StandardScaler(), KNeighborsClassifier(15)).fit(H[train], y[train])
        predicted[test] = knn.predict(H[test])
    predicted = predicted.astype(str)
    seen, known = y != "t2", ["t0", "t1"]
    # a cell that could be known and was taken for t2 is missed, and t2 has no F1 of its own
    expected = f1_score(y[seen], predicted[seen], average="macro", labels=known)
    assert row["F1"] == pytest.approx(expected, abs=1e-12)
    expected = f1_score(y, predicted, average="macro", labels=[*known, "t2"], zero_division=0)
    assert row["F1_all"] == pytest.approx(expected, abs=1e-12)
    assert row["F1_all"] < row["F1"]


def test_what_is_known_of_the_donors_alone_falls_away():
    # every donor puts every type somewhere of its own: neighbours know all of a donor, nothing of the next
    rng = np.random.default_rng(0)
    n, donors, types = 1200, rng.integers(6, size=1200), rng.integers(3, size=1200)
    H = rng.normal(size=(6, 3, 8))[donors, types] + 0.05 * rng.normal(size=(n, 8))
    y, donors = types.astype(str), donors.astype(str)
    random = classify(H, y, cv_seed=42, classifiers=["knn"])["F1"].mean()
    scores, *_ = classify_held_out_donors(H, y, donors, seeds=[42], classifiers=["knn"], **ASKED).frames()
    assert random > 0.99
    assert scores["F1"].item() < random - 0.3


def test_donors_stay_on_one_side_and_the_deal_is_recorded():
    _, y, donors = atlas(n=2000, n_donors=24)
    held = cells_by_donor(y, donors)
    for seed in (42, 52):
        split = split_donors(held.codes, held.donors, 5, seed)
        assert split.splitter == "StratifiedGroupKFold"
        assert len(split.folds) == 5
        for train, test in split.folds:
            assert not set(held.donors[train]) & set(held.donors[test])
    assert (
        len(split_donors(*[part[held.donors < 10] for part in (held.codes, held.donors)], 5, 0).folds) == 10
    )


def test_rare_classes_are_listed_and_left_out():
    H, y, donors = atlas()
    y = y.astype(object)
    y[np.flatnonzero(donors == "d0")[:30]] = "in one donor"
    y[:3] = "three cells"
    y[3] = None
    held = cells_by_donor(y, donors)
    assert set(held.left_out) == {"in one donor", "three cells"}
    assert set(held.names) == {"t0", "t1", "t2"}
    assert 3 not in held.cells
    scores, *_ = classify_held_out_donors(H, y, donors, seeds=[42], classifiers=["knn"], **ASKED).frames()
    assert set(scores["left_out"].item().split(", ")) == set(held.left_out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, donors: (donors, donors), "a label that tells donors apart"),
        (lambda y, donors: (y, np.full(len(y), "d0")), "two or more donors"),
        (lambda y, donors: (np.full(len(y), "t"), donors), "two or more classes"),
    ],
)
def test_what_has_no_meaning_says_so(change, words):
    H, y, donors = atlas()
    y, donors = change(y, donors)
    with pytest.raises(NotApplicable, match=words):
        classify_held_out_donors(H, y, donors, seeds=[42], classifiers=["knn"], **ASKED)


def test_a_classifier_that_fails_is_a_row_and_not_a_zero(monkeypatch):
    from nmfbench.metrics import donors_held_out as module

    def fail(name, *arguments, **keywords):
        if name == "knn":
            raise RuntimeError("no luck")
        return real(name, *arguments, **keywords)

    real = module.fit_and_predict
    monkeypatch.setattr(module, "fit_and_predict", fail)
    H, y, donors = atlas()
    asked = {"seeds": [42], "classifiers": ["knn", "logistic_regression"]}
    scores, *_ = classify_held_out_donors(H, y, donors, **asked, **ASKED).frames()
    assert list(scores["status"]) == ["failed", "ok"]
    assert np.isnan(scores["F1"][0])
    assert "no luck" in scores["message"][0]
    with pytest.raises(InputError, match="no luck"):
        classify_held_out_donors(H, y, donors, **asked | {"classifiers": ["knn"]}, **ASKED)


def test_the_config_refuses_what_cannot_be():
    base = {"datasets": {"a": {"simulate": {}}}, "models": {"pca": {}, "harmony": {}}}
    with pytest.raises(InputError, match="donor_cv: the only label is the donor"):
        load_config(base | {"labels": ["donor_id"], "donor_cv": {"enabled": True}})
    with pytest.raises(InputError, match="no place for cells of donors"):
        load_config(base | {"donor_transfer": {"models": ["harmony"]}})
    with pytest.raises(InputError, match=r"donor_transfer.models: \['nmf'\]"):
        load_config(base | {"donor_transfer": {"models": ["nmf"]}})
    config = load_config(base | {"donor_transfer": {"enabled": True}})
    assert config.transferred_models() == ["pca"]


# ---- held out of the fit


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """A filtered file of five donors in no order, three types."""
    folder = tmp_path_factory.mktemp("donors")
    rng = np.random.default_rng(3)
    n, p = 260, 50
    types, donors = rng.integers(3, size=n), rng.integers(5, size=n)
    rates = rng.gamma(0.4, 2.0, (3, p))[types] * np.exp(0.3 * rng.normal(size=(5, p))[donors]) + 0.05
    obs = pd.DataFrame(
        {"cell_type": [f"t{t}" for t in types], "donor_id": [f"d{d}" for d in donors]},
        index=[f"c{i}" for i in range(n)],
    ).astype("category")
    X = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    anndata.AnnData(X=X, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(p)])).write_h5ad(
        folder / "source.h5ad"
    )
    filter_donors(
        folder / "source.h5ad", folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=5
    )
    return folder / "filtered.h5ad"


NORMALISATION = {"target_sum": 1e4, "log1p": True}
GATHERING = {"normalisation": NORMALISATION, "condition_columns": ["donor_id"], "donor_grams": False}
GATHERING |= {"memory_mb": 1000, "passes": 1}


@pytest.fixture(scope="module")
def without_groups(filtered):
    """Statistics of all donors but those of each of three groups, and the groups."""
    folder = filtered.parent
    parts = [folder / f"group-{g}.h5" for g in range(3)]
    for group, path in enumerate(parts):
        gather_file(filtered, path, shard=group, n_shards=3, by_donor=True, **GATHERING)
    paths = [folder / f"without-{g}.h5" for g in range(3)]
    for group, path in enumerate(paths):
        others = [g for g in range(3) if g != group]
        merge_files([parts[g] for g in others], path, shards=others)
    return paths


def test_groups_have_whole_donors_of_about_as_many_cells(filtered):
    donors = read_filtered(filtered).label("donor_id")
    groups = deal_donors(donors, 3)
    for donor in donors.categories:
        assert np.unique(groups[donors == donor]).size == 1
    assert np.bincount(groups).min() > 0.5 * len(groups) / 3
    assert deal_donors(donors, 9).max() == 4, "no more groups than donors"
    assert runs_of(np.array([True, True, False, True])) == [(0, 2), (3, 4)]


def test_statistics_without_a_group_are_those_of_the_other_cells(filtered, without_groups):
    X = load_normalised(filtered).toarray().astype(np.float64)
    data = read_filtered(filtered)
    donors = data.label("donor_id")
    groups = deal_donors(donors, 3)
    for group, path in enumerate(without_groups):
        part = load(path).of_present()
        rest = X[groups != group]
        np.testing.assert_allclose(part.gram, rest.T @ rest, rtol=2e-6, atol=1e-3)
        assert part.n_cells == len(rest)
        left = part.layout.conditions["donor_id"]
        assert set(left) == set(np.asarray(donors)[groups != group])
        assert part.group_counts.shape[1] == len(left)


class Run:
    threads = 1

    @staticmethod
    def stop_requested():
        return False


def transfer(
    filtered, kind, settings, tmp_path, statistics=(), labels=("cell_type",), gene_scaling="none", **changes
):
    asked = {"groups": 3, "classifiers": ["knn"], "min_cells": 5, "min_donors": 2} | changes
    return transfer_to_donors(
        str(filtered), kind=kind, settings=settings, rank=4, seed=0, device="cpu",
        normalisation=NORMALISATION, condition_columns=["donor_id"], labels=labels, asked=asked,
        run=Run(), scratch=tmp_path / "scratch", statistics=statistics, gene_scaling=gene_scaling,
    ).frames()  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("ae_nmf", {"max_iter": 40}), ("cae_nmf1", {"max_iter": 40, "penalty_invariance": 0.1})],
)
def test_fits_from_statistics_score_as_fits_to_the_other_cells(
    filtered, without_groups, kind, settings, tmp_path
):
    gathered, *_ = transfer(filtered, kind, settings, tmp_path, [str(path) for path in without_groups])
    direct, folds, _ = transfer(filtered, kind, settings | {"solver": "statistics"}, tmp_path)
    assert gathered["F1"].item() == pytest.approx(direct["F1"].item(), abs=0.03)
    assert (folds["n_train"] + folds["n_test"]).eq(read_filtered(filtered).n_cells).all()
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("scaling", ["none", "sqrt"])
def test_a_fit_to_the_cells_is_the_models_own(filtered, scaling, tmp_path):
    scores, folds, counts = transfer(filtered, "base_nmf", {"max_iter": 15}, tmp_path, gene_scaling=scaling)
    values, data = load_normalised(filtered), read_filtered(filtered)
    y, donors = np.asarray(data.label("cell_type")).astype(str), data.label("donor_id")
    groups, predicted = deal_donors(donors, 3), np.empty(data.n_cells, dtype=object)
    for group in range(3):
        X = values
        if scaling == "sqrt":  # by what the cells of the other donors have, and these alone
            sd = values[groups != group].toarray().astype(np.float64).std(axis=0)
            X = sparse.csr_matrix(values.multiply(np.float32(1) / np.sqrt(sd).astype(np.float32)))
        model = get_model("base_nmf")(4, max_iter=15, random_state=0).fit(X[groups != group])
        H = model.transform(X)
        knn = make_pipeline(StandardScaler(), KNeighborsClassifier(15))
        predicted[groups == group] = knn.fit(H[groups != group], y[groups != group]).predict(
            H[groups == group]
        )
    assert scores["F1"].item() == pytest.approx(f1_score(y, predicted.astype(str), average="macro"), abs=1e-9)
    assert set(folds["splitter"]) == {"groups of donors"}
    assert counts["n"].sum() == data.n_cells


@pytest.mark.parametrize("kind", ["ae_nmf", "ae_nmf_split"])
def test_scaled_embeddings_of_a_fit_are_those_of_the_other_cells_scale(
    filtered, without_groups, kind, tmp_path
):
    data = read_filtered(filtered)
    groups = deal_donors(data.label("donor_id"), 3)
    asked = {"rank": 4, "settings": {"max_iter": 10}, "seed": 0, "device": "cpu"}
    if kind == "ae_nmf_split":  # given counts, it normalises and scales for itself
        asked["settings"] = asked["settings"] | NORMALISATION
    around = (data, get_card(kind), NORMALISATION, ["donor_id"], asked, Run())
    fits = Fits(*around, tmp_path / "scaled", gene_scaling="unit_variance")
    plain = Fits(*around, tmp_path / "plain")
    path = str(without_groups[1]) if kind == "ae_nmf" else None
    fitted = fits.fit_without(1, groups != 1, path)
    values = load_normalised(filtered).toarray().astype(np.float64)
    factors = 1 / values[groups != 1].std(axis=0)
    np.testing.assert_allclose(fitted.factors, factors, rtol=1e-4)
    H = np.vstack(list(fits._embed(fitted, path is not None)))
    np.testing.assert_allclose(H, values * factors @ fitted.model.components_.T, rtol=2e-3, atol=1e-4)
    assert plain.fit_without(1, groups != 1, path).factors is None


def test_a_model_without_a_place_for_other_donors_is_not_applicable(filtered, tmp_path):
    with pytest.raises(NotApplicable, match="cells of other donors"):
        transfer(filtered, "pyro_gamma_nb", {"max_iter": 2, "learn_probs": "donor"}, tmp_path)


def test_the_table_tells_all_protocols_and_gaps(filtered, tmp_path):
    H, y, donors = atlas(n=900, n_donors=9)
    run = {"dataset": "a", "rank": 4, "seed": 0, "labels": ["cell_type", "donor_id"]}
    run |= {"donor_labels": ["cell_type"], "donor_cv": True, "donor_transfer": True}
    grid = [run | {"model": "one"}, run | {"model": "two", "donor_transfer": False}]
    for cell in grid:
        folder = tmp_path / "a" / cell["model"] / "rank-4" / "seed-0" / "donor_cv"
        folder.mkdir(parents=True)
        made = classify_held_out_donors(
            H, y, donors, seeds=[42], classifiers=["knn", "logistic_regression"], **ASKED
        ).frames()
        for ending, table in zip((".tsv", "-folds.tsv", "-counts.tsv.gz"), made, strict=True):
            write_table(table, folder / f"cell_type{ending}")
    random = classify(H, y, cv_seed=42, classifiers=["knn"]).assign(
        dataset="a", model="one", rank=4, seed=0, label="cell_type"
    )
    table, folds = donors_held_out(grid, tmp_path, random, replicates=200, seed=0, transfer_asked=True)
    mean = table.query(
        "model == 'one' and protocol == 'donor_cv' and classifier == 'mean' and metric == 'F1'"
    )
    assert mean["value"].item() == pytest.approx(made[0]["F1"].mean())
    assert mean["low"].item() < mean["value"].item() < mean["high"].item()
    assert mean["method"].item() == "jackknife over donors"
    assert len(table.query("protocol == 'random folds' and metric == 'F1'")) == 2
    gaps = table[table["status"] != "ok"].groupby(["model", "protocol", "label"])["status"].first().to_dict()
    assert gaps["one", "donor_transfer", "cell_type"] == "missing"
    assert gaps["two", "donor_transfer", "cell_type"] == "not applicable"
    assert gaps["two", "donor_cv", "donor_id"] == "not applicable"
    assert len(folds) == 9
    write_stub(tmp_path / "a" / "one" / "rank-4" / "seed-0" / "deviance_explained.tsv", "a file")
    asked = {"cv_seeds": [42], "deviance": True}
    covered = coverage([cell | asked for cell in grid], tmp_path)
    covered = {(row.model, row.step): row for row in covered.itertuples()}
    assert covered["one", "classify_held_out_donors"].present == 2
    assert covered["one", "transfer_to_donors"].status == "missing"
    assert ("two", "transfer_to_donors") not in covered
    assert covered["one", "score_held_out_counts"].failure == "not applicable"
    assert covered["two", "score_held_out_counts"].status == "missing"
    from nmfbench.figures.donors_held_out import donors_held_out_figure

    figure = donors_held_out_figure(table, 4, {"one": "One", "two": "Two"})
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("not applicable" in text for text in texts)
    assert any("missing" in text for text in texts)
