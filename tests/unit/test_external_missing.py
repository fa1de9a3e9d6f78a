"""An embedding made elsewhere that lacks cells of the dataset: scored on those it has, and said so."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nmfbench.data import filter_donors
from nmfbench.errors import InputError
from nmfbench.factors.describe import describe_factors
from nmfbench.metrics.classification import classify
from nmfbench.metrics.clustering import leiden_labels, neighbour_graph, score_clusters
from nmfbench.metrics.integration import integration_scores
from nmfbench.metrics.neighbours import find_neighbours
from nmfbench.metrics.reference import load_reference, make_reference, save_reference
from nmfbench.results import cells_of_dataset, read_embedding
from nmfbench.tables.cautions import cautions
from nmfbench.tables.cells import with_cells
from nmfbench.tables.files import read_table
from nmfbench.tables.scores import collect_scores
from nmfbench.tables.uncertainty import comparisons
from nmfbench.train import train

NORMALISATION = {"target_sum": 1e4, "log1p": True}
OF_REFERENCE = ("PCR", "scGraph")
"""Scores that hold the embedding against all cells of the dataset, whichever it has itself."""


class Run:
    threads = 1
    card = None

    @staticmethod
    def stop_requested():
        return False


def taken_in(folder, cells, embedding, **settings):
    """One dataset of these cells, and the embedding taken in for it."""
    folder.mkdir()
    cells.write_h5ad(folder / "source.h5ad")
    filter_donors(
        folder / "source.h5ad", folder / "filtered.h5ad", folder / "donors.tsv", min_cells_per_donor=5
    )
    embedding.to_csv(folder / "embedding.csv")
    fit = folder / "a" / "mine" / "rank-4" / "seed-1"
    fit.mkdir(parents=True)
    train(
        str(folder / "filtered.h5ad"), result=str(fit / "result.h5ad"), history=str(fit / "history.tsv"),
        record=str(fit / "run.json"), kind="external", name="mine", display_name="Mine",
        settings={"path": str(folder / "embedding.csv"), "obsm": None, **settings}, rank=4, seed=1,
        device="cpu", normalisation=NORMALISATION, condition_columns=["donor_id"], run=Run(),
    )  # fmt: skip
    return fit


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same embedding of some cells: of a dataset with more cells, and of one with these alone."""
    folder, rng, n, p = tmp_path_factory.mktemp("missing"), np.random.default_rng(0), 260, 40
    types, donors = rng.integers(0, 4, n), rng.integers(0, 4, n)
    rates = rng.gamma(0.6, 3.0, (4, p))[types] + 0.05
    obs = pd.DataFrame(
        {"cell_type": [f"t{t}" for t in types], "donor_id": [f"d{d}" for d in donors]},
        index=[f"c{i}" for i in range(n)],
    ).astype("category")
    var = pd.DataFrame(index=[f"g{j}" for j in range(p)])
    cells = anndata.AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), obs, var)
    there = (donors != 3) & (types != 2) & (rng.random(n) < 0.9)
    values = pd.DataFrame(rng.normal(size=(n, 5)) + types[:, None], index=obs.index)[there]
    shuffled = values.sample(frac=1, random_state=0)
    whole = taken_in(folder / "whole", cells, shuffled, allow_missing=True)
    return whole, taken_in(folder / "restricted", cells[there].copy(), shuffled), there


def test_missing_cells_stay_an_error_unless_allowed(both, tmp_path):
    folder = both[0].parents[3]
    cells, embedding = (
        anndata.read_h5ad(folder / "source.h5ad"),
        pd.read_csv(folder / "embedding.csv", index_col=0),
    )
    with pytest.raises(InputError, match=r"are missing, the first 'c\d+'[\s\S]*allow_missing"):
        taken_in(tmp_path / "again", cells, embedding)
    with pytest.raises(InputError, match="260 are missing"):
        taken_in(
            tmp_path / "none", cells, embedding.rename(index=lambda name: f"x{name}"), allow_missing=True
        )


def test_the_record_names_what_vanished(both):
    whole, restricted, there = both
    record = json.loads((whole / "run.json").read_text())
    first = [f"c{i}" for i in np.flatnonzero(~there)[:5]]
    assert record["missing_cells"] == {
        "n": int((~there).sum()), "first": first, "donors": ["d3"], "cell_types": ["t2"]
    }  # fmt: skip
    assert (record["n_cells"], record["cells_of_dataset"]) == (there.sum(), 260)
    assert "donors without a cell: d3; cell types without a cell: t2" in record["warnings"][-1]
    assert "missing_cells" not in json.loads((restricted / "run.json").read_text())


