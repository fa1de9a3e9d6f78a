"""Find the counts of an h5ad file and stream them as CSR row blocks.

CSR and dense matrices are read by slices of rows. A CSC matrix is first turned into a CSR
matrix in a scratch file (:mod:`nmfbench.data.csc`), once, with bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from nmfbench.data.frames import attribute, frame_length, word
from nmfbench.data.h5ad import POINTERS_AT_ONCE, Pointers, Unsound, member, readable, reading
from nmfbench.data.location import CountsLocation
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py

MAX_BLOCK_NONZEROS = 2_000_000  # 24 MB of float32 values and int64 columns
MAX_BLOCK_ROWS = 65_536
MAX_DENSE_BYTES = 32 * 2**20


def locate_counts(file: h5py.File, path: str | Path, source: str = "auto") -> CountsLocation:
    """Find the matrix that holds the counts.

    Parameters
    ----------
    file
        The open h5ad file.
    path
        Its name, for messages.
    source
        - ``auto``: ``raw.X`` where there is one, else ``X``, as the CELLxGENE schema has it;
        - ``X`` or ``raw``;
        - the name of a layer.

    Raises
    ------
    InputError
        There is no such matrix, it is not a matrix of numbers, it is empty, or its shape does not
        fit obs and var.
    """
    for name in ("X", "raw"):
        with reading(path, name):
            if name in file:
                member(file, name)  # a link may lead nowhere
    there = list_matrices(file)
    if not there:
        raise InputError(
            f"{path}: X", "a matrix of counts", "a file without X, raw or layers", "give a file with counts"
        )
    wanted = _name_of(source, there)
    if wanted not in there:
        raise InputError(
            f"{path}: {wanted}",
            f"counts where matrix.source = {source!r} says",
            f"no such matrix; there are {', '.join(there)}",
            "set datasets.<name>.matrix.source to auto, X, raw or the name of a layer",
        )
    key, var_key = there[wanted]
    return _describe(file, path, wanted, key, var_key)


def list_matrices(file: h5py.File) -> dict[str, tuple[str, str]]:
    """Matrices of a file: name in the words of anndata -> HDF5 paths of the matrix and its genes."""
    found = {}
    if _is_matrix(file, "X"):
        found["X"] = ("X", "var")
    if _is_matrix(file, "raw/X"):
        found["raw.X"] = ("raw/X", "raw/var" if "raw/var" in file else "var")
    for name in file.get("layers") or ():
        found[f"layers[{name!r}]"] = (f"layers/{name}", "var")
    return found


def config_word(key: str) -> str:
    """What matrix.source says for the matrix at the HDF5 path `key`."""
    return "raw" if key == "raw/X" else key.removeprefix("layers/")


def _is_matrix(file: h5py.File, key: str) -> bool:
    item = file.get(key)  # None for a link that leads nowhere
    return item is not None and word(item, "encoding-type") != "null"


def _name_of(source: str, there: dict[str, tuple[str, str]]) -> str:
    if source == "auto":
        return "raw.X" if "raw.X" in there else "X"
    if source in ("raw", "raw.X", "raw/X"):
        return "raw.X"
    return "X" if source == "X" else f"layers[{source.removeprefix('layers/')!r}]"


def _describe(file: h5py.File, path: str | Path, source: str, key: str, var_key: str) -> CountsLocation:
    import h5py

    item = file[key]
    with reading(path, source):
        if isinstance(item, h5py.Dataset):
            form, shape, dtype = "dense", readable(item).shape, item.dtype
        else:
            form, shape, dtype = _sparse_outline(file, item, var_key)
    if form not in ("csr", "csc", "dense") or len(shape) != 2 or dtype.kind not in "iufb":
        raise InputError(
            f"{path}: {source}",
            "a dense, CSR or CSC matrix of numbers",
            f"{form or 'something else'} of type {dtype}, shape {' x '.join(map(str, shape)) or 'unknown'}",
            "choose another matrix with datasets.<name>.matrix.source",
        )
    shape = (int(shape[0]), int(shape[1]))
    for axis, frame, words in ((0, "obs", "cells"), (1, var_key, "genes")):
        with reading(path, frame):
            length = frame_length(file[frame])
        if length != shape[axis]:
            raise InputError(
                f"{path}: {source}",
                f"as many {words} as {frame} has rows ({length})",
                f"a matrix of {shape[0]} x {shape[1]}",
                "write the file again from consistent data",
            )
    if 0 in shape:
        raise InputError(
            f"{path}: {source}",
            "at least one cell and one gene",
            f"an empty matrix of {shape[0]} x {shape[1]}",
            "give a file with cells and genes",
        )
    return CountsLocation(source, key, var_key, form, dtype, shape)


def _sparse_outline(file: h5py.File, item: h5py.Group, var_key: str) -> tuple[str, tuple, np.dtype]:
    """Form, shape and type of a matrix that is a group."""
    encoding = word(item, "encoding-type") or word(item, "h5sparse_format")
    form = encoding.removesuffix("_matrix")
    shape = attribute(item, "shape", attribute(item, "h5sparse_shape", ()))
    if not {"data", "indices", "indptr"} <= set(item):
        return form, tuple(shape), np.dtype(object)
    if not encoding:  # a writer that says nothing: the pointers tell
        shape = (frame_length(member(file, "obs")), frame_length(member(file, var_key)))
        pointers = item["indptr"].shape[0] - 1
        form = "" if shape[0] == shape[1] else {shape[0]: "csr", shape[1]: "csc"}.get(pointers, "")
    for part in ("data", "indices", "indptr"):
        if readable(item[part]).ndim != 1:
            raise Unsound(f"{part} of shape {item[part].shape} in a sparse matrix")
    for part in ("indices", "indptr"):
        if item[part].dtype.kind not in "iu":
            raise Unsound(f"{part} of type {item[part].dtype} in a sparse matrix")
    return form, tuple(shape), item["data"].dtype


class CountsReader:
    """Row blocks of a stored matrix, in the type it is stored in.

    Parameters
    ----------
    matrix
        A dense dataset, or a group with ``data``, ``indices`` and ``indptr`` of a CSR matrix.
    location
        What the matrix is.
    path
        The file, for messages.
    """

    def __init__(self, matrix: h5py.Group | h5py.Dataset, location: CountsLocation, path: str | Path) -> None:
        self.location = location
        self.path = Path(path)
        self.n_cells, self.n_genes = location.shape
        self._matrix = matrix
        self._repeated: dict[int, int] = {}
        self._pointers = None
        if location.form != "dense":
            with reading(path, f"{location.source} indptr"):
                self._pointers = Pointers(matrix["indptr"])
                self._check_pointers()

    def warnings(self) -> list[str]:
        """What a reader of the results has to know about the way the matrix is stored."""
        if not self.n_repeated:
            return []
        return [
            f"{self.location.source} holds {self.n_repeated} entries for a cell and gene that had one "
            "already; they were added up"
        ]

    def blocks(self, keep: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Blocks of rows in file order, each of bounded size.

        Parameters
        ----------
        keep
            Rows that are wanted, shape (cells,), booleans. Blocks without any are not read.

        Yields
        ------
        rows : numpy.ndarray, shape (block,)
            Row numbers in the file.
        block : scipy.sparse.csr_matrix, shape (block, genes)
            Sorted, without stored zeros and without entries given twice.
        """
        for start, stop in self._spans():
            rows = np.arange(start, stop) if keep is None else start + np.flatnonzero(keep[start:stop])
            if rows.size == 0:
                continue
            block = self.rows(start, stop)
            yield rows, block if rows.size == stop - start else block[rows - start]

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Rows `start` to `stop`, shape (stop - start, genes), in canonical form."""
        with reading(self.path, f"{self.location.source}, rows {start} to {stop}"):
            block = self._read(start, stop)
            if not block.has_canonical_format:
                block = self._merged(start, block)
        block.eliminate_zeros()
        return block

    @property
    def n_repeated(self) -> int:
        """Entries for a cell and gene that had one already, of the blocks that were read."""
        return sum(self._repeated.values())

    def _merged(self, start: int, block: sparse.csr_matrix) -> sparse.csr_matrix:
        """The same rows sorted, with entries that are given twice added up in a type that holds the sum."""
        block.sort_indices()
        block.has_canonical_format = False  # sorting is not enough
        same_row = np.ones(block.nnz, dtype=bool)
        same_row[block.indptr[:-1][np.diff(block.indptr) > 0]] = False
        again = int(np.count_nonzero(same_row[1:] & (block.indices[1:] == block.indices[:-1])))
        if again:
            if block.data.dtype.kind != "u" and (block.data < 0).any():
                raise Unsound("entries given twice for a cell and gene, some of them negative")
            block.data = block.data.astype(_WIDE[block.data.dtype.kind], copy=False)
            self._repeated[start] = again
        block.sum_duplicates()
        return block

    def _read(self, start: int, stop: int) -> sparse.csr_matrix:
        if self._pointers is None:
            return sparse.csr_matrix(_usable(self._matrix[start:stop, :]))
        indptr = self._pointers(start, stop)
        first, last = int(indptr[0]), int(indptr[-1])
        indices = self._matrix["indices"][first:last]
        if indices.dtype not in (np.int32, np.int64):  # scipy knows no others
            indices = indices.astype(np.int32 if self.n_genes < 2**31 else np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self.n_genes):
            raise Unsound(f"a gene number outside 0 to {self.n_genes - 1}")
        data = _usable(self._matrix["data"][first:last])
        return sparse.csr_matrix((data, indices, indptr - first), shape=(stop - start, self.n_genes))

    def _spans(self) -> Iterator[tuple[int, int]]:
        if self._pointers is None:
            row_bytes = max(1, self.n_genes * self.location.dtype.itemsize)
            step = max(1, min(MAX_BLOCK_ROWS, MAX_DENSE_BYTES // row_bytes))
            for start in range(0, self.n_cells, step):
                yield start, min(start + step, self.n_cells)
            return
        start = 0
        while start < self.n_cells:
            with reading(self.path, f"{self.location.source} indptr"):
                indptr = self._pointers(start, min(start + MAX_BLOCK_ROWS, self.n_cells))
            rows = int(np.searchsorted(indptr, indptr[0] + MAX_BLOCK_NONZEROS, side="right")) - 1
            stop = start + max(rows, 1)
            yield start, stop
            start = stop

    def _check_pointers(self) -> None:
        stored, last, rise, overflown = self._matrix["data"].shape[0], 0, True, False
        if self._pointers.n_rows == self.n_cells:
            for start in range(0, self.n_cells, POINTERS_AT_ONCE):
                part = self._pointers(start, min(start + POINTERS_AT_ONCE, self.n_cells))
                rise = rise and part[0] == last and bool((part[1:] >= part[:-1]).all())
                overflown = overflown or bool((part < 0).any())
                last = int(part[-1])
        if overflown:
            problem = "row pointers below 0: its writer counted more than 2^31 entries in 32 bits"
        elif self._pointers.n_rows != self.n_cells or not rise:
            problem = "row pointers that do not rise from 0"
        elif last != stored or self._matrix["indices"].shape[0] != stored:
            problem = f"{stored} values where the row pointers say {last}"
        else:
            return
        raise InputError(
            f"{self.path}: {self.location.source}",
            "a consistent CSR matrix",
            problem,
            "the file is damaged: download or write it again",
        )


_WIDE = {"b": np.int64, "i": np.int64, "u": np.uint64, "f": np.float64}
"""By the kind of a type, the one in which counts are added."""


def _usable(values: np.ndarray) -> np.ndarray:
    """The same values in a type scipy's sparse matrices can hold."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        wanted = np.dtype({2: np.float32, 4: np.float32}.get(values.dtype.itemsize, np.float64))
    else:
        wanted = values.dtype.newbyteorder("=")
    return values.astype(wanted, copy=False)


@contextmanager
def open_counts(
    file: h5py.File, location: CountsLocation, path: str | Path, scratch: str | Path
) -> Iterator[CountsReader]:
    """Give row blocks of the matrix at `location`.

    Parameters
    ----------
    file
        The open h5ad file.
    location
        Which matrix, from :func:`locate_counts`.
    path
        The name of the file, for messages.
    scratch
        A file name that may be used for a CSC matrix turned into CSR (12 to 16 bytes a nonzero); it is
        removed afterwards. Not used for other forms.
    """
    if location.form != "csc":
        yield CountsReader(file[location.key], location, path)
        return
    from nmfbench.data.csc import rows_from_columns

    with rows_from_columns(file[location.key], location, path, Path(scratch)) as by_rows:
        yield CountsReader(by_rows, location, path)
