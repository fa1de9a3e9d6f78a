"""Taking in an embedding by the names of its cells."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from nmfbench.errors import InputError
from nmfbench.models.card import OnCpu
from nmfbench.models.external import card
from nmfbench.models.given import GivenEmbedding
from nmfbench.models.parameters import parameters

log = logging.getLogger(__name__)


@parameters(card.External, OnCpu)
class External(GivenEmbedding):
    """An embedding made elsewhere, of any number of columns, also negative ones.

    ``fit`` reads it and puts its rows in the order of `cell_names`; further cells are left out.

    {parameters}

    Attributes
    ----------
    cells_ : ndarray of int or None
        With `allow_missing`: rows of X that the file has, to which ``embedding_`` belongs; None: all.
    """

    _embedding_name = "X_external"

    def _embed(self, X, donors, types) -> np.ndarray:
        path = Path(self.path)
        names, values = read_embedding_file(path, self.obsm)
        if self._names is None:
            raise InputError(
                "External: cell_names", "the names of the cells of X", "none", "give them to fit"
            )
        found, cells = align(names, values, self._names, path, allow_missing=self.allow_missing)
        self.source_ = {"path": str(path), "sha256": _sha256(path), "columns": int(found.shape[1])}
        self.cells_ = None if len(cells) == len(self._names) else cells
        return found


def read_embedding_file(path: Path, obsm: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Names of cells and their rows, from an .h5ad or a table.

    Raises
    ------
    InputError
        If the file is not there, has no such key, or holds what is no number.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file",
            "an .h5ad, .tsv or .csv with an embedding",
            "nothing",
            "correct models.<name>.path in the config",
        )
    if path.suffix == ".h5ad":
        return _from_h5ad(path, obsm)
    import pandas as pd

    table = pd.read_csv(path, sep="," if ".csv" in path.suffixes else "\t", dtype={0: str})
    numbers = table.iloc[:, 1:]
    text = [str(name) for name, kind in numbers.dtypes.items() if kind.kind not in "iuf"]
    if numbers.shape[1] == 0 or text:
        got = f"{numbers.shape[1]} further columns"
        raise InputError(
            f"{path}: columns",
            "names of cells first, then columns of numbers",
            got + (f", no numbers in {', '.join(text[:5])}" if text else ""),
            "write the names of the cells into the first column and the embedding into the others",
        )
    return table.iloc[:, 0].astype(str).to_numpy(), numbers.to_numpy(np.float64)


def _from_h5ad(path: Path, obsm: str | None) -> tuple[np.ndarray, np.ndarray]:
    from nmfbench.data.frames import frame_index
    from nmfbench.data.h5ad import open_h5ad

    with open_h5ad(path) as file:
        there = sorted(file["obsm"]) if "obsm" in file else []
        if obsm is None and len(there) == 1:
            obsm = there[0]
        if obsm not in there:
            raise InputError(
                f"{path}: obsm" + (f"[{obsm!r}]" if obsm else ""),
                "a key of obsm with the embedding",
                f"it has {', '.join(there) or 'none'}",
                "set models.<name>.obsm to one of them",
            )
        stored = file["obsm"][obsm]
        if not hasattr(stored, "shape"):
            raise InputError(
                f"{path}: obsm[{obsm!r}]",
                "a dense matrix",
                "a table or a sparse matrix",
                "write it as an array",
            )
        return np.asarray(frame_index(file["obs"])).astype(str), np.asarray(stored, dtype=np.float64)


def align(
    names: np.ndarray, values: np.ndarray, wanted: np.ndarray, path: Path, *, allow_missing: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the cells that are wanted, in their order, and which of these are there.

    Raises
    ------
    InputError
        If a wanted cell is missing (with `allow_missing`: all but one of them), a name stands twice, or a
        value is not finite.
    """
    values = values.reshape(len(values), -1)
    place = {name: row for row, name in enumerate(names)}
    if len(place) < len(names):
        unique, counts = np.unique(names, return_counts=True)
        twice = unique[counts > 1]
        raise InputError(
            f"{path}: names of cells",
            "each once",
            f"{len(twice)} more than once, the first {str(twice[0])!r}",
            "make the names unique",
        )
    rows = np.array([place.get(name, -1) for name in wanted])
    there = np.flatnonzero(rows >= 0)
    if len(there) < (2 if allow_missing else len(wanted)):
        missing = wanted[rows < 0]
        first = ", ".join(repr(str(name)) for name in missing[:3])
        raise InputError(
            f"{path}: cells",
            f"a row for each of the {len(wanted)} cells of the filtered dataset",
            f"{len(missing)} are missing, the first {first}; it begins with {str(names[0])!r}",
            "embed the cells of results/<dataset>/filtered.h5ad, and keep their names"
            + ("" if allow_missing else "; or set allow_missing: true, to score it on the cells it has"),
        )
    if len(there) < len(wanted):
        log.warning("%s: %d of %d cells are missing", path, len(wanted) - len(there), len(wanted))
    found = values[rows[there]]
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).any(axis=1).sum())
        raise InputError(
            f"{path}: values",
            "finite numbers",
            f"NaN or infinite values in {bad} of {len(found)} cells",
            "correct the embedding",
        )
    if len(names) > len(there):
        log.info("%s: %d cells that the dataset does not keep are left out", path, len(names) - len(there))
    return found, there


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
