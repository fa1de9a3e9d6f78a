"""Fits from a file of sufficient statistics."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.data import FilteredCounts
from nmfbench.errors import InputError
from nmfbench.gram_cost import host_gram_mb
from nmfbench.models.autoencoder.estimator import Autoencoder
from nmfbench.models.labels import encode_conditions
from nmfbench.rows.memory import RowSource
from nmfbench.statistics import Statistics, load

log = logging.getLogger(__name__)


def fit_file(
    model: Autoencoder,
    path: str | Path,
    data: FilteredCounts,
    normalisation: Mapping[str, Any],
    *,
    conditions: Any,
    rows: RowSource | None = None,
    gene_factors: np.ndarray | None = None,
    **around: Any,
) -> bool:
    """Fit `model` from a file of statistics; the cells are left to be embedded.

    Parameters
    ----------
    model : Autoencoder
    path : path
        Statistics of all cells of `data`.
    data : FilteredCounts
    normalisation : mapping
        ``target_sum`` and ``log1p``.
    conditions : DataFrame or None
        The condition columns of the cells, for a conditional model.
    gene_factors : (genes,) array, optional
        What each gene's values are multiplied with, in the statistics as in `rows`.
    rows, **around
        As in :meth:`Autoencoder.fit_statistics`.

    Returns
    -------
    bool
        False where the model needs a Gram matrix for each donor and these were too large to gather: nothing
        was done then.

    Raises
    ------
    InputError
        If the statistics are damaged, or of other data, another normalisation or other conditions.
    """
    began = time.monotonic()
    statistics = load(path, memory_map=True)
    statistics.require(fingerprint=data.fingerprint, normalisation=dict(normalisation))
    if model.is_conditional:
        _check_columns(path, statistics, conditions)
    if model.needs_donor_grams and statistics.donor_grams is None:
        log.warning("%s holds no Gram matrix for each donor: the cells themselves are fitted", path)
        return False
    if gene_factors is not None:
        statistics = scaled_in_memory(path, statistics, gene_factors, model.gram_memory_mb)
    log.info("statistics of %d cells read and checked in %.1f s", data.n_cells, time.monotonic() - began)
    model.fit_statistics(statistics, rows=rows, **around)
    if model.stop_reason_ == "interrupted":
        return True
    if model.is_conditional:
        model.conditions_ = encode_conditions(conditions, data.n_cells)
    return True


def scaled_in_memory(
    path: str | Path, statistics: Statistics, factors: np.ndarray, gram_memory_mb: float | str
) -> Statistics:
    """The statistics in `path` with their genes scaled, where `gram_memory_mb` has room for XᵀX."""
    need, room_mb = statistics.gram.nbytes, host_gram_mb(gram_memory_mb)
    if need > room_mb * 2**20:
        raise InputError(
            f"{path}: gene_scaling",
            f"XᵀX, which is scaled in memory, within gram_memory_mb = {room_mb:.0f}",
            f"{need / 2**20:.0f} MiB",
            "raise gram_memory_mb, keep fewer genes, or set gene_scaling: none",
        )
    return statistics.scaled(factors)


def _check_columns(path: str | Path, statistics: Statistics, conditions: Any) -> None:
    gathered, wanted = list(statistics.layout.conditions), list(conditions.columns)
    if gathered != wanted:
        raise InputError(
            f"{path}: condition columns", ", ".join(wanted), ", ".join(gathered),
            "gather the statistics of the present settings: delete the file and run again",
        )  # fmt: skip
