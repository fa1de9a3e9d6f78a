"""Minibatches of an epoch: every cell exactly once, decided by the seed and the epoch alone.

:class:`Sampler` draws them from all cells, :class:`WindowSampler` from a few shards of a store at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from nmfbench.rows.shuffled import ShuffledRows

ORDERS = ("proportional", "round_robin", "random", "by_condition")


@dataclass(frozen=True)
class Batch:
    """The cells of one step.

    Attributes
    ----------
    rows : ndarray of int
        Row numbers of the cells.
    weight : float
        Factor of the data terms, which a step divides by the number of its cells. It is 1 except in
        ``by_condition`` batches, where it is cells x batches of the epoch / all cells, so that small
        batches count for as much as their cells.
    condition : int or None
        The condition that all cells belong to, in ``by_condition`` batches.
    condition_share : float
        Share of the epoch's batches that hold this condition. The penalty of a weight that only these
        batches touch is divided by it; the batches' mean gradient is then that of the full objective.
    """

    rows: np.ndarray
    weight: float = 1.0
    condition: int | None = None
    condition_share: float = 1.0

    @property
    def scale(self) -> float:
        """What half the gradient of ``||E||²`` over the batch is multiplied with."""
        return 2 * self.weight / len(self.rows)


@dataclass(frozen=True)
class CardBatch:
    """A batch of fixed size, as tensors on the card; see :class:`Batch`.

    Attributes
    ----------
    cells : Tensor of int64 of shape (places,)
        Their numbers; the number of all cells in places that none fills.
    scale, condition_share : Tensor of shape ()
    condition : Tensor of int64 of shape (1,) or None
    donors : Tensor of int64 of shape (tiles,) or None
        The donor of each tile of places, where the batch has cells of several.
    """

    cells: torch.Tensor
    scale: torch.Tensor
    condition: torch.Tensor | None
    condition_share: torch.Tensor
    donors: torch.Tensor | None


class Sampler:
    """Batches of an epoch.

    Parameters
    ----------
    order : {"proportional", "round_robin", "random", "by_condition"}
        ``proportional``: each batch has the cell types of the whole, as nearly as whole cells allow.
        ``round_robin``: the published order; a batch begins with the next type in turn and takes as many
        of its cells as there are, so that it is nearly one type until the small ones run out.
        ``random``: a plain shuffle.
        ``by_condition``: each batch has cells of one condition; the conditions come in shuffled order,
        each as often as its cells fill batches.
    n_rows : int
        Number of cells.
    batch_size : int
        Cells in a batch, at most. Except in ``round_robin``, whose last batch takes what is left, the
        batches of an epoch differ by one cell at most (in ``by_condition``, those of one condition).
    seed : int
        Together with the number of the epoch, it decides everything.
    strata : ndarray of int of shape (n_rows,) or None
        Cell types, for the first two orders.
    conditions : ndarray of int of shape (n_rows,) or None
        Conditions, for the last.
    """

    def __init__(
        self,
        order: str,
        n_rows: int,
        batch_size: int,
        seed: int,
        strata: np.ndarray | None = None,
        conditions: np.ndarray | None = None,
    ) -> None:
        self.order = order
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        groups = groups_of(order, strata, conditions)
        self._groups = None if groups is None else _members(groups)

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of epoch `number`, in order."""
        return self.draw(np.random.default_rng([self.seed, number]))

    def draw(self, rng: np.random.Generator) -> list[Batch]:
        """The batches of an epoch that `rng` decides."""
        if self.order == "random":
            return [Batch(rows) for rows in self._split(rng.permutation(self.n_rows))]
        shuffled = [rng.permutation(members) for members in self._groups]
        if self.order == "proportional":
            return [Batch(rows) for rows in self._split(_interleave(shuffled, rng))]
        if self.order == "round_robin":
            return [Batch(rows) for rows in self._round_robin(shuffled)]
        return self._by_condition(shuffled, rng)

    def _split(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(rows, -(-len(rows) // self.batch_size))

    def _round_robin(self, groups: list[np.ndarray]) -> list[np.ndarray]:
        taken = np.zeros(len(groups), dtype=np.int64)
        sizes = np.array([len(members) for members in groups])
        batches, first = [], 0
        while (taken < sizes).any():
            parts, room = [], self.batch_size
            for g in np.roll(np.arange(len(groups)), -first):
                part = groups[g][taken[g] : taken[g] + room]
                taken[g] += len(part)
                room -= len(part)
                parts.append(part)
            batches.append(np.concatenate(parts))
            first = (first + 1) % len(groups)
        return batches

    def _by_condition(self, groups: list[np.ndarray], rng: np.random.Generator) -> list[Batch]:
        split = [self._split(members) if len(members) else [] for members in groups]
        total = sum(len(batches) for batches in split)
        ordered = [
            Batch(rows, len(rows) * total / self.n_rows, condition, len(batches) / total)
            for condition, batches in enumerate(split)
            for rows in batches
        ]
        return [ordered[i] for i in rng.permutation(total)]


class WindowSampler:
    """Batches of an epoch, each from one window of a few shards; every cell exactly once.

    The shards come in a new order in each epoch, a few of them (a window) are in memory at a time, and the
    batches of a window are drawn from it as :class:`Sampler` draws them from all cells. As the store is
    shuffled, a window is a random part of the cells. ``by_condition`` batches are smaller where a window
    has few cells of a condition.

    Parameters
    ----------
    order, batch_size, seed, strata, conditions
        As those of :class:`Sampler`; the labels in the order of the store.
    source : ShuffledRows
        It is told the windows, so that it can read ahead.
    shards_in_window : int
    """

    def __init__(
        self,
        order: str,
        source: ShuffledRows,
        batch_size: int,
        seed: int,
        strata: np.ndarray | None = None,
        conditions: np.ndarray | None = None,
        *,
        shards_in_window: int,
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.seed = seed
        self.source = source
        self.codes = groups_of(order, strata, conditions)
        self.shards_in_window = shards_in_window
        in_shard = [len(source.shard_of(shard)) for shard in range(source.n_shards)]
        self.cells = np.array(in_shard)[:, None]  # shards x groups that batches are confined to
        if order == "by_condition":
            m = int(self.codes.max()) + 1
            parts = (self.codes[source.shard_of(shard)] for shard in range(source.n_shards))
            self.cells = np.stack([np.bincount(part, minlength=m) for part in parts])

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of epoch `number`, in order; those of a window are drawn when they are asked for."""
        shards = np.random.default_rng([self.seed, number]).permutation(self.source.n_shards)
        windows = np.split(shards, range(self.shards_in_window, len(shards), self.shards_in_window))
        self.source.follow(windows)
        return _Epoch(self, number, windows)

    def window(self, epoch: int, number: int, shards: np.ndarray) -> list[Batch]:
        """The batches of one window, each with weight 1."""
        rows = np.concatenate([self.source.shard_of(shard) for shard in shards])
        codes = None if self.codes is None else self.codes[rows]
        within = Sampler(self.order, len(rows), self.batch_size, self.seed, strata=codes, conditions=codes)
        drawn = within.draw(np.random.default_rng([self.seed, epoch, number]))
        return [replace(batch, rows=rows[batch.rows]) for batch in drawn]


class _Epoch(Sequence):
    """The batches of an epoch, with one window's in memory."""

    def __init__(self, sampler: WindowSampler, epoch: int, windows: list[np.ndarray]) -> None:
        self._sampler, self._epoch, self._windows = sampler, epoch, windows
        cells = np.stack([sampler.cells[window].sum(axis=0) for window in windows])
        batches = -(-cells // sampler.batch_size)
        self._ends = np.cumsum(batches.sum(axis=1))
        self._shares = batches.sum(axis=0) / batches.sum()
        self._drawn: tuple[int, list[Batch]] = -1, []

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < len(self):
            raise IndexError(i)
        number = int(np.searchsorted(self._ends, i, side="right"))
        if self._drawn[0] != number:
            self._drawn = number, self._sampler.window(self._epoch, number, self._windows[number])
        batch = self._drawn[1][i - (self._ends[number - 1] if number else 0)]
        if batch.condition is None:
            return batch
        # as in Sampler, over all batches of the epoch: small batches count for as much as their cells
        weight = len(batch.rows) * len(self) / self._sampler.source.n_rows
        return replace(batch, weight=weight, condition_share=float(self._shares[batch.condition]))


def groups_of(order: str, strata: np.ndarray | None, conditions: np.ndarray | None) -> np.ndarray | None:
    """The labels that `order` draws batches by; None where it uses none."""
    groups = {"proportional": strata, "round_robin": strata, "by_condition": conditions}.get(order)
    if groups is None and order != "random":
        raise ValueError(f"batches={order!r} need the groups of the cells")
    return groups


def _members(codes: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each group ``0 .. max(codes)``."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _interleave(groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """All members in one sequence in which every stretch has the groups' proportions."""
    # Member j of a group of s stands at (j + shift) / s of the way.
    places = [(np.arange(len(members)) + rng.random()) / max(len(members), 1) for members in groups]
    return np.concatenate(groups)[np.argsort(np.concatenate(places), kind="stable")]
