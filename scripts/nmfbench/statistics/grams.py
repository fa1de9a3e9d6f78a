"""Partial sums of Xᵀ X: upper triangles, in tiles of rows, on the processor or spread over GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import scipy.sparse as sp

from nmfbench.errors import InputError
from nmfbench.statistics.record import Layout

TILE_ROWS = 1024
"""Rows of the Gram matrix that one product makes. The same whatever the number of threads, of devices or of
passes, so that none of them changes a bit of the sum."""

_DENSEST = 0.3  # share of nonzeros in a block, at most, that memory is asked for
_MIB = 2**20


class PartialGrams:
    """Upper triangles of Xᵀ X, one or one per donor, summed in float64; of all rows or of some of them.

    Parameters
    ----------
    layout : Layout
    devices : sequence of str
        ``("cpu",)`` multiplies with BLAS or the sparse kernel. Other names are torch's: the tiles are dealt
        out to them, so each holds a share of the sum and sees every block.
    rows : (int, int), optional
        First and last + 1 row of the Gram matrix that is made; all by default.
    """

    def __init__(
        self, layout: Layout, devices: Sequence[str] = ("cpu",), rows: tuple[int, int] | None = None
    ) -> None:
        self.layout = layout
        p = len(layout.genes)
        self.rows = low, high = rows or (0, p)
        self.devices = tuple(devices)
        self.on_torch = self.devices != ("cpu",)
        if self.on_torch and layout.method != "dense":
            raise InputError("device", "cpu, or the dense method", ", ".join(devices), "set method: dense")
        self.tiles = [(a, min(a + TILE_ROWS, high)) for a in range(low, high, TILE_ROWS)]
        if not self.on_torch:
            self.total = np.zeros((layout.n_grams, high - low, p))
            return
        import torch

        from nmfbench.statistics.card_products import Sender

        self._senders = {device: Sender(device) for device in dict.fromkeys(self.devices)}
        # a tile is the shorter, the later it comes: dealt forth and back, the shares come out even
        there = [*self.devices, *reversed(self.devices)]
        self._homes = [there[i % len(there)] for i in range(len(self.tiles))]
        self._tiles = [
            torch.zeros((layout.n_grams, b - a, p - a), dtype=torch.float64, device=home)
            for (a, b), home in zip(self.tiles, self._homes, strict=True)
        ]

    def add(self, X: sp.csr_matrix, donors: np.ndarray | None = None) -> None:
        """Add a block of cells; `donors` are the codes of its cells where there is a Gram matrix for each."""
        if donors is None:
            self._add(X, 0)
            return
        for c in np.unique(donors):
            self._add(X[donors == c], c)

    def _add(self, X: sp.csr_matrix, c: int) -> None:
        if self.layout.method == "sparse":
            from nmfbench.statistics.kernels import add_sparse_gram, positions_by_gene

            column_ptr, cells = positions_by_gene(X.indptr, X.indices, X.shape[1])
            add_sparse_gram(X.indptr, X.indices, X.data, column_ptr, cells, self.rows[0], self.total[c])
        elif self.on_torch:
            self._add_on_devices(X, c)
        else:
            self._add_dense(X.toarray(order="C"), self.total[c])

    def _add_dense(self, dense: np.ndarray, total: np.ndarray) -> None:
        from threadpoolctl import threadpool_limits

        def add(tile: tuple[int, int]) -> None:
            a, b = tile
            part = total[a - self.rows[0] : b - self.rows[0], a:]
            part += dense[:, a:b].T @ dense[:, a:]

        # one thread a product: with more, BLAS sums in an order that depends on their number
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(numba.get_num_threads()) as pool:
            for _ in pool.map(add, self.tiles):
                pass

    def _add_on_devices(self, X: sp.csr_matrix, c: int) -> None:
        from nmfbench.statistics.card_products import SparseByDense

        held = {}
        for device, sender in self._senders.items():
            sent = sender.send(X)
            sender.arrive(sent)
            of_device = [t for t, home in zip(self.tiles, self._homes, strict=True) if home == device]
            held[device] = SparseByDense(sent, of_device)
        for span, home, tile in zip(self.tiles, self._homes, self._tiles, strict=True):
            tile[c] += held[home].product(span)

    def fill(self, gram: np.ndarray, donor_grams: np.ndarray | None) -> None:
        """Write the rows of this sum, and by symmetry its columns, into whole Gram matrices.

        Parameters
        ----------
        gram : (genes, genes) array
            Of all cells.
        donor_grams : (donors, genes, genes) array or None
        """
        for i, (a, b) in enumerate(self.tiles):
            total = 0.0
            for c in range(self.layout.n_grams):
                part = self._tile(i, c)
                total = total + part
                if donor_grams is not None:
                    _place(donor_grams[c], part, a, b)
            _place(gram, total, a, b)

    def _tile(self, i: int, c: int) -> np.ndarray:
        if self.on_torch:
            return self._tiles[i][c].cpu().numpy()
        a, b = self.tiles[i]
        return self.total[c, a - self.rows[0] : b - self.rows[0], a:]

    def finish(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The Gram matrix of all cells and those of the donors, in the layout's precision."""
        p, kind = len(self.layout.genes), np.dtype(self.layout.dtype)
        gram = np.empty((p, p), kind)
        donor_grams = np.empty((self.layout.n_grams, p, p), kind) if self.layout.donor_grams else None
        self.fill(gram, donor_grams)
        return gram, donor_grams


