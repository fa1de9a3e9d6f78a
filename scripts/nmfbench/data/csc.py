"""Turn a CSC matrix on disk into a CSR matrix on disk with bounded memory.

Two passes over the column-sorted entries. The first counts the entries of each row. The second
sends every entry to the place of its *bucket* (a run of rows) in a scratch file; each bucket is then
read back and sorted by row. Memory holds one read chunk or one bucket, never the matrix.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.data.h5ad import Unsound, reading
from nmfbench.data.writer import NewFile, new_hdf5

if TYPE_CHECKING:
    import h5py

    from nmfbench.data.location import CountsLocation

logger = logging.getLogger(__name__)

CHUNK_NONZEROS = 2_000_000  # entries held at a time; about 150 MB with the sorting


@contextmanager
def rows_from_columns(
    matrix: h5py.Group,
    location: CountsLocation,
    path: str | Path,
    scratch: Path,
    chunk: int = CHUNK_NONZEROS,
) -> Iterator[h5py.Group]:
    """A CSR twin of a stored CSC matrix, in a scratch file that lives as long as the context.

    Parameters
    ----------
    matrix
        Group with ``data``, ``indices`` (rows) and ``indptr`` (columns).
    location
        Its shape and type.
    path
        The file it lies in, for messages.
    scratch
        Where the twin is written.
    chunk
        Entries held in memory at a time.

    Yields
    ------
    A group with ``data``, ``indices`` (columns, sorted in each row) and ``indptr`` (rows).
    """
    logger.info("%s: %s is stored by columns (CSC); turning it into rows", path, location.source)
    try:
        with new_hdf5(scratch) as file:
            _fill(file, matrix, location, path, _row_pointers(matrix, location, path, chunk), chunk)
            yield file.hdf5
    finally:
        scratch.unlink(missing_ok=True)


def _row_pointers(matrix: h5py.Group, location: CountsLocation, path: str | Path, chunk: int) -> np.ndarray:
    """Row pointers of the CSR twin, shape (cells + 1,)."""
    lengths = np.zeros(location.shape[0], dtype=np.int64)
    for rows, _, _ in _entries(matrix, location, path, chunk, values=False):
        lengths += np.bincount(rows, minlength=lengths.size)
    return np.concatenate([[0], np.cumsum(lengths)])


def _entries(
    matrix: h5py.Group, location: CountsLocation, path: str | Path, chunk: int, *, values: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, columns and values of the stored entries, `chunk` at a time, in column order."""
    with reading(path, location.source):
        indptr = matrix["indptr"][:].astype(np.int64)
        n_stored = matrix["data"].shape[0]
        rising = indptr[0] == 0 and (np.diff(indptr) >= 0).all()
        fits = indptr[-1] == n_stored == matrix["indices"].shape[0]
        if len(indptr) != location.shape[1] + 1 or not rising or not fits:
            raise Unsound("the column pointers do not fit the stored values")
    for start in range(0, n_stored, chunk):
        stop = min(start + chunk, n_stored)
        with reading(path, f"{location.source}, entries {start} to {stop}"):
            rows = matrix["indices"][start:stop]
            data = matrix["data"][start:stop] if values else np.empty(0)
            if rows.min() < 0 or rows.max() >= location.shape[0]:
                raise Unsound(f"a row number outside 0 to {location.shape[0] - 1}")
        columns = np.searchsorted(indptr, np.arange(start, stop), side="right") - 1
        yield rows, columns.astype(np.int32), data


def _fill(
    file: NewFile,
    matrix: h5py.Group,
    location: CountsLocation,
    path: str | Path,
    indptr: np.ndarray,
    chunk: int,
) -> None:
    """Write indptr, indices and data of the CSR twin."""
    n_stored = int(indptr[-1])
    file.hdf5["indptr"] = indptr
    rows_of = file.hdf5.create_dataset("rows", (n_stored,), np.int32)
    columns_of = file.hdf5.create_dataset("indices", (n_stored,), np.int32)
    data_of = file.hdf5.create_dataset("data", (n_stored,), location.dtype)

    first_rows = _bucket_starts(indptr, chunk)
    write_at = indptr[first_rows].copy()
    for rows, columns, data in _entries(matrix, location, path, chunk, values=True):
        bucket = np.searchsorted(first_rows, rows, side="right") - 1
        order = np.argsort(bucket, kind="stable")
        sizes = np.bincount(bucket, minlength=first_rows.size)
        begin = 0
        for number in np.flatnonzero(sizes):
            part = order[begin : begin + sizes[number]]
            place = slice(write_at[number], write_at[number] + sizes[number])
            rows_of[place], columns_of[place], data_of[place] = rows[part], columns[part], data[part]
            write_at[number] = place.stop
            begin += sizes[number]
        file.check()

    ends = np.append(indptr[first_rows[1:]], n_stored)
    for start, stop in zip(indptr[first_rows], ends, strict=True):
        # Entries arrive in column order, so a stable sort by row leaves the columns sorted in each row.
        order = np.argsort(rows_of[start:stop], kind="stable")
        columns_of[start:stop] = columns_of[start:stop][order]
        data_of[start:stop] = data_of[start:stop][order]
        file.check()


def _bucket_starts(indptr: np.ndarray, chunk: int) -> np.ndarray:
    """First row of each bucket; a bucket holds at most `chunk` entries, or one row."""
    starts, row, n_rows = [0], 0, len(indptr) - 1
    while True:
        row = max(int(np.searchsorted(indptr, indptr[row] + chunk, side="right")) - 1, row + 1)
        if row >= n_rows:
            return np.array(starts)
        starts.append(row)
