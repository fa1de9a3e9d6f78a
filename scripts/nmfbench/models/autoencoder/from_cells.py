"""Full-batch fits of the estimators: from their rows to the solvers on statistics, and back to a history."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numba
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.loop import State
from nmfbench.fitting.progress import Progress
from nmfbench.linalg import SparseRows
from nmfbench.memory import peak_mb
from nmfbench.models.autoencoder.costs import gram_method
from nmfbench.models.autoencoder.exact import ConditionSums, GramOperator, SolverResult, SparseOperator
from nmfbench.models.autoencoder.exact.adapters import operator_of
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.penalties import co_occurrence
from nmfbench.rows.memory import BLOCK_ROWS, RowSource
from nmfbench.statistics import Layout, gather_shard
from nmfbench.statistics.grams import check_gpu_memory

if TYPE_CHECKING:
    from nmfbench.models.autoencoder.estimator import Autoencoder, FitData

log = logging.getLogger(__name__)

SMALL_PRODUCT = 5e7
"""Multiply-adds of a product, about a millisecond of one thread, below which BLAS does it in one thread."""


class Cells(Protocol):
    """What a descent asks of the cells besides products with XᵀX."""

    n_cells: int
    has_types: bool

    def condition_sums(self, *, by_type: bool) -> ConditionSums:
        """Sums of the cells of each condition, within each cell type where `by_type`."""


@dataclass(frozen=True)
class RowCells:
    """`Cells` from their rows, wherever these lie."""

    data: FitData

    @property
    def n_cells(self) -> int:
        return self.data.source.n_rows

    @property
    def has_types(self) -> bool:
        return self.data.strata is not None

    def condition_sums(self, *, by_type: bool) -> ConditionSums:
        data = self.data
        codes, m = data.conditions.codes, data.conditions.size
        types = data.strata if by_type else np.zeros(len(codes), np.int64)
        q = int(types.max()) + 1
        sums = torch.zeros((q * m, data.source.n_columns), dtype=torch.float64)
        for start, block in data.source.blocks(BLOCK_ROWS):
            rows, part = SparseRows(block), slice(start, start + block.shape[0])
            for column in codes[part].T:
                rows.group_sums(types[part] * m + column, sums)
        counts = co_occurrence(torch.from_numpy(codes), m, torch.from_numpy(types), q).numpy()
        return ConditionSums(sums=sums.numpy().reshape(q, m, -1), counts=counts.round().astype(np.int64))


def operator_from_rows(model: Autoencoder, data: FitData) -> Operator:
    """What the solvers take, from the cells, by the route that `model` chose."""
    codes = data.conditions.codes[:, 0] if model._own_loadings else None
    if model.solver_choice_.route == "sparse":
        return SparseOperator(data.source.csr, groups=codes)
    return gram_operator(data.source, codes, model.gram_memory_mb, model.device_)


def fit_exact(
    model: Autoencoder,
    cells: Cells,
    operator: Callable[[], Operator],
    seed: int,
    *,
    checkpoint: Checkpoint | None,
    stored: tuple[dict[str, np.ndarray], dict[str, Any]] | None,
    should_stop: Callable[[], bool] | None,
    progress: bool | None,
) -> tuple[dict[str, np.ndarray], State]:
    """Fit `model` to all cells at once.

    Parameters
    ----------
    model : Autoencoder
        Its parameters, and its ``_descend``.
    cells : Cells
    operator : callable
        Makes the operator; called with the threads of the job.
    seed : int
    checkpoint, stored, should_stop, progress
        As in :func:`nmfbench.fitting.loop.train`.

    Returns
    -------
    weights : dict of str to ndarray
        As a minibatch problem keeps them: ``"W"`` (genes x k), ``"U"`` where the model has it.
    state : State
        ``stop_reason`` is ``"converged"``, ``"max_sweeps"`` or ``"interrupted"``.
    """
    follower = _Follower(model, cells.n_cells, seed, checkpoint, stored, should_stop, progress)
    try:
        with _numba_threads(torch.get_num_threads()):
            held = operator()
            with _blas_threads(held, model.n_components):
                result = model._descend(
                    held,
                    cells,
                    init=model.init,
                    seed=seed,
                    max_iter=model.max_sweeps,
                    tol=model.solver_tol,
                    state=None if stored is None else stored[0],
                    watch=follower,
                )
    finally:
        follower.bar.close()
    if result.stop_reason != "interrupted":
        follower.save()
    return _weights(result), follower.state(result)


def gram_operator(
    source: RowSource, codes: np.ndarray | None, memory_mb: float | None, device: str
) -> GramOperator:
    """XᵀX of all cells, or of the cells of each code, from one pass over the rows.

    Raises
    ------
    InputError
        If it does not fit in `memory_mb` or on the GPU, before the first block is read.
    """
    n, p = source.n_rows, source.n_columns
    # Metal has no double precision: the processor takes its place, as for all small sums.
    device = device if device.startswith("cuda") else "cpu"
    categories = () if codes is None else tuple(str(c) for c in range(int(codes.max()) + 1))
    layout = Layout(
        fingerprint="",
        genes=tuple(map(str, range(p))),
        n_cells=n,
        conditions={} if codes is None else {"condition": categories},
        donor_grams=codes is not None,
        method=gram_method(n, p, source.nnz, device),
        dtype="float64" if source.dtype == np.float64 else "float32",
    )
    check_gpu_memory(layout, [device], BLOCK_ROWS, None)
    labels = np.zeros((n, 0), np.int64) if codes is None else codes[:, None]
    blocks = ((X, labels[start : start + X.shape[0]], None) for start, X in source.blocks(BLOCK_ROWS))
    statistics = gather_shard(blocks, layout, device=device, memory_mb=memory_mb)
    return operator_of(statistics, by_donor=codes is not None, device=device, dtype=source.dtype)


def _weights(result: SolverResult) -> dict[str, np.ndarray]:
    weights = {"W": np.ascontiguousarray(result.W.T)}
    if result.U is not None:
        weights["U"] = result.U if result.U.ndim == 2 else result.U.transpose(0, 2, 1)
    return weights


class _Follower:
    """Told of every sweep: keeps the history and the newest state that can be resumed, asks whether to stop.

    A descent can go on only from a sweep at which its images were computed afresh (every tenth), so a stop
    in between gives the sweeps since then up; resumed, they are taken again, to the same bits.
    """

    def __init__(self, model, n_cells, seed, checkpoint, stored, should_stop, progress) -> None:
        self.n_cells, self.seed = n_cells, seed
        self.checkpoint = checkpoint
        self.should_stop = should_stop or (lambda: False)
        record = {"history": [], "preparation": 0.0} if stored is None else stored[1]
        self.history: list[dict[str, float]] = record["history"]
        self._began: float | None = time.monotonic()
        self._preparation = record["preparation"]
        self._newest: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None
        self.name = type(model).__name__
        self.bar = Progress(self.name, model.max_sweeps, max(len(self.history) - 1, 0), progress)

    def __call__(self, row: dict, state: dict[str, np.ndarray] | None) -> bool:
        if self._began is not None:  # the first time: all before the descent was the pass and the start
            spent = row["seconds"] - row["seconds_before"]
            self._preparation += time.monotonic() - self._began - spent
            self._began = None
        seconds = row["seconds"] + self._preparation
        spent = seconds - (self.history[-1]["seconds"] if self.history else 0.0)
        left_out = ("iteration", "objective", "relative_error", "seconds", "seconds_before", "products")
        self.history.append(
            {
                "epoch": row["iteration"],
                "objective": row["objective"],
                **{name: value for name, value in row.items() if name not in left_out},
                "relative_error": row["relative_error"],
                "seconds": seconds,
                "cells_per_s": self.n_cells / spent if row["iteration"] else 0.0,
                "peak_mb": peak_mb(),
            }
        )
        self.bar.update(self.history[-1])
        if state is not None:
            kept = {"history": list(self.history), "preparation": self._preparation}
            self._newest = (state, {"seed": self.seed, **kept})
        stop = row["iteration"] > 0 and self.should_stop()
        if stop or (self.checkpoint is not None and self.checkpoint.is_due()):
            self.save()
        return stop

    def save(self) -> None:
        """Write the newest state, unless it is written."""
        if self.checkpoint is not None and self._newest is not None:
            self.checkpoint.save(*self._newest)
            self._newest = None

    def state(self, result: SolverResult) -> State:
        """The end of the fit, as the minibatch loop tells it."""
        reason = "max_sweeps" if result.stop_reason == "max_iter" else result.stop_reason
        log.info(
            "%s: %s after %d sweeps and %.1f s, objective %.6g (relative error %.4f)",
            self.name, reason, result.n_iter, self.history[-1]["seconds"], result.objective,
            result.relative_error,
        )  # fmt: skip
        return State(
            seed=self.seed,
            epoch=result.n_iter,
            best=result.objective,
            best_epoch=result.n_iter,
            best_error=result.relative_error,
            seconds=self.history[-1]["seconds"],
            stop_reason=reason,
            history=self.history,
        )


@contextmanager
def _blas_threads(operator: Operator, rank: int) -> Iterator[None]:
    """One thread for products so small that handing half of them over takes longer than making them."""
    by = operator.block_size if isinstance(operator, GramOperator) else rank
    if by * operator.n_genes * rank >= SMALL_PRODUCT:
        yield
        return
    with threadpool_limits(1, "blas"):
        yield


@contextmanager
def _numba_threads(n: int) -> Iterator[None]:
    """numba's own pool held to the threads that the job was given."""
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(n, numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)
