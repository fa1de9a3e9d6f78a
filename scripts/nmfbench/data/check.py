"""Are these values counts? Asked of every block before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nmfbench.data.counts import CountsLocation, CountsReader, config_word, list_matrices, locate_counts
from nmfbench.data.h5ad import reading
from nmfbench.data.labels import as_text
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    from scipy import sparse

LARGEST_EXACT = 2**24  # whole numbers above it are rounded in float32
LARGEST_COUNT = 2**31  # a gene of one cell has fewer reads than a run of a sequencer, and float32 squares it
LARGEST_LOG = 25.0  # no log1p of a count is larger than this


@dataclass
class ValueCheck:
    """Checks the values of blocks and keeps what was seen.

    Parameters
    ----------
    file, path, location
        The open file, its name and the matrix in it.
    cells, genes
        Names for messages, shapes (cells,) and (genes,); text or UTF-8 bytes.
    allow_non_integer
        Fractions give a warning instead of an error.
    assume
        - ``check``: the values must look like counts;
        - ``counts``: they are taken as they are, with a warning.
    """

    file: h5py.File
    path: Path
    location: CountsLocation
    cells: Sequence[str | bytes]
    genes: Sequence[str]
    allow_non_integer: bool = False
    assume: Literal["check", "counts"] = "check"
    largest: float = 0.0
    n_values: int = 0
    n_fractions: int = 0
    _likeness: str = field(default="", init=False)

    def update(self, rows: np.ndarray, block: sparse.csr_matrix) -> None:
        """Check one block; `rows` are its row numbers in the file, shape (block,).

        Raises
        ------
        InputError
            A value is NaN, infinite, negative, larger than any count, or (unless allowed) not whole.
        """
        data = block.data
        if data.size == 0:
            return
        if data.dtype.kind == "f":
            self._refuse(np.isnan(data), "NaN", rows, block)
            self._refuse(np.isinf(data), "infinite", rows, block)
        if data.dtype.kind != "u":
            self._refuse(data < 0, "negative", rows, block)
        if data.dtype.itemsize > 2 and data.dtype.kind != "b":
            self._refuse(data > LARGEST_COUNT, f"larger than {LARGEST_COUNT}", rows, block)
        self.n_values += data.size
        self.largest = max(self.largest, float(data.max()))
        if data.dtype.kind != "f":
            return
        fractions = data != np.rint(data)
        count = int(np.count_nonzero(fractions))
        if count and not self.n_fractions:
            self._likeness = what_it_looks_like(block, count / data.size)
        self.n_fractions += count
        if count and not self.allow_non_integer and self.assume == "check":
            raise self._not_whole(fractions, rows, block)

    def report(self) -> dict[str, Any]:
        """What was found, for the provenance."""
        return {
            "source": self.location.source,
            "stored_as": self.location.form,
            "stored_type": str(self.location.dtype),
            "whole_numbers": self.n_fractions == 0,
            "n_fractions": self.n_fractions,
            "largest": self.largest,
            "assume": self.assume,
        }

    def warnings(self) -> list[str]:
        """What a reader of the results has to know about the values."""
        where, notes = self.location.source, []
        if self.assume == "counts":
            notes.append(f"{where} is taken as counts without being asked (matrix.assume: counts)")
        if self.n_fractions:
            looks = f"; it looks like {self._likeness}" if self._likeness else ""
            notes.append(
                f"{where} holds {self.n_fractions} fractions among {self.n_values} nonzeros, "
                f"largest value {self.largest:g}{looks}"
            )
        if self.largest > LARGEST_EXACT:
            notes.append(f"{where} holds counts up to {self.largest:g}; float32 rounds those above 2^24")
        return notes

    def _refuse(self, bad: np.ndarray, word: str, rows: np.ndarray, block: sparse.csr_matrix) -> None:
        if not bad.any():
            return
        count, first = np.count_nonzero(bad), self._first(bad, rows, block)
        raise InputError(
            f"{self.path}: {self.location.source}",
            f"finite counts of 0 or more, up to {LARGEST_COUNT}",
            f"{count} {word} value(s) in this block, the first {first}",
            f"mend the file, or choose other counts with datasets.<name>.matrix.source{self._others()}",
        )

    def _not_whole(self, bad: np.ndarray, rows: np.ndarray, block: sparse.csr_matrix) -> InputError:
        looks = f"; this looks like {self._likeness}, not counts" if self._likeness else ""
        source = config_word(self.location.key)
        return InputError(
            f"{self.path}: {self.location.source}",
            "counts: whole numbers of 0 or more",
            f"{np.count_nonzero(bad)} of {bad.size} nonzeros are fractions, largest value {self.largest:g}, "
            f"the first {self._first(bad, rows, block)}{looks}",
            f"set datasets.<name>.matrix.source to where the counts are{self._others()}; or, to use these "
            f"values on purpose, matrix: {{source: {source}, assume: counts}} (takes them as they are) "
            f"or matrix.allow_non_integer: true (corrected counts such as decontX)",
        )

    def _first(self, bad: np.ndarray, rows: np.ndarray, block: sparse.csr_matrix) -> str:
        at = int(np.argmax(bad))
        row = int(np.searchsorted(block.indptr, at, side="right")) - 1
        cell, gene = as_text(self.cells[rows[row]]), self.genes[block.indices[at]]
        return f"{block.data[at]:g} at cell {cell!r} (row {rows[row]}), gene {gene!r}"

    def _others(self) -> str:
        """Name the other matrices of the file that do hold whole numbers."""
        found = whole_matrices(self.file, self.path, skip=self.location.source)
        return f" (whole numbers are in {', '.join(found)})" if found else ""


def what_it_looks_like(block: sparse.csr_matrix, fraction: float) -> str:
    """Guess how a block with fractions was normalised; empty when there is no telling.

    Parameters
    ----------
    block
        Non-negative values, shape (cells, genes).
    fraction
        Share of the nonzeros that are not whole.
    """
    used = np.diff(block.indptr) > 0
    largest = float(block.data.max())
    candidates = [("library-size normalised values", block.data.astype(np.float64))]
    if largest < LARGEST_LOG:
        candidates.insert(0, ("log1p of library-size normalised values", np.expm1(candidates[0][1])))
    for words, values in candidates:
        totals = np.add.reduceat(values, block.indptr[:-1][used])
        middle = float(np.median(totals))
        if totals.size > 1 and np.abs(totals - middle).max() < 0.01 * middle:
            return f"{words} ({middle:.6g} a cell)"
    return "normalised or log-transformed values" if fraction > 0.5 and largest < LARGEST_LOG else ""


def whole_matrices(file: h5py.File, path: str | Path, skip: str, n_cells: int = 50) -> list[str]:
    """Names, as the config writes them, of matrices whose first cells hold only whole numbers."""
    found = []
    try:
        with reading(path, "layers"):
            there = list_matrices(file)
    except InputError:
        return []
    for name, (key, _) in there.items():
        if name == skip:
            continue
        word = config_word(key)
        try:
            location = locate_counts(file, path, word)
            if location.form == "csc":  # its first cells are spread over the whole file
                continue
            block = CountsReader(file[location.key], location, path).rows(0, min(n_cells, location.shape[0]))
        except InputError:
            continue
        data = block.data
        if data.size and np.isfinite(data).all() and data.min() >= 0 and (data == np.rint(data)).all():
            found.append(f"matrix.source: {word}")
    return found