def test_scores_are_those_of_the_dataset_restricted_to_these_cells(both, tmp_path):
    (H, obs), (H_there, obs_there) = (read_embedding(fit / "result.h5ad") for fit in both[:2])
    np.testing.assert_array_equal(H, H_there)
    assert obs.index.tolist() == obs_there.index.tolist()
    for column in ("cell_type", "donor_id"):
        assert obs[column].cat.categories.tolist() == obs_there[column].cat.categories.tolist()
    found = []
    for fit, X, table in ((both[0], H, obs), (both[1], H_there, obs_there)):
        clusters = score_clusters(leiden_labels(neighbour_graph(X), seeds=[0]), table["cell_type"])
        folds = classify(X, table["cell_type"], cv_seed=1, classifiers=["knn"])
        save_reference(tmp_path / "reference.npz", make_reference(fit.parents[3] / "filtered.h5ad"))
        reference = load_reference(tmp_path / "reference.npz", len(X), cells_of_dataset(fit / "result.h5ad"))
        mixed = integration_scores(
            X, table["cell_type"], table["donor_id"], find_neighbours(X, 90), reference
        ).set_index("metric")  # fmt: skip
        assert (mixed["status"] == "ok").sum() > 5
        found.append(
            (clusters[["ARI", "NMI"]], folds[["F1", "AUROC"]], mixed["value"].drop(list(OF_REFERENCE)))
        )
    for ours, theirs in zip(*found, strict=True):
        (pd.testing.assert_frame_equal if ours.ndim == 2 else pd.testing.assert_series_equal)(ours, theirs)


def test_factors_are_described_on_the_cells_that_are_there(both, tmp_path):
    tables = []
    for number, fit in enumerate(both[:2]):
        out = {
            name: tmp_path / f"{number}-{name}.tsv" for name in ("factors", "summary", "pairs", "top_genes")
        }
        describe_factors(
            fit.parents[3] / "filtered.h5ad", fit / "result.h5ad", **out, labels=["cell_type"],
            labels_table=tmp_path / "labels.tsv", programs=tmp_path / "programs.h5ad",
            normalisation=NORMALISATION,
        )  # fmt: skip
        tables.append([read_table(out[name]) for name in ("factors", "summary", "top_genes")])
    for ours, theirs in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)
    assert tables[0][1]["n_cells"].tolist() == [both[2].sum()]


def test_tables_say_on_how_many_cells_and_compare_no_others(both):
    whole, _, there = both
    grid = [
        {"dataset": "a", "model": model, "rank": 4, "seed": 1, "labels": ["cell_type"], "cv_seeds": [1]}
        for model in ("mine", "other", "third")
    ]
    for cell in grid[1:]:
        folder = whole.parents[2] / cell["model"] / "rank-4" / "seed-1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"n_cells": 260}))
    rows = [
        {"dataset": "a", "model": cell["model"], "rank": 4, "seed": 1, "label": "cell_type", "cv_seed": 1}
        | {"fold": fold, "classifier": "knn", "n_train": 200, "n_test": 50, "status": "ok", "F1": 0.1 * fold}
        for cell in grid
        for fold in range(5)
    ]
    folds = pd.DataFrame(rows).assign(AUROC=0.5, Precision=0.5, Accuracy=0.5, Recall=0.5)
    empty = pd.DataFrame(columns=["dataset", "model", "rank", "seed", "label", "ARI", "NMI"])
    scores = collect_scores(grid, whole.parents[3], empty, folds)
    counted = scores.drop_duplicates("model").set_index("model")[["n_cells", "of_cells"]]
    assert counted.to_numpy().tolist() == [[there.sum(), 260], [260, 260], [260, 260]]
    table = with_cells(pd.DataFrame({"model": ["mine", "other"], "rank": 4}), scores)
    assert table["n_cells"].tolist() == [there.sum(), 260]
    found = comparisons(scores, folds, grid).set_index(["model", "other"])
    untested = found.loc[("mine", "other")]
    assert untested["p"].isna().all()
    assert (untested["method"] == "none: not scored on the same cells").all()
    assert found.loc[("other", "third"), "difference"].notna().any()
    assert any("scored on" in said for said in cautions(grid[:1], whole.parents[3]))
