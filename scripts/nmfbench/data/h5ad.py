"""The small parts of an h5ad file, read without loading the matrix.

Every way a file can be unreadable ends here in an :class:`~nmfbench.errors.InputError`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    import numpy as np

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
    _check_start(path)
    try:
        # Shared file systems often have no locks; nobody writes to an input anyway.
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=_READ_CACHE)
    except OSError as error:
        raise InputError(str(path), "a whole h5ad file", *_describe(error)) from error
    try:
        with reading(path, "outline"):
            _check_outline(file, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_start(path: Path) -> None:
    """Refuse what is no file or not HDF5 by its first bytes, which tell more than the library does."""
    from nmfbench.data.containers import of_folder, of_start

    expected = "an h5ad (HDF5) file"
    try:
        if path.is_dir():
            refusal, expected = of_folder(path), "an h5ad file"
        elif path.is_symlink() and not path.exists():
            refusal = f"a link to {path.readlink()}, which is not there", "mend the link, or give the file"
        elif not path.exists():
            refusal = "no such file", "check datasets.<name>.path in the config"
        elif not path.is_file():
            refusal = "a device or a pipe", "give a file that is stored on a disk"
        else:
            refusal = of_start(path)
    except OSError as error:
        raise InputError(
            str(path), "a file that can be read", str(error), "check its permissions and the disk"
        ) from error
    if refusal is not None:
        raise InputError(str(path), expected, *refusal)


def _describe(error: Exception) -> tuple[str, str]:
    """Say what an HDF5 error means and what to do about it."""
    text = " ".join(str(error).split())
    if "truncated file" in text:
        return f"a truncated file ({text})", "download or copy it again; compare its size and sha256"
    if "unable to lock file" in text or "already open for" in text:
        return (
            f"a file that another program holds open for writing ({text})",
            "close it there (a notebook with AnnData in backed mode? restart its kernel), or give a copy; "
            "where no program has it open, `h5clear -s` takes the mark off",
        )
    if "checksum" in text.lower() or "fletcher32" in text:
        return f"content that is not what was written ({text})", _AGAIN
    if isinstance(error, PermissionError) or "Permission denied" in text:
        return f"no permission to read it ({text})", "give yourself the right to read it"
    kind = "" if isinstance(error, OSError | RuntimeError | KeyError) else f"{type(error).__name__}: "
    return f"a damaged or unreadable file ({kind}{text})", _AGAIN


_AGAIN = "check the disk, then download or copy it again"


def _check_outline(file: h5py.File, path: Path) -> None:
    import h5py

    from nmfbench.data.containers import of_outline

    for name in ("obs", "var"):
        refusal = of_outline(file) if name not in file or "X" not in file else None
        if refusal is not None:
            raise InputError(str(path), "an h5ad file", *refusal)
        if name in file:
            with reading(path, name):
                member(file, name)  # a link may lead nowhere
        else:
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


class Unsound(Exception):
    """Content of a file that cannot be what its writer meant; :func:`reading` says where it lies.

    Parameters
    ----------
    got : str
        What is there.
    remedy : str
        What to do.
    """

    def __init__(self, got: str, remedy: str = "write the file again from consistent data") -> None:
        super().__init__(got)
        self.remedy = remedy


@contextmanager
def reading(path: str | Path, field: str) -> Iterator[None]:
    """Turn whatever goes wrong while `field` is read into an `InputError`.

    What a damaged file makes the libraries raise has no end (ValueError, TypeError, AttributeError ...), and
    all of it means that the file cannot be read.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Unsound as error:
        raise InputError(f"{path}: {field}", "data that can be read", str(error), error.remedy) from error
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError(str(error)) from error
        raise InputError(f"{path}: {field}", "data that can be read", *_describe(error)) from error


def member(group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group:
    """An object of a group, which may be a link that leads nowhere.

    Raises
    ------
    Unsound
        It is not there.
    """
    import h5py

    with suppress(KeyError):
        return group[name]
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise Unsound(f"a link to {link.path} in the file {link.filename}, which is not there", _LINK)
    if isinstance(link, h5py.SoftLink):
        raise Unsound(f"a link to {link.path}, which is not there", _LINK)
    raise Unsound(f"nothing called {name!r}, which the file says it has")


_LINK = "put what the link leads to where it was, or save the data as one file with AnnData.write_h5ad"

# Registered filters that writers of h5ad files use; the plugins are in the package hdf5plugin.
_FILTERS = {
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
    307: "bzip2",
    4: "szip",
}


def readable(dataset: h5py.Dataset) -> h5py.Dataset:
    """A dataset that can be unpacked: its plugin is loaded where it is installed.

    Raises
    ------
    Unsound
        It is a group, or compressed in a way that needs a plugin which is not installed.
    """
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise Unsound(
            f"a group with {', '.join(list(dataset)[:5]) or 'nothing in it'} where values should be"
        )
    plist = dataset.id.get_create_plist()
    for place in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(place)
        if h5py.h5z.filter_avail(code):
            continue
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401  registers its filters
        if not h5py.h5z.filter_avail(code):
            known = _FILTERS.get(code) or name.decode("ascii", "replace") or "unknown"
            raise Unsound(
                f"values compressed with {known} (HDF5 filter {code}), whose plugin is not installed",
                "install it (`pip install hdf5plugin` into the environment of the workflow), or save the "
                "file again with AnnData.write_h5ad(path, compression='gzip')",
            )
    return dataset


class Pointers:
    """The row pointers of a stored CSR matrix, of which a stretch is in memory.

    Parameters
    ----------
    dataset
        Shape (rows + 1,); its file has to stay open.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        if dataset.ndim != 1 or dataset.dtype.kind not in "iu":
            raise Unsound(f"pointers of type {dataset.dtype} and shape {dataset.shape}")
        self._dataset = readable(dataset)
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
