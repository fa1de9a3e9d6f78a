"""Known shifts of the log mean: sequencing depth of each cell, length of each gene."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmfbench.data.by_name import keys_of, uniform_of
from nmfbench.errors import InputError

log = logging.getLogger(__name__)

REFERENCE_DEPTH, REFERENCE_LENGTH = 1e5, 2000.0
PUBLISHED_DEPTH, PUBLISHED_LENGTHS = 1e4, (1000.0, 3000.0)
"""What the published notebook takes where its tables have nothing."""


@dataclass
class Offsets:
    """Log offsets and what has to be said about them.

    Attributes
    ----------
    size : ndarray of shape (cells,)
        ``s_i``, with 0 at the median of the fitted cells (for ``total`` and ``column``).
    length : ndarray of shape (genes,)
        ``l_g``.
    record : dict
        For ``run.json`` and ``uns``: mode, columns, what was simulated and how many cells fell back.
    """

    size: np.ndarray
    length: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)


def size_offsets(
    mode: str,
    totals: np.ndarray,
    fitted: np.ndarray,
    obs: Any,
    column: str | None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """``s_i`` of every cell.

    Parameters
    ----------
    mode : {"total", "column", "constant", "none"}
    totals : ndarray of shape (cells,)
        Of :func:`~nmfbench.models.held_out_entries.training_totals`.
    fitted : ndarray of int
        Cells of the panel: the median is theirs.
    obs : DataFrame or None
    column : str or None

    Returns
    -------
    size : ndarray of shape (cells,)
    record : dict
    """
    record: dict[str, Any] = {"offset": mode}
    if mode == "none":
        return np.zeros(len(totals)), record
    if mode == "constant":
        depth, record["depth_simulated"] = PUBLISHED_DEPTH, True
        if column is not None:
            values = _numbers(obs, column, "obs", "depth_column")[fitted]
            good = values[np.isfinite(values) & (values > 0)]
            if len(good):
                depth, record["depth_simulated"] = float(np.median(good)), False
        record |= {"depth": depth, "depth_column": column}
        if record["depth_simulated"]:
            log.warning("depth: no column, the published fallback of %g for every cell", depth)
        return np.full(len(totals), np.log(depth / REFERENCE_DEPTH)), record
    depth = totals
    if mode == "column":
        if column is None:
            raise InputError(
                "offset='column'",
                "depth_column: a numeric column of obs",
                "none",
                "name it, or set offset: total",
            )
        values = _numbers(obs, column, "obs", "depth_column")
        good = np.isfinite(values) & (values > 0)
        if not good.any():
            raise InputError(
                f"obs[{column!r}]",
                "a positive depth for at least some cells",
                "none is a positive number",
                "name another depth_column, or set offset: total",
            )
        # A missing depth is the cell's total in the units of the others.
        unit = np.median(values[good]) / np.median(totals[good])
        depth = np.where(good, values, totals * unit)
        record |= {"depth_column": column, "cells_by_total": int((~good).sum())}
        if record["cells_by_total"]:
            log.warning(
                "obs[%r]: %d cells have no depth and take their total", column, record["cells_by_total"]
            )
    return np.log(depth / np.median(depth[fitted])), record


def length_offsets(
    mode: str, names: Any, n_genes: int, var: Any, column: str | None, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """``l_g`` of every gene.

    Parameters
    ----------
    mode : {"none", "column", "uniform"}
        ``uniform`` draws lengths from 1,000 to 3,000 by the genes' names, as the published notebook does
        (by place, there); it adds known noise that the gene effects undo.
    names : sequence of str or None
    var : DataFrame or None
    column : str or None
    seed : int
        Of ``uniform``.
    """
    record: dict[str, Any] = {"length": mode, "length_simulated": mode == "uniform"}
    if mode == "none":
        return np.zeros(n_genes), record
    if mode == "uniform":
        low, high = PUBLISHED_LENGTHS
        lengths = low + (high - low) * uniform_of(keys_of(names, n_genes, seed, "length"))
        log.warning(
            "gene lengths are simulated (uniform from %g to %g), as in the published notebook", low, high
        )
        return np.log(lengths / REFERENCE_LENGTH), record | {"offset_seed": seed}
    if column is None:
        raise InputError("length='column'", "length_column: a numeric column of var", "none", "name it")
    lengths = _numbers(var, column, "var", "length_column")
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        raise InputError(
            f"var[{column!r}]",
            "a positive length for every gene",
            f"{bad.sum()} genes without, the first is number {int(np.flatnonzero(bad)[0])}",
            "complete the column, drop these genes, or set length: none (right for UMI counts)",
        )
    return np.log(lengths / REFERENCE_LENGTH), record | {"length_column": column}


def _numbers(frame: Any, column: str, what: str, key: str) -> np.ndarray:
    columns = [] if frame is None else [str(name) for name in frame.columns]
    if column not in columns:
        raise InputError(
            f"{what}[{column!r}]",
            f"the column that {key} names",
            f"the columns {', '.join(columns)}" if columns else f"no table {what}",
            "mend the name"
            + ("; columns of obs are kept by datasets.<name>.keep_obs" if what == "obs" else ""),
        )
    import pandas as pd

    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
