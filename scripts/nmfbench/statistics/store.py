"""Statistics on disk: one HDF5 file, written atomically, with a checksum of each array."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nmfbench.errors import InputError
from nmfbench.statistics.record import Layout, Statistics

SCHEMA = "nmfbench-statistics-1"
_ARRAYS = ("gram", "donor_grams", "group_sums", "group_counts", "type_sizes", "gene_sums", "gene_squares")
_ROWS = 1024
_AGAIN = "delete the file and gather it again"


def save(statistics: Statistics, path: str | Path) -> None:
    """Write statistics; the file appears whole or not at all.

    Parameters
    ----------
    path : path
        An .h5 file. Its folder must exist.
    """
    with writing(path) as file:
        fill(file, statistics)


@contextmanager
def writing(path: str | Path):
    """An HDF5 file that takes the name `path` only when everything in it is on disk."""
    import h5py

    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with h5py.File(partial, "w") as file:
            yield file
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(
            str(path), "room and the right to write the statistics", str(error),
            "free disk space or choose another folder",
        ) from error  # fmt: skip
    finally:
        partial.unlink(missing_ok=True)


def fill(file, statistics: Statistics) -> None:
    """Write every array with its checksum, by rows, and then the header with its own."""
    file.attrs["schema"] = SCHEMA
    file.attrs["shards"] = np.array(statistics.shards, np.int64)
    file.attrs["digests"] = list(statistics.digests)
    file.attrs["n_cells"] = statistics.n_cells
    file.attrs["squared_norm"] = statistics.squared_norm
    # a data set, for an attribute holds no more than 64 kB
    file["layout"] = statistics.layout.to_json()
    for name in _ARRAYS:
        array = getattr(statistics, name)
        if array is not None:
            dataset = file.create_dataset(name, shape=array.shape, dtype=array.dtype)
            hasher = _hasher(array)
            for part in _parts(array):
                piece = np.ascontiguousarray(array[part])
                dataset[part] = piece
                hasher.update(piece)
            dataset.attrs["checksum"] = hasher.hexdigest()
    file.attrs["header_checksum"] = _header_checksum(file)


def load(path: str | Path, *, memory_map: bool = False, verify: bool = True) -> Statistics:
    """Read statistics and check them.

    Parameters
    ----------
    path : path
    memory_map : bool
        Leave the Gram matrices on disk and read them as they are used.
    verify : bool
        Compare every array with its checksum.

    Raises
    ------
    InputError
        If the file is missing, truncated, damaged or of another kind.
    """
    import h5py

    path = Path(path)
    if not path.exists():
        raise InputError(str(path), "a file of statistics", "no such file", "gather the statistics first")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("schema") != SCHEMA:
                raise InputError(str(path), SCHEMA, str(file.attrs.get("schema")), _AGAIN)
            if file.attrs.get("header_checksum") != _header_checksum(file):
                raise InputError(f"{path}: header", "the checksum written with it", "another", _AGAIN)
            arrays = {name: _read(file, name, path, memory_map, verify) for name in _ARRAYS}
            statistics = Statistics(
                layout=Layout.from_json(file["layout"].asstr()[()]),
                shards=tuple(int(i) for i in file.attrs["shards"]),
                digests=tuple(str(digest) for digest in file.attrs["digests"]),
                n_cells=int(file.attrs["n_cells"]),
                squared_norm=float(file.attrs["squared_norm"]),
                **arrays,
            )
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(str(path), "a whole HDF5 file of statistics", f"{error}", _AGAIN) from error
    statistics.check()
    return statistics


def checksum(array: np.ndarray) -> str:
    """blake2b of shape, dtype and content, read by rows so that a memory map stays on disk."""
    hasher = _hasher(array)
    for part in _parts(array):
        hasher.update(np.ascontiguousarray(array[part]))
    return hasher.hexdigest()


def _hasher(array: np.ndarray):
    return hashlib.blake2b(f"{array.shape} {array.dtype.str}".encode(), digest_size=16)


def _parts(array: np.ndarray) -> list[tuple]:
    """Slices that cut an array into pieces of some rows, in the order of memory."""
    rows = [slice(start, start + _ROWS) for start in range(0, array.shape[min(1, array.ndim - 2)], _ROWS)]
    if array.ndim < 3:
        return [(part,) for part in rows]
    return [(i, part) for i in range(array.shape[0]) for part in rows]


def _read(file, name: str, path: Path, memory_map: bool, verify: bool) -> np.ndarray | None:
    if name not in file:
        return None
    dataset = file[name]
    if memory_map and "gram" in name:
        offset = dataset.id.get_offset()
        array = np.memmap(path, mode="r", dtype=dataset.dtype, shape=dataset.shape, offset=offset)
    else:
        array = dataset[()]
    if verify and checksum(array) != dataset.attrs["checksum"]:
        raise InputError(f"{path}: {name}", "the checksum written with it", "another", _AGAIN)
    return array


def _header_checksum(file) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(file["layout"][()])
    for name in ("shards", "digests", "n_cells", "squared_norm"):
        hasher.update(repr(file.attrs[name]).encode())
    for name in _ARRAYS:
        hasher.update(str(file[name].attrs["checksum"] if name in file else None).encode())
    return hasher.hexdigest()
