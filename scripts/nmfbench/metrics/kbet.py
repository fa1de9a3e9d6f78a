"""kBET inside each cell type, by scib-metrics: whether the donors around a cell are those of its type.

It has no exact form that scales (a diffusion map and a search in it for each type), so it is computed on a
sample and only where it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from nmfbench.metrics.labels import stratified_sample
from nmfbench.metrics.neighbours import find_neighbours
from nmfbench.packages import SCIB_METRICS

NEIGHBOURS = 50
"""Neighbours of the graph, itself included, as scib-metrics' own benchmark has them for this score."""
SEED = 0
SMALLEST_TYPE = 10
"""scib-metrics leaves out types of fewer cells, and those of one donor."""


class Kbet(NamedTuple):
    """Mean acceptance over cell types, and what it is a mean of."""

    value: float
    n_cells: int
    notes: list[str]


def kbet(H: np.ndarray, types: np.ndarray, donors: np.ndarray, *, n_cells: int, n_jobs: int = 1) -> Kbet:
    """Acceptance rate of kBET in each cell type, mean over types (Büttner et al. 2019; Luecken et al. 2022).

    Parameters
    ----------
    H : ndarray of shape (n_cells_total, k)
        Embedding.
    types, donors : ndarray of int, shape (n_cells_total,)
        Labels of the cells, each with both.
    n_cells : int
        Above so many cells, a sample of so many that keeps the shares of the types.
    n_jobs : int
        Threads of the search for neighbours.

    Returns
    -------
    Kbet
        From 0 (no cell's neighbours are like its type) to 1; about 0.95 where donors are mixed at random,
        as the test rejects 5 % of the cells then. NaN where no type of ten cells is in two donors.

    Raises
    ------
    InputError
        Where scib-metrics is not installed.
    """
    cells = stratified_sample(types, n_cells, seed=SEED)
    sampled = f"stratified sample of {cells.size} of {types.size} cells, seed {SEED}; "
    types_of, donors_of = types[cells], donors[cells]
    counts = np.bincount(types_of)
    n_donors = [np.unique(donors_of[types_of == number]).size for number in range(counts.size)]
    scored = (counts >= SMALLEST_TYPE) & (np.array(n_donors) >= 2)
    if not scored.any():
        return Kbet(np.nan, 0, [])
    table = find_neighbours(H[cells], min(NEIGHBOURS, cells.size - 1), n_jobs=n_jobs)
    value, of_types, failures = _scib(table, donors_of, types_of)
    note = (
        f"{int(scored.sum())} of {np.unique(types).size} cell types, {int((of_types == 0).sum())} of them 0"
    )
    if failures:
        note += f", {failures} as their diffusion map failed"
    return Kbet(value, int(counts[scored].sum()), [(sampled if cells.size < types.size else "") + note])


def _scib(table, donors: np.ndarray, types: np.ndarray) -> tuple[float, np.ndarray, int]:
    """The mean, the value of each type, and how many of these are 0 because scib-metrics met an error."""
    try:
        from scib_metrics import kbet_per_label
        from scib_metrics.nearest_neighbors import NeighborsResults
    except ImportError as error:
        raise SCIB_METRICS.absent("kBET", "metric", "integration.metrics") from error
    graph = NeighborsResults(indices=table.indices, distances=table.distances)
    with _seeded(), _messages("scib_metrics") as messages:
        value, of_types = kbet_per_label(graph, batches=donors, labels=types, return_df=True)
    failed = sum("Diffusion distance failed" in message for message in messages)
    return float(value), of_types["kBET"].to_numpy(dtype=float), failed


@contextmanager
def _seeded() -> Iterator[None]:
    """NumPy's own generator from one seed, and as it was afterwards: scib-metrics takes no seed."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(SEED)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextmanager
def _messages(name: str) -> Iterator[list[str]]:
    """What a package logs: scib-metrics tells an error of a type in no other way, and scores it 0."""
    logger, found = logging.getLogger(name), []
    handler, level = logging.Handler(), logger.level
    handler.emit = lambda record: found.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
