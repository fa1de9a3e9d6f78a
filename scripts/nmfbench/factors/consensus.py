"""One set of programs from many fits: clustered, without outliers, medians taken, usages refitted.

Kotliar et al. 2019 (cNMF, doi:10.7554/eLife.43803). The loadings of all fits are brought to length 1. A
factor that few others are near is an outlier. The rest are clustered by k-means; a cluster's median is a
consensus program. How far apart the clusters lie (silhouette, all factors counted) is the stability of the
rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.errors import InputError
from nmfbench.least_squares import non_negative_least_squares

if TYPE_CHECKING:
    from scipy import sparse

NEIGHBOUR_SHARE = 0.3
DENSITY_THRESHOLD = 0.5
#: Rows of the map of distances that is kept; a figure has about as many points.
LARGEST_MAP = 1000
_STARTS, _CLUSTER_SEED = 10, 1  # as in cNMF


@dataclass(frozen=True)
class Consensus:
    """What :func:`find_consensus` found in S fits of k factors.

    Attributes
    ----------
    programs : ndarray of shape (p, k)
        Consensus loadings, columns summing to 1, the program that most fits agree on first.
    clusters : ndarray of int, shape (S k,)
        Program (from 0) of each factor of each fit, -1 for outliers; fit after fit.
    density : ndarray of shape (S k,)
        Mean distance of each to its nearest :data:`NEIGHBOUR_SHARE` x S others.
    silhouette : ndarray of shape (S k,)
        Of each factor, all counted, in a clustering of all.
    sizes : ndarray of int, shape (k,)
        Factors in each program.
    fits : ndarray of int, shape (k,)
        Fits that each program has a factor of.
    distances : ndarray of shape (S k, S k)
        Euclidean distances of the factors at length 1; between 0 and the root of 2.
    """

    programs: np.ndarray
    clusters: np.ndarray
    density: np.ndarray
    silhouette: np.ndarray
    sizes: np.ndarray
    fits: np.ndarray
    distances: np.ndarray

    @property
    def stability(self) -> float:
        """Mean silhouette, between -1 and 1; NaN at rank 1."""
        return float(self.silhouette.mean())

    @property
    def n_outliers(self) -> int:
        """Factors left out."""
        return int((self.clusters < 0).sum())


def find_consensus(
    loadings: Sequence[np.ndarray],
    *,
    density_threshold: float = DENSITY_THRESHOLD,
    neighbour_share: float = NEIGHBOUR_SHARE,
) -> Consensus:
    """Find the programs that fits of one rank have in common.

    Parameters
    ----------
    loadings : sequence of S ndarrays of shape (p, k)
        Of fits that differ in their seed; two at least.
    density_threshold : float
        Factors whose mean distance to their nearest neighbours is not below it are left out; 2 keeps all.
    neighbour_share : float
        Neighbours, as a share of the number of fits.

    Raises
    ------
    InputError
        The fits differ in shape, or fewer than k factors are dense enough.
    """
    shapes = {np.shape(W) for W in loadings}
    if len(loadings) < 2 or len(shapes) != 1:
        raise InputError(
            "consensus of fits",
            "two fits at least, of the same genes and rank",
            f"{len(loadings)} of the shapes {', '.join(map(str, sorted(shapes)))}",
            "raise n_fits, or train the fits anew on one dataset",
        )
    n_fits, k = len(loadings), loadings[0].shape[1]
    units = unit_rows(np.concatenate([np.asarray(W, dtype=np.float32).T for W in loadings]))
    gram = np.clip(units @ units.T, -1, 1).astype(np.float64)
    np.fill_diagonal(gram, 1.0)
    distances = np.sqrt(np.maximum(2 - 2 * gram, 0))
    density = local_density(distances, max(int(neighbour_share * n_fits), 1))
    dead = ~np.isfinite(units).all(axis=1) | (np.abs(units).sum(axis=1) == 0)
    kept = (density < density_threshold) & ~dead
    if kept.sum() < k:
        raise InputError(
            f"consensus of {n_fits} fits of rank {k}",
            f"{k} factors at least with a mean distance below {density_threshold} to their neighbours",
            f"{int(kept.sum())} of {len(kept)}; the median distance is {np.median(density):.2f}",
            "the seeds do not agree at this rank: lower `ranks`, or raise density_threshold (2 keeps all)",
        )
    points = _coordinates(gram)
    labels = _cluster(points[kept], k)
    everyone = labels if kept.all() else _cluster(points, k)
    medians = np.stack([np.median(units[kept][labels == j], axis=0) for j in range(k)])
    medians = _without_empty(medians, units[kept], labels)
    owner = np.repeat(np.arange(n_fits), k)[kept]
    fits = np.array([len(np.unique(owner[labels == j])) for j in range(k)])
    sizes = np.bincount(labels, minlength=k)
    tightness = np.array([density[kept][labels == j].mean() for j in range(k)])
    order = np.lexsort((tightness, -fits))
    clusters = np.full(len(kept), -1)
    clusters[kept] = np.argsort(order)[labels]
    programs = (medians / medians.sum(axis=1, keepdims=True))[order].T
    silhouette = _silhouette(distances, everyone)
    return Consensus(programs, clusters, density, silhouette, sizes[order], fits[order], distances)


def clustering_arrays(found: Consensus, n_fits: int, density_threshold: float) -> dict[str, np.ndarray]:
    """What is kept of a clustering, for its figure: the factors of all fits, sorted by their program.

    Returns
    -------
    dict
        Of shape (factors,): ``fit`` (from 0), ``factor`` (from 1) and ``program`` (from 0, outliers -1 and
        last), ``density``, ``silhouette``; ``distances`` of shape (m, m), float16, means over neighbouring
        factors where there are more than :data:`LARGEST_MAP`; ``n_fits`` and ``density_threshold``.
    """
    n = len(found.clusters)
    last = np.where(found.clusters < 0, n, found.clusters)
    order = np.lexsort((found.density, last))
    k = n // n_fits
    arrays = {"fit": order // k, "factor": order % k + 1, "program": found.clusters[order]}
    arrays |= {"density": found.density[order], "silhouette": found.silhouette[order]}
    given = {"n_fits": np.array(n_fits), "density_threshold": np.array(density_threshold)}
    return arrays | given | {"distances": _reduced(found.distances[np.ix_(order, order)])}


def _reduced(distances: np.ndarray) -> np.ndarray:
    """Means over blocks of rows and columns, so that a map has no more than :data:`LARGEST_MAP` of each."""
    n = len(distances)
    if n <= LARGEST_MAP:
        return distances.astype(np.float16)
    starts = np.unique(np.linspace(0, n, LARGEST_MAP, endpoint=False).astype(int))
    sizes = np.diff(np.append(starts, n))
    sums = np.add.reduceat(np.add.reduceat(distances, starts, axis=0), starts, axis=1)
    return (sums / np.outer(sizes, sizes)).astype(np.float16)


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows at length 1; a row of zeros stays."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)


def local_density(distances: np.ndarray, n_neighbours: int) -> np.ndarray:
    """Mean distance of each row to its nearest others, itself not counted."""
    n_neighbours = min(n_neighbours, len(distances) - 1)
    nearest = np.partition(distances, n_neighbours, axis=1)[:, : n_neighbours + 1]
    return nearest.sum(axis=1) / n_neighbours  # the distance to itself is 0


def refit(
    blocks: Iterable[tuple[int, sparse.csr_matrix]], programs: np.ndarray, n_cells: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Usages of the programs by non-negative least squares, a block of cells at a time.

    Parameters
    ----------
    blocks : iterable of (int, CSR)
        First cell's number and what the fits factorised of the block.
    programs : ndarray of shape (p, k)
    n_cells : int

    Returns
    -------
    usages : ndarray of float32, shape (cells, k)
    error : dict
        ``squared_error`` ‖X - H Wᵀ‖², ``squared_norm`` ‖X‖², ``relative_error``.
    """
    gram = programs.T @ programs
    usages = np.zeros((n_cells, programs.shape[1]), dtype=np.float32)
    squared_norm = squared_error = 0.0
    for start, block in blocks:
        products = np.asarray(block @ programs, dtype=np.float64)
        H = non_negative_least_squares(gram, products)
        usages[start : start + len(H)] = H
        norm = float(np.einsum("i,i->", block.data, block.data, dtype=np.float64))
        squared_norm += norm
        squared_error += norm - 2 * float(np.sum(H * products)) + float(np.sum((H @ gram) * H))
    relative = squared_error / squared_norm if squared_norm else float("nan")
    return usages, {
        "squared_error": squared_error, "squared_norm": squared_norm, "relative_error": relative
    }  # fmt: skip


