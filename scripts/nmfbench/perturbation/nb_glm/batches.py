"""Rows of the steps of AdamW: groups of cells, or cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from nmfbench.perturbation.fold import Fold
from nmfbench.perturbation.nb_glm.descent import Batch, own_pairs
from nmfbench.perturbation.nb_glm.losses import LOSSES
from nmfbench.perturbation.nb_glm.network import LowRankNB
from nmfbench.perturbation.nb_glm.rows import Rows, concise_rows


@dataclass(frozen=True)
class TrainingCells:
    """Cells that are trained on.

    Attributes
    ----------
    counts : csr_matrix of shape (cells, genes)
    target : ndarray of shape (cells,)
        Place among the training targets.
    phase, size : ndarray of shape (cells,)
    """

    counts: sparse.csr_matrix
    target: np.ndarray
    phase: np.ndarray
    size: np.ndarray


class CellBatches:
    """Cells in a new order each epoch; a batch is made dense, never all."""

    def __init__(self, cells: TrainingCells, rows: int, use_sf: bool, device: torch.device) -> None:
        self.cells, self.rows, self.use_sf, self.device = cells, rows, use_sf, device
        self.n_rows = len(cells.target)

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """All cells once."""
        order = rng.permutation(len(self.cells.target))
        for start in range(0, len(order), self.rows):
            yield self.of(order[start : start + self.rows])

    def of(self, rows: np.ndarray) -> Batch:
        """A batch of given cells."""
        offset = np.log(self.cells.size[rows]) if self.use_sf else np.zeros(len(rows))
        parts = (self.cells.counts[rows].toarray(), offset, np.ones(len(rows)))
        return _batch(parts, self.cells.target[rows], self.cells.phase[rows], self.device)


class GroupBatches:
    """Groups of cells: their means as published, or their sums."""

    def __init__(self, rows: Rows, size: int, settings: dict[str, Any], device: torch.device) -> None:
        self.target, self.phase, self.size, self.device = rows.target, rows.phase, size, device
        self.n_rows, n = len(rows.target), rows.cells
        if settings["loss"] == "nb_sums":
            self.parts = (rows.counts, rows.log_size if settings["use_sf"] else np.log(n), rows.multiple)
        else:
            offset = np.log(np.maximum(rows.size / n, 1e-12)) if settings["use_sf"] else np.zeros(len(n))
            self.parts = (rows.counts / n[:, None], offset, np.ones(len(n)))

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """All groups once."""
        order = rng.permutation(len(self.target))
        for start in range(0, len(order), self.size):
            yield self.of(order[start : start + self.size])

    def of(self, rows: np.ndarray) -> Batch:
        """A batch of given groups."""
        parts = tuple(part[rows] for part in self.parts)
        return _batch(parts, self.target[rows], self.phase[rows], self.device)


def _batch(parts, target: np.ndarray, phase: np.ndarray, device: torch.device) -> Batch:
    y, offset, multiple = (
        torch.as_tensor(np.ascontiguousarray(part), dtype=torch.float32, device=device) for part in parts
    )
    labels = (torch.as_tensor(np.asarray(part, dtype=np.int64), device=device) for part in (target, phase))
    return Batch(y, offset, multiple, *labels)


def batches_of(
    fold: Fold, settings: dict[str, Any], device: torch.device, cells: Callable | None, held_out: np.ndarray
) -> CellBatches | GroupBatches:
    """Training rows of a fold, without the targets that decide when to stop."""
    half = max(settings["batch_size"] // 2, 1)
    if settings["fit_mode"] == "whole":
        found: TrainingCells = cells(fold)
        kept = np.flatnonzero(~np.isin(found.target, held_out))
        chosen = TrainingCells(found.counts[kept], found.target[kept], found.phase[kept], found.size[kept])
        return CellBatches(chosen, half, settings["use_sf"], device)
    rows = concise_rows(fold, settings["use_cycle"])
    return GroupBatches(_only(rows, ~np.isin(rows.target, held_out)), half, settings, device)


def _only(rows: Rows, mask: np.ndarray) -> Rows:
    return Rows(*(getattr(rows, name)[mask] for name in Rows.__dataclass_fields__))


def validation_of(
    fold: Fold,
    settings: dict[str, Any],
    device: torch.device,
    P: torch.Tensor,
    missing: torch.Tensor,
    own: list[list[int]],
    theta: torch.Tensor,
    held_out: np.ndarray,
) -> Callable[[LowRankNB], float] | None:
    """The loss of held-out targets as a function of the model; None where none are held out."""
    if not len(held_out):
        return None
    rows = concise_rows(fold, settings["use_cycle"])
    rows = _only(rows, np.isin(rows.target, held_out))
    loss = settings["loss"] if settings["fit_mode"] == "concise" else "nb_sums"
    batch = GroupBatches(rows, len(rows.target), {**settings, "loss": loss}, device).of(
        np.arange(len(rows.target))
    )

    @torch.no_grad()
    def value(model: LowRankNB) -> float:
        model.eval()
        raw = model.raw(P[batch.target], missing[batch.target])
        pairs = own_pairs(own, batch.target) if model.on_target is not None else None
        log_mu = model.log_control + model.change(raw, pairs, batch.phase) + batch.offset[:, None]
        return float(LOSSES[loss](log_mu, batch.y, theta * batch.multiple[:, None]).mean())

    return value
