"""Minibatches of an epoch over a shuffled store: a few shards at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.training.samplers import Batch, Sampler, groups_of

if TYPE_CHECKING:
    from nmfbench.training.shards import ShuffledRows


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