def _place(out: np.ndarray, upper: np.ndarray, a: int, b: int) -> None:
    """Put rows a..b-1 from the diagonal on into a symmetric matrix."""
    corner = np.triu(upper[:, : b - a])
    out[a:b, a:b] = corner + np.triu(corner, 1).T
    out[a:b, b:] = upper[:, b - a :]
    out[b:, a:b] = upper[:, b - a :].T


def gpu_bytes(layout: Layout, n_devices: int, block_rows: int, height: int | None = None) -> int:
    """Bytes that each GPU needs at its peak: its share of the sum, a block of cells and one product.

    Parameters
    ----------
    block_rows : int
        Cells of a block.
    height : int, optional
        Rows of the Gram matrix made at a time; all by default.
    """
    p, value = len(layout.genes), np.dtype(layout.dtype).itemsize
    n_tiles = -(-(height or p) // TILE_ROWS)
    # tiles of the first rows are the longest; all rows together are half a matrix
    upper = n_tiles * TILE_ROWS * p - (0 if height else p * p / 2)
    share = -(-n_tiles // n_devices) / n_tiles
    # the block, its nonzeros with their places by cell and by gene, and a product that joins the float64 sum
    work = p * block_rows * (value + 48 * _DENSEST) + (value + 8) * p * TILE_ROWS
    return int(8 * layout.n_grams * upper * share + work)


def check_gpu_memory(
    layout: Layout,
    devices: Sequence[str],
    block_rows: int,
    memory_mb: float | None,
    height: int | None = None,
) -> None:
    """Refuse, before work starts, a Gram matrix that would not fit on the GPUs.

    Parameters
    ----------
    layout, devices, block_rows, height
        As in :func:`gpu_bytes`; without a GPU among the devices nothing is checked.
    memory_mb : float or None
        MiB granted on each; None: what is free on each now.
    """
    if not all(device.startswith("cuda") for device in devices):
        return
    granted = memory_mb
    if granted is None:
        import torch

        granted = min(torch.cuda.mem_get_info(device)[0] for device in devices) / _MIB
    need = gpu_bytes(layout, len(devices), block_rows, height) / _MIB
    if need > granted:
        more = "use more GPUs" + ("" if memory_mb is None else ", raise statistics.gpu_memory_mb")
        raise InputError(
            f"Gram matrix of {len(layout.genes)} genes on {len(devices)} GPUs",
            f"at most {granted:.0f} MiB on each", f"{need:.0f} MiB",
            f"{more}, keep fewer genes, or set device: cpu",
        )  # fmt: skip
