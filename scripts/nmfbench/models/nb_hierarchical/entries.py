"""Sums over stored entries of ``sigmoid(t_i + c_g)``, on the CPU by compiled loops and on a GPU by torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nmfbench.linalg import run_ranges
from nmfbench.models.nb_hierarchical.kernels import entry_sums

ENTRIES_OF_A_CHUNK = 1 << 18
MOST_CHUNKS = 16
"""Chunks keep sums of their own and these are added in order: results do not depend on the threads."""
ENTRIES_AT_ONCE = 1 << 25
"""Of a GPU: temporaries of 8 bytes an entry."""


@dataclass
class EntrySums:
    """What :meth:`Entries.sums` gives; arrays of float64 on the CPU.

    Attributes
    ----------
    row_slope, row_bend : ndarray of shape (cells,)
        ``sum_g y w_g sigmoid`` and ``sum_g y w_g sigmoid'``.
    column_slope, column_bend : ndarray of shape (groups, genes)
        ``sum_i y sigmoid`` and ``sum_i y sigmoid'`` over the cells of each group.
    column_value : ndarray of shape (genes,)
        ``sum_i y softplus``.
    """

    row_slope: np.ndarray
    column_slope: np.ndarray
    column_value: np.ndarray | None = None
    row_bend: np.ndarray | None = None
    column_bend: np.ndarray | None = None


class Entries:
    """Stored entries y of cells x genes, and sums of functions of ``t_i + c_g`` over them.

    Parameters
    ----------
    csr : csr_matrix or csr_array of shape (cells, genes)
    group : ndarray of shape (cells,)
        Group of each cell: each has a c of its own.
    n_groups : int
    device : torch.device
    """

    def __init__(self, csr: Any, group: np.ndarray, n_groups: int, device: torch.device) -> None:
        self.shape, self.nnz = csr.shape, int(csr.nnz)
        self.group, self.n_groups, self.device = group.astype(np.int64), n_groups, device
        if device.type == "cuda":
            self._place(csr)
            return
        self._arrays = csr.indptr, csr.indices, csr.data
        chunks = int(np.clip(self.nnz // ENTRIES_OF_A_CHUNK, 1, MOST_CHUNKS))
        shares = np.linspace(0, self.nnz, chunks + 1)
        self._borders = np.searchsorted(csr.indptr, shares).astype(np.int64)
        self._borders[0], self._borders[-1] = 0, csr.shape[0]

    def sums(
        self,
        t: np.ndarray,
        c: np.ndarray,
        weights: np.ndarray | None = None,
        *,
        value: bool = False,
        bend: bool = False,
    ) -> EntrySums:
        """Sums at ``t`` (cells,) and ``c`` (groups, genes), the cells' weighted by `weights` (genes,)."""
        weights = np.ones(self.shape[1]) if weights is None else weights
        if self.device.type == "cuda":
            return self._torch_sums(t, c, weights, value, bend)
        n, p = self.shape
        chunks = len(self._borders) - 1
        column_slope = np.zeros((chunks, self.n_groups, p))
        column_value = np.zeros((chunks, p) if value else (1, 1))
        column_bend = np.zeros((chunks, self.n_groups, p) if bend else (1, 1, 1))
        row_slope, row_bend = np.empty(n), np.empty(n if bend else 1)
        threads = min(chunks, torch.get_num_threads())
        cuts = np.linspace(0, chunks, threads + 1).astype(np.int64)
        run_ranges(
            entry_sums, cuts, *self._arrays, self.group, t, c, weights, self._borders,
            int(value) + 2 * int(bend), row_slope, row_bend, column_slope, column_value, column_bend,
        )  # fmt: skip
        return EntrySums(
            row_slope,
            column_slope.sum(0),
            column_value.sum(0) if value else None,
            row_bend if bend else None,
            column_bend.sum(0) if bend else None,
        )

    # On a GPU: both orders of the entries are kept, and each is reduced by segments, in a fixed order. -----

    def _place(self, csr: Any) -> None:
        rows = np.repeat(np.arange(self.shape[0]), np.diff(csr.indptr))
        keys = self.group[rows] * self.shape[1] + csr.indices
        order = np.argsort(keys, kind="stable")
        lengths = np.bincount(keys, minlength=self.n_groups * self.shape[1])

        def there(array, dtype):
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

        data = csr.data
        self._orders = [
            tuple(there(a, dtype) for a, dtype in zip(arrays, dtypes, strict=True))
            for arrays in (
                (rows, keys, csr.indices, data, np.diff(csr.indptr)),
                (rows[order], keys[order], csr.indices[order], data[order], lengths),
            )
            for dtypes in [(torch.int32, torch.int32, torch.int32, torch.float32, torch.int64)]
        ]

    def _torch_sums(self, t, c, weights, value: bool, bend: bool) -> EntrySums:
        t, c, weights = (torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (t, c, weights))
        c = c.reshape(-1)
        rows = self._reduce(0, t, c, weights, False, bend)
        columns = self._reduce(1, t, c, None, value, bend)
        shape = (self.n_groups, self.shape[1])
        return EntrySums(
            rows[0],
            columns[0].reshape(shape),
            columns[2].reshape(shape).sum(0) if value else None,
            rows[1],
            columns[1].reshape(shape) if bend else None,
        )

    def _reduce(self, side: int, t, c, weights, value: bool, bend: bool) -> list[np.ndarray | None]:
        row, key, gene, data, lengths = self._orders[side]
        ends = torch.cumsum(lengths, 0).cpu().numpy()
        found: list[list[torch.Tensor]] = [[], [], []]
        first, entry = 0, 0
        while first < len(ends):
            # as many whole segments as fit
            last = max(first + 1, int(np.searchsorted(ends, entry + ENTRIES_AT_ONCE, side="right")))
            stop = int(ends[last - 1])
            part = slice(entry, stop)
            x = t[row[part].long()] + c[key[part].long()]
            y = data[part].double()
            if weights is not None:
                y = y * weights[gene[part].long()]
            sigma = torch.sigmoid(x)
            wanted = [y * sigma, y * sigma * torch.sigmoid(-x) if bend else None]
            wanted.append(-y * torch.nn.functional.logsigmoid(-x) if value else None)
            for sums, terms in zip(found, wanted, strict=True):
                if terms is not None:
                    sums.append(torch.segment_reduce(terms, "sum", lengths=lengths[first:last], initial=0.0))
            first, entry = last, stop
        return [torch.cat(sums).cpu().numpy() if sums else None for sums in found]
