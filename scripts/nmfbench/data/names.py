"""The cells' ids, a block at a time: as text they take more memory than all else that is known of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.data.frames import as_str, foreign_text, frame_index, frame_length, index_of
from nmfbench.data.h5ad import readable

if TYPE_CHECKING:
    import h5py

NAMES_AT_ONCE = 16_384


class CellNames:
    """The index of a stored data frame, made unique, as UTF-8 bytes.

    The names stay on disk, unless some repeat or the index is no plain text: such names are held.

    Parameters
    ----------
    group
        The stored frame; its file has to stay open.

    Attributes
    ----------
    warnings : list of str
        What a reader of the results has to know.
    """

    def __init__(self, group: h5py.Group) -> None:
        import h5py

        index = index_of(group)
        self._stored = index
        self._held: list[bytes] | None = None
        self.warnings: list[str] = []
        self._n = frame_length(group)
        if not isinstance(index, h5py.Dataset) or h5py.check_string_dtype(index.dtype) is None:
            self._held = [name.encode() for name in frame_index(group)]
        else:
            readable(index)
        self._hold_as_utf8()
        if _may_repeat(self.blocks(), self._n):
            text = np.array([as_str(name) for block in self.blocks() for name in block], dtype=object)
            unique, notes = unique_names(text, "cell ids")
            self._held = [name.encode() for name in unique] if notes else self._held
            self.warnings += notes

    def _hold_as_utf8(self) -> None:
        """Names of another encoding are turned into UTF-8, and held."""
        foreign = [name for block in self.blocks() for name in block if not _is_utf8(name)]
        if foreign:
            self.warnings += foreign_text(foreign, "cell ids")
            self._held = [as_str(name).encode() for block in self.blocks() for name in block]

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: int) -> bytes:
        return self._stored[row] if self._held is None else self._held[row]

    def blocks(self, keep: np.ndarray | None = None) -> Iterator[list[bytes]]:
        """The names in their order, a block at a time.

        Parameters
        ----------
        keep
            Those that are wanted, shape (cells,), booleans.
        """
        source = self._stored if self._held is None else self._held
        for start in range(0, self._n, NAMES_AT_ONCE):
            names = list(source[start : start + NAMES_AT_ONCE])
            if keep is not None:
                names = [names[i] for i in np.flatnonzero(keep[start : start + NAMES_AT_ONCE])]
            yield names


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _may_repeat(blocks: Iterable[list[bytes]], n: int) -> bool:
    """Whether two names are equal, or their hashes of 64 bits: among 60 million that has a chance of 1e-4."""
    from pandas.util import hash_array

    hashes, end = np.empty(n, np.uint64), 0
    for names in blocks:
        part = slice(end, end := end + len(names))
        hashes[part] = hash_array(np.array(names, dtype=object), categorize=False)
    hashes.sort()
    return any(
        (
            hashes[start + 1 : start + 1 + NAMES_AT_ONCE]
            == hashes[start : start + NAMES_AT_ONCE][: n - 1 - start]
        ).any()
        for start in range(0, n - 1, NAMES_AT_ONCE)
    )


def unique_names(names: np.ndarray, words: str) -> tuple[np.ndarray, list[str]]:
    """Names made unique by ``-1``, ``-2``; with a warning when there was need.

    Parameters
    ----------
    names
        Text, shape (n,).
    words
        What they are, for the warning.
    """
    import warnings

    import pandas as pd
    from anndata.utils import make_index_unique

    index = pd.Index(names, dtype=object)
    repeated = index[index.duplicated()]
    if not len(repeated):
        return names, []
    examples = ", ".join(map(repr, repeated.unique()[:3]))
    with warnings.catch_warnings():  # "a-1" may have been there before; the next free number is taken
        warnings.simplefilter("ignore", UserWarning)
        unique = np.asarray(make_index_unique(index), dtype=object)
    note = f"{len(repeated)} {words} are duplicates and got a number ({examples})"
    return unique, [note]


def write_names(group: h5py.Group, n: int, names: Iterable[bytes]) -> None:
    """Write the index of a data frame of `n` rows, as :class:`CellNames` gives it."""
    import h5py

    index = group.create_dataset("_index", (n,), h5py.string_dtype())
    index.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    group.attrs["_index"] = "_index"
    names, end = iter(names), 0
    while block := [as_str(name) for name in islice(names, NAMES_AT_ONCE)]:
        part = slice(end, end := end + len(block))
        index[part] = np.array(block, dtype=object)
