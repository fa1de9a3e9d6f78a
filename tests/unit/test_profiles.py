"""Profiles: what they ask for, what goes before them, and what tables say of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nmfbench.config import load_config
from nmfbench.config.profiles import CZ_CLASSIFIERS
from nmfbench.errors import InputError
from nmfbench.metrics.classification import classify
from nmfbench.metrics.clustering import leiden_labels, neighbour_graph
from nmfbench.metrics.neighbours import neighbour_widths
from nmfbench.plan import Plan
from nmfbench.tables.scores import collect_scores

BASE = {"datasets": {"a": {"simulate": {}}}, "models": {"pca": {}}, "ranks": [3], "seeds": [1]}


def test_the_published_profile_is_the_default_and_changes_nothing():
    default, named = load_config(BASE), load_config(BASE | {"profile": "published"})
    assert default == named
    assert default.protocol == "published"
    before = {"n_neighbours": 25, "resolution": 0.8, "n_iterations": 2, "flavor": "igraph"}
    before |= {"seeds": list(range(10))}
    assert default.clustering.settings() == before, "so that no job runs again"
    changed = load_config(BASE | {"clustering": {"seeds": [3]}, "classification": {"n_folds": 4}})
    assert changed.protocol == "published; changed: clustering.seeds, classification.n_folds"


def test_keys_of_a_profile_stand_below_those_of_the_config():
    config = load_config(BASE | {"profile": "cz-benchmarks"})
    assert (config.clustering.n_neighbours, config.clustering.resolution) == (15, 1.0)
    assert config.clustering.weighted
    assert not config.clustering.z_score
    assert config.classification.classifiers == CZ_CLASSIFIERS
    assert config.integration.entropy_neighbours == 200
    assert config.protocol == "cz-benchmarks"
    own = load_config(BASE | {"profile": "cz-benchmarks", "clustering": {"seeds": [1, 2]}})
    assert own.clustering.seeds == [1, 2]
    assert own.clustering.resolution == 1.0
    assert own.protocol == "cz-benchmarks; changed: clustering.seeds"
    with pytest.raises(InputError, match="profile: Input should be 'published', 'cz-benchmarks' or 'fast'"):
        load_config(BASE | {"profile": "quick"})


def test_a_profile_plans_its_jobs():
    def jobs(profile):
        config = load_config(BASE | {"profile": profile})
        plan = Plan(config, lambda pattern: pattern.replace("<fit>", "{model}/{seed}"))
        here = SimpleNamespace(dataset="a")
        return len(plan.fits_of("<fit>/{label}/{cv_seed}")(here)), plan.expected_fits(here)[0]

    (published, cell), (fast, cheap), (cz, theirs) = map(jobs, ("published", "fast", "cz-benchmarks"))
    assert (published, fast, cz) == (10, 2, 2)
    assert cheap["classifiers"] == ["logistic_regression", "knn"]
    assert [len(each["leiden_seeds"]) for each in (cell, cheap, theirs)] == [10, 3, 1]
    assert theirs["profile"] == "cz-benchmarks"
    assert theirs["integration"] == ["ASW_label", "batch_entropy"]


def test_neighbours_are_searched_where_a_profile_reads_them():
    widths = neighbour_widths(load_config(BASE | {"profile": "cz-benchmarks"}))
    assert widths["as_given"] == 200
    none = {"profile": "cz-benchmarks", "integration": {"metrics": []}}
    assert neighbour_widths(load_config(BASE | none))["as_given"] == 15
    assert "as_given" not in neighbour_widths(load_config(BASE | {"integration": {"metrics": []}}))


def planted(n=300, seed=0):
    rng = np.random.default_rng(seed)
    types = rng.integers(4, size=n)
    return (rng.normal(size=(4, 8))[types] * 2 + rng.normal(size=(n, 8))).astype(np.float32), types.astype(
        str
    )


def test_clusters_of_cz_benchmarks_are_scanpys():
    import anndata
    import scanpy as sc

    H, _ = planted()
    adata = anndata.AnnData(H)
    sc.pp.neighbors(adata, use_rep="X", random_state=42)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, resolution=1.0, directed=False, random_state=42)
    asked = load_config(BASE | {"profile": "cz-benchmarks"}).clustering
    graph = neighbour_graph(H, asked.n_neighbours, z_score=asked.z_score)
    np.testing.assert_allclose(
        graph.connectivities.toarray(), adata.obsp["connectivities"].toarray(), rtol=1e-5, atol=1e-6
    )
    found = leiden_labels(graph, [42], asked.resolution, asked.n_iterations, asked.flavor, weighted=True)
    assert pd.crosstab(found["leiden_seed_42"], adata.obs["leiden"].to_numpy()).gt(0).sum().sum() == (
        adata.obs["leiden"].nunique()
    )


def test_classifiers_of_cz_benchmarks_are_theirs():
    H, y = planted()
    found = classify(H, y, cv_seed=42, classifiers=CZ_CLASSIFIERS).groupby("classifier")["F1"].mean()
    theirs = {
        "cz_logistic_regression": make_pipeline(StandardScaler(with_mean=False), LogisticRegression()),
        "cz_knn": make_pipeline(StandardScaler(with_mean=False), KNeighborsClassifier()),
        "cz_random_forest": RandomForestClassifier(random_state=42),
    }
    for name, classifier in theirs.items():
        scores = []
        for train, test in StratifiedKFold(5, shuffle=True, random_state=42).split(H, y):
            predicted = classifier.fit(H[train], y[train]).predict(H[test])
            scores.append(f1_score(y[test], predicted, average="macro"))
        assert found[name] == pytest.approx(np.mean(scores), abs=1e-9), name


def test_scores_say_their_profile(tmp_path):
    cell = {"dataset": "a", "model": "pca", "rank": 3, "seed": 1, "labels": ["cell_type"], "cv_seeds": [42]}
    cell |= {"profile": "fast; changed: clustering.seeds"}
    empty = pd.DataFrame(columns=["dataset", "model", "rank", "seed", "label"])
    scores = collect_scores([cell], tmp_path, empty, empty)
    assert set(scores["profile"]) == {"fast; changed: clustering.seeds"}
