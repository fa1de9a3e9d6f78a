"""Nearest neighbours of every cell: one exact search, stored, for all that needs them.

The search is exact and the same on any number of threads. Products of blocks in single precision give a lower
bound of every squared distance: what rounding may have added is taken off. A few more candidates than asked
for are kept by it, their distances are computed in double precision, and a row counts as found when its last
neighbour lies below the bound of all cells that were not kept. The few rows without that proof are searched
in double precision. Equal distances are put in the order of the cells.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from nmfbench.errors import InputError
from nmfbench.metrics.labels import check_embedding, scale_embedding

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ROWS, COLUMNS = 512, 4096  # of a block of products: 8 MiB
N_CANDIDATES = (
    60  # enough that nearly every test cell's 15 are proven, with four fifths of the cells in training
)
LISI_NEIGHBOURS = 90  # of the local inverse Simpson index, the cell included; a third is its perplexity
SPARE = 16  # candidates beyond the neighbours asked for


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of cells in an embedding (euclidean), each cell's own row first.

    Attributes
    ----------
    indices : ndarray of int32, shape (n_cells, k)
        Cells by distance; column 0 is the cell itself.
    distances : ndarray of float32, shape (n_cells, k)
        Their distances, ascending; column 0 is 0.
    """

    indices: np.ndarray
    distances: np.ndarray

    @property
    def k(self) -> int:
        """Neighbours of a cell, itself included."""
        return self.indices.shape[1]

    def first(self, k: int) -> Neighbours:
        """The `k` nearest of each cell, itself included."""
        if k > self.k:
            raise InputError(
                "neighbours",
                f"{k} of each cell",
                f"a table of {self.k}",
                "search them anew (snakemake --forcerun find_neighbours)",
            )
        return Neighbours(self.indices[:, :k], self.distances[:, :k])


def find_neighbours(X: Any, k: int, *, n_jobs: int = 1, device: torch.device | None = None) -> Neighbours:
    """Find the `k` nearest cells of every cell, itself included.

    Parameters
    ----------
    X : array-like of shape (n_cells, n_factors)
        Embedding; distances are those of its single-precision values.
    k : int
        Neighbours of each cell, itself included.
    n_jobs : int
        Threads. The result does not depend on them.
    device : torch.device, optional
        Where the bounds are computed; None: by the CPU's own code. Nor does it depend on it.

    Returns
    -------
    Neighbours

    Raises
    ------
    InputError
        If there are not more cells than neighbours, or values that are not finite.
    """
    X = np.ascontiguousarray(check_embedding(X), dtype=np.float32)
    if not 2 <= k < X.shape[0]:
        raise InputError(
            "clustering: n_neighbours",
            f"at least 2 and fewer than the {X.shape[0]} cells of the embedding",
            str(k),
            "set clustering.n_neighbours in the config to a smaller number, or score more cells",
        )
    unique, members = _unique_rows(X)
    if len(unique) == len(X):
        return Neighbours(*_search(X, k, n_jobs, device))
    # Identical cells (a one-hot control; cells without a count) tie in everything: search each row once.
    logger.info("%d cells have %d different embeddings", len(X), len(unique))
    near, apart = _search(unique, min(k, len(unique)), n_jobs, device)
    return Neighbours(*_expand(near, apart, members, len(X), k))


