"""Write an h5ad file block by block, and only ever show it whole."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.atomic import part_of
from nmfbench.data.names import write_names
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    from scipy import sparse

# Measured on PBMC counts: of none, lzf and gzip 1 to 4, each with and without shuffle, this is both
# the fastest that halves the file and within 6 % of the smallest (33 MB for 155 MB of CSR).
# The checksum of each chunk costs nothing to speak of and is compared by HDF5 whenever the chunk is read.
COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
CHUNK = 131_072  # entries
POINTER_CHUNK = 16_384

_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota used up", errno.EFBIG: "file size limit reached"}
_SECTIONS = ("layers", "obsm", "obsp", "varm", "varp", "uns")


class GrowingArray:
    """A one-dimensional dataset that grows at its end, by whole chunks, so that none is packed twice.

    Parameters
    ----------
    group, name, dtype
        Of the dataset, which is made.
    chunk
        Entries in a chunk.
    """

    def __init__(self, group: h5py.Group, name: str, dtype: Any, chunk: int) -> None:
        self._dataset = group.create_dataset(
            name, (0,), dtype, maxshape=(None,), chunks=(chunk,), **COMPRESSION
        )
        self._chunk = np.empty(chunk, dtype)
        self._waiting = 0  # entries of the chunk that is being filled

    def append(self, values: np.ndarray) -> None:
        """Add `values`, shape (entries,)."""
        if self._waiting:
            values = values[self._fill(values) :]
        whole = len(values) // len(self._chunk) * len(self._chunk)
        if whole:
            self._write(values[:whole])
        self._fill(values[whole:])

    def finish(self) -> None:
        """Write what is left."""
        self._write(self._chunk[: self._waiting])

    def _fill(self, values: np.ndarray) -> int:
        """Put values into the waiting chunk while there is room; how many."""
        taken = min(len(values), len(self._chunk) - self._waiting)
        self._chunk[self._waiting : self._waiting + taken] = values[:taken]
        self._waiting += taken
        if self._waiting == len(self._chunk):
            self._write(self._chunk)
            self._waiting = 0
        return taken

    def _write(self, values: np.ndarray) -> None:
        end = self._dataset.shape[0]
        self._dataset.resize((end + len(values),))
        self._dataset[end:] = values


class CsrWriter:
    """A CSR matrix that grows by row blocks; made by :meth:`NewFile.csr`.

    Parameters
    ----------
    group
        An empty group that becomes the matrix.
    n_genes
        Number of columns.
    max_nonzeros
        The most nonzeros that will come; decides between int32 and int64 for both index arrays.
    check
        Called after each block; raises when the disk is full.
    """

    def __init__(self, group: h5py.Group, n_genes: int, max_nonzeros: int, check: Callable[[], None]) -> None:
        self.n_rows, self.n_genes = 0, n_genes
        self.nnz = 0
        self._index_type = np.int32 if max_nonzeros < 2**31 else np.int64
        self._group = group
        self._check = check
        self._data = GrowingArray(group, "data", np.float32, CHUNK)
        self._indices = GrowingArray(group, "indices", self._index_type, CHUNK)
        self._indptr = GrowingArray(group, "indptr", self._index_type, POINTER_CHUNK)
        self._indptr.append(np.zeros(1, self._index_type))

    def append(self, block: sparse.csr_matrix) -> None:
        """Add the rows of `block`, shape (rows, genes)."""
        end = self.nnz + block.nnz
        if end > np.iinfo(self._index_type).max:
            raise OverflowError(f"{end} nonzeros, more than was foreseen when the matrix was begun")
        first = int(block.indptr[0])
        self._data.append(block.data)
        self._indices.append(block.indices)
        self._indptr.append(block.indptr[1:].astype(np.int64) + (self.nnz - first))
        self.n_rows += block.shape[0]
        self.nnz = end
        self._check()

    def finish(self) -> int:
        """Write what is left and the marks by which anndata knows a CSR matrix; returns the rows."""
        for array in (self._data, self._indices, self._indptr):
            array.finish()
        self._group.attrs["encoding-type"] = "csr_matrix"
        self._group.attrs["encoding-version"] = "0.1.0"
        self._group.attrs["shape"] = np.array([self.n_rows, self.n_genes])
        return self.n_rows


def write_sections(file: h5py.File, sections: dict[str, Any]) -> None:
    """Write obs, var, uns and whatever else is given, and empty groups for the rest of the layout."""
    from anndata.io import write_elem

    file.attrs["encoding-type"] = "anndata"
    file.attrs["encoding-version"] = "0.1.0"
    for name in _SECTIONS:
        sections.setdefault(name, {})
    for name, value in sections.items():
        write_elem(file, name, value)


def write_frame(
    file: h5py.File, key: str, n_rows: int, names: Iterable[bytes], columns: Iterable[tuple[str, Any]]
) -> None:
    """Write a data frame of the h5ad layout whose index and columns come one after the other.

    Parameters
    ----------
    file
        Where it goes.
    key
        Such as ``obs``.
    n_rows
        Number of rows.
    names
        Index, as UTF-8 bytes.
    columns
        Names and arrays (numpy's or pandas'); one is in memory at a time.
    """
    import h5py
    from anndata.io import write_elem

    group = file.create_group(key)
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0"})
    write_names(group, n_rows, names)
    written = []
    for name, values in columns:
        write_elem(group, name, values)
        written.append(name)
    group.attrs["column-order"] = np.array(written, dtype=h5py.string_dtype())


def begin_array(group: h5py.Group, key: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    """An array of the h5ad layout that is filled later."""
    array = group.create_dataset(key, shape, dtype)
    array.attrs["encoding-type"] = "array"
    array.attrs["encoding-version"] = "0.2.0"
    return array


@dataclass(frozen=True)
class NewFile:
    """An HDF5 file that is being written.

    Attributes
    ----------
    hdf5 : h5py.File
    check : callable
        Raises the OSError of the first write that failed.
    """

    hdf5: h5py.File
    check: Callable[[], None]

    def csr(self, key: str, n_genes: int, max_nonzeros: int) -> CsrWriter:
        """Begin a CSR matrix at the path `key`."""
        return CsrWriter(self.hdf5.create_group(key), n_genes, max_nonzeros, self.check)


@contextmanager
def whole_h5ad(path: str | Path) -> Iterator[NewFile]:
    """A new file that appears at `path` only when the context ends well.

    It is written beside `path` and renamed. After any failure nothing is left.

    Raises
    ------
    InputError
        The disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        with disk_errors(path):
            with new_hdf5(part) as file:
                yield file
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_hdf5(path: Path) -> Iterator[NewFile]:
    """A new HDF5 file in which a full disk is one clear error.

    Left alone, HDF5 keeps what it could not write and tries again whenever something is closed: it
    loses errors, prints dozens of others and often crashes the process at its end. So it is never
    told; the failure is raised by `NewFile.check`, which is called once more at the end.
    """
    import h5py

    path.unlink(missing_ok=True)  # what a killed run left, or a link, which is not followed
    with Sink(path, "x+") as sink:
        file = h5py.File(sink, "w")
        try:
            yield NewFile(file, sink.check)
        except BaseException as error:
            file.close()
            if isinstance(error, Exception):
                sink.check()  # the cause of whatever HDF5 made of the missing bytes
            raise
        file.close()
        sink.check()


