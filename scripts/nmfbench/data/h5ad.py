"""The small parts of an h5ad file, read without loading the matrix.

Every way a file can be unreadable ends here in an :class:`~nmfbench.errors.InputError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import pandas as pd

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_KNOWN_STARTS = {
    b"\x1f\x8b": ("a gzip archive", "unpack it with gunzip"),
    b"PK": ("a zip archive (a zarr store?)", "unpack it, or save it with AnnData.write_h5ad"),
    b"<": ("a web page or XML", "download the file itself, not the page that links to it"),
}
POINTERS_AT_ONCE = 2**18
# Bytes, which each array that is read fills: room for a chunk, as one that a block ends in must not be
# unpacked twice, and little more.
_READ_CACHE = 8 * 2**20


def open_h5ad(path: str | Path) -> h5py.File:
    """Open an h5ad file for reading and check that it is one.

    Parameters
    ----------
    path
        The file. Nothing but its outline is read.

    Returns
    -------
    The open file, to be used in a ``with`` statement.

    Raises
    ------
    InputError
        The file is missing, empty, not HDF5, cut off, or has no obs and var.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise InputError(str(path), "an h5ad file", got, "check datasets.<name>.path in the config")
    _check_start(path)
    try:
        # Shared file systems often have no locks; nobody writes to an input anyway.
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=_READ_CACHE)
    except OSError as error:
        raise InputError(str(path), "a whole h5ad file", *_describe(error)) from error
    try:
        _check_outline(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_start(path: Path) -> None:
    """Refuse what is not HDF5 by its first bytes, which tell more than the library does."""
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            stream.seek(512)
            after_user_block = stream.read(8)
    except OSError as error:
        raise InputError(
            str(path), "a file that can be read", str(error), "check its permissions and the disk"
        ) from error
    if _HDF5_SIGNATURE in (start, after_user_block):
        return
    got, remedy = "a file that is not HDF5", "give a file written by AnnData.write_h5ad"
    if not start:
        got, remedy = "an empty file (0 bytes)", "download or copy it again"
    for known, words in _KNOWN_STARTS.items():
        if start.startswith(known):
            got, remedy = words
    raise InputError(str(path), "an h5ad (HDF5) file", got, remedy)


def _describe(error: Exception) -> tuple[str, str]:
    """Say what an HDF5 error means and what to do about it."""
    text = " ".join(str(error).split())
    if "truncated file" in text:
        return f"a truncated file ({text})", "download or copy it again; compare its size and sha256"
    return f"a damaged or unreadable file ({text})", "check the disk, then download or copy it again"


def _check_outline(file: h5py.File, path: Path) -> None:
    import h5py

    for name in ("obs", "var"):
        if name not in file:
            raise InputError(
                f"{path}: {name}",
                "an h5ad file with obs and var",
                f"an HDF5 file with {', '.join(sorted(file)) or 'nothing in it'}",
                "write it with AnnData.write_h5ad",
            )
        if not isinstance(file[name], h5py.Group):
            raise InputError(
                f"{path}: {name}",
                "the h5ad layout of anndata 0.7 or later",
                "the older layout, a compound table",
                "open it with anndata.read_h5ad and save it with write_h5ad",
            )


@contextmanager
def reading(path: str | Path, field: str) -> Iterator[None]:
    """Turn a failure of the HDF5 library while reading `field` into an `InputError`."""
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: {field}", "data that can be read", *_describe(error)) from error


class Pointers:
    """The row pointers of a stored CSR matrix, of which a stretch is in memory.

    Parameters
    ----------
    dataset
        Shape (rows + 1,); its file has to stay open.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._first = 0
        self._held = dataset[:0]
        self.n_rows = len(dataset) - 1

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Pointers `start` to `stop`, both included, int64, shape (stop - start + 1,)."""
        low, high = start - self._first, stop + 1 - self._first
        if low < 0 or high > len(self._held):
            self._held = self._dataset[start : max(stop + 1, start + POINTERS_AT_ONCE)]
            self._first, low, high = start, 0, stop + 1 - start
        return self._held[low:high].astype("int64")


def frame_columns(group: h5py.Group) -> list[str]:
    """Names of the columns of a stored data frame, in its own order."""
    order = group.attrs.get("column-order")
    names = list(group) if order is None else [as_str(name) for name in order]
    index = as_str(group.attrs.get("_index", "_index"))
    return [name for name in names if name != index and not name.startswith("__")]


def frame_length(group: h5py.Group) -> int:
    """Number of rows of a stored data frame."""
    import h5py

    index = index_of(group)
    values = index if isinstance(index, h5py.Dataset) else index["values"]  # nullable text is a group
    return int(values.shape[0])


def frame_index(group: h5py.Group) -> np.ndarray:
    """Index of a stored data frame, as text; shape (rows,), objects."""
    import numpy as np
    from anndata.io import read_elem

    return np.array([as_str(value) for value in read_elem(index_of(group))], dtype=object)


def index_of(group: h5py.Group) -> h5py.Dataset | h5py.Group:
    """Where the index of a stored data frame lies; nullable text is a group."""
    return group[as_str(group.attrs.get("_index", "_index"))]


def stored_form(group: h5py.Group, name: str) -> Literal["categories", "text", "numbers", "other"]:
    """How a column of a stored data frame lies in the file; only the last needs anndata to make sense of it.

    Anndata before 0.8 keeps the categories apart; nullable arrays are groups.
    """
    import h5py

    item = group[name]
    if as_str(group.attrs.get("encoding-version", "0.1.0")) == "0.1.0":
        return "other"
    if isinstance(item, h5py.Group):
        return "categories" if as_str(item.attrs.get("encoding-type", "")) == "categorical" else "other"
    if h5py.check_string_dtype(item.dtype) is not None:
        return "text"
    return "numbers" if item.dtype.kind in "iufb" else "other"


def frame_column(group: h5py.Group, name: str) -> Any:
    """One column of a stored data frame: an array, a categorical or a nullable array."""
    from anndata.io import read_elem

    if as_str(group.attrs.get("encoding-version", "0.1.0")) == "0.1.0":
        # only the whole frame knows how to find the categories
        return read_elem(group)[name].array
    return read_elem(group[name])


def read_frame(group: h5py.Group) -> pd.DataFrame:
    """A whole stored data frame with a text index."""
    from anndata.io import read_elem

    frame = read_elem(group)
    frame.index = frame.index.astype(str)
    return frame


def as_str(value: Any) -> str:
    """Text of a stored word, which may be bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
