"""Read ``filtered.h5ad`` and normalise its counts: the one place where either is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from nmfbench.data.checksum import checksums, require_same
from nmfbench.data.fingerprint import Fingerprint
from nmfbench.data.frames import frame_column, frame_columns, frame_length, read_frame
from nmfbench.data.h5ad import Pointers, open_h5ad, reading
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    import pandas as pd

PROVENANCE_KEY = "nmfbench_filter"
SPATIAL = "spatial"  # the key of obsm that scanpy and squidpy use
TARGET_SUM = 1e4  # counts per cell after normalisation, as in the published runs
AS_COUNTED = {"target_sum": None, "log1p": False}
"""The normalisation that leaves counts as they are, for models of counts."""
_LOAD_ROWS = 4096
_FILTER_AGAIN = "filter again: delete the file and run the same command"


class FilteredCounts:
    """The counts of the kept cells, on disk.

    Parameters
    ----------
    path
        A file written by :func:`nmfbench.data.filter_donors`.

    Attributes
    ----------
    path : pathlib.Path
    provenance : dict
        ``uns["nmfbench_filter"]``.
    fingerprint : str
        SHA-256 of counts, names and labels.
    n_cells, n_genes, nnz : int

    Raises
    ------
    InputError
        The file is not one of ours, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        from anndata.io import read_elem

        self.path = Path(path)
        with open_h5ad(self.path) as file:
            if f"uns/{PROVENANCE_KEY}" not in file or "X/indptr" not in file:
                raise InputError(
                    f"{self.path}: uns[{PROVENANCE_KEY!r}]",
                    "a file written by the rule filter_donors",
                    "an h5ad file of other origin",
                    "run the workflow from the original file, or call nmfbench.data.filter_donors",
                )
            with reading(self.path, "X and uns"):
                self.provenance: dict[str, Any] = _plain(read_elem(file["uns"][PROVENANCE_KEY]))
                self.n_cells = len(file["X/indptr"]) - 1
                self.nnz = int(file["X/indptr"][-1])
                self.n_genes = frame_length(file["var"])
        self.fingerprint = str(self.provenance["fingerprint"])
        self._checksums: dict[str, str] = json.loads(self.provenance.pop("checksums", "{}"))
        self._counts_are_verified = False

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Cells: labels, conditions and kept columns."""
        return self._frame("obs")

    @cached_property
    def var(self) -> pd.DataFrame:
        """Genes."""
        return self._frame("var")

    @cached_property
    def coordinates(self) -> np.ndarray | None:
        """Where the cells lie, shape (cells, 2 or 3), float64; None where the data have no coordinates."""
        place = f"obsm/{SPATIAL}"
        with open_h5ad(self.path) as file, reading(self.path, place):
            self._verify(file, place)
            return file[place][:] if place in file else None

    def _verify(self, file: h5py.File, section: str) -> None:
        if self._checksums:
            require_same(self.path, self._checksums, checksums(file, section), _FILTER_AGAIN, section)

    def _frame(self, name: str) -> pd.DataFrame:
        with open_h5ad(self.path) as file, reading(self.path, name):
            self._verify(file, name)
            return read_frame(file[name])

    def label(self, name: str) -> pd.Categorical:
        """A label or condition column of obs, without reading the others or the names of the cells.

        Raises
        ------
        InputError
            There is no such column.
        """
        with open_h5ad(self.path) as file, reading(self.path, f"obs[{name!r}]"):
            if name not in file["obs"]:
                raise InputError(
                    f"{self.path}: obs[{name!r}]",
                    "a label column",
                    f"the columns {', '.join(frame_columns(file['obs']))}",
                    f"add {name!r} to datasets.<name>.keep_obs or condition_columns and filter again",
                )
            self._verify(file, f"obs/{name}")
            return frame_column(file["obs"], name)

    def blocks(
        self, block_size: int = 4096, needed: np.ndarray | None = None
    ) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """One pass over the raw counts in row order.

        Parameters
        ----------
        block_size
            Rows per block; the last may have fewer.
        needed
            Numbers of the blocks to read; None reads all.

        Yields
        ------
        start : int
            Number of the first row.
        block : scipy.sparse.csr_matrix, shape (rows, genes), float32

        Raises
        ------
        InputError
            The counts cannot be read; or, at the end of the first whole pass, they are not those that the
            filter wrote.
        """
        seen = None
        if needed is None and self._checksums and not self._counts_are_verified:
            seen = Fingerprint()
        with open_h5ad(self.path) as file:
            data, indices, pointers = file["X/data"], file["X/indices"], Pointers(file["X/indptr"])
            numbers = range(-(-self.n_cells // block_size)) if needed is None else needed
            for start in (int(number) * block_size for number in numbers):
                stop = min(start + block_size, self.n_cells)
                with reading(self.path, f"X, rows {start} to {stop}"):
                    indptr = pointers(start, stop)
                    first, last = int(indptr[0]), int(indptr[-1])
                    parts = data[first:last], indices[first:last]
                block = csr_of(*parts, indptr - first, self.n_genes)
                if seen is not None:
                    seen.add_block(block)
                yield start, block
        if seen is not None:
            require_same(self.path, self._checksums, seen.of_counts(), _FILTER_AGAIN, "X")
            self._counts_are_verified = True

    def lengths(self, block_size: int = 4096) -> Iterator[np.ndarray]:
        """Nonzeros of each cell, shape (rows,), int64, a block of cells at a time."""
        with open_h5ad(self.path) as file:
            pointers = Pointers(file["X/indptr"])
            for start in range(0, self.n_cells, block_size):
                with reading(self.path, "X/indptr"):
                    yield np.diff(pointers(start, min(start + block_size, self.n_cells)))

    def spans(
        self, spans: Sequence[tuple[int, int]], block_size: int = 4096
    ) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """One pass over the raw counts of some ranges of rows, put together to blocks.

        Parameters
        ----------
        spans
            First and last + 1 row of each range, ascending.
        block_size
            Ranges are put together until a block has so many rows.

        Yields
        ------
        rows : numpy.ndarray, shape (rows,)
            Numbers of the rows.
        block : scipy.sparse.csr_matrix, shape (rows, genes), float32
        """
        with open_h5ad(self.path) as file:
            stored = file["X/data"], file["X/indices"], Pointers(file["X/indptr"])
            waiting: list[tuple[int, int]] = []
            for number, span in enumerate(spans, start=1):
                waiting.append(span)
                if number == len(spans) or sum(b - a for a, b in waiting) >= block_size:
                    yield self._together(*stored, waiting)
                    waiting = []

    def _together(
        self, data: h5py.Dataset, indices: h5py.Dataset, pointers: Pointers, spans: list[tuple[int, int]]
    ) -> tuple[np.ndarray, sparse.csr_matrix]:
        rows = np.concatenate([np.arange(a, b) for a, b in spans])
        with reading(self.path, f"X, rows {rows[0]} to {rows[-1]}"):
            # what lies side by side is read at once
            indptrs = [pointers(a, b) for a, b in _joined(spans)]
            edges = [(int(indptr[0]), int(indptr[-1])) for indptr in indptrs]
            parts = [np.concatenate([stored[a:b] for a, b in edges]) for stored in (data, indices)]
        lengths = np.concatenate([np.diff(indptr) for indptr in indptrs])
        return rows, csr_of(*parts, np.concatenate([[0], np.cumsum(lengths)]), self.n_genes)


def verify_section(file: h5py.File, path: str | Path, section: str) -> None:
    """Refuse a part of a filtered file, such as ``obs``, that is not what the filter wrote.

    The counts are verified by the first pass over all of them.
    """
    place = f"uns/{PROVENANCE_KEY}/checksums"
    if place in file:
        stored = json.loads(file[place][()])
        require_same(path, stored, checksums(file, section), _FILTER_AGAIN, section)


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges with those that touch made one."""
    joined = [spans[0]]
    for start, stop in spans[1:]:
        if start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


