"""Two coordinates per cell for the figures. Nothing is scored on them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.compiled import keep_compiled
from nmfbench.metrics.clustering import NeighbourGraph, neighbour_graph
from nmfbench.metrics.labels import encode_labels, stratified_sample
from nmfbench.metrics.neighbours import Neighbours

if TYPE_CHECKING:
    import pandas as pd


def compute_umap(
    H: Any,
    *,
    n_neighbours: int = 25,
    seed: int = 0,
    max_cells: int | None = None,
    strata: Any = None,
    neighbours: Neighbours | None = None,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Lay the cells out in the plane with UMAP, on the graph that Leiden clusters.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding.
    n_neighbours, neighbours, n_jobs
        As in :func:`~nmfbench.metrics.clustering.neighbour_graph`.
    seed : int
        Seed of the layout and the sample.
    max_cells : int, optional
        Lay out a sample of this many cells, whose graph is made of the sample alone.
    strata : sequence of shape (n_cells,), optional
        Label whose proportions the sample keeps; cells without one are a class of their own.

    Returns
    -------
    DataFrame
        Index: position of the cell in `H`, ascending. Columns: ``UMAP1``, ``UMAP2``.
    """
    import pandas as pd

    H = np.asarray(H)
    chosen = np.arange(H.shape[0])
    if max_cells is not None and max_cells < H.shape[0]:
        codes = np.zeros(H.shape[0], dtype=np.int64)
        if strata is not None:
            codes = encode_labels(strata)[0] + 1  # missing labels, -1, become class 0
        chosen = stratified_sample(codes, max_cells, seed=seed)
    whole = chosen.size == H.shape[0]
    graph = neighbour_graph(H[chosen], n_neighbours, neighbours=neighbours if whole else None, n_jobs=n_jobs)
    return pd.DataFrame(umap_layout(graph, seed=seed), index=chosen, columns=["UMAP1", "UMAP2"])


def umap_layout(graph: NeighbourGraph, *, seed: int = 0) -> np.ndarray:
    """Run scanpy's UMAP on a neighbour graph.

    Returns
    -------
    ndarray of float32, shape (n_cells, 2)
    """
    import anndata
    import scanpy
    from umap import layouts

    # Not the parallel one, which a seed rules out: numba would keep both under one name.
    keep_compiled(layouts, "_nb_optimize_layout_euclidean_single_epoch")
    cells = anndata.AnnData(graph.scaled)
    cells.obsp["connectivities"] = graph.connectivities
    cells.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {
            "method": "umap",
            "metric": "euclidean",
            "n_neighbors": graph.n_neighbours,
            # without it scanpy would run a PCA of the embedding to look for connected components
            "use_rep": "X",
        },
    }
    with warnings.catch_warnings():
        # a graph in several parts, or one the eigensolver does not like, falls back to a random start
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(umap|sklearn)\.")
        scanpy.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)
