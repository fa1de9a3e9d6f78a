"""Baselines, controls and external embeddings: what they are, what they must score, what they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from nmfbench.components import principal_components, variable_genes
from nmfbench.errors import InputError
from nmfbench.metrics.classification import classify
from nmfbench.metrics.clustering import leiden_labels, neighbour_graph, score_clusters
from nmfbench.models import get_card, get_model
from nmfbench.tables.scaled import SCALED_COLUMNS, scaled_scores

pytestmark = [
    pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(scanpy|anndata|numba|umap|pynndescent|igraph).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(scanpy|anndata|numba|umap|pynndescent).*"),
]

N, G = 480, 120


@pytest.fixture(scope="module")
def cells():
    """Log-normalised cells of four types and three donors."""
    rng = np.random.default_rng(0)
    types, donors = rng.integers(0, 4, N), rng.integers(0, 3, N)
    rates = rng.gamma(0.5, 2.0, size=(4, G))[types] + rng.gamma(0.3, 1.0, size=(3, G))[donors] * 0.5
    counts = rng.poisson(rates + 0.05) + np.eye(1, G, dtype=int)
    X = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return sp.csr_matrix(X), np.array([f"d{d}" for d in donors]), np.array([f"t{t}" for t in types])


def fit(kind, cells, k=6, seed=0, **settings):
    X, donors, types = cells
    return get_model(kind)(k, **settings, random_state=seed).fit(X, conditions=donors, strata=types)


def clusters(model, labels):
    found = leiden_labels(neighbour_graph(model.embedding_), seeds=[0, 1])
    return score_clusters(found, labels)[["ARI", "NMI"]].mean()


def f1(model, labels):
    return classify(model.embedding_, labels, cv_seed=1, classifiers=["knn"])["F1"].mean()


def test_controls_score_what_they_must(cells):
    _, donors, types = cells
    random, shuffled = fit("control_random", cells), fit("control_shuffled", cells)
    for model in (random, shuffled):
        assert abs(clusters(model, types)["ARI"]) < 0.02
        assert clusters(model, types)["NMI"] < 0.05
    exact = fit("control_cell_type", cells)
    assert clusters(exact, types).tolist() == pytest.approx([1.0, 1.0])
    assert f1(exact, types) == 1.0
    assert f1(exact, donors) < 0.5
    noisy = fit("control_cell_type_noise", cells)
    assert f1(noisy, types) == 1.0
    donor = fit("control_donor", cells)
    assert f1(donor, donors) == 1.0
    assert f1(donor, types) < 0.5
    apart = fit("control_pca_by_donor", cells)
    assert apart.embedding_.shape == (N, 50)
    assert exact.uses_labels_ is True


def test_shuffling_within_a_group_keeps_its_cells(cells):
    X, donors, types = cells
    whole = principal_components(X, 6)
    for within, labels in (("cell_type", types), ("donor", donors)):
        shuffled = fit("control_shuffled", cells, within=within).embedding_
        assert not np.array_equal(shuffled, whole)
        for label in np.unique(labels):
            mine = labels == label
            np.testing.assert_array_equal(np.sort(shuffled[mine], axis=0), np.sort(whole[mine], axis=0))
    assert not np.array_equal(
        fit("control_random", cells).embedding_, fit("control_random", cells, seed=1).embedding_
    )


def test_depth_is_the_log_of_the_counts():
    counts = sp.csr_matrix(np.arange(60.0).reshape(12, 5))
    model = get_model("control_depth")(3, random_state=0).fit(counts)
    np.testing.assert_allclose(model.embedding_[:, 0], np.log1p(counts.toarray().sum(axis=1)), rtol=1e-6)


@pytest.mark.parametrize("limit", [5000, 50])
def test_principal_components_are_scikit_learns(cells, monkeypatch, limit):
    from sklearn.decomposition import PCA

    from nmfbench import components

    monkeypatch.setattr(components, "_EXACT_GENES", limit)  # with 120 genes: exact, or iterated
    X = cells[0]
    ours, other = principal_components(X, 8), PCA(8, svd_solver="full").fit(X.toarray())
    expected = other.transform(X.toarray())
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=2e-3)
    model = fit("pca", cells, k=8, n_genes=None)
    np.testing.assert_allclose(np.abs(model.components_), np.abs(other.components_), atol=1e-3)
    np.testing.assert_allclose(model.transform(X), model.embedding_, atol=2e-3)
    lost = np.square(X.toarray() - other.inverse_transform(expected)).sum()
    assert model.relative_error_ == pytest.approx(lost / np.square(X.data).sum(), rel=1e-3)


def test_variable_genes_are_scanpys(cells):
    import scanpy

    adata = anndata.AnnData(cells[0].copy())
    adata.uns["log1p"] = {"base": None}
    scanpy.pp.highly_variable_genes(adata, flavor="seurat", n_top_genes=30)
    np.testing.assert_array_equal(variable_genes(cells[0], 30), np.flatnonzero(adata.var["highly_variable"]))


def test_harmony_mixes_donors(cells):
    pytest.importorskip("harmonypy")
    _, donors, _ = cells
    assert f1(fit("harmony", cells), donors) < f1(fit("pca", cells), donors)


def test_harmony_on_nmf_mixes_donors_and_stays_above_zero(cells):
    pytest.importorskip("harmonypy")
    _, donors, _ = cells
    model, plain = fit("nmf_harmony", cells), fit("base_nmf", cells)
    np.testing.assert_array_equal(model.components_, plain.components_)
    np.testing.assert_array_equal(
        model.embeddings()[f"H_sklearn_nmf_k{model.n_components_}"], plain.embedding_
    )
    assert model.embedding_.min() >= 0
    assert f1(model, donors) < f1(plain, donors)


@pytest.mark.parametrize("kind", ["harmony", "nmf_harmony"])
def test_harmony_without_its_package_says_what_to_install(cells, monkeypatch, kind):
    import sys

    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(InputError, match="pip install harmonypy"):
        fit(kind, cells)


def test_scvi_without_its_package_says_what_to_install(cells, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scvi", None)
    for kind in ("scvi", "linear_scvi"):
        with pytest.raises(InputError, match="pip install scvi-tools"):
            fit(kind, cells)


def test_scvi_trains_on_counts():
    pytest.importorskip("scvi")
    rng = np.random.default_rng(0)
    types, donors = rng.integers(3, size=240), rng.integers(2, size=240)
    X = sp.csr_matrix(rng.poisson(rng.gamma(0.5, 2, (3, 60))[types] + 0.05).astype(np.float32))
    for kind in ("scvi", "linear_scvi"):
        model = get_model(kind)(4, max_iter=15, n_genes=40, device="cpu", random_state=0)
        model.fit(X, conditions=donors.astype(str))
        assert model.embedding_.shape == (240, 4)
        assert f1(model, types.astype(str)) > 0.6, "three types by chance: a third"
        again = get_model(kind)(4, max_iter=15, n_genes=40, device="cpu", random_state=0)
        np.testing.assert_array_equal(
            again.fit(X, conditions=donors.astype(str)).embedding_, model.embedding_
        )


# Embeddings made elsewhere -------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, cells):
    """An embedding in another order, with more cells; as .h5ad and as .tsv."""
    inside = fit("pca", cells)
    rng = np.random.default_rng(1)
    names = np.array([f"cell{i}" for i in range(N)])
    order = rng.permutation(N + 5)
    H = np.vstack([inside.embedding_, rng.normal(size=(5, 6))])[order].astype(np.float32)
    there = np.append(names, [f"more{i}" for i in range(5)])[order]
    adata = anndata.AnnData(obs=pd.DataFrame(index=there), obsm={"X_mine": H, "X_other": H[:, :2]})
    adata.write_h5ad(tmp_path / "mine.h5ad")
    table = pd.DataFrame(H).set_axis([f"f{i}" for i in range(6)], axis=1)
    table.insert(0, "cell", there)
    table.to_csv(tmp_path / "mine-rank6-0.tsv", sep="\t", index=False)
    return tmp_path, inside, names


def take(path, cells, names, **settings):
    model = get_model("external")(6, path=str(path), **settings, random_state=0)
    return model.fit(cells[0], cell_names=names)


def test_an_external_embedding_is_the_one_made_inside(elsewhere, cells):
    folder, inside, names = elsewhere
    section = get_card("external").section(path="mine-rank<rank>-<seed>.tsv")
    filled = section.of_fit(SimpleNamespace(dataset="d", model="m", rank="6", seed="0"))
    assert filled.pattern_files() == ["mine-rank6-0.tsv"]
    for path, obsm in (("mine.h5ad", "X_mine"), (filled.path, None)):
        model = take(folder / path, cells, names, obsm=obsm)
        np.testing.assert_array_equal(model.embedding_, inside.embedding_)
        np.testing.assert_allclose(model.components_, inside.components_, atol=1e-6)
        assert len(model.source_["sha256"]) == 64
    two = take(folder / "mine.h5ad", cells, names, obsm="X_other")
    assert two.embedding_.shape == (N, 2)
    assert two.embedding_key_ == "X_external_k2"


def test_what_cannot_be_taken_in_says_why(elsewhere, cells):
    folder, _, names = elsewhere
    with pytest.raises(InputError, match="it has X_mine, X_other"):
        take(folder / "mine.h5ad", cells, names)
    with pytest.raises(InputError, match="X_scVI"):
        take(folder / "mine.h5ad", cells, names, obsm="X_scVI")
    with pytest.raises(InputError, match="no such file"):
        take(folder / "gone.h5ad", cells, names)
    other = np.append(names[:-2], ["x1", "x2"])
    with pytest.raises(InputError, match="2 are missing, the first 'x1', 'x2'"):
        take(folder / "mine.h5ad", cells, other, obsm="X_mine")
    tables = {
        "text.tsv": ("cell\ta\ncell0\tmuch\n", "no numbers in a"),
        "empty.tsv": ("cell\ncell0\n", "0 further columns"),
        "twice.csv": ("cell,a\ncell0,1\ncell0,2\n", "1 more than once, the first 'cell0'"),
        "nan.csv": (
            "cell,a\n" + "".join(f"cell{i},{i if i else 'nan'}\n" for i in range(N)),
            "NaN or infinite",
        ),
    }
    for name, (text, match) in tables.items():
        (folder / name).write_text(text)
        with pytest.raises(InputError, match=match):
            take(folder / name, cells, names)


# Scores on the scale of the controls ---------------------------------------------------------------------


def test_scaled_scores_run_from_the_worst_control_to_the_best():
    values = {}
    for model, kept, mixed, ilisi in (
        ("ours", 0.6, 0.1, np.nan),
        ("low", 0.0, 0.0, 0.1),
        ("high", 1.0, 0.4, 0.9),
        ("odd", 1.3, 0.2, 0.5),
    ):
        values |= {(model, "cell_type", "ARI"): kept, (model, "donor_id", "ARI"): mixed}
        values |= {(model, "donor_id", "iLISI"): ilisi, (model, "tissue", "ARI"): 0.5}
    table = pd.DataFrame(
        [
            {"dataset": "d", "model": m, "rank": 5, "seed": 0, "label": label, "metric": metric, "value": v}
            for (m, label, metric), v in values.items()
        ]
    )
    grid = [
        {"model": m, "role": "control" if m in ("low", "high") else "model"}
        for m in ("ours", "low", "high", "odd")
    ]
    found = scaled_scores(table, grid)
    assert tuple(found.columns) == SCALED_COLUMNS
    assert "tissue" not in set(found["label"]), "neither kept nor mixed"
    found = found.set_index(["model", "label", "metric"])
    assert found.loc[("ours", "cell_type", "ARI"), "scaled"] == pytest.approx(0.6)
    assert found.loc[("ours", "donor_id", "ARI"), "scaled"] == pytest.approx(0.75), "lower is better"
    assert np.isnan(found.loc[("ours", "donor_id", "iLISI"), "scaled"]), "never 0"
    assert found.loc[("ours", "donor_id", "iLISI"), "status"] == "the score is missing"
    assert found.loc[("odd", "cell_type", "ARI"), "warning"] == "outside the controls"
    none = scaled_scores(table, [{"model": m} for m in ("ours", "low", "high", "odd")])
    assert none["scaled"].isna().all()
    assert none["status"].iloc[0] == "0 controls with a score; two are needed"
