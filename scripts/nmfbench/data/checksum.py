"""Checksums of what lies in our own files, stored when they are written and compared when they are read.

A flipped bit, a label that was edited, or another file in the place of ours would otherwise move a score
without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py

_ROWS = 65_536  # of a list of texts
_BYTES = 8 * 2**20


def checksums(file: h5py.File, *sections: str, skip: str = "") -> dict[str, str]:
    """SHA-256 of every object below some groups of an HDF5 file, whatever its compression and chunks.

    Parameters
    ----------
    file
        An open file.
    *sections
        Groups or datasets, such as ``obs``.
    skip
        One dataset that is left out: where the checksums are kept.

    Returns
    -------
    dict of str to str
        Path of the object -> its checksum. Memory holds one block of one dataset.
    """
    found: dict[str, str] = {}
    for section in sections:
        if section not in file:
            continue
        found[section] = _of(file[section])
        if hasattr(file[section], "visititems"):
            file[section].visititems(
                lambda name, item, section=section: found.update({f"{section}/{name}": _of(item)})
            )
    found.pop(skip, None)
    return found


def _of(item: h5py.Group | h5py.Dataset) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(item.attrs.items()):
        digest.update(f"{name}={_plain(value)!r}\n".encode("utf-8", "surrogateescape"))
    if hasattr(item, "shape"):
        for part in _parts(item):
            digest.update(part)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _parts(item: h5py.Dataset) -> Iterator[bytes | memoryview]:
    """The content in pieces: type and shape, then the values in their order."""
    import h5py

    is_text = h5py.check_string_dtype(item.dtype) is not None
    yield f"{'text' if is_text else item.dtype.str} {item.shape}\n".encode()
    if item.shape is None:
        return
    if item.ndim == 0:
        value = item[()]
        yield value if isinstance(value, bytes) else np.asarray(value).tobytes()
        return
    rows = _ROWS if is_text else max(1, _BYTES // max(1, item.dtype.itemsize * int(np.prod(item.shape[1:]))))
    for start in range(0, item.shape[0], rows):
        block = item[start : start + rows]
        yield b"\0".join(block.ravel().tolist()) + b"\0" if is_text else np.ascontiguousarray(block).tobytes()


def as_stored(found: Mapping[str, str]) -> str:
    """The checksums as one text, for uns."""
    return json.dumps(found, sort_keys=True)


def whole(found: Mapping[str, str]) -> str:
    """One checksum of all."""
    return hashlib.sha256(as_stored(found).encode()).hexdigest()


def require_same(
    path: str | Path, stored: Mapping[str, str], found: Mapping[str, str], remedy: str, what: str = ""
) -> None:
    """Refuse content that is not what was written.

    Parameters
    ----------
    path
        The file, for the message.
    stored, found
        Checksums from when it was written and from now. Those of `stored` that lie outside of what `found`
        covers are not looked at.
    remedy
        What to do.
    what
        Group that `found` covers; all of the file by default.

    Raises
    ------
    InputError
        Naming what differs.
    """
    expected = {key: value for key, value in stored.items() if not what or _lies_in(key, what)}
    differing = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    if differing:
        raise InputError(
            f"{path}: {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}",
            "the content that the workflow wrote",
            "another: it was changed afterwards, or the disk damaged it",
            remedy,
        )


def _lies_in(key: str, what: str) -> bool:
    return key == what or key.startswith(f"{what}/")
