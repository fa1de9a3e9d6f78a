"""The checksum by which a data set is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

_AT_ONCE = 65_536


class Fingerprint:
    """SHA-256 of the content that training sees, whatever the blocks it came in.

    Covers the counts, the gene names, the cell ids, the text columns of obs (labels, donors,
    conditions) and the coordinates, so that a changed label is a changed data set.
    """

    def __init__(self) -> None:
        self._parts = {name: hashlib.sha256() for name in ("lengths", "indices", "data", "names")}

    def add_block(self, block: sparse.csr_matrix) -> None:
        """Add rows of counts."""
        self._parts["lengths"].update(np.diff(block.indptr).astype("<i8").data)
        for start in range(0, block.nnz, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            self._parts["indices"].update(block.indices[part].astype("<i8", copy=False).data)
            self._parts["data"].update(block.data[part].astype("<f4", copy=False).data)

    def add_words(self, words: Iterable[bytes]) -> None:
        """Add a list of words: the genes, then the cells, as UTF-8."""
        words = iter(words)
        while some := list(islice(words, _AT_ONCE)):
            self._parts["names"].update(b"\0".join(some) + b"\0")
        self._parts["names"].update(b"\1")

    def add_labels(self, columns: Mapping[str, pd.Categorical]) -> None:
        """Add columns of text, after the cells."""
        self.add_words(name.encode() for name in columns)
        for column in columns.values():
            text = [*(str(category).encode() for category in column.categories), b"nan"]  # the code -1
            self.add_words(
                text[code]
                for start in range(0, len(column), _AT_ONCE)
                for code in column.codes[start : start + _AT_ONCE].tolist()
            )

    def add_coordinates(self, coordinates: np.ndarray) -> None:
        """Add where cells lie; a data set without coordinates keeps the digest it had."""
        self._parts["names"].update(coordinates.astype("<f8").data)

    def of_counts(self) -> dict[str, str]:
        """Checksums of the counts alone, as far as they were added."""
        return {f"X/{name}": self._parts[name].hexdigest() for name in ("lengths", "indices", "data")}

    def hexdigest(self) -> str:
        """The fingerprint."""
        return hashlib.sha256("".join(p.hexdigest() for p in self._parts.values()).encode()).hexdigest()
