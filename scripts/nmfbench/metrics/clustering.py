"""Clusters of an embedding against labels: neighbour graph, Leiden, ARI and NMI.

The protocol is the one of ``scanpy.pp.neighbors`` followed by ``scanpy.tl.leiden`` on
the z-scored embedding, and the tests hold it to scanpy's own result. The graph is made
once per embedding, the clusters once per Leiden seed, and scored against every label.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nmfbench.compiled import keep_compiled
from nmfbench.errors import InputError
from nmfbench.metrics.labels import check_embedding, encode_labels, scale_embedding
from nmfbench.metrics.neighbours import Neighbours, find_neighbours

if TYPE_CHECKING:
    import igraph
    import pandas as pd
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

Flavor = Literal["igraph", "leidenalg"]


@dataclass(frozen=True)
class NeighbourGraph:
    """Nearest neighbours of the cells in the z-scored embedding.

    Attributes
    ----------
    connectivities : csr_matrix of float32, shape (n_cells, n_cells)
        Symmetric fuzzy graph of UMAP; Leiden takes its pattern only.
    scaled : ndarray of float32, shape (n_cells, k)
        Embedding with mean 0 and standard deviation 1 in every factor, or as it was given.
    n_neighbours : int
        Neighbours of each cell, itself included (scanpy's counting).
    warnings : list of str
        What a reader of the scores should know, such as factors without variation.
    """

    connectivities: csr_matrix
    scaled: np.ndarray
    n_neighbours: int
    warnings: list[str] = field(default_factory=list)


def neighbour_graph(
    H: Any,
    n_neighbours: int = 25,
    *,
    neighbours: Neighbours | None = None,
    z_score: bool = True,
    n_jobs: int = 1,
) -> NeighbourGraph:
    """Join every cell to its nearest neighbours in the z-scored embedding (euclidean).

    The result is that of ``scanpy.pp.neighbors`` with an exact search.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding.
    n_neighbours : int
        Neighbours of each cell, itself included (scanpy's counting).
    neighbours : Neighbours, optional
        What :func:`~nmfbench.metrics.neighbours.find_neighbours` found in the z-scored embedding (or in that
        as given), of at least `n_neighbours`; searched here by default.
    z_score : bool
        False takes the embedding as it is given.
    n_jobs : int
        Threads of the search. The result does not depend on them.

    Returns
    -------
    NeighbourGraph

    Raises
    ------
    InputError
        If there are not more cells than neighbours.
    """
    scaled, messages = scale_embedding(H) if z_score else (np.asarray(check_embedding(H), np.float32), [])
    if neighbours is None:
        neighbours = find_neighbours(scaled, n_neighbours, n_jobs=n_jobs)
    elif len(neighbours.indices) != len(scaled):
        raise InputError(
            "neighbours and embedding",
            f"neighbours of {len(scaled)} cells",
            f"of {len(neighbours.indices)}",
            "search them in this embedding (snakemake --forcerun find_neighbours)",
        )
    nearest = neighbours.first(n_neighbours)

    from scipy.sparse import coo_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # that TensorFlow is not there
        from umap import umap_
    keep_compiled(umap_, "smooth_knn_dist", "compute_membership_strengths")
    graph, _, _ = umap_.fuzzy_simplicial_set(
        coo_matrix((len(scaled), 1)),
        n_neighbours,
        None,
        None,
        knn_indices=nearest.indices,
        knn_dists=nearest.distances,
    )
    return NeighbourGraph(graph.tocsr(), scaled, n_neighbours, messages)


def leiden_labels(
    graph: NeighbourGraph,
    seeds: Iterable[int] = range(10),
    resolution: float = 0.8,
    n_iterations: int = 2,
    flavor: Flavor = "igraph",
    weighted: bool = False,
) -> pd.DataFrame:
    """Cluster the cells once per seed, on the symmetric graph.

    The result is that of ``scanpy.tl.leiden(..., directed=False, use_weights=weighted)``; only the
    graph is handed to igraph once instead of once per seed.

    Parameters
    ----------
    graph : NeighbourGraph
        Graph of the cells.
    seeds : iterable of int
        Seeds of Leiden.
    resolution : float
        Larger gives more clusters.
    n_iterations : int
        Iterations of Leiden; -1 goes on until nothing changes.
    flavor : {"igraph", "leidenalg"}
        Implementation.
    weighted : bool
        Whether edges have UMAP's weights.

    Returns
    -------
    DataFrame of int32, shape (n_cells, n_seeds)
        Columns ``leiden_seed_{seed}``: number of the cluster of each cell.
    """
    import pandas as pd

    if flavor not in ("igraph", "leidenalg"):
        raise InputError(
            "clustering: flavor",
            "'igraph' or 'leidenalg'",
            repr(flavor),
            "set clustering.flavor in the config to one of the two",
        )
    cells = _as_igraph(graph.connectivities)
    weights = graph.connectivities.data.tolist() if weighted else None
    clusters = {}
    for seed in seeds:
        if flavor == "igraph":
            with _igraph_seed(seed):
                found = cells.community_leiden(
                    objective_function="modularity",
                    weights=weights,
                    resolution=resolution,
                    n_iterations=n_iterations,
                )
        else:
            import leidenalg

            found = leidenalg.find_partition(
                cells,
                leidenalg.RBConfigurationVertexPartition,
                weights=weights,
                resolution_parameter=resolution,
                n_iterations=n_iterations,
                seed=seed,
            )
        clusters[f"leiden_seed_{seed}"] = np.asarray(found.membership, dtype=np.int32)
        logger.info("Leiden (%s) with seed %d: %d clusters", flavor, seed, len(found))
    return pd.DataFrame(clusters)


def _as_igraph(connectivities: csr_matrix) -> igraph.Graph:
    """Undirected graph with both (i, j) and (j, i), as scanpy builds it: Leiden's draws depend on it."""
    import igraph

    sources, targets = connectivities.nonzero()
    # Python numbers go in three times as fast as a buffer of the array, one by one twice as fast as in a list
    edges = zip(sources.tolist(), targets.tolist(), strict=True)
    return igraph.Graph(n=connectivities.shape[0], edges=edges, directed=False)


class _SeededBits:
    """Random numbers for igraph from a numpy state, in scanpy's order of draws."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def getrandbits(self, k: int) -> int:
        return self._state.tomaxint() & ((1 << k) - 1)

    def randint(self, low: int, high: int) -> int:
        return self._state.randint(low, high + 1)

    def random(self) -> float:
        return self._state.random_sample()

    def gauss(self, mean: float, std: float) -> float:
        return self._state.normal(mean, std)


@contextmanager
def _igraph_seed(seed: int) -> Iterator[None]:
    import igraph

    igraph.set_random_number_generator(_SeededBits(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)


def count_clusters(clusters: pd.DataFrame, labels: Sequence[Any], donors: Sequence[Any]) -> pd.DataFrame:
    """Cells by donor, label and cluster, for every Leiden seed.

    Parameters
    ----------
    clusters : DataFrame of int, shape (n_cells, n_seeds)
        As :func:`leiden_labels` returns them.
    labels, donors : sequence of shape (n_cells,)
        Of each cell; cells without one are left out.

    Returns
    -------
    DataFrame
        ``leiden_seed``, ``donor``, ``true``, ``cluster``, ``n``, where there is a cell.
    """
    import pandas as pd

    cells = pd.DataFrame(
        {"donor": pd.Series(donors).to_numpy(object), "true": pd.Series(labels).to_numpy(object)}
    )
    tables = []
    for column in clusters.columns:
        cells["cluster"] = clusters[column].to_numpy()
        counts = cells.dropna().astype({"donor": str, "true": str}).value_counts(sort=False)
        table = counts.rename("n").reset_index().sort_values(["donor", "true", "cluster"])
        table.insert(0, "leiden_seed", int(str(column).rpartition("_")[2]))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def score_clusters(clusters: pd.DataFrame, labels: Sequence[Any]) -> pd.DataFrame:
    """Compare the clusters of every Leiden seed with a label.

    Parameters
    ----------
    clusters : DataFrame of int, shape (n_cells, n_seeds)
        Columns ``leiden_seed_{seed}``, as :func:`leiden_labels` returns them.
    labels : sequence of shape (n_cells,)
        Label of each cell. Cells without one are left out.

    Returns
    -------
    DataFrame of shape (n_seeds, 4)
        ``leiden_seed``, ``ARI`` (adjusted Rand index), ``NMI`` (arithmetic mean of the entropies
        below), ``n_clusters``.
    """
    import pandas as pd
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    codes, _ = encode_labels(labels)
    if codes.size != len(clusters):
        raise InputError(
            "clusters and labels",
            f"one label for each of the {len(clusters)} clustered cells",
            f"{codes.size} labels",
            "take labels and clusters from the same training run",
        )
    known = codes >= 0
    if not known.any():
        raise InputError(
            "label",
            "at least one cell with a value",
            "none",
            "take another obs column in the config's labels",
        )
    rows = []
    for column in clusters.columns:
        found = clusters[column].to_numpy()[known]
        rows.append(
            {
                "leiden_seed": int(str(column).rpartition("_")[2]),
                "ARI": float(adjusted_rand_score(codes[known], found)),
                "NMI": float(normalized_mutual_info_score(codes[known], found, average_method="arithmetic")),
                "n_clusters": int(np.unique(found).size),
            }
        )
    return pd.DataFrame(rows, columns=["leiden_seed", "ARI", "NMI", "n_clusters"])


def score_label(clusters: pd.DataFrame, labels: Sequence[Any]) -> pd.DataFrame:
    """:func:`score_clusters`, with gaps and a reason in ``message`` where a label has fewer than two classes.

    With one class the adjusted Rand index is 0 or 1 whatever the clusters are.
    """
    import pandas as pd

    _, classes = encode_labels(labels)
    if len(classes) > 1:
        return score_clusters(clusters, labels).assign(message="")
    what = f"one class ({classes[0]})" if len(classes) else "no class"
    seeds = [int(str(column).rpartition("_")[2]) for column in clusters.columns]
    table = pd.DataFrame(
        {"leiden_seed": seeds, "n_clusters": [clusters[name].nunique() for name in clusters]}
    )
    return table.assign(
        ARI=float("nan"), NMI=float("nan"), message=f"the label has {what}, where two are needed"
    )
