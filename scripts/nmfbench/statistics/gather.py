"""One pass over the cells of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.sparse as sp

from nmfbench.errors import InputError
from nmfbench.statistics.grams import PartialGrams
from nmfbench.statistics.record import Layout, Statistics, check_memory

Block = tuple[sp.csr_matrix, np.ndarray, np.ndarray | None]


def gather_shard(
    blocks: Iterable[Block],
    layout: Layout,
    shard: int = 0,
    *,
    device: str | Sequence[str] = "cpu",
    memory_mb: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Statistics of the cells of one shard.

    Parameters
    ----------
    blocks : iterable of (X, conditions, types)
        X is a CSR block of normalised cells; conditions are codes (cells, condition columns), types codes
        (cells,) or None. Cells come in order and make up `layout.range(shard)`. How cells are cut into blocks
        may change the last bit of a sum: keep the block size with the settings.
    layout : Layout
    shard : int
    device : str or sequence of str
        "cpu", or for the dense method one torch device or several that share the work.
    memory_mb : float, optional
        Refuse before the first block is read if the Gram matrices need more.
    progress : callable, optional
        Told the number of cells of each block done.

    Returns
    -------
    Statistics
    """
    if not 0 <= shard < layout.n_shards:
        raise InputError(
            "shard", f"a number below {layout.n_shards}", str(shard), "gather the shards of the layout"
        )
    check_memory(layout, memory_mb)
    sums = GroupSums(layout)
    grams = PartialGrams(layout, [device] if isinstance(device, str) else device)
    for X, conditions, types in blocks:
        if not X.shape[0]:
            continue
        X = X if X.has_sorted_indices else X.sorted_indices()
        codes = sums.add(X, conditions, types)
        grams.add(X, codes[:, 0] if layout.donor_grams else None)
        if progress is not None:
            progress(X.shape[0])
    check_shard(layout, shard, sums.n_cells)
    gram, donor_grams = grams.finish()
    statistics = sums.finish(shard, gram, donor_grams)
    statistics.check()
    return statistics


def check_shard(layout: Layout, shard: int, n_cells: int) -> None:
    """Refuse a shard of more or fewer cells than it was laid out with."""
    if n_cells != layout.size(shard):
        raise InputError(
            f"shard {shard}", f"{layout.size(shard)} cells", str(n_cells),
            "the data changed since the shards were laid out; begin again",
        )  # fmt: skip


class GroupSums:
    """Everything but the Gram matrix, in float64, with a checksum of what was read."""

    def __init__(self, layout: Layout) -> None:
        p, q, m = len(layout.genes), len(layout.types), layout.n_categories
        self.layout = layout
        self.n_cells = 0
        self.squared_norm = 0.0
        self.group_sums = np.zeros((q, m, p))
        self.group_counts = np.zeros((q, m, m), np.int64)
        self.type_sizes = np.zeros(q, np.int64)
        self.gene_sums = np.zeros(p)
        self.gene_squares = np.zeros(p)
        sizes = [len(categories) for categories in layout.conditions.values()]
        self._sizes = np.array(sizes, np.int64)
        self._offsets = np.cumsum(self._sizes) - self._sizes
        # one checksum each, so that the cut into blocks does not matter
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in range(4)]

    def add(self, X: sp.csr_matrix, conditions, types) -> np.ndarray:
        n, p = X.shape
        codes = (
            np.asarray(conditions, np.int64).reshape(n, -1)
            if len(self._sizes)
            else np.zeros((n, 0), np.int64)
        )
        types = np.zeros(n, np.int64) if types is None else np.asarray(types, np.int64)
        self._check(X, codes, types)
        squares = np.square(X.data, dtype=np.float64)
        self.squared_norm += float(squares.sum())
        self.gene_sums += np.bincount(X.indices, weights=X.data, minlength=p)
        self.gene_squares += np.bincount(X.indices, weights=squares, minlength=p)
        self.type_sizes += np.bincount(types, minlength=len(self.type_sizes))
        stacked = codes + self._offsets
        q, m = self.group_counts.shape[:2]
        columns = stacked.shape[1]
        for a in range(columns):
            for b in range(columns):
                np.add.at(self.group_counts, (types, stacked[:, a], stacked[:, b]), 1)
        if columns:
            group = (types[:, None] * m + stacked).ravel()
            C = sp.csr_matrix(
                (np.ones(n * columns), group, np.arange(0, n * columns + 1, columns)), (n, q * m)
            )
            self.group_sums += (C.T @ X.astype(np.float64)).toarray().reshape(q, m, p)
        self.n_cells += n
        lengths = np.diff(X.indptr).astype("<i4")
        values = (lengths, X.indices.astype("<i4", copy=False), X.data.astype("<f4", copy=False))
        labels = np.column_stack([types, codes]).astype("<i4")
        for hasher, array in zip(self._hashes, (*values, labels), strict=True):
            hasher.update(np.ascontiguousarray(array))
        return codes

    def _check(self, X, codes, types) -> None:
        p = len(self.layout.genes)
        if X.shape[1] != p:
            raise InputError(
                "block of cells", f"{p} genes", str(X.shape[1]), "gather with the genes of the data"
            )
        if codes.shape[1] != len(self._sizes):
            raise InputError(
                "condition codes",
                f"{len(self._sizes)} columns",
                str(codes.shape[1]),
                "give one code per column",
            )
        q = len(self.layout.types)
        if (codes < 0).any() or (codes >= self._sizes).any() or (types < 0).any() or (types >= q).any():
            raise InputError(
                "condition and type codes", "codes of the layout's categories", "a code outside them",
                "drop cells without a label, and lay out the categories of all cells",
            )  # fmt: skip
        if not np.isfinite(X.data).all():
            raise InputError("block of cells", "finite values", "NaN or infinity", "check the counts")

    def finish(self, shard: int, gram, donor_grams) -> Statistics:
        digest = hashlib.blake2b(b"".join(h.digest() for h in self._hashes), digest_size=16).hexdigest()
        return Statistics(
            layout=self.layout,
            shards=(shard,),
            digests=(digest,),
            n_cells=self.n_cells,
            squared_norm=self.squared_norm,
            gram=gram,
            donor_grams=donor_grams,
            group_sums=self.group_sums,
            group_counts=self.group_counts,
            type_sizes=self.type_sizes,
            gene_sums=self.gene_sums,
            gene_squares=self.gene_squares,
        )
