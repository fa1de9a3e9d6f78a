"""All integration scores of one embedding: how well it mixes donors and keeps cell types.

They read the embedding as it is given, not z-scored, and one table of its exact nearest neighbours. A score
that has no meaning for the data (one donor, one cell type) is a row that says so, one that fails a row with
the error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.metrics import DEFAULT_INTEGRATION_METRICS, METRICS
from nmfbench.metrics import mixing as near
from nmfbench.metrics import separation as far
from nmfbench.metrics.kbet import kbet
from nmfbench.metrics.labels import check_embedding, encode_labels, stratified_sample
from nmfbench.metrics.neighbours import Neighbours

if TYPE_CHECKING:
    import pandas as pd

    from nmfbench.metrics.reference import Reference

logger = logging.getLogger(__name__)

COLUMNS = ("metric", "label", "value", "unscaled", "n_cells", "seconds", "status", "message")


@dataclass
class _Cells:
    """One embedding with what its scores share."""

    H: np.ndarray
    types: np.ndarray
    donors: np.ndarray
    names: np.ndarray
    neighbours: Neighbours
    reference: Reference | None
    silhouette_cells: int
    entropy_neighbours: int
    kbet_cells: int
    n_jobs: int
    notes: list[str] = field(default_factory=list)

    @cached_property
    def known(self) -> np.ndarray:
        """Cells that have both labels."""
        return np.flatnonzero((self.types >= 0) & (self.donors >= 0))

    @cached_property
    def silhouettes(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells with a silhouette, and these: all cells, or a sample that keeps the cell types."""
        cells = self.known
        if cells.size > self.silhouette_cells:
            cells = cells[stratified_sample(self.types[cells], self.silhouette_cells, seed=0, minimum=2)]
        codes = np.unique(self.types[cells], return_inverse=True)[1]
        return cells, far.silhouettes(self.H[cells], codes)

    @property
    def n_types(self) -> int:
        return int(self.types.max()) + 1

    @property
    def n_donors(self) -> int:
        return int(self.donors.max()) + 1


Score = tuple[float, float, int]  # scaled, as it is, cells


def _ilisi(c: _Cells) -> Score:
    found = near.lisi(c.neighbours, c.donors)
    median = float(np.nanmedian(found))
    return (median - 1.0) / (c.n_donors - 1.0), median, int(np.isfinite(found).sum())


def _clisi(c: _Cells) -> Score:
    found = near.lisi(c.neighbours, c.types)
    median = float(np.nanmedian(found))
    return (c.n_types - median) / (c.n_types - 1.0), median, int(np.isfinite(found).sum())


def _cilisi(c: _Cells) -> Score:
    scaled = near.conditional_lisi(c.H, c.types, c.donors, n_jobs=c.n_jobs)
    if not scaled:
        return np.nan, np.nan, 0
    cells = np.concatenate(scaled)
    return float(cells.mean()), float(np.mean([group.mean() for group in scaled])), cells.size


def _bras(c: _Cells) -> Score:
    value = far.batch_silhouette(c.H[c.known], c.types[c.known], c.donors[c.known])
    return value, value, c.known.size


def _pcr(c: _Cells) -> Score:
    if c.reference is None:
        return np.nan, np.nan, 0
    cells = np.flatnonzero(c.donors >= 0)
    before = far.donor_variance(c.reference.components[cells], c.donors[cells])
    after = far.donor_variance(c.H[cells], c.donors[cells])
    return max(0.0, (before - after) / before), after - before, cells.size


def _asw(c: _Cells) -> Score:
    cells, found = c.silhouettes
    mean = float(found.mean())
    return (mean + 1.0) / 2.0, mean, cells.size


def _isolated(c: _Cells) -> Score:
    cells, found = c.silhouettes
    value, n_labels = far.isolated_label_silhouette(found, c.types[cells], c.donors[cells])
    c.notes.append(f"{n_labels} cell types in the fewest donors")
    return value, 2.0 * value - 1.0, cells.size


def _connectivity(c: _Cells) -> Score:
    value = near.graph_connectivity(c.neighbours, c.types)
    return value, value, int((c.types >= 0).sum())


def _ksim(c: _Cells) -> Score:
    shares = near.neighbour_shares(c.neighbours, c.types)
    shares = shares[np.isfinite(shares)]
    return float((shares >= near.KSIM_SHARE).mean()), float(shares.mean()), shares.size


def _entropy(c: _Cells) -> Score:
    found = near.neighbour_entropy(c.neighbours, c.donors, c.entropy_neighbours)
    mean = float(np.nanmean(found))
    return mean, mean * np.log(c.n_donors), int(np.isfinite(found).sum())