def _coordinates(gram: np.ndarray) -> np.ndarray:
    """Points with these inner products, in as few dimensions as they have: distances stay what they are."""
    values, vectors = np.linalg.eigh(gram)
    there = values > 1e-9 * values[-1]
    return vectors[:, there] * np.sqrt(values[there])


def _cluster(points: np.ndarray, k: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=_STARTS, random_state=_CLUSTER_SEED).fit_predict(points)


def _without_empty(medians: np.ndarray, units: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Medians; where that of sparse loadings is zero everywhere, the mean takes its place."""
    for j in np.flatnonzero(np.abs(medians).sum(axis=1) == 0):
        medians[j] = units[labels == j].mean(axis=0)
    return medians


def _silhouette(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Silhouette of each point from all distances; NaN where all are in one cluster."""
    sizes = np.bincount(labels)
    if (sizes > 0).sum() < 2:
        return np.full(len(labels), np.nan)
    sums = distances @ np.eye(len(sizes))[labels]
    own = sums[np.arange(len(labels)), labels] / np.maximum(sizes[labels] - 1, 1)
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    means[np.arange(len(labels)), labels] = np.inf
    other = means.min(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (other - own) / np.maximum(own, other)
    return np.where(sizes[labels] > 1, np.nan_to_num(found), 0.0)
