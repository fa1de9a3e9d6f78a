"""How large files will be that no job has made yet: for what jobs ask for, and for the plan of a run.

Bytes per nonzero and per weight are those of files that this workflow wrote of real cells; they are good to a
factor of two, and requests have more room than that.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmfbench.data.size import Size, size_of_file
from nmfbench.errors import InputError

#: Bytes of a compressed nonzero in an .h5ad, of value and place together.
BYTES_PER_NONZERO = 2.5
#: Of a published atlas, which holds counts and normalised values with little compression.
BYTES_PER_PUBLISHED_NONZERO = 16
#: Nonzeros of a cell, where only the size of a download is known.
NONZEROS_PER_CELL = 1500
GENES = 30_000
#: Bytes of a cell's or gene's weight on a factor in a result, where models may store further arrays.
BYTES_PER_WEIGHT = 6
#: Of a weight while it is fitted: eight numbers in single precision (a posterior, Adam's moments, the best).
BYTES_PER_FITTED_WEIGHT = 32
_RANK = re.compile(r"rank-(\d+)")


@dataclass(frozen=True)
class ExpectedSizes:
    """Sizes of a run's files, those that are there and those to come.

    Parameters
    ----------
    datasets : mapping of str to section
        ``datasets`` of a config: ``path``, ``url`` with ``size``, or ``simulate``.
    """

    datasets: Mapping[str, Any]

    def megabytes(self, files: Iterable[str] | str) -> float:
        """Size of files in MB (2^20 bytes): measured where they are, expected where they are not."""
        files = [files] if isinstance(files, str) else files
        return sum(self._bytes(str(file)) for file in files) / 2**20

    def _bytes(self, file: str) -> float:
        try:
            return float(os.path.getsize(file))
        except OSError:
            return self._expected(Path(file))

    def _expected(self, path: Path) -> float:
        dataset = next((part for part in path.parts if part in self.datasets), None)
        if dataset is None:
            return 0.0
        size = self.of_dataset(dataset)
        nonzeros = size.n_nonzeros or 0
        if path.name == "source.h5ad":
            return float(self.datasets[dataset].size or BYTES_PER_NONZERO * nonzeros)
        if path.name == "filtered.h5ad" or path.name.startswith("shuffled-"):
            return BYTES_PER_NONZERO * nonzeros + 100.0 * size.n_cells
        if path.parent.name in ("statistics", "shards"):
            return 8.0 * size.n_genes**2
        if path.name == "result.h5ad" and (rank := _RANK.search(str(path))):
            return float(BYTES_PER_WEIGHT * int(rank.group(1)) * (size.n_cells + size.n_genes))
        if path.name in ("clusters.tsv.gz", "umap.tsv.gz"):
            return 10.0 * size.n_cells
        return 1e5 if path.suffix in (".png", ".pdf", ".html") else 2e4

    def megabytes_of_factors(self, dataset: str, rank: int) -> float:
        """MB of a fit's factors, with the moments and the copies that a model makes of them."""
        size = self.of_dataset(dataset)
        return BYTES_PER_FITTED_WEIGHT * rank * (size.n_cells + size.n_genes) / 2**20

    def megabytes_of_loadings(self, dataset: str, rank: int) -> float:
        """MB of a fit's loadings of every donor, with the same."""
        genes = self.of_dataset(dataset).n_genes
        return BYTES_PER_FITTED_WEIGHT * rank * genes * self.donors(dataset) / 2**20

    def donors(self, dataset: str) -> int:
        """Donors of a dataset (values of its condition column) at most, as far as they are known.

        As many as have enough cells; fewer where the file that the dataset begins from names fewer.
        """
        section = self.datasets[dataset]
        if section.simulate is not None:
            return section.simulate.n_donors
        most = max(1, self.of_dataset(dataset).n_cells // section.min_cells_per_donor)
        column = section.condition_columns[0]
        named = _named(section.path, section.donor_column if column == "donor_id" else column)
        return most if named is None else min(most, named)

    def of_dataset(self, name: str) -> Size:
        """Cells, genes and nonzeros of a dataset before donors are dropped, as far as they are known."""
        return _size(_Source.of(self.datasets[name]))


@dataclass(frozen=True)
class _Source:
    """What is known of a dataset before any job runs."""

    path: str | None
    bytes: int | None
    simulated: tuple[int, int, float] | None
    matrix: str

    @classmethod
    def of(cls, section: Any) -> _Source:
        simulate = section.simulate or section.simulate_screen
        return cls(
            section.path,
            section.size,
            simulate and (simulate.n_cells, simulate.n_genes, simulate.mean_counts),
            section.matrix.source,
        )


@functools.lru_cache(maxsize=64)
def _named(path: str | None, column: str) -> int | None:
    """Values that a file has names for in a column of obs; None where it has none, or is not there."""
    from nmfbench.data.h5ad import open_h5ad

    if path is None or not Path(path).exists():
        return None
    try:
        with open_h5ad(path) as file:
            return len(file["obs"][column]["categories"]) or None
    except (InputError, OSError, KeyError, ValueError, TypeError):
        return None  # not a categorical column, or no sound file, of which others say what is wrong


@functools.lru_cache(maxsize=64)
def _size(source: _Source) -> Size:
    if source.simulated:
        n_cells, n_genes, mean_counts = source.simulated
        return Size(n_cells, n_genes, int(n_cells * min(n_genes, mean_counts)))
    if source.path and Path(source.path).exists():
        found = size_of_file(source.path, source.matrix)
        if found is not None:
            stored = found.n_nonzeros
            return (
                found
                if stored is not None
                else found._replace(n_nonzeros=found.n_cells * found.n_genes // 10)
            )
        nonzeros = Path(source.path).stat().st_size / BYTES_PER_NONZERO
    else:
        nonzeros = (source.bytes or 0) / BYTES_PER_PUBLISHED_NONZERO
    return Size(int(nonzeros / NONZEROS_PER_CELL), GENES, int(nonzeros))
