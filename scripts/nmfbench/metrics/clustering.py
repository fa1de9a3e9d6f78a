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

from nmfbench.errors import InputError
from nmfbench.metrics.labels import check_embedding, encode_labels

if TYPE_CHECKING:
    import igraph
    import pandas as pd
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

Flavor = Literal["igraph", "leidenalg"]
Search = Literal["auto", "exact", "approximate"]

#: Above this many cells ``search="auto"`` looks for neighbours approximately. At 50,000 cells x 80
#: factors the exact search takes about as long as compiling the approximate one.
EXACT_SEARCH_CELLS = 50_000


@dataclass(frozen=True)
class NeighbourGraph:
    """Nearest neighbours of the cells in the z-scored embedding.

    Attributes
    ----------
    connectivities : csr_matrix of float32, shape (n_cells, n_cells)
        Symmetric fuzzy graph of UMAP; Leiden takes its pattern only.
    scaled : ndarray of float32, shape (n_cells, k)
        Embedding with mean 0 and standard deviation 1 in every factor.
    n_neighbours : int
        Neighbours of each cell, itself included (scanpy's counting).
    warnings : list of str
        What a reader of the scores should know, such as factors without variation.
    """

    connectivities: csr_matrix
    scaled: np.ndarray
    n_neighbours: int
    warnings: list[str] = field(default_factory=list)


def scale_embedding(H: Any) -> tuple[np.ndarray, list[str]]:
    """Give every factor mean 0 and standard deviation 1.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding.

    Returns
    -------
    scaled : ndarray of float32, shape (n_cells, k)
        A factor that has the same value in all cells becomes 0, never NaN.
    warnings : list of str
        Which factors those were.
    """
    H = check_embedding(H)
    constant = H.max(axis=0) == H.min(axis=0)
    std = H.std(axis=0, dtype=np.float64)
    std[constant] = 1.0
    scaled = ((H - H.mean(axis=0, dtype=np.float64)) / std).astype(np.float32)
    scaled[:, constant] = 0.0
    messages = []
    if constant.any():
        numbers = ", ".join(map(str, np.flatnonzero(constant)[:20]))
        messages.append(
            f"{int(constant.sum())} of {H.shape[1]} factors have one value in all cells and do not count "
            f"(factors {numbers}{', ...' if constant.sum() > 20 else ''})"
        )
    for message in messages:
        logger.warning("%s", message)
    return scaled, messages


def neighbour_graph(
    H: Any, n_neighbours: int = 25, seed: int = 0, *, search: Search = "auto", n_jobs: int = 1
) -> NeighbourGraph:
    """Find the nearest neighbours of every cell in the z-scored embedding (euclidean).

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding.
    n_neighbours : int
        Neighbours of each cell, itself included (scanpy's counting).
    seed : int
        Seed of the approximate search; the exact one has no randomness.
    search : {"auto", "exact", "approximate"}
        * ``"exact"``: brute force; time grows with the square of the cells.
        * ``"approximate"``: nearest-neighbour descent, as scanpy does above 8,192 cells.
        * ``"auto"``: exact up to :data:`EXACT_SEARCH_CELLS` cells.
    n_jobs : int
        Threads of the exact search. The approximate search always takes one, because its result
        changes with the number of threads.

    Returns
    -------
    NeighbourGraph

    Raises
    ------
    InputError
        If there are not more cells than neighbours.
    """
    scaled, messages = scale_embedding(H)
    n_cells = scaled.shape[0]
    if not 2 <= n_neighbours < n_cells:
        raise InputError(
            "clustering: n_neighbours",
            f"at least 2 and fewer than the {n_cells} cells of the embedding",
            str(n_neighbours),
            "set clustering.n_neighbours in the config to a smaller number, or score more cells",
        )
    exact = search == "exact" or (search == "auto" and n_cells <= EXACT_SEARCH_CELLS)

    import anndata
    import scanpy
    from scipy.sparse import SparseEfficiencyWarning
    from threadpoolctl import threadpool_limits

    transformer = "sklearn" if exact else _approximate_search(n_cells, n_neighbours, seed)
    cells = anndata.AnnData(scaled)
    jobs_before, scanpy.settings.n_jobs = scanpy.settings.n_jobs, n_jobs
    try:
        with warnings.catch_warnings(), threadpool_limits({"blas": 1, "openmp": n_jobs}):
            # cells with equal embeddings: scanpy writes a zero distance that was not stored
            warnings.simplefilter("ignore", SparseEfficiencyWarning)
            scanpy.pp.neighbors(
                cells,
                n_neighbors=n_neighbours,
                use_rep="X",
                metric="euclidean",
                transformer=transformer,
                random_state=seed,
            )
    finally:
        scanpy.settings.n_jobs = jobs_before
    return NeighbourGraph(cells.obsp["connectivities"].tocsr(), scaled, n_neighbours, messages)


def _approximate_search(n_cells: int, n_neighbours: int, seed: int) -> Any:
    """Nearest-neighbour descent with the settings scanpy gives it."""
    from pynndescent import PyNNDescentTransformer
    from scipy.sparse import csr_matrix

    class Search(PyNNDescentTransformer):
        # pynndescent 0.7 returns a csr_array, on which scanpy 1.11 calls a method only csr_matrix has
        def fit_transform(self, X, y=None, **fit_params):
            return csr_matrix(super().fit_transform(X, y, **fit_params))

    return Search(
        n_neighbors=n_neighbours,
        metric="euclidean",
        metric_kwds={},
        random_state=seed,
        n_trees=min(64, 5 + round(n_cells**0.5 / 20.0)),
        n_iters=max(5, round(np.log2(n_cells))),
        n_jobs=1,
    )


def leiden_labels(
    graph: NeighbourGraph,
    seeds: Iterable[int] = range(10),
    resolution: float = 0.8,
    n_iterations: int = 2,
    flavor: Flavor = "igraph",
) -> pd.DataFrame:
    """Cluster the cells once per seed, on the unweighted symmetric graph.

    The result is that of ``scanpy.tl.leiden(..., directed=False, use_weights=False)``; only the
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
    clusters = {}
    for seed in seeds:
        if flavor == "igraph":
            with _igraph_seed(seed):
                found = cells.community_leiden(
                    objective_function="modularity", resolution=resolution, n_iterations=n_iterations
                )
        else:
            import leidenalg

            found = leidenalg.find_partition(
                cells,
                leidenalg.RBConfigurationVertexPartition,
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
    # a list of Python numbers goes in three times as fast as a buffer of the array
    edges = list(zip(sources.tolist(), targets.tolist(), strict=True))
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
