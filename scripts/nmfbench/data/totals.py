"""What the cells' total counts say about the values: normalised ones, and a few cells that outweigh the rest.

Totals are gathered as a histogram of their square roots, so that memory does not grow with the cells. The
square root of a Poisson count has a standard deviation of 1/2 whatever its mean, so even cells of one and the
same depth fill no bin of `WIDTH` by more than 8 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

WIDTH = 0.1  # of a bin, in square roots of counts
LARGEST_ROOT = 20_000  # totals above 4e8 share the last bin
ALIKE = 0.25  # share of the cells in two neighbouring bins from which on they are too much alike
LEAST_TOTAL = (
    25.0  # below it a bin holds one whole number, of which a quarter of the cells may well have the same
)
LEAST_CELLS = 20
FEW = 0.1  # share of the cells that should not hold half of the counts: a log-normal spread of 1.3 reaches it


class Totals:
    """Histogram of the total counts of cells, with the counts in each bin."""

    def __init__(self) -> None:
        bins = int(LARGEST_ROOT / WIDTH) + 1
        self._cells = np.zeros(bins, dtype=np.int64)
        self._counts = np.zeros(bins)
        self._smallest = np.inf

    def update(self, block: sparse.csr_matrix) -> None:
        """Add the cells of a block of counts without stored zeros, shape (cells, genes)."""
        if not block.nnz:
            return
        totals = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        places = np.minimum(np.sqrt(totals) / WIDTH, len(self._cells) - 1).astype(np.int64)
        np.add.at(self._cells, places, 1)
        np.add.at(self._counts, places, totals)
        self._smallest = min(self._smallest, float(block.data.min()))

    def warnings(self, source: str) -> list[str]:
        """What a reader of the results has to know; `source` names the matrix."""
        n = int(self._cells.sum())
        if n < LEAST_CELLS:
            return []
        return [note for note in (self._alike(source, n), self._few(source, n), self._no_one(source)) if note]

    def _alike(self, source: str, n: int) -> str:
        pairs = self._cells[:-1] + self._cells[1:]
        first = int((LEAST_TOTAL**0.5) / WIDTH)
        at = first + int(np.argmax(pairs[first:]))
        if pairs[at] < ALIKE * n:
            return ""
        total = self._counts[at : at + 2].sum() / pairs[at]
        return (
            f"{source}: {pairs[at]} of {n} cells have nearly the same total ({total:.6g}), more alike than "
            "counting leaves them: are they normalised (CPM, TPM) and rounded, or downsampled? Models of "
            "counts need the raw ones"
        )

    def _few(self, source: str, n: int) -> str:
        from_top = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(from_top, 0.5 * from_top[-1]))
        holding = int(self._cells[::-1][: place + 1].sum())
        if holding > max(FEW * n, 1):
            return ""
        share = from_top[place] / from_top[-1]
        return (
            f"{source}: {holding} of {n} cells ({holding / n:.2%}) hold {share:.0%} of all counts, as "
            "full-length cells (Smart-seq) among droplet cells do: models of counts fit little else. Keep "
            "one assay (datasets.<name>.obs_filters), or leave the cells out"
        )

    def _no_one(self, source: str) -> str:
        if self._smallest <= 1:
            return ""
        return (
            f"{source}: the smallest count that is not zero is {self._smallest:g}, where counts begin with "
            "1: were they scaled?"
        )
