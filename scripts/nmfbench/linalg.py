"""Products of a sparse block of cells with small dense matrices, on CPU and GPU.

Every model needs only two products of its data: ``X D`` (cells x genes by genes x k) and ``Xᵀ H``
(genes x cells by cells x k). Dense factors keep one row per gene, so that a nonzero of X touches k
neighbouring numbers. No product here allocates more than its own result, plus a copy of the block's
nonzeros sorted by gene.

On a CPU, ``Xᵀ H`` and the double-precision ``X D`` are compiled loops over disjoint ranges of genes or
cells, one range per thread of :func:`torch.get_num_threads`. Each element is summed in the order of the
cells (genes) whatever the number of ranges, without fused multiply-add: results do not depend on the
number of threads and equal SciPy's to the last bit. The single-precision ``X D`` is torch's embedding
bag, whose kernel fetches rows ahead and is one and a half to two times faster than the loop.
Measured against them at 512 cells, 2,000 nonzeros a cell and k = 80 (see ``docs/models.md``): torch's
sparse CSR products take two to eight times as long, SciPy's run on one thread. On an NVIDIA GPU the
products are torch's sparse ones. Apple's (``mps``) has neither sparse CSR nor double precision: both
products are embedding bags there, and what is summed in double precision is summed on the CPU.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from nmfbench.by_gene import count_by_gene
from nmfbench.compiled import compiled_loop

_POOL: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    # One pool per process: a forked child must not wait for its parent's threads.
    process = os.getpid()
    if process not in _POOL:
        _POOL.clear()
        _POOL[process] = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="nmfbench-linalg")
    return _POOL[process]


def run_ranges(kernel, cuts: np.ndarray, *arguments: Any) -> None:
    """Call ``kernel(*arguments, low, high)`` for each neighbouring pair of `cuts`, side by side.

    Parameters
    ----------
    kernel : callable
        A compiled loop that releases the interpreter lock and writes only its own range.
    cuts : ndarray of shape (n_ranges + 1,)
        Ascending borders of the ranges.
    *arguments
        Passed before the two borders.
    """
    pairs = [(int(a), int(b)) for a, b in pairwise(cuts) if b > a]
    waiting = [_pool().submit(kernel, *arguments, low, high) for low, high in pairs[1:]]
    if pairs:
        kernel(*arguments, *pairs[0])
    for future in waiting:
        future.result()


def even_cuts(length: int, smallest: int = 1) -> np.ndarray:
    """Borders that share `length` items out to torch's threads, at least `smallest` items to each."""
    parts = max(1, min(torch.get_num_threads(), length // max(smallest, 1)))
    return np.linspace(0, length, parts + 1).astype(np.int64)


@compiled_loop
def _times(indptr, indices, data, dense, out, low, high):
    k = dense.shape[1]
    for i in range(low, high):
        o = out[i]
        for l in range(k):
            o[l] = 0
        j = indptr[i]
        end = indptr[i + 1]
        # Eight rows at a time hide the latency of reading them; the order of the sums stays SciPy's.
        while j + 8 <= end:
            a0, a1, a2, a3 = data[j], data[j + 1], data[j + 2], data[j + 3]
            a4, a5, a6, a7 = data[j + 4], data[j + 5], data[j + 6], data[j + 7]
            d0, d1 = dense[indices[j]], dense[indices[j + 1]]
            d2, d3 = dense[indices[j + 2]], dense[indices[j + 3]]
            d4, d5 = dense[indices[j + 4]], dense[indices[j + 5]]
            d6, d7 = dense[indices[j + 6]], dense[indices[j + 7]]
            for l in range(k):
                s = (((o[l] + a0 * d0[l]) + a1 * d1[l]) + a2 * d2[l]) + a3 * d3[l]
                o[l] = (((s + a4 * d4[l]) + a5 * d5[l]) + a6 * d6[l]) + a7 * d7[l]
            j += 8
        while j < end:
            a = data[j]
            d = dense[indices[j]]
            for l in range(k):
                o[l] += a * d[l]
            j += 1


@compiled_loop
def _transposed_times(indptr, indices, data, dense, out, accumulate, low, high):
    n = indptr.shape[0] - 1
    k = dense.shape[1]
    # The nonzeros of genes low..high, sorted by gene (a counting sort): the sums then stay in cache.
    border, first, last = count_by_gene(indptr, indices, low, high)
    cells = np.empty(border[high - low], np.int32)
    values = np.empty(border[high - low], data.dtype)
    for i in range(n):
        for j in range(first[i], last[i]):
            q = border[indices[j] - low]
            border[indices[j] - low] = q + 1
            cells[q] = i
            values[q] = data[j]
    j = 0
    for g in range(high - low):
        end = border[g]
        o = out[g + low]
        if not accumulate:
            for l in range(k):
                o[l] = 0
        while j + 4 <= end:
            a0, a1, a2, a3 = values[j], values[j + 1], values[j + 2], values[j + 3]
            d0, d1 = dense[cells[j]], dense[cells[j + 1]]
            d2, d3 = dense[cells[j + 2]], dense[cells[j + 3]]
            for l in range(k):
                o[l] = (((o[l] + a0 * d0[l]) + a1 * d1[l]) + a2 * d2[l]) + a3 * d3[l]
            j += 4
        while j < end:
            a = values[j]
            d = dense[cells[j]]
            for l in range(k):
                o[l] += a * d[l]
            j += 1


@compiled_loop
def _group_sums(indptr, indices, data, codes, out):
    for i in range(indptr.shape[0] - 1):
        o = out[codes[i]]
        for j in range(indptr[i], indptr[i + 1]):
            o[indices[j]] += data[j]


def double_device(device: str | torch.device) -> torch.device:
    """Where sums in double precision are kept for tensors on `device`: there, or on the CPU for Metal."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`tensor` on `device` in `dtype`, without ever being double on a device that has no double."""
    dtype = dtype or tensor.dtype
    if torch.finfo(dtype).bits > torch.finfo(tensor.dtype).bits:
        return tensor.to(device).to(dtype)
    return tensor.to(dtype).to(device)


def sums_of_rows(
    dense: torch.Tensor, indices: torch.Tensor, starts: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """``out[i] = Σ_j values[j] dense[indices[j]]``, j from ``starts[i]`` up to the next start."""
    return torch.nn.functional.embedding_bag(indices, dense, starts, mode="sum", per_sample_weights=values)


class SparseRows:
    """A block of cells on one device, ready for products.

    Parameters
    ----------
    csr : csr_matrix or csr_array of shape (rows, genes)
        The block. Column indices ascend within each row; they are sorted into a copy if they do not.
    device : str or torch.device, default="cpu"
        Where the dense factors live.
    """

    def __init__(self, csr, device: str | torch.device = "cpu") -> None:
        if not csr.has_sorted_indices:
            csr = csr.sorted_indices()
        self.csr = csr
        self.shape = csr.shape
        self.device = torch.device(device)
        self.indptr = csr.indptr.astype(np.int64, copy=False)
        self.indices = csr.indices.astype(np.int32, copy=False)
        self.data = csr.data
        self.dtype = torch.from_numpy(csr.data[:0]).dtype
        self._on_device: torch.Tensor | None = None
        self._transposed: torch.Tensor | None = None
        self._bags: dict[str, tuple[torch.Tensor, ...]] = {}

    def times(self, dense: torch.Tensor, *, as_scipy: bool = False) -> torch.Tensor:
        """``X dense``, of shape (rows, k); `dense` has one row per gene.

        `as_scipy` asks for SciPy's result to the last bit, on a CPU and in either precision.
        """
        if self.device.type == "cuda":
            return torch.sparse.mm(self._tensor(), dense)
        single = dense.dtype == torch.float32 and not as_scipy
        if self.shape[0] and (single or self.device.type == "mps"):
            return sums_of_rows(dense, *self._bags_of("cells"))
        out = torch.empty((self.shape[0], dense.shape[1]), dtype=dense.dtype)
        run_ranges(_times, even_cuts(self.shape[0]), *self._arrays(), dense.numpy(), out.numpy())
        return out

    def transposed_times(
        self, dense: torch.Tensor, out: torch.Tensor | None = None, *, accumulate: bool = False
    ) -> torch.Tensor:
        """``Xᵀ dense``, of shape (genes, k); `dense` has one row per cell.

        Written to `out` when given, or added to it (`accumulate`).
        """
        if self.device.type == "mps":
            product = sums_of_rows(dense, *self._bags_of("genes"))
            if out is None:
                return product
            return out.add_(product) if accumulate else out.copy_(product)
        if self.device.type == "cuda":
            if out is None:
                return torch.sparse.mm(self._transposed_tensor(), dense)
            return torch.addmm(out, self._transposed_tensor(), dense, beta=float(accumulate), out=out)
        if out is None:
            out = torch.empty((self.shape[1], dense.shape[1]), dtype=dense.dtype)
        dense = dense.contiguous().numpy()
        self.by_gene(_transposed_times, dense, out.numpy(), accumulate)
        return out

    def by_gene(self, kernel, *arguments: Any) -> None:
        """Call a compiled loop over ranges of genes side by side, on a CPU.

        Parameters
        ----------
        kernel : callable
            Called with ``indptr, indices, data, *arguments, low, high``; see :func:`run_ranges`.
        """
        run_ranges(kernel, self._gene_cuts(), *self._arrays(), *arguments)

    def group_sums(self, codes: np.ndarray, out: torch.Tensor) -> torch.Tensor:
        """Add each cell's row to the row ``codes[cell]`` of `out`, of shape (groups, genes), in place."""
        if out.device.type == "mps":
            sums = torch.zeros(out.shape, dtype=out.dtype)
            _group_sums(*self._arrays(), np.asarray(codes, dtype=np.int64), sums.numpy())
            return out.add_(sums.to(out.device))
        if out.device.type == "cuda":
            index = torch.as_tensor(codes, device=self.device, dtype=torch.int64)
            lengths = torch.as_tensor(np.diff(self.indptr), device=self.device)
            genes = self._tensor().col_indices().long()
            places = index.repeat_interleave(lengths) * self.shape[1] + genes
            out.view(-1).index_add_(0, places, self._tensor().values().to(out.dtype))
            return out
        _group_sums(*self._arrays(), np.asarray(codes, dtype=np.int64), out.numpy())
        return out

    def subset(self, rows: np.ndarray) -> SparseRows:
        """The block of the cells `rows` (positions within this one), on the same device."""
        return self if len(rows) == self.shape[0] else SparseRows(self.csr[rows], self.device)

    def squared_norm(self) -> float:
        """``||X||²`` summed in double precision."""
        return float(np.einsum("i,i->", self.data, self.data, dtype=np.float64))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.indptr, self.indices, self.data

    def _gene_cuts(self) -> np.ndarray:
        # Borders with about the same number of nonzeros between them, judged from a thin sample.
        genes = self.shape[1]
        parts = max(1, min(torch.get_num_threads(), genes))
        sample = self.indices[:: max(1, len(self.indices) // 4096)]
        if parts == 1 or not len(sample):
            return np.array([0, genes])
        inner = np.quantile(sample, np.arange(1, parts) / parts).astype(np.int64)
        return np.concatenate([[0], inner, [genes]])

    def _bags_of(self, side: str) -> tuple[torch.Tensor, ...]:
        """Indices, starts and values of the nonzeros by cell or by gene, on the device."""
        if side not in self._bags:
            if side == "cells":
                indptr, indices, data = self._arrays()
            else:
                csc = self.csr.tocsc()
                indptr, indices, data = csc.indptr, csc.indices.astype(np.int32, copy=False), csc.data
            parts = (indices, indptr[:-1].astype(np.int32), data)
            self._bags[side] = tuple(self._put(torch.from_numpy(part)) for part in parts)
        return self._bags[side]

    def _put(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device)

    def _tensor(self) -> torch.Tensor:
        if self._on_device is None:
            self._on_device = _to_torch(self.csr, self.device)
        return self._on_device

    def _transposed_tensor(self) -> torch.Tensor:
        if self._transposed is None:
            self._transposed = self._tensor().t().to_sparse_csr()
        return self._transposed


def _to_torch(csr, device: torch.device) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch announces that its sparse layout is in beta and unchecked; the tests hold it to ours.
        warnings.filterwarnings(
            "ignore", message="Sparse CSR tensor support|Sparse invariant checks", category=UserWarning
        )
        parts = [torch.from_numpy(np.ascontiguousarray(a)) for a in (csr.indptr, csr.indices, csr.data)]
        if parts[0].dtype != parts[1].dtype:
            parts[0], parts[1] = parts[0].long(), parts[1].long()
        return torch.sparse_csr_tensor(*parts, size=csr.shape).to(device, non_blocking=True)


def as_sorted_csr(X):
    """`X`, sparse or dense, as CSR with ascending column indices and no doubled entry; copied if need be."""
    csr = X if sp.issparse(X) and X.format == "csr" else sp.csr_array(X)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr
