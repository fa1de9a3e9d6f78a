"""Where the inducing points of a sparse Gaussian process lie."""

from __future__ import annotations

import numpy as np

ALLOCATIONS = ("proportional", "equal", "derived")
_NEIGHBOURS = 5


def choose_inducing(
    coordinates: np.ndarray,
    groups: np.ndarray | None,
    n_inducing: int,
    allocation: str,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Centres of k-means, as many as asked for, shared out to the groups.

    Parameters
    ----------
    coordinates : ndarray of shape (n, p)
    groups : ndarray of shape (n,) or None
        Codes from 0.
    n_inducing : int
        At most n; with as many or more, the points themselves are taken.
    allocation : {"proportional", "equal", "derived"}
        Of groups: points in proportion to their cells; as many for each; or where k-means of all cells puts
        them, each centre in the group that its five nearest cells vote for, the near ones weighing more.
    rng : Generator

    Returns
    -------
    coordinates : ndarray of shape (m, p)
    groups : ndarray of shape (m,) or None
        Every group has at least one point, where n_inducing allows.
    """
    n = len(coordinates)
    if n_inducing >= n:
        return coordinates.copy(), None if groups is None else groups.copy()
    if groups is None:
        return _centres(coordinates, n_inducing, rng), None
    if allocation == "derived":
        return _derived(coordinates, groups, n_inducing, rng)
    sizes = np.bincount(groups)
    counts = share_out(sizes, n_inducing, equal=allocation == "equal")
    parts = [_centres(coordinates[groups == g], count, rng) for g, count in enumerate(counts) if count]
    return np.concatenate(parts), np.repeat(np.arange(len(sizes)), counts)


def share_out(sizes: np.ndarray, total: int, *, equal: bool) -> np.ndarray:
    """How many of `total` points each group gets, none more than it has cells.

    Whole parts of the exact shares first, then one each in the order of the largest fractions.
    """
    present = sizes > 0
    exact = np.where(present, total / present.sum(), 0.0) if equal else total * sizes / sizes.sum()
    counts = np.minimum(np.floor(exact).astype(int), sizes)
    order = np.argsort(-(exact - np.floor(exact)), kind="stable")
    while counts.sum() < min(total, sizes.sum()):
        for g in order:
            if counts.sum() < total and counts[g] < sizes[g]:
                counts[g] += 1
    return counts


def _derived(coordinates, groups, n_inducing: int, rng) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import KNeighborsClassifier

    centres = _centres(coordinates, n_inducing, rng)
    near = min(_NEIGHBOURS, len(coordinates))
    votes = KNeighborsClassifier(near, weights="distance").fit(coordinates, groups)
    labels = votes.predict(centres)
    for g in np.setdiff1d(groups, labels):
        # each group that can spare one gives a point to the group that came away empty
        givers = [other for other in np.unique(labels) if (labels == other).sum() > 1]
        cells = np.flatnonzero(groups == g)
        given = [rng.choice(np.flatnonzero(labels == other)) for other in givers][: len(cells)]
        centres[given] = coordinates[rng.choice(cells, len(given), replace=False)]
        labels[given] = g
    return centres, labels


def _centres(coordinates: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    from sklearn.cluster import KMeans

    if k >= len(coordinates):
        return coordinates.copy()
    seed = int(rng.integers(2**31))
    return KMeans(k, n_init=1, random_state=seed).fit(coordinates).cluster_centers_