def read_filtered(path: str | Path) -> FilteredCounts:
    """Open a file written by :func:`nmfbench.data.filter_donors`; the counts stay on disk."""
    return FilteredCounts(path)


def csr_of(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """CSR matrix over given arrays, without copies, known to be sorted and free of duplicates."""
    shape = (len(indptr) - 1, n_genes)
    matrix = sparse.csr_matrix((data, indices, indptr.astype(indices.dtype, copy=False)), shape=shape)
    matrix.has_canonical_format = True
    return matrix


def normalise_block(
    block: sparse.csr_matrix, target_sum: float | None = TARGET_SUM, log1p: bool = True
) -> sparse.csr_matrix:
    """Library-size normalised values of raw counts, ``log1p(x / sum(x) * target_sum)``.

    Parameters
    ----------
    block
        Raw counts, shape (cells, genes).
    target_sum
        Sum of each cell before the logarithm; None leaves the counts as they are.
    log1p
        Whether to take the logarithm.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (cells, genes), float32
        A new matrix with the same nonzeros (it may share the index arrays). A cell of zeros stays one.

    Notes
    -----
    Sums are taken in float64, the rest is float32, as in :func:`scanpy.pp.normalize_total`.
    """
    data = block.data.astype(np.float32)
    if target_sum is not None:
        sums = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        scale = np.divide(target_sum, sums, out=np.zeros_like(sums), where=sums > 0)
        data *= np.repeat(scale.astype(np.float32), np.diff(block.indptr))
    if log1p:
        np.log1p(data, out=data)
    result = sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)
    result.has_sorted_indices = block.has_sorted_indices
    return result


def load_normalised(
    path: str | Path, target_sum: float | None = TARGET_SUM, log1p: bool = True
) -> sparse.csr_matrix:
    """All normalised counts in memory, for training on the whole matrix.

    The arrays are allocated once at their final size and filled block by block, so the peak is the
    matrix (8 bytes a nonzero, 12 above 2^31 nonzeros) and one block.

    Parameters
    ----------
    path
        A file written by :func:`nmfbench.data.filter_donors`.
    target_sum, log1p
        See :func:`normalise_block`.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (cells, genes), float32
    """
    counts = read_filtered(path)
    index_type = np.int32 if counts.nnz < 2**31 else np.int64
    data = np.empty(counts.nnz, dtype=np.float32)
    indices = np.empty(counts.nnz, dtype=index_type)
    indptr = np.zeros(counts.n_cells + 1, dtype=index_type)
    end = 0
    for start, block in counts.blocks(_LOAD_ROWS):
        indptr[start + 1 : start + 1 + block.shape[0]] = block.indptr[1:] + index_type(end)
        place = slice(end, end := end + block.nnz)
        data[place] = normalise_block(block, target_sum, log1p).data
        indices[place] = block.indices
    return csr_of(data, indices, indptr, counts.n_genes)


def _plain(value: Any) -> Any:
    """Python values in place of the numpy ones that come out of uns."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.item()) if value.ndim == 0 else [_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
