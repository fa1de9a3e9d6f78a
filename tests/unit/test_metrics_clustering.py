"""Neighbour graph, Leiden, ARI and NMI against scanpy and scikit-learn themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nmfbench.compiled import keep_compiled
from nmfbench.errors import InputError
from nmfbench.metrics.clustering import leiden_labels, neighbour_graph, scale_embedding, score_clusters
from nmfbench.metrics.neighbours import find_neighbours

pytestmark = [
    # scanpy 1.11 and what it imports, not ours to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(scanpy|anndata|numba|umap|pynndescent|igraph).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(scanpy|anndata|numba|umap|pynndescent).*"),
    pytest.mark.filterwarnings("ignore:In the future, the default backend for leiden:FutureWarning"),
    pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaWarning"),
]

SIZES = {"B cell": 150, "T cell, naïve": 200, "NK/T": 90, "monocyte": 120}
LABELS = np.repeat(list(SIZES), list(SIZES.values()))


def blobs(spread, seed=0, factors=8):
    """Non-negative embedding with a block per label; `spread` is the noise relative to the distances."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(SIZES)), list(SIZES.values()))
    centres = rng.uniform(0, 10, size=(len(SIZES), factors))
    return np.abs(centres[codes] + rng.normal(scale=spread, size=(codes.size, factors))).astype(np.float32)


@pytest.fixture(scope="module")
def graph():
    return neighbour_graph(blobs(1.5))


def scanpy_cells(H, n_neighbours=25):
    import anndata
    import scanpy

    cells = anndata.AnnData(scale_embedding(H)[0])
    scanpy.pp.neighbors(cells, n_neighbors=n_neighbours, use_rep="X", metric="euclidean", random_state=0)
    return cells


def test_graph_is_scanpys(graph):
    expected = scanpy_cells(blobs(1.5)).obsp["connectivities"]
    assert (graph.connectivities.astype(bool) != expected.astype(bool)).nnz == 0, "all that Leiden reads"
    assert abs(graph.connectivities - expected).max() < 1e-5
    assert abs(graph.connectivities - graph.connectivities.T).max() < 1e-6


@pytest.mark.parametrize("flavor", ["igraph", "leidenalg"])
@pytest.mark.parametrize("seed", [0, 7])
def test_clusters_are_scanpys(graph, flavor, seed):
    import scanpy

    cells = scanpy_cells(blobs(1.5))
    protocol = {"directed": False, "use_weights": False, "resolution": 0.8, "n_iterations": 2}
    scanpy.tl.leiden(cells, flavor=flavor, random_state=seed, **protocol)
    ours = leiden_labels(graph, seeds=[seed], flavor=flavor)
    assert list(ours.columns) == [f"leiden_seed_{seed}"]
    np.testing.assert_array_equal(ours.iloc[:, 0].astype(str), cells.obs["leiden"].to_numpy())


def test_clusters_depend_on_their_seed_alone():
    graph = neighbour_graph(blobs(6.0))
    all_seeds = leiden_labels(graph, seeds=range(5))
    one = leiden_labels(graph, seeds=[3])
    np.testing.assert_array_equal(all_seeds["leiden_seed_3"], one["leiden_seed_3"])
    assert all_seeds.T.drop_duplicates().shape[0] > 1


def test_clustering_leaves_the_generator_of_the_process_alone(graph):
    import random

    random.seed(5)
    expected = random.Random(5).random()
    leiden_labels(graph, seeds=[0])
    assert random.random() == expected


def test_scores_are_scikit_learns(graph):
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    clusters = leiden_labels(graph, seeds=range(3))
    scores = score_clusters(clusters, LABELS)
    assert list(scores.columns) == ["leiden_seed", "ARI", "NMI", "n_clusters"]
    for row in scores.itertuples():
        found = clusters[f"leiden_seed_{row.leiden_seed}"]
        assert adjusted_rand_score(LABELS, found) == row.ARI
        assert normalized_mutual_info_score(LABELS, found, average_method="arithmetic") == row.NMI
        assert row.n_clusters == found.nunique()


