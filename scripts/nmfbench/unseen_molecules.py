"""Which rank the data support: fits of half of the molecules, judged by the other half."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.endings import Interrupted
from nmfbench.job import Job
from nmfbench.rank_selection import check_ranks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from nmfbench.rows.memory import RowSource
    from nmfbench.statistics import Statistics

log = logging.getLogger(__name__)


def score_unseen_molecules(
    filtered: str | Path,
    table: str | Path,
    *,
    kind: str,
    name: str,
    settings: Mapping[str, Any],
    ranks: Sequence[int],
    seeds: Sequence[int],
    normalisation: Mapping[str, Any],
    gene_scaling: str,
    device: str,
    run: Job,
) -> None:
    """Fit one model to half of the molecules of all cells at every rank, and write the other half from it.

    Each molecule goes to either half with chance one half (:func:`nmfbench.data.halves.split_counts`). Both
    are normalised like whole cells, and scaled by the genes of the half that is fitted. Fits begin at
    NNDSVD; every seed is another split. Finished fits are kept beside the table until all are done: a job
    that was killed goes on from there.

    Parameters
    ----------
    filtered : path
        The filtered counts, which are held in memory.
    table : path
        One row per fit, tab-separated.
    kind, name : str
        The registered model, and its name in the config.
    settings : mapping
        The estimator's parameters from the config.
    ranks, seeds : sequence of int
    normalisation : mapping
        ``target_sum`` and ``log1p``.
    gene_scaling : {"none", "unit_variance", "sqrt"}
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    run : Job

    Raises
    ------
    InputError
        If a count is no whole number, a rank is too large, or XᵀX does not fit in `gram_memory_mb`.
    Interrupted
        If the job was told to stop; finished fits are kept.
    """
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from nmfbench.data import AS_COUNTED
    from nmfbench.data.filtered import load_normalised
    from nmfbench.models import get_model
    from nmfbench.tables.files import write_table

    counts = load_normalised(filtered, **AS_COUNTED)
    check_ranks(ranks, *counts.shape)
    folder = Path(table).with_suffix(".fits")
    options = {**settings, "init": "nndsvd", "device": device}
    around = {"should_stop": run.stop_requested, "progress": False}
    rows: list[dict[str, Any]] = []
    with threadpool_limits(run.threads):
        for seed in seeds:
            seen, unseen = halves_of(counts, seed, normalisation, gene_scaling)
            statistics = _statistics_of(seen, options.get("gram_memory_mb"))
            operator = None
            for rank in ranks:
                model = get_model(kind)(rank, **options, random_state=seed)
                operator = operator or model.gram_of(statistics)
                place = folder / f"rank-{rank}-seed-{seed}"
                model.fit_statistics(statistics, operator=operator, checkpoint=place, **around)
                if model.stop_reason_ == "interrupted":
                    raise Interrupted("the finished fits are kept; run the same command again to go on")
                row = {
                    "model": name,
                    "rank": rank,
                    "seed": seed,
                    "n_cells": statistics.n_cells,
                    "unseen_error": unseen_error(model.components_, seen, unseen),
                    "relative_error": model.relative_error_,
                    "sweeps": model.n_iter_,
                    "stop_reason": model.stop_reason_,
                    "seconds": model.history_[-1]["seconds"],
                }
                log.info("rank %d, seed %d: error of unseen molecules %.4f", rank, seed, row["unseen_error"])
                rows.append(row)
    write_table(pd.DataFrame(rows), table)
    shutil.rmtree(folder, ignore_errors=True)


def halves_of(
    counts: csr_matrix, seed: int, normalisation: Mapping[str, Any], gene_scaling: str
) -> tuple[RowSource, RowSource]:
    """Normalised values of two random halves of the molecules, both scaled by the genes of the first.

    Returns
    -------
    seen, unseen : RowSource of (cells, genes), float32
    """
    from scipy import sparse

    from nmfbench.data import normalise_block
    from nmfbench.data.halves import split_counts
    from nmfbench.rows.memory import InMemoryRows
    from nmfbench.rows.scaled import gene_factors, gene_moments, scaled_rows

    sources = []
    for part in split_counts(counts, 0, [seed, 1]):
        # a copy: what drops its zeros must not share its indices
        half = sparse.csr_matrix((part, counts.indices, counts.indptr), counts.shape, copy=True)
        half.eliminate_zeros()
        sources.append(InMemoryRows(normalise_block(half, **normalisation)))
    if gene_scaling != "none":
        factors = gene_factors(gene_scaling, *gene_moments(sources[0]), counts.shape[0])
        sources = [scaled_rows(source, factors) for source in sources]
    return sources[0], sources[1]


def unseen_error(W: np.ndarray, seen: RowSource, unseen: RowSource) -> float:
    """``||Y - X Wᵀ W||² / ||Y||²``: one half of the molecules, Y, written from the other, X.

    With H = X Wᵀ it is ``1 - (2 <H, Y Wᵀ> - <Hᵀ H, W Wᵀ>) / ||Y||²``: nothing of cells x genes is dense.

    Parameters
    ----------
    W : (k, genes) array
    seen, unseen : RowSource
        X and Y.
    """
    from nmfbench.models.autoencoder.embed import times_blocks

    A, cross, size = np.zeros((len(W), len(W))), 0.0, 0.0
    for (_, H), (_, other) in zip(times_blocks(W, seen), times_blocks(W, unseen), strict=True):
        H = H.astype(np.float64)
        A += H.T @ H
        cross += float((H * other).sum())
    for _, block in unseen.blocks():
        size += float(np.square(block.data, dtype=np.float64).sum())
    W = W.astype(np.float64)
    return 1 - (2 * cross - float((A * (W @ W.T)).sum())) / size


def _statistics_of(source: RowSource, gram_memory_mb: float | str | None) -> Statistics:
    """Sums of the rows, in memory: what every rank is fitted from."""
    from nmfbench.gram_cost import host_gram_mb
    from nmfbench.models.autoencoder.costs import gram_method
    from nmfbench.rows.memory import BLOCK_ROWS
    from nmfbench.statistics import Layout, gather_shard

    n, p = source.n_rows, source.n_columns
    layout = Layout(
        fingerprint=source.fingerprint(),
        genes=tuple(map(str, range(p))),
        n_cells=n,
        conditions={},
        method=gram_method(n, p, source.nnz, "cpu"),
    )
    blocks = ((X, np.zeros((X.shape[0], 0), np.int64), None) for _, X in source.blocks(BLOCK_ROWS))
    memory = None if gram_memory_mb is None else host_gram_mb(gram_memory_mb)
    return gather_shard(blocks, layout, memory_mb=memory)
