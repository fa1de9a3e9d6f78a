"""Scores of an embedding from its nearest neighbours: local inverse Simpson indices, shares, entropies.

All read one table of neighbours of the embedding as it is given (:mod:`nmfbench.metrics.neighbours`).
Labels are codes; -1 is a cell without one, which is left out, as a cell and as a neighbour.
"""

from __future__ import annotations

import numpy as np

from nmfbench.metrics.neighbours import LISI_NEIGHBOURS, Neighbours, find_neighbours

KSIM_NEIGHBOURS, KSIM_SHARE = 25, 0.9
CONNECTIVITY_NEIGHBOURS = 15


def lisi(neighbours: Neighbours, codes: np.ndarray) -> np.ndarray:
    """Local inverse Simpson index of every cell (Korsunsky et al. 2019).

    The neighbours of a cell, without itself, weigh ``exp(-beta d)``, with ``beta`` such that their perplexity
    is a third of the table's width; the index is one over the probability that two draws have one label.

    Parameters
    ----------
    neighbours : Neighbours
        Of every cell; the first :data:`LISI_NEIGHBOURS` count.
    codes : ndarray of int, shape (n_cells,)
        Label of each cell, -1 for none.

    Returns
    -------
    ndarray of float64, shape (n_cells,)
        1 (one label among the neighbours) to the number of labels; NaN for a cell without a label.
    """
    from nmfbench.metrics.kernels import simpson

    table = neighbours.first(min(LISI_NEIGHBOURS, neighbours.k))
    index = np.full(len(codes), np.nan)
    codes = np.ascontiguousarray(codes, dtype=np.int64)
    simpson(table.indices, table.distances, codes, int(codes.max()) + 1, float(table.k // 3), 1e-5, index)
    return 1.0 / index


def conditional_lisi(H: np.ndarray, types: np.ndarray, donors: np.ndarray, *, n_jobs: int = 1):
    """Mixing of donors inside each cell type (CiLISI of scIntegrationMetrics; Andreatta et al. 2024).

    Parameters
    ----------
    H : ndarray of shape (n_cells, k)
        Embedding.
    types, donors : ndarray of int, shape (n_cells,)
        Labels, -1 for none. Types of fewer than 10 cells or of one donor are left out.
    n_jobs : int
        Threads of the searches inside the types.

    Returns
    -------
    list of ndarray
        For each type, the indices of its cells scaled to 0 (one donor) .. 1 (all of the type's donors).
    """
    scaled = []
    for number in range(int(types.max()) + 1):
        cells = np.flatnonzero((types == number) & (donors >= 0))
        present, codes = np.unique(donors[cells], return_inverse=True)
        if cells.size < 10 or present.size < 2:
            continue
        width = min(LISI_NEIGHBOURS, cells.size - 1)
        inside = lisi(find_neighbours(H[cells], width, n_jobs=n_jobs), codes)
        scaled.append((inside - 1.0) / (present.size - 1.0))
    return scaled


def neighbour_shares(neighbours: Neighbours, codes: np.ndarray) -> np.ndarray:
    """Share of a cell's 25 nearest, itself included, that have its label; NaN for a cell without one."""
    near = codes[neighbours.first(min(KSIM_NEIGHBOURS, neighbours.k)).indices]
    shares = (near == codes[:, None]).mean(axis=1)
    shares[codes < 0] = np.nan
    return shares


def neighbour_entropy(neighbours: Neighbours, codes: np.ndarray, width: int) -> np.ndarray:
    """Entropy of the labels of a cell's `width` nearest, itself included, over the log of their number."""
    n_labels = int(codes.max()) + 1
    table = neighbours.first(min(width, neighbours.k)).indices
    entropy = np.full(len(codes), np.nan)
    for start in range(0, len(codes), 65536):
        near = codes[table[start : start + 65536]]
        rows = np.repeat(np.arange(len(near)), near.shape[1])
        known = near.ravel() >= 0
        counts = np.bincount(
            rows[known] * n_labels + near.ravel()[known], minlength=len(near) * n_labels
        ).reshape(-1, n_labels)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        entropy[start : start + 65536] = -(shares * logs).sum(axis=1) / np.log(n_labels)
    entropy[codes < 0] = np.nan
    return entropy


def graph_connectivity(neighbours: Neighbours, codes: np.ndarray) -> float:
    """Share of the largest strongly connected part of the neighbour graph inside a label, mean over labels.

    The graph joins each cell to its 15 nearest, itself included (Luecken et al. 2022).
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    table = neighbours.first(min(CONNECTIVITY_NEIGHBOURS, neighbours.k)).indices[:, 1:]
    n, width = table.shape
    sources = np.repeat(np.arange(n), width)
    # an edge between two labels is no part of either's graph, so one pass finds the parts of all
    kept = (codes[sources] == codes[table.ravel()]) & (codes[sources] >= 0)
    ones = np.ones(int(kept.sum()), dtype=np.int8)
    graph = csr_matrix((ones, (sources[kept], table.ravel()[kept])), shape=(n, n))
    _, parts = connected_components(graph, directed=True, connection="strong")
    shares = []
    for number in range(int(codes.max()) + 1):
        mine = parts[codes == number]
        if mine.size:
            shares.append(np.unique(mine, return_counts=True)[1].max() / mine.size)
    return float(np.mean(shares))
