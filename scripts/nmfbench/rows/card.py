"""The cells of a fit on a card: all of them, or those of the next batches with others on their way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch

from nmfbench.rows.card_memory import CardPlacement, block_rows
from nmfbench.rows.dense import DenseRows, Densifier, Nonzeros
from nmfbench.rows.memory import BLOCK_ROWS, RowSource

LONGEST_WINDOW = 64  # batches

ROOM = 1.1
"""How much more nonzeros than the largest batch so far a batch has room for, so that few make it grow."""


class CardRows:
    """What both kinds have: the length of each row, and all cells in dense blocks.

    Attributes
    ----------
    nonzeros : Nonzeros
        Those that the present batches are taken from.
    lengths : ndarray of int64 of shape (cells,)
    """

    nonzeros: Nonzeros

    def __init__(self, source: RowSource, device: torch.device) -> None:
        self.source, self.device = source, device
        self.dtype = torch.float64 if source.dtype == np.float64 else torch.float32
        item = np.dtype(source.dtype).itemsize
        self.block_rows = block_rows(source.n_columns, item, min(BLOCK_ROWS, source.n_rows))
        self.lengths = np.zeros(source.n_rows, np.int64)

    def longest(self, batches: Sequence[np.ndarray]) -> int:
        """Nonzeros of the largest of the batches."""
        return max(int(self.lengths[rows].sum()) for rows in batches)

    def begin(self, batches: Sequence[np.ndarray], first: int) -> list[np.ndarray]:
        """Where the cells of each batch of an epoch will lie among the nonzeros, from batch `first` on."""
        raise NotImplementedError

    def reach(self, number: int) -> None:
        """See to it that the cells of a batch are there; to be called in order."""

    def settle(self) -> None:
        """Wait for what is done beside the steps."""

    def blocks(self) -> Iterator[tuple[int, DenseRows]]:
        """All cells in order: the first row's number, and a block that the next one overwrites."""
        raise NotImplementedError

    def grouped_blocks(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, DenseRows]]:
        """All cells with the code of each, those of one code beside one another where that costs nothing."""
        for start, block in self.blocks():
            yield codes[start : start + block.shape[0]], block

    def _put(self, array: np.ndarray) -> torch.Tensor:
        """In memory that the card reads by itself; torch keeps it until that has happened."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


class ResidentRows(CardRows):
    """All nonzeros on the card, copied there once.

    Parameters
    ----------
    source : RowSource
    device : torch.device
    """

    def __init__(self, source: RowSource, device: torch.device) -> None:
        super().__init__(source, device)
        self.nonzeros = Nonzeros.empty(source.n_rows, source.nnz, self.dtype, device)
        end = 0
        for start, block in source.blocks(BLOCK_ROWS):
            self.lengths[start : start + block.shape[0]] = np.diff(block.indptr)
            part = slice(end, end := end + block.nnz)
            indices = block.indices.astype(np.int32, copy=False)
            self.nonzeros.indices[part].copy_(self._put(indices), non_blocking=True)
            self.nonzeros.data[part].copy_(self._put(block.data), non_blocking=True)
        self.nonzeros.lengths[:-1].copy_(self._put(self.lengths))
        self.nonzeros.first[1:].copy_(self._put(np.cumsum(self.lengths)))
        self._evaluated: Densifier | None = None

    def begin(self, batches: Sequence[np.ndarray], first: int) -> list[np.ndarray]:
        return list(batches)

    def blocks(self) -> Iterator[tuple[int, DenseRows]]:
        return self._blocks(np.arange(self.source.n_rows))

    def grouped_blocks(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, DenseRows]]:
        order = np.argsort(codes, kind="stable")
        for start, block in self._blocks(order):
            yield codes[order[start : start + block.shape[0]]], block

    def _blocks(self, order: np.ndarray) -> Iterator[tuple[int, DenseRows]]:
        n, size = len(order), self.block_rows
        most = int(np.add.reduceat(self.lengths[order], np.arange(0, n, size)).max())
        if self._evaluated is None or self._evaluated.capacity < most:
            self._evaluated = Densifier(self.nonzeros, size, self.source.n_columns, max(most, 1))
        # beyond the last cell the empty row, as often as the buffer has rows
        padded = np.concatenate([order, np.full(-n % size, self.nonzeros.empty_row)])
        rows = self._put(padded).to(self.device, non_blocking=True)
        for start in range(0, n, size):
            block = self._evaluated.fill(rows[start : start + size])
            yield start, DenseRows(block[: min(size, n - start)])


class WindowedRows(CardRows):
    """Nonzeros of the next batches on the card; those after them are read and copied meanwhile.

    Parameters
    ----------
    source : RowSource
    device : torch.device
    window : int
        Bytes of nonzeros in a window; a batch that has more makes it larger.
    """

    def __init__(self, source: RowSource, device: torch.device, window: int) -> None:
        super().__init__(source, device)
        for start, block in source.blocks(BLOCK_ROWS):
            self.lengths[start : start + block.shape[0]] = np.diff(block.indptr)
        self._most = max(1, window // (4 + np.dtype(source.dtype).itemsize))
        self._room = (0, 0)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nmfbench-window")
        self._next: Future | None = None
        self._on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_cuda else None
        self._free = self._ready = None

    def begin(self, batches: Sequence[np.ndarray], first: int) -> list[np.ndarray]:
        self.settle()
        self._batches, self._windows, places = batches, {}, [np.zeros(0, np.int64)] * first
        in_batch = [int(self.lengths[rows].sum()) for rows in batches]
        cells = nonzeros = 0
        window: list[int] = []
        for i in range(first, len(batches)):
            if i == first or nonzeros + in_batch[i] > self._most or len(window) == LONGEST_WINDOW:
                window = []
                self._windows[i], cells, nonzeros = window, 0, 0
            places.append(np.arange(cells, cells + len(batches[i])))
            window.append(i)
            cells, nonzeros = cells + len(batches[i]), nonzeros + in_batch[i]
        self._order = list(self._windows)
        self._make_room(in_batch)
        if self._order:
            self._next = self._pool.submit(self._send, self._order[0])
        return places

    def reach(self, number: int) -> None:
        if number not in self._windows:
            return
        self._next.result()
        if self._on_cuda:
            torch.cuda.current_stream(self.device).wait_event(self._ready)
        for here, ahead in zip(self.nonzeros.tensors(), self._ahead.tensors(), strict=True):
            here.copy_(ahead)
        if self._on_cuda:
            self._free = torch.cuda.current_stream(self.device).record_event()
        at = self._order.index(number) + 1
        self._next = self._pool.submit(self._send, self._order[at]) if at < len(self._order) else None

    def settle(self) -> None:
        if self._next is not None:
            self._next.result()

    def blocks(self) -> Iterator[tuple[int, DenseRows]]:
        self.settle()
        for begin, block in self.source.blocks(BLOCK_ROWS):
            for start in range(0, block.shape[0], self.block_rows):
                part = block[start : start + self.block_rows]
                held = Nonzeros.empty(part.shape[0], part.nnz, self.dtype, self.device)
                self._copy(part, held)
                buffer = Densifier(held, part.shape[0], self.source.n_columns, max(part.nnz, 1))
                yield begin + start, DenseRows(buffer.fill(torch.arange(part.shape[0], device=self.device)))

    def _make_room(self, in_batch: Sequence[int]) -> None:
        """Two windows' room, made anew only where the batches have grown."""
        rows = max((len(rows) for rows in self._batches), default=0) * LONGEST_WINDOW
        need = (rows, max([self._most, *in_batch]))
        if need[0] <= self._room[0] and need[1] <= self._room[1]:
            return
        # a batch that is larger than a window has others like it, a little larger, in later epochs
        nonzeros = need[1] if need[1] == self._most else int(ROOM * need[1]) + 1
        self._room = (max(need[0], self._room[0]), max(nonzeros, self._room[1]))
        self.nonzeros, self._ahead = (Nonzeros.empty(*self._room, self.dtype, self.device) for _ in range(2))

    def _send(self, window: int) -> None:
        """Read the cells of a window and have them copied, after the window before has been taken over."""
        part = self._read([self._batches[i] for i in self._windows[window]])
        if not self._on_cuda:
            self._copy(part, self._ahead)
            return
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            if self._free is not None:
                self._stream.wait_event(self._free)
            self._copy(part, self._ahead)
            self._ready = self._stream.record_event()

    def _read(self, batches: list[np.ndarray]):
        """The cells of some batches; of a store batch by batch, as it is read in windows of its own."""
        if self.source.order is None:
            return self.source.rows(np.concatenate(batches))
        return sp.vstack([self.source.rows(rows) for rows in batches], format="csr")

    def _copy(self, part, held: Nonzeros) -> None:
        n, nnz = part.shape[0], part.nnz
        indptr = part.indptr.astype(np.int64)
        held.first[:n].copy_(self._put(indptr[:-1]), non_blocking=True)
        held.lengths[:n].copy_(self._put(np.diff(indptr)), non_blocking=True)
        held.lengths[n:].zero_()
        held.indices[:nnz].copy_(self._put(part.indices.astype(np.int32, copy=False)), non_blocking=True)
        held.data[:nnz].copy_(self._put(part.data), non_blocking=True)


def card_rows(source: RowSource, device: torch.device, placement: CardPlacement) -> CardRows:
    """The rows where `placement` says."""
    if placement.rows == "resident":
        return ResidentRows(source, device)
    return WindowedRows(source, device, placement.window)