def separated(classes=8, cells=50):
    """Classes far apart, each about as large as a neighbourhood, so that Leiden does not split them."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(classes), cells)
    return (rng.uniform(0, 10, (classes, 12))[codes] + rng.normal(scale=0.2, size=(codes.size, 12))), codes


def mean_scores(H, labels):
    return score_clusters(leiden_labels(neighbour_graph(H), seeds=range(3)), labels).mean()


def test_a_perfect_embedding_scores_high():
    scores = mean_scores(*separated())
    assert scores["ARI"] > 0.95
    assert scores["NMI"] > 0.95


def test_a_shuffled_embedding_scores_nothing():
    H, labels = separated()
    scores = mean_scores(np.random.default_rng(1).permutation(H), labels)
    assert abs(scores["ARI"]) < 0.02
    assert scores["NMI"] < 0.1


def test_a_constant_embedding_is_one_cluster_and_says_so():
    graph = neighbour_graph(np.ones((len(LABELS), 4)))
    scores = score_clusters(leiden_labels(graph, seeds=[0]), LABELS)
    assert scores["ARI"].item() == 0
    assert scores["NMI"].item() == 0
    assert scores["n_clusters"].item() == 1
    assert graph.warnings == [
        "4 of 4 factors have one value in all cells and do not count (factors 0, 1, 2, 3)"
    ]


def test_scaling_gives_unit_variance_and_no_nan_for_constant_factors():
    H = np.column_stack([blobs(1.0), np.full(len(LABELS), 1e30), np.zeros(len(LABELS))])
    scaled, messages = scale_embedding(H)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, :8].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, :8].std(axis=0), 1, atol=1e-5)
    assert (scaled[:, 8:] == 0).all()
    assert "2 of 10 factors" in messages[0]
    assert scale_embedding(blobs(1.0))[1] == []


def test_scale_of_a_factor_does_not_matter():
    H = blobs(1.5).astype(np.float64)
    stretched = H * np.array([1, 2, 4, 8, 16, 0.5, 0.25, 1])
    first, second = (leiden_labels(neighbour_graph(A), seeds=[0]) for A in (H, stretched))
    pd.testing.assert_frame_equal(first, second)


def test_equal_cells_are_no_obstacle():
    H = np.vstack([np.zeros((100, 8), dtype=np.float32), blobs(1.0)])
    clusters = leiden_labels(neighbour_graph(H), seeds=[0])
    assert len(clusters) == len(H)


@pytest.mark.parametrize(
    ("H", "n_neighbours", "thing"),
    [
        (np.ones((20, 3)), 25, "n_neighbours"),
        (np.ones((25, 3)), 25, "n_neighbours"),
        (np.ones((25, 3)), 1, "n_neighbours"),
        (np.full((30, 3), np.nan), 5, "embedding"),
        (np.ones(30), 5, "embedding"),
        (np.ones((30, 0)), 5, "embedding"),
    ],
    ids=["fewer cells", "as many cells", "one neighbour", "nan", "vector", "no factors"],
)
def test_bad_embeddings_are_input_errors(H, n_neighbours, thing):
    with pytest.raises(InputError, match=thing):
        neighbour_graph(H, n_neighbours)


def test_cells_without_a_label_are_left_out(graph):
    clusters = leiden_labels(graph, seeds=[0])
    labels = LABELS.astype(object)
    labels[::7] = None
    known = np.array([label is not None for label in labels])
    expected = score_clusters(clusters[known], LABELS[known])
    pd.testing.assert_frame_equal(score_clusters(clusters, labels), expected)


def test_labels_of_another_length_or_none_at_all_are_input_errors(graph):
    clusters = leiden_labels(graph, seeds=[0])
    with pytest.raises(InputError, match="one label for each"):
        score_clusters(clusters, LABELS[1:])
    with pytest.raises(InputError, match="at least one cell"):
        score_clusters(clusters, [None] * len(clusters))
    with pytest.raises(InputError, match="flavor"):
        leiden_labels(graph, seeds=[0], flavor="louvain")


def test_a_table_made_before_gives_the_same_graph(graph):
    table = find_neighbours(scale_embedding(blobs(1.5))[0], 40)
    again = neighbour_graph(blobs(1.5), neighbours=table)
    assert abs(graph.connectivities - again.connectivities).max() == 0
    with pytest.raises(InputError, match="search them in this embedding"):
        neighbour_graph(blobs(1.5)[1:], neighbours=table)


def test_umap_lays_out_every_cell_or_a_sample():
    from nmfbench.metrics.projection import compute_umap

    H = blobs(0.5)
    coordinates = compute_umap(H, seed=1, max_cells=200, strata=LABELS)
    assert list(coordinates.columns) == ["UMAP1", "UMAP2"]
    assert len(coordinates) == 200
    assert coordinates.index.is_monotonic_increasing
    assert np.isfinite(coordinates.to_numpy()).all()
    drawn = pd.Series(LABELS[coordinates.index]).value_counts() / 200
    for label, size in SIZES.items():
        assert abs(drawn[label] - size / len(LABELS)) < 0.01
    pd.testing.assert_frame_equal(coordinates, compute_umap(H, seed=1, max_cells=200, strata=LABELS))
    assert len(compute_umap(H[:150], n_neighbours=10, max_cells=500)) == 150


def test_what_numba_compiles_of_umap_is_kept_for_the_next_job():
    from numba.core.caching import FunctionCache
    from umap import umap_

    neighbour_graph(np.random.default_rng(0).random((30, 3)), 5)
    assert isinstance(umap_.smooth_knn_dist._cache, FunctionCache)
    assert isinstance(umap_.compute_membership_strengths._cache, FunctionCache)

    class NowhereToWrite:
        def enable_caching(self):
            raise RuntimeError("no locator available for file")

    keep_compiled(NowhereToWrite, "gone_in_another_version")
    keep_compiled(type("library", (), {"loop": NowhereToWrite()}), "loop")
