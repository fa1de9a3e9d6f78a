"""A fit as TensorBoard shows it: an observer that writes event files and touches nothing else.

Tags, by when they are written:

* every step: ``Loss/train`` and the other scalars of the fit (``Fit/...``); of ``chi_squared`` also the
  best so far, its step, and the present one against it;
* every tenth: mean and standard deviation of the last 50 losses, seconds per step, cells per second (of the
  cells a step has seen), passes over the cells, memory;
* with the state: norm and change of norm of every array (``Norm/...``), histograms, maps of the factors where
  the cells have coordinates, and the genes' mean and CV² of data and fit on sampled cells;
* at the end: the projector, cells with obs and genes with var.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.memory import peak_mb
from nmfbench.shown import shown

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from nmfbench.rows.memory import RowSource

ROLLING = 50
PERFORMANCE_EVERY = 10
_HISTOGRAM_VALUES = 100_000
# of a history's row: the loss, the speed and the memory have tags of their own
_TOLD_OTHERWISE = ("objective", "cells_per_s", "peak_mb")
_ENTRIES = 100_000


class TensorBoardLog:
    """Writes what a fit tells an :class:`~nmfbench.fitting.observer.Observer`.

    It draws its samples from a generator of its own, once; the fit is the same with and without it.

    Parameters
    ----------
    folder : path
        Where the event files go. Those of an earlier run are removed when a fit begins at step 1, and
        overwritten from the first step on when one is resumed.
    n_cells : int
        Cells of the fit.
    state_every : int
        Steps between two looks at the state; 0 looks at the end only.
    rows : RowSource or None
        What the fit sees, in its own order, for the moments of the genes.
    coordinates : ndarray of shape (cells, 2 or more) or None
        For the maps.
    obs, var : DataFrame or None
        For the projector.
    max_points : int or None
        At most so many cells in a map, in the projector and in the moments, and genes in the projector.
    seed : int
        Of the samples.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        n_cells: int,
        state_every: int = 50,
        rows: RowSource | None = None,
        coordinates: np.ndarray | None = None,
        obs: pd.DataFrame | None = None,
        var: pd.DataFrame | None = None,
        max_points: int | None = 5000,
        seed: int = 0,
    ) -> None:
        self.state_every = state_every
        self.folder = Path(folder)
        self._n_cells = n_cells
        self._coordinates, self._obs, self._var = coordinates, obs, var
        self._max_points = max_points
        self._rng = np.random.default_rng(seed)
        self._cells = self._sample(n_cells)
        self._observed = None if rows is None else column_moments(rows.rows(self._cells))
        self._losses: deque[float] = deque(maxlen=ROLLING)
        self._norms: dict[str, float] = {}
        self._best = (np.inf, 0)
        self._seen = 0.0
        self._timed: tuple[int, float, float] | None = None
        self._writer = None

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of step number `step` (from 1), by name, ``loss`` among them.

        ``epoch`` is how often the fit has passed over the cells so far (once more with every step, where it
        is not told), ``seconds`` the time of the fit so far, where it is not now.
        """
        values = {name: value for name, value in values.items() if name not in _TOLD_OTHERWISE}
        epoch, seconds = values.pop("epoch", None), values.pop("seconds", None)
        self._seen = self._seen + self._n_cells if epoch is None else epoch * self._n_cells
        now = time.monotonic() if seconds is None else seconds
        self._open(step)
        loss = values.pop("loss")
        self._losses.append(loss)
        self._scalars(step, {"Loss/train": loss, **{f"Fit/{name}": value for name, value in values.items()}})
        if "chi_squared" in values:
            self._chi_squared(step, values["chi_squared"])
        if self._timed is None:
            self._timed = (step, now, self._seen)
        elif step % PERFORMANCE_EVERY == 0 and step > self._timed[0]:
            self._performance(step, now)

    def state(self, step: int, state: Mapping[str, Any]) -> None:
        """Where the fit stands; see :class:`~nmfbench.fitting.observer.Observer`.

        An array that a fit does not have until its end may be missing. Numbers are written as scalars.
        ``mean_scale``, a number or one for each gene, multiplies ``cell_factors @ gene_factors``
        to be the expected value (1 where it is not told).
        """
        self._open(step)
        for name, values in state.items():
            values = np.asarray(values)
            if values.ndim == 0:
                self._scalars(step, {f"Fit/{name}": float(values)})
                continue
            norm = float(np.sqrt(np.vdot(values, values)))
            change = {f"Norm/{name} change": abs(norm - self._norms[name])} if name in self._norms else {}
            self._scalars(step, {f"Norm/{name}": norm, **change})
            self._norms[name] = norm
            stride = -(-values.size // _HISTOGRAM_VALUES)
            self._writer.add_histogram(f"Histogram/{name}", values.ravel()[::stride], step)
        if "chi_squared" in state:
            self._chi_squared(step, float(state["chi_squared"]))
        cells, genes = state.get("cell_factors"), state.get("gene_factors")
        if cells is not None and self._coordinates is not None:
            self._map(step, np.asarray(cells)[self._cells])
        if cells is not None and genes is not None and self._observed is not None:
            scaled = np.asarray(genes) * np.asarray(state.get("mean_scale", 1.0))
            self._moments(step, np.asarray(cells)[self._cells], scaled)

    def end(self, step: int, state: Mapping[str, Any]) -> None:
        """The last state and the projector; closes the files."""
        self.state(step, state)
        if (cells := state.get("cell_factors")) is not None:
            self._project("cells", np.asarray(cells), self._obs, self._cells, step)
        if (genes := state.get("gene_factors")) is not None:
            self._project("genes", np.asarray(genes).T, self._var, self._sample(np.shape(genes)[1]), step)
        self._writer.close()
        self._writer = None

    def _project(self, name: str, factors, frame: pd.DataFrame | None, rows: np.ndarray, step: int) -> None:
        """The factors of some rows for the projector, which starts from their principal components."""
        metadata = _metadata(frame, rows, name)
        self._writer.add_embedding(factors[rows], **metadata, tag=name, global_step=step)

    def _sample(self, n: int) -> np.ndarray:
        """Positions of at most `max_points` of n rows, ascending."""
        if self._max_points is None or n <= self._max_points:
            return np.arange(n)
        return np.sort(self._rng.choice(n, self._max_points, replace=False))

    def _open(self, step: int) -> None:
        if self._writer is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "tensorboard: true",
                "the package tensorboard",
                str(error),
                "install the packages of requirements.lock, or leave tensorboard off",
            ) from error
        if step <= 1:
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._writer = SummaryWriter(str(self.folder), purge_step=step, flush_secs=30)

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def _chi_squared(self, step: int, value: float) -> None:
        if value < self._best[0]:
            self._best = (value, step)
        best, at = self._best
        self._scalars(
            step,
            {
                "Chi-squared/best": best,
                "Chi-squared/step of the best": at,
                "Chi-squared/above the best": value - best,
                "Chi-squared/best over present": best / value if value else 1.0,
            },
        )

    def _performance(self, step: int, now: float) -> None:
        """Speed since the last time, spread of the recent losses, memory."""
        before, then, seen = self._timed
        spent = max(now - then, 1e-9)
        losses = np.array(self._losses)
        self._scalars(
            step,
            {
                "Loss/rolling mean": losses.mean(),
                "Loss/rolling sd": losses.std(),
                "Speed/seconds per step": spent / (step - before),
                "Speed/cells per second": (self._seen - seen) / spent,
                "Speed/passes over the cells": self._seen / self._n_cells,
                **memory_mb(),
            },
        )
        self._timed = (step, now, self._seen)

    def _map(self, step: int, factors: np.ndarray) -> None:
        from nmfbench.figures.spatial import spatial_figure

        figure = spatial_figure(self._coordinates[self._cells], factors, title=f"step {step}")
        self._image("Factors in space", figure, step)

    def _moments(self, step: int, P: np.ndarray, A: np.ndarray) -> None:
        from nmfbench.figures.moments import moments_figure

        mean, variance = product_moments(P, A)
        observed_mean, observed_variance = self._observed
        moments = {
            "observed_mean": observed_mean,
            "observed_variance": observed_variance,
            "fitted_mean": mean,
            "fitted_variance": variance,
        }
        self._image("Genes/mean and CV²", moments_figure(moments, f"step {step}, {len(P):,} cells"), step)
        rows, columns = (self._rng.integers(0, size, _ENTRIES) for size in (len(P), A.shape[1]))
        fitted = np.einsum("ik,ik->i", P[rows], A.T[columns])
        self._writer.add_histogram("Histogram/fitted values of sampled entries", fitted, step)
        parts = {"mean": fitted.mean(), "sd": fitted.std(), "smallest": fitted.min(), "largest": fitted.max()}
        self._scalars(step, {f"Fitted values/{name}": value for name, value in parts.items()})

    def _image(self, tag: str, figure: Any, step: int) -> None:
        figure.set_dpi(110)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        self._writer.add_image(tag, pixels, step, dataformats="HWC")


def column_moments(X: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (population) of every column of a CSR matrix, float64."""
    n = max(X.shape[0], 1)
    data = X.data.astype(np.float64)
    mean, square = (np.bincount(X.indices, values, minlength=X.shape[1]) / n for values in (data, data**2))
    return mean, np.maximum(square - mean**2, 0)


