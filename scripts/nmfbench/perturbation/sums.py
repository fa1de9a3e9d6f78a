"""Sums over groups of cells, gathered in one streamed pass: all that most predictors ever see."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.compiled import compiled
from nmfbench.perturbation.screen import CONTROL, Screen
from nmfbench.perturbation.splits import LEFT_OUT, TRAIN_CONTROL, Split


@dataclass(frozen=True)
class Sums:
    """Sums of the counts of groups of cells.

    A group is the cells of one target, role (:mod:`nmfbench.perturbation.splits`), phase and half.

    Attributes
    ----------
    target, fold, phase, half : ndarray of shape (groups,)
        What the group is; the target -1 is the control.
    n, size, size_squared, total : ndarray of shape (groups,)
        Cells, sums of the size factors and of their squares, counts.
    counts : ndarray of shape (groups, genes), float64
        Sums of the counts.
    logs, log_squares : ndarray of shape (groups, genes), float64
        Sums of ``log1p(target_sum * counts / total of the cell)`` and of its square.
    control_squares, control_sized : ndarray of shape (genes,)
        Of the control cells for training: sums of ``y**2`` and of ``s*y``.
    control_sizes : ndarray
        Size factors of these cells.
    ref_depth : float
        Median counts of the control cells for training; the size factor of a cell is its total over it.
    target_sum : float
        Counts that cells are scaled to.
    genes, targets, gene_of : ndarray
        Names, and the gene that each target is (-1: none).
    phase_shares : ndarray of shape (targets + 1, 3)
        Cells of each phase among the training cells by target; the last row is all of them.
    """

    target: np.ndarray
    fold: np.ndarray
    phase: np.ndarray
    half: np.ndarray
    n: np.ndarray
    size: np.ndarray
    size_squared: np.ndarray
    total: np.ndarray
    counts: np.ndarray
    logs: np.ndarray
    log_squares: np.ndarray
    control_squares: np.ndarray
    control_sized: np.ndarray
    control_sizes: np.ndarray
    ref_depth: float
    target_sum: float
    genes: np.ndarray
    targets: np.ndarray
    gene_of: np.ndarray
    phase_shares: np.ndarray

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return max(int(self.fold.max(initial=-1)) + 1, 0)

    def training(self, fold: int) -> np.ndarray:
        """Mask of the groups of perturbed cells that are trained on in a fold, shape (groups,)."""
        return (self.target >= 0) & (self.fold >= -1) & (self.fold != fold)

    def held_out(self, fold: int) -> np.ndarray:
        """Mask of the groups that are held out in a fold."""
        return (self.target >= 0) & (self.fold == fold)

    def by_target(self, mask: np.ndarray) -> GroupedSums:
        """Sums of the groups of `mask`, added up by target."""
        targets, place = np.unique(self.target[mask], return_inverse=True)

        def added(values: np.ndarray) -> np.ndarray:
            result = np.zeros((len(targets), *values.shape[1:]))
            np.add.at(result, place, values[mask])
            return result

        names = ("n", "size", "size_squared", "total", "counts", "logs", "log_squares")
        return GroupedSums(targets, **{name: added(getattr(self, name)) for name in names})

    def save(self, path: str | Path) -> None:
        """Write all arrays, in one file."""
        stored = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        for name in ("genes", "targets"):
            stored[name] = stored[name].astype(str)
        np.savez(path, **stored)

    def fingerprint(self) -> str:
        """Digest of what a fit depends on, for checkpoints."""
        digest = hashlib.sha256(json.dumps([self.genes.tolist(), self.targets.tolist()]).encode())
        for array in (self.target, self.fold, self.n, self.counts, self.size):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class GroupedSums:
    """Sums by target; the attributes are those of :class:`Sums`."""

    target: np.ndarray
    n: np.ndarray
    size: np.ndarray
    size_squared: np.ndarray
    total: np.ndarray
    counts: np.ndarray
    logs: np.ndarray
    log_squares: np.ndarray

    @property
    def profiles(self) -> np.ndarray:
        """Mean log1p profile of each target, shape (targets, genes)."""
        return self.logs / self.n[:, None]

    @property
    def profile_variances(self) -> np.ndarray:
        """Variance of each mean, shape (targets, genes): that of the cells over their number."""
        n = self.n[:, None]
        of_cells = np.maximum(self.log_squares / n - self.profiles**2, 0) * n / np.maximum(n - 1, 1)
        return of_cells / n


def read_sums(path: str | Path) -> Sums:
    """Read what :meth:`Sums.save` wrote."""
    with np.load(path) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    for name in ("genes", "targets"):
        arrays[name] = arrays[name].astype(object)
    for name in ("ref_depth", "target_sum"):
        arrays[name] = float(arrays[name])
    return Sums(**arrays)


def gather_sums(screen: Screen, split: Split, target_sum: float | str = "auto") -> Sums:
    """Add up the cells of a screen, a block of rows at a time.

    Parameters
    ----------
    screen, split
        The cells and their roles.
    target_sum : float or "auto"
        Counts that each cell is scaled to; ``auto`` is the median total of all control cells.

    Returns
    -------
    Sums
    """
    control_totals = split.totals[screen.codes == CONTROL]
    ref_depth = float(np.median(split.totals[split.fold == TRAIN_CONTROL]))
    scaled_to = float(np.median(control_totals)) if target_sum == "auto" else float(target_sum)
    sizes = np.maximum(split.totals / ref_depth, 1e-8)
    keys = np.stack([screen.codes, split.fold, split.phase, split.half], axis=1).astype(np.int64)
    keys[split.fold == LEFT_OUT] = (-9, LEFT_OUT, 0, 0)
    groups, place = np.unique(keys, axis=0, return_inverse=True)
    place = place.ravel()
    used = groups[:, 0] > -9
    renumbered = np.where(used, np.cumsum(used) - 1, -1)
    group_of, groups = renumbered[place], groups[used]
    n_groups, n_genes = len(groups), screen.counts.n_genes
    counts, logs, squares = (np.zeros((n_groups, n_genes)) for _ in range(3))
    control_squares, control_sized = np.zeros(n_genes), np.zeros(n_genes)
    for start, block in screen.counts.blocks():
        rows = slice(start, start + block.shape[0])
        scale = scaled_to / np.maximum(split.totals[rows], 1e-12)
        arrays = (block.data, block.indices, block.indptr.astype(np.int64))
        _add_rows(*arrays, group_of[rows], scale, counts, logs, squares)
        _add_control(*arrays, split.fold[rows] == TRAIN_CONTROL, sizes[rows], control_squares, control_sized)
    there = group_of >= 0

    def added(values: np.ndarray) -> np.ndarray:
        return np.bincount(group_of[there], values[there], minlength=n_groups)

    return Sums(
        **dict(zip(("target", "fold", "phase", "half"), groups.T.copy(), strict=True)),
        n=added(np.ones(len(sizes))),
        size=added(sizes),
        size_squared=added(sizes**2),
        total=added(split.totals),
        counts=counts,
        logs=logs,
        log_squares=squares,
        control_squares=control_squares,
        control_sized=control_sized,
        control_sizes=sizes[split.fold == TRAIN_CONTROL],
        ref_depth=ref_depth,
        target_sum=scaled_to,
        genes=screen.genes,
        targets=np.array(screen.targets, dtype=object),
        gene_of=screen.gene_of,
        phase_shares=_phase_shares(screen, split),
    )


def _phase_shares(screen: Screen, split: Split) -> np.ndarray:
    """Cells by phase of the targets, among cells that are not left out; all in the last row."""
    n_targets = len(screen.targets)
    counted = (split.fold >= -1) & (screen.codes >= 0)
    shares = np.zeros((n_targets + 1, 3))
    np.add.at(shares, (screen.codes[counted], split.phase[counted]), 1.0)
    shares[-1] = shares[:-1].sum(axis=0)
    return shares


@compiled()
def _add_rows(data, indices, indptr, group, scale, counts, logs, squares):
    for row in range(len(indptr) - 1):
        g = group[row]
        if g < 0:
            continue
        for entry in range(indptr[row], indptr[row + 1]):
            column, value = indices[entry], np.float64(data[entry])
            scaled = np.log1p(scale[row] * value)
            counts[g, column] += value
            logs[g, column] += scaled
            squares[g, column] += scaled * scaled


@compiled()
def _add_control(data, indices, indptr, control, sizes, squares, sized):
    for row in range(len(indptr) - 1):
        if not control[row]:
            continue
        for entry in range(indptr[row], indptr[row + 1]):
            column, value = indices[entry], np.float64(data[entry])
            squares[column] += value * value
            sized[column] += sizes[row] * value
