"""Xᵀ X of blocks of cells on torch devices: sparse by dense, from nonzeros that were sent ahead.

The nonzeros of a block are sorted by gene, and their rows multiply the block made dense. That is faster than
dense by dense from some thousand genes on, the more the sparser the cells, and adds up fewer roundings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch


@dataclass
class Sent:
    """A block of cells on its way to a device.

    Attributes
    ----------
    lengths, indices, data : Tensor
        Nonzeros of each cell; their genes and values.
    shape : (int, int)
    ready : torch.cuda.Event or None
        When they have arrived.
    """

    lengths: torch.Tensor
    indices: torch.Tensor
    data: torch.Tensor
    shape: tuple[int, int]
    ready: torch.cuda.Event | None = None


class Sender:
    """Sends blocks to one device, on CUDA from pinned memory and beside what the device is doing."""

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def send(self, X: sp.csr_matrix) -> Sent:
        """Begin to send a block."""
        arrays = (np.diff(X.indptr).astype(np.int64), X.indices.astype(np.int32, copy=False), X.data)
        tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
        if self._stream is None:
            return Sent(*(t.to(self.device) for t in tensors), X.shape)
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            sent = [t.pin_memory().to(self.device, non_blocking=True) for t in tensors]
            return Sent(*sent, X.shape, self._stream.record_event())

    def arrive(self, block: Sent) -> None:
        """Have the device's own work wait for the block."""
        if block.ready is None:
            return
        here = torch.cuda.current_stream(self.device)
        here.wait_event(block.ready)
        for tensor in (block.lengths, block.indices, block.data):
            tensor.record_stream(here)  # else its memory might be given away while it is read

    def ahead(self, blocks: Iterable[sp.csr_matrix]) -> Iterator[Sent]:
        """Each block when the one after it is on its way."""
        before = None
        for X in blocks:
            sent = self.send(X)
            if before is not None:
                yield before
            before = sent
        if before is not None:
            yield before


class SparseByDense:
    """A block of cells that has arrived, ready for products of some genes with all.

    Parameters
    ----------
    block : Sent
    tiles : list of (int, int)
        First and last + 1 gene of the products that are wanted, in order.
    """

    def __init__(self, block: Sent, tiles: list[tuple[int, int]]) -> None:
        n, p = block.shape
        columns, device = block.indices.long(), block.data.device
        cells = torch.repeat_interleave(
            torch.arange(n, device=device), block.lengths, output_size=len(columns)
        )
        self.dense = torch.zeros((n, p), dtype=block.data.dtype, device=device)
        self.dense.view(-1).index_put_((cells * p + columns,), block.data)
        genes, order = torch.sort(block.indices, stable=True)
        edges = torch.arange(p + 1, dtype=torch.int32, device=device)
        self._begins = torch.searchsorted(genes, edges, out_int32=True)
        self._cells, self._values = cells[order].to(torch.int32), block.data[order]
        borders = torch.tensor([edge for tile in tiles for edge in tile], device=device)
        self._spans = dict(zip(tiles, self._begins[borders].view(-1, 2).tolist(), strict=True))

    def product(self, tile: tuple[int, int]) -> torch.Tensor:
        """``X[:, a:b]ᵀ X[:, a:]``, of shape (b - a, genes - a)."""
        a, b = tile
        low, high = self._spans[tile]
        begins = self._begins[a : b + 1] - self._begins[a]
        with warnings.catch_warnings():
            # torch announces that its sparse layout is in beta and unchecked; the tests hold it to ours
            warnings.filterwarnings(
                "ignore", message="Sparse CSR tensor support|Sparse invariant checks", category=UserWarning
            )
            rows = torch.sparse_csr_tensor(
                begins, self._cells[low:high], self._values[low:high], size=(b - a, len(self.dense))
            )
        return torch.sparse.mm(rows, self.dense[:, a:])
