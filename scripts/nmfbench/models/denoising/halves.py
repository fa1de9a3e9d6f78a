"""What the exact solver takes of the two halves of counts: one pass, in blocks of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from nmfbench.data.halves import mean_and_difference
from nmfbench.models.autoencoder.costs import gram_method
from nmfbench.models.autoencoder.exact.operators import GramOperator, Operator, SparseOperator
from nmfbench.rows.memory import BLOCK_ROWS, RowSource
from nmfbench.rows.scaled import scale_columns
from nmfbench.statistics import Layout, gather_shard
from nmfbench.statistics.grams import check_gpu_memory

_HALVES = ("mean", "difference")


@dataclass(frozen=True)
class Halves:
    """Mean and half the difference of the halves of counts, of one or several random splits.

    Parameters
    ----------
    counts : RowSource
        Whole numbers, in the order of the cells.
    seed : int
        Of the splits.
    n_splits : int
    target_sum, log1p
        As in :func:`nmfbench.data.normalise_block`, for each half.
    gene_factors : (genes,) array, optional
        What the normalised values of each gene are multiplied with, in both halves.
    """

    counts: RowSource
    seed: int
    n_splits: int
    target_sum: float | None
    log1p: bool
    gene_factors: np.ndarray | None = None

    def blocks(self) -> Iterator[tuple[sp.csr_matrix, sp.csr_matrix]]:
        """Mean and difference of a block of cells, each split of it in turn, divided by √`n_splits`."""
        options: dict[str, Any] = {"target_sum": self.target_sum, "log1p": self.log1p}
        share = np.float32(1 / np.sqrt(self.n_splits))
        for start, block in self.counts.blocks(BLOCK_ROWS):
            for split in range(self.n_splits):
                seed = self.seed if self.n_splits == 1 else [self.seed, split]
                pair = mean_and_difference(block, start, seed, **options)
                if self.gene_factors is not None:
                    pair = tuple(scale_columns(part, self.gene_factors) for part in pair)
                for part in pair if self.n_splits > 1 else ():
                    part.data *= share
                yield pair

    def operator(self, route: str, memory_mb: float, device: str) -> Operator:
        """K of mean and difference, as two groups: through the nonzeros (``sparse``), or whole (``gram``)."""
        return self._sparse() if route == "sparse" else self._gram(memory_mb, device)

    def _sparse(self) -> SparseOperator:
        parts = list(self.blocks())
        rows = sp.vstack([mean for mean, _ in parts] + [difference for _, difference in parts], format="csr")
        del parts
        group = np.repeat([0, 1], self.n_splits * self.counts.n_rows)
        return SparseOperator(rows, groups=group, n_cells=self.counts.n_rows)

    def _gram(self, memory_mb: float, device: str) -> GramOperator:
        n, p, splits = self.counts.n_rows, self.counts.n_columns, self.n_splits
        # Metal has no double precision: the processor takes its place, as for all small sums.
        device = device if device.startswith("cuda") else "cpu"
        layout = Layout(
            fingerprint="",
            genes=tuple(map(str, range(p))),
            n_cells=2 * splits * n,
            conditions={"half": _HALVES},
            donor_grams=True,
            method=gram_method(n, p, self.counts.nnz, device),
        )
        check_gpu_memory(layout, [device], BLOCK_ROWS, None)
        coded = (
            (part, np.full((part.shape[0], 1), code, np.int64), None)
            for pair in self.blocks()
            for code, part in enumerate(pair)
        )
        found = gather_shard(coded, layout, device=device, memory_mb=memory_mb)
        return GramOperator(
            found.donor_grams, n_cells=n, squared_norm=found.squared_norm, device=device, dtype=np.float32
        )
