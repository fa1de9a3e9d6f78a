"""How large the counts of a file are, from its outline alone: no cell is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py

    from nmfbench.data.counts import CountsLocation

_PROVENANCE = "uns/nmfbench_filter"


class Size(NamedTuple):
    """Cells, genes and nonzeros of a matrix; the last are those stored, None where zeros are stored too."""

    n_cells: int
    n_genes: int
    n_nonzeros: int | None


def size_of(file: h5py.File, location: CountsLocation) -> Size:
    """Size of a matrix of an open h5ad file."""
    stored = None if location.form == "dense" else int(file[location.key]["data"].shape[0])
    return Size(*location.shape, stored)


def size_of_file(path: str | Path, source: str = "auto") -> Size | None:
    """Size of the counts in an h5ad file; None where they cannot be found.

    Parameters
    ----------
    path : path
    source : str
        Where the counts lie, as in :func:`nmfbench.data.counts.locate_counts`.
    """
    from nmfbench.data.counts import locate_counts
    from nmfbench.data.h5ad import open_h5ad, reading

    try:
        with open_h5ad(path) as file, reading(path, source):
            return size_of(file, locate_counts(file, path, source))
    except InputError:
        return None  # whoever reads the cells says what is wrong


def size_before(filtered: str | Path) -> Size | None:
    """Size of the counts that a ``filtered.h5ad`` was made of, as it remembers; None where it does not."""
    from nmfbench.data.h5ad import open_h5ad

    try:
        with open_h5ad(filtered) as file:
            found = file[_PROVENANCE]
            stored = int(found["n_stored_before"][()])
            return Size(int(found["n_cells_before"][()]), int(found["n_genes_before"][()]), stored or None)
    except (InputError, OSError, KeyError):
        return None


def require_ranks(path: str | Path, source: str, ranks: Sequence[int]) -> None:
    """Refuse ranks that a file cannot carry, before anything of it is read; silent where its size is unknown.

    Raises
    ------
    InputError
        Naming the ranks and the size.
    """
    found = size_of_file(path, source)
    largest = None if found is None else min(found.n_cells, found.n_genes)
    if largest is not None and (too_large := sorted(rank for rank in ranks if rank > largest)):
        raise InputError(
            f"{path}: rank {', '.join(map(str, too_large))} is larger than the data",
            f"ranks of at most {largest}",
            f"{found.n_cells} cells x {found.n_genes} genes",
            "lower `ranks` in the config",
        )
