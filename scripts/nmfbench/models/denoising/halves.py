"""What the exact solver takes of the two halves of counts: one pass, in blocks of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from nmfbench.data.halves import mean_and_difference
from nmfbench.linalg import SparseRows
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

    def blocks(self) -> Iterator[tuple[slice, tuple[sp.csr_matrix, sp.csr_matrix]]]:
        """A block of cells with their mean and difference, each split in turn, divided by √`n_splits`."""
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
                yield slice(start, start + block.shape[0]), pair

    def sums_of_means(self, codes: np.ndarray, n_conditions: int) -> np.ndarray:
        """Cᵀ M of the halves' mean M, an average over the splits.

        Parameters
        ----------
        codes : (cells, columns) int array
            The one-hot columns of C that each cell has.
        n_conditions : int
            Columns of C.

        Returns
        -------
        (n_conditions, genes) float64 array
        """
        sums = torch.zeros((n_conditions, self.counts.n_columns), dtype=torch.float64)
        for cells, (mean, _) in self.blocks():
            for column in codes[cells].T:
                SparseRows(mean).group_sums(column, sums)
        return sums.numpy() / np.sqrt(self.n_splits)

    def operator(
        self, route: str, memory_mb: float, device: str, codes: np.ndarray | None = None
    ) -> Operator:
        """K of mean and difference: through the nonzeros (``sparse``), or whole (``gram``).

        Parameters
        ----------
        route : {"sparse", "gram"}
        memory_mb : float
            For the Gram matrices.
        device : str
        codes : (cells,) int array, optional
            The donor of each cell, where each has loadings of its own.

        Returns
        -------
        Operator
            Its groups are the mean and the difference, or the mean of each donor and then the difference of
            each.
        """
        donors = np.zeros(self.counts.n_rows, np.int64) if codes is None else codes
        return self._sparse(donors) if route == "sparse" else self._gram(donors, memory_mb, device)

    def _sparse(self, donors: np.ndarray) -> SparseOperator:
        parts = list(self.blocks())
        rows = sp.vstack([pair[half] for half in (0, 1) for _, pair in parts], format="csr")
        of_rows = np.concatenate([donors[cells] for cells, _ in parts])
        del parts
        groups = np.concatenate([of_rows, of_rows + donors.max() + 1])
        return SparseOperator(rows, groups=groups, n_cells=self.counts.n_rows)

    def _gram(self, donors: np.ndarray, memory_mb: float, device: str) -> GramOperator:
        n, p, splits = self.counts.n_rows, self.counts.n_columns, self.n_splits
        m = int(donors.max()) + 1
        # Metal has no double precision: the processor takes its place, as for all small sums.
        device = device if device.startswith("cuda") else "cpu"
        layout = Layout(
            fingerprint="",
            genes=tuple(map(str, range(p))),
            n_cells=2 * splits * n,
            conditions={"half": tuple(f"{half} of {c}" for half in _HALVES for c in range(m))},
            donor_grams=True,
            method=gram_method(n, p, self.counts.nnz, device),
        )
        check_gpu_memory(layout, [device], BLOCK_ROWS, None)
        coded = (
            (part, (half * m + donors[cells])[:, None], None)
            for cells, pair in self.blocks()
            for half, part in enumerate(pair)
        )
        found = gather_shard(coded, layout, device=device, memory_mb=memory_mb)
        return GramOperator(
            found.donor_grams, n_cells=n, squared_norm=found.squared_norm, device=device, dtype=np.float32
        )