def _scgraph(c: _Cells) -> Score:
    if c.reference is None:
        return np.nan, np.nan, 0
    number = {name: place for place, name in enumerate(c.reference.types)}
    types = np.array([number.get(name, -1) for name in c.names] + [-1])[c.types]
    apart = far.type_distances(c.H, types, len(c.reference.types))
    value, n_types = far.graph_of_types(apart, c.reference.consensus)
    c.notes.append(f"{n_types} cell types, {int(c.reference.n_donors)} donors in the consensus")
    return value, value, int((types >= 0).sum())


def _kbet(c: _Cells) -> Score:
    types = np.unique(c.types[c.known], return_inverse=True)[1]
    found = kbet(c.H[c.known], types, c.donors[c.known], n_cells=c.kbet_cells, n_jobs=c.n_jobs)
    c.notes += found.notes
    return found.value, found.value, found.n_cells


_FUNCTIONS: dict[str, Callable[[_Cells], Score]] = {
    "iLISI": _ilisi,
    "CiLISI": _cilisi,
    "BRAS": _bras,
    "PCR": _pcr,
    "graph_connectivity": _connectivity,
    "batch_entropy": _entropy,
    "cLISI": _clisi,
    "ASW_label": _asw,
    "isolated_labels": _isolated,
    "kSIM": _ksim,
    "scGraph": _scgraph,
    "kBET": _kbet,
}
_NEED_DONORS = ("iLISI", "CiLISI", "BRAS", "PCR", "batch_entropy", "isolated_labels", "kBET")
_NEED_TYPES = ("cLISI", "ASW_label", "isolated_labels", "scGraph")


def integration_scores(
    H: Any,
    cell_type: Any,
    donor: Any,
    neighbours: Neighbours,
    reference: Reference | None = None,
    *,
    metrics: Sequence[str] = DEFAULT_INTEGRATION_METRICS,
    silhouette_cells: int = 100_000,
    entropy_neighbours: int = 90,
    kbet_cells: int = 20_000,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Compute the integration scores of one embedding.

    Parameters
    ----------
    H : array-like of shape (n_cells, k)
        Embedding, as the model gives it.
    cell_type, donor : sequence of shape (n_cells,)
        Labels; cells without one are left out of the scores that read it.
    neighbours : Neighbours
        Nearest neighbours in `H` itself.
    reference : Reference, optional
        The unintegrated cells; PCR and scGraph need it.
    metrics : sequence of str
        Which of :data:`~nmfbench.metrics.INTEGRATION_METRICS`.
    silhouette_cells : int
        Above so many cells, silhouettes are of a stratified sample.
    entropy_neighbours : int
        Neighbours of the batch entropy, as far as the table has them.
    kbet_cells : int
        Above so many cells, kBET is of a stratified sample.
    n_jobs : int
        Threads.

    Returns
    -------
    DataFrame
        A row for each metric, columns :data:`COLUMNS`: ``value`` from 0 to 1, higher is better, ``unscaled``
        before that, the cells scored, ``status`` (``ok``, ``not applicable``, ``failed``) and why.
    """
    import pandas as pd

    types, names = encode_labels(cell_type)
    H = check_embedding(H, types.size)
    donors, _ = encode_labels(donor)
    cells = _Cells(
        *(H, types, donors, names, neighbours, reference),
        *(silhouette_cells, entropy_neighbours, kbet_cells, n_jobs),
    )
    rows = []
    for metric in metrics:
        row = {"metric": metric, "label": METRICS[metric].label, "value": np.nan, "unscaled": np.nan}
        row |= {"n_cells": 0, "seconds": np.nan, "message": _why_not(metric, cells)}
        row["status"] = "not applicable" if row["message"] else "ok"
        if not row["message"]:
            start = time.perf_counter()
            cells.notes = []
            try:
                row["value"], row["unscaled"], row["n_cells"] = _FUNCTIONS[metric](cells)
                row["message"] = "; ".join(cells.notes)
            except Exception as error:
                logger.exception("%s failed", metric)
                row |= {"status": "failed", "message": _one_line(error)}
            row["seconds"] = time.perf_counter() - start
            if row["status"] == "ok" and not np.isfinite(row["value"]):
                row |= {"status": "not applicable", "message": "nothing in these cells to compare"}
            logger.info("%s: %.4f (%.1f s)", metric, row["value"], row["seconds"])
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _one_line(error: Exception) -> str:
    """What to say of an error in a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _why_not(metric: str, cells: _Cells) -> str:
    if metric in _NEED_DONORS and cells.n_donors < 2:
        return "one donor: there is nothing to mix"
    if metric in _NEED_TYPES and cells.n_types < 2:
        return "one cell type: there is nothing to keep apart"
    if metric in ("PCR", "scGraph") and cells.reference is None:
        return "no reference of the unintegrated cells"
    if np.all(cells.H.max(axis=0) == cells.H.min(axis=0)):
        return "the embedding is the same in all cells"
    return ""
