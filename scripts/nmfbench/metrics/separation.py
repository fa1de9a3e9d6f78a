"""Scores of an embedding from distances and variances: silhouettes, principal component regression, scGraph.

Labels are codes without gaps; cells without a label are left out before.
"""

from __future__ import annotations

import numpy as np

_ROWS = 1024


def silhouettes(H: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Silhouette of every cell (euclidean), exact, in blocks.

    Parameters
    ----------
    H : ndarray of shape (n_cells, k)
        Embedding.
    codes : ndarray of int, shape (n_cells,)
        Labels, 0 .. n_labels - 1, at least two.

    Returns
    -------
    ndarray of float64, shape (n_cells,)
        -1 to 1; 0 for the only cell of its label, as scikit-learn has it.
    """
    order = np.argsort(codes, kind="stable")
    labels, starts, sizes = np.unique(codes[order], return_index=True, return_counts=True)
    sorted_codes = np.repeat(np.arange(labels.size), sizes)
    X = np.asarray(H[order], dtype=np.float64)
    X = (X - X.mean(axis=0)).astype(np.float32)
    norms = np.einsum("ij,ij->i", X, X, dtype=np.float64).astype(np.float32)
    found = np.zeros(len(X))
    for start in range(0, len(X), _ROWS):
        rows = slice(start, min(start + _ROWS, len(X)))
        squares = X[rows] @ X.T
        squares *= -2.0
        squares += norms[rows, None]
        squares += norms[None]
        own = np.arange(rows.stop - rows.start)
        squares[own, own + start] = 0.0
        distances = np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
        sums = np.add.reduceat(distances, starts, axis=1, dtype=np.float64)
        mine = sorted_codes[rows]
        size = sizes[mine]
        inside = sums[own, mine] / np.maximum(size - 1, 1)
        means = sums / sizes
        means[own, mine] = np.inf
        outside = means.min(axis=1)
        largest = np.maximum(inside, outside)
        value = np.divide(outside - inside, largest, out=np.zeros_like(inside), where=largest > 0)
        found[rows] = np.where(size > 1, value, 0.0)
    back = np.empty(len(X))
    back[order] = found
    return back


def isolated_label_silhouette(found: np.ndarray, types: np.ndarray, donors: np.ndarray) -> tuple[float, int]:
    """Mean silhouette of the labels that are in the fewest donors, scaled to 0 .. 1, and their number."""
    pairs = np.unique(np.column_stack([types, donors]), axis=0)
    in_donors = np.bincount(pairs[:, 0])
    isolated = np.flatnonzero(in_donors == in_donors[in_donors > 0].min())
    means = [((found[types == label] + 1.0) / 2.0).mean() for label in isolated]
    return float(np.mean(means)), int(isolated.size)


def batch_silhouette(H: np.ndarray, types: np.ndarray, donors: np.ndarray) -> float:
    """Batch removal adapted silhouette (BRAS; Rautenstrauch and Ohler 2025), cosine distance.

    Inside each cell type the distance to the own donor's cells is set against that to all other donors'
    together. Sums of cosine distances need no pairs: those of a unit row u to donor b are ``n_b - u . S_b``,
    with ``S_b`` the sum of the donor's unit rows.

    Returns
    -------
    float
        Mean over cell types of the mean of 1 - |s|; 1 is mixed. NaN where no type has two donors.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", H, H, dtype=np.float64))
    scores = []
    for label in range(int(types.max()) + 1):
        cells = np.flatnonzero(types == label)
        present, codes, sizes = np.unique(donors[cells], return_inverse=True, return_counts=True)
        if present.size < 2 or present.size == cells.size:
            continue
        units = H[cells].astype(np.float64) / np.where(lengths[cells] > 0, lengths[cells], 1.0)[:, None]
        sums = np.zeros((present.size, H.shape[1]))
        np.add.at(sums, codes, units)
        apart = sizes - units @ sums.T
        own, size = apart[np.arange(cells.size), codes], sizes[codes]
        inside = own / np.maximum(size - 1, 1)
        outside = (apart.sum(axis=1) - own) / (cells.size - size)
        largest = np.maximum(inside, outside)
        # equal rows: rounding alone is left of both distances
        value = np.divide(outside - inside, largest, out=np.zeros_like(own), where=largest > 1e-12)
        value[size == 1] = 0.0
        scores.append(float((1.0 - np.abs(value)).mean()))
    return float(np.mean(scores)) if scores else float("nan")


def donor_variance(H: np.ndarray, donors: np.ndarray) -> float:
    """Share of an embedding's variance that lies between donors.

    Principal component regression with all components, weighed by their variances, is this ratio.
    """
    H = np.asarray(H, dtype=np.float64)
    H = H - H.mean(axis=0)
    sizes = np.bincount(donors)
    sums = np.zeros((sizes.size, H.shape[1]))
    np.add.at(sums, donors, H)
    total = np.square(H).sum()
    return float((np.square(sums).sum(axis=1) / np.maximum(sizes, 1)).sum() / total) if total > 0 else np.nan


def trimmed_centroids(H: np.ndarray, types: np.ndarray, n_types: int, *, trim: float = 0.05) -> np.ndarray:
    """Mean of every factor over the cells of a type without the lowest and highest 5 %; NaN for no cells."""
    centroids = np.full((n_types, H.shape[1]), np.nan)
    for number in range(n_types):
        mine = np.sort(np.asarray(H[types == number], dtype=np.float64), axis=0)
        cut = int(trim * len(mine))
        if len(mine):
            centroids[number] = mine[cut : len(mine) - cut].mean(axis=0)
    return centroids


def type_distances(H: np.ndarray, types: np.ndarray, n_types: int, *, least: int = 10) -> np.ndarray:
    """Distances between the centroids of cell types, every column over its largest; NaN for rare types."""
    centroids = trimmed_centroids(H, types, n_types)
    centroids[np.bincount(types[types >= 0], minlength=n_types) < least] = np.nan
    apart = np.sqrt(np.square(centroids[:, None] - centroids[None]).sum(axis=2))
    known = ~np.isnan(centroids[:, 0])
    largest = np.full(n_types, np.nan)
    if known.any():
        largest[known] = apart[np.ix_(known, known)].max(axis=0)
    return apart / np.where(largest > 0, largest, np.nan)


def graph_of_types(apart: np.ndarray, consensus: np.ndarray) -> tuple[float, int]:
    """Agreement of an embedding's distances between cell types with those in single donors (scGraph).

    For each type, Pearson correlation of its distances to the others with the consensus, weighed by the
    inverse of the latter, so that near types count most (Wang et al. 2024).

    Returns
    -------
    float, int
        Mean over types, and their number; NaN where fewer than three types can be compared.
    """
    scores = []
    for number in range(len(apart)):
        others = np.arange(len(apart)) != number
        x, y = apart[others, number], consensus[others, number]
        known = np.isfinite(x) & np.isfinite(y) & (y > 0)
        if known.sum() < 3:
            continue
        x, y = x[known], y[known]
        w = 1.0 / y / (1.0 / y).sum()
        x, y = x - w @ x, y - w @ y
        scale = np.sqrt((w @ x**2) * (w @ y**2))
        if scale > 0:
            scores.append(float(w @ (x * y) / scale))
    return (float(np.mean(scores)) if scores else float("nan")), len(scores)