def product_moments(P: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (population) of every column of ``P A``, without the product.

    With C the covariance of the columns of P, the mean is ``p̄ᵀ A`` and the variance of gene g ``A_gᵀ C A_g``.

    Parameters
    ----------
    P : ndarray of shape (cells, k)
    A : ndarray of shape (k, genes)

    Returns
    -------
    mean, variance : ndarray of shape (genes,), float64
    """
    P, A = P.astype(np.float64), A.astype(np.float64)
    mean = P.mean(axis=0)
    centred = P - mean
    covariance = centred.T @ centred / len(P)
    return mean @ A, np.einsum("kg,kg->g", covariance @ A, A)


def memory_mb() -> dict[str, float]:
    """Memory of this process, and of torch on an accelerator it has used, in megabytes."""
    import torch

    found = {"Memory/process peak MB": peak_mb()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["Memory/cuda allocated MB"] = torch.cuda.memory_allocated() / 1e6
        found["Memory/cuda reserved MB"] = torch.cuda.memory_reserved() / 1e6
        found["Memory/cuda largest allocated MB"] = torch.cuda.max_memory_allocated() / 1e6
    if torch.backends.mps.is_available() and (allocated := torch.mps.current_allocated_memory()):
        found["Memory/mps allocated MB"] = allocated / 1e6
        found["Memory/mps driver MB"] = torch.mps.driver_allocated_memory() / 1e6
    return found


def _metadata(frame: pd.DataFrame | None, rows: np.ndarray, name: str) -> dict[str, Any]:
    """Names and columns of the sampled rows, as text without tabs, line breaks and marks of direction."""
    if frame is None:
        return {"metadata": [str(row) for row in rows]}
    part = frame.iloc[rows]
    columns = [part.index, *(part[column] for column in part)]
    texts = [[" ".join(shown(value).split()) for value in column] for column in columns]
    header = [name[:-1], *(" ".join(shown(column).split()) for column in part.columns)]
    if len(header) == 1:
        return {"metadata": texts[0]}
    return {"metadata": [list(row) for row in zip(*texts, strict=True)], "metadata_header": header}