class Sink(io.FileIO):
    """A file that keeps its first failure to write and from then on only pretends to write."""

    error: OSError | None = None

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length."""
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read; what was only pretended to be written is zeros."""
        count = super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        if self.error is not None:
            view[count:] = bytes(len(view) - count)
            count = len(view)
        return count


@contextmanager
def disk_errors(path: str | Path, left: str = "the unfinished file was removed") -> Iterator[None]:
    """Turn "disk full", in each of the ways it shows, into an `InputError` about `path`.

    `left` says what became of the unfinished file.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        folder = Path(path).absolute().parent
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"{path}",
            "room to write it",
            f"{problem}; {free / 1e9:.1f} GB are free in {folder}",
            f"free some space or run in a folder on a larger disk; {left}",
        ) from error


def disk_problem(error: BaseException) -> str | None:
    """What is wrong with the disk, or None when the error is about something else.

    HDF5 gives the number of the system error only in the text of its message, and raises
    RuntimeError when the data do not fit while the file is being closed.
    """
    seen: BaseException | None = error
    while seen is not None:
        for number, words in _FULL.items():
            if getattr(seen, "errno", None) == number or f"errno = {number}" in str(seen):
                return words
            if os.strerror(number) in str(seen):
                return words
        seen = seen.__cause__ or seen.__context__
    return None