def _unique_rows(X: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Different rows in the order of their first cell, and the cells of each (none where all differ)."""
    plain = np.ascontiguousarray(X + np.float32(0))  # -0 becomes 0, so that equal values are equal bytes
    rows = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.append(True, rows[order[1:]] != rows[order[:-1]]))
    if starts.size == len(X):
        return X, []
    groups = np.split(order, starts[1:])
    groups.sort(key=lambda cells: cells[0])
    return X[[cells[0] for cells in groups]], groups


def _expand(
    near: np.ndarray, apart: np.ndarray, members: list[np.ndarray], n_cells: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """From neighbours of rows to neighbours of cells."""
    indices = np.empty((n_cells, k), dtype=np.int32)
    distances = np.empty((n_cells, k), dtype=np.float32)
    for row, cells in enumerate(members):
        found = np.concatenate([members[other][: k + 1] for other in near[row]])
        far = np.repeat(apart[row], [min(len(members[other]), k + 1) for other in near[row]])
        order = np.lexsort((found, far))[: k + 1]
        found, far = found[order], far[order]
        for cell in cells:
            others = found != cell
            indices[cell] = np.append(cell, found[others])[:k]
            distances[cell] = np.append(np.float32(0), far[others])[:k]
    return indices, distances


def _search(X: np.ndarray, k: int, n_jobs: int, device: torch.device | None) -> tuple[np.ndarray, np.ndarray]:
    from threadpoolctl import threadpool_limits

    from nmfbench.metrics.kernels import nearest_exactly, rank_exactly

    n, factors = X.shape
    indices = np.empty((n, k), dtype=np.int32)
    squares = np.empty((n, k), dtype=np.float64)
    if k == 1:
        return np.arange(n, dtype=np.int32)[:, None], np.zeros((n, 1), dtype=np.float32)
    if n <= 2 * (k + SPARE):
        nearest_exactly(X, np.arange(n), indices, squares)
        return indices, np.sqrt(squares).astype(np.float32)
    centred = (X - X.mean(axis=0, dtype=np.float64)).astype(np.float32)
    # |rounding of a squared distance| <= (factors + 8) 2^-24 (|x| + |y|)^2 <= 2 (...) (|x|^2 + |y|^2)
    slack = 2.0 * (factors + 8) * 2.0**-24
    norms = (np.einsum("ij,ij->i", centred, centred, dtype=np.float64) * (1.0 - slack)).astype(np.float32)
    unproven: list[np.ndarray] = []

    def rank(start: int, candidates: np.ndarray, bounds: np.ndarray) -> None:
        stop = start + len(candidates)
        proven = np.empty(len(candidates), dtype=np.bool_)
        rank_exactly(X, start, candidates, bounds, indices[start:stop], squares[start:stop], proven)
        unproven.append(start + np.flatnonzero(~proven))

    with threadpool_limits(1), ThreadPoolExecutor(n_jobs) as pool:
        if device is None:
            list(pool.map(lambda start: rank(*_nearest_bounds(centred, norms, start, k)), range(0, n, ROWS)))
        else:
            from nmfbench.metrics.on_device import nearest_bounds

            blocks = nearest_bounds(centred, norms, k + SPARE, device)
            for ranked in [pool.submit(rank, *block) for block in blocks]:
                ranked.result()
        left = np.sort(np.concatenate(unproven))
        logger.info("%d cells, %d nearest: %d rows searched in double precision", n, k, left.size)
        again = np.array_split(left, max(1, -(-left.size // 64)))
        list(pool.map(lambda rows: nearest_exactly(X, rows, indices, squares), again))
    return indices, np.sqrt(squares).astype(np.float32)


def _nearest_bounds(
    centred: np.ndarray, norms: np.ndarray, start: int, k: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """As :func:`nmfbench.metrics.on_device.nearest_bounds`, of the block that begins at `start`."""
    from nmfbench.metrics.kernels import nearest_by_bound

    n, stop = len(centred), min(start + ROWS, len(centred))
    candidates = np.full((stop - start, k + SPARE), -1, dtype=np.int32)
    bounds = np.full((stop - start, k + SPARE), np.inf, dtype=np.float32)
    for column in range(0, n, COLUMNS):
        products = centred[start:stop] @ centred[column : column + COLUMNS].T
        nearest_by_bound(
            products, norms[start:stop], norms[column : column + COLUMNS], column, candidates, bounds
        )
    return start, candidates, bounds


def neighbour_widths(cfg: Any) -> dict[str, int]:
    """How many neighbours the scores of a configuration read of each table."""
    widths = {"z_scored": max(N_CANDIDATES, cfg.clustering.n_neighbours)}
    if cfg.integration.metrics:
        widths["as_given"] = max(LISI_NEIGHBOURS, cfg.integration.entropy_neighbours)
    if not cfg.clustering.z_score:
        widths["as_given"] = max(widths.get("as_given", 0), cfg.clustering.n_neighbours)
    return widths


def find_neighbour_tables(
    H: Any, widths: Mapping[str, int], *, n_jobs: int = 1, device: torch.device | None = None
) -> dict[str, Neighbours]:
    """Search every table that the scores of an embedding read.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding.
    widths : mapping
        Neighbours, the cell included, of each table (:func:`neighbour_widths`); fewer where there are
        not that many cells.
    n_jobs : int
        Threads.
    device : torch.device, optional
        As of :func:`find_neighbours`.
    """
    tables = {}
    for name, width in widths.items():
        X = scale_embedding(H)[0] if name == "z_scored" else H
        tables[name] = find_neighbours(X, max(2, min(width, len(X) - 1)), n_jobs=n_jobs, device=device)
    return tables


def save_neighbours(path: str | Path, tables: dict[str, Neighbours]) -> None:
    """Write tables under their names (``as_given``, ``z_scored``), whole or not at all."""
    path = Path(path)
    arrays = {}
    for name, table in tables.items():
        arrays[f"{name}_indices"] = table.indices
        arrays[f"{name}_distances"] = table.distances
    temporary = path.with_name(f".{path.name}.new.npz")
    try:
        np.savez(temporary, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_neighbours(path: str | Path, name: str) -> Neighbours:
    """Read one table of :func:`save_neighbours`.

    Raises
    ------
    InputError
        If the file cannot be read, or lacks the table.
    """
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return Neighbours(arrays[f"{name}_indices"], arrays[f"{name}_distances"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path}: it cannot be read",
            f"a table of neighbours {name!r}",
            f"{type(error).__name__}: {error}",
            "delete the file and run snakemake again; it is searched anew",
        ) from error
