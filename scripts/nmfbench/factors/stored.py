"""The factors of a fit on disk: loadings in memory, the embedding in blocks of cells or of factors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.comparison import choose_loadings
from nmfbench.data.frames import frame_column, frame_columns, frame_index, frame_length, read_frame
from nmfbench.data.h5ad import open_h5ad, reading
from nmfbench.errors import InputError
from nmfbench.metrics.labels import encode_labels
from nmfbench.results import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

BLOCK_ROWS = 16_384
#: Bytes of the embedding that are held when it is read by factors.
COLUMN_BYTES = 16 * 2**20


class StoredFit:
    """A ``result.h5ad`` whose embedding stays on disk.

    Parameters
    ----------
    path : str or Path

    Attributes
    ----------
    record : dict
        ``uns["nmfbench"]``: model, display name, rank, seed, the key of the embedding ...
    uns : dict
        All of uns.
    n_cells, n_genes, n_factors : int
    loadings : ndarray of shape (genes, factors)
        Those that belong to the embedding, see :func:`nmfbench.comparison.choose_loadings`.

    Raises
    ------
    InputError
        The file is no result of this workflow, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        from anndata.io import read_elem

        self.path = Path(path)
        with open_h5ad(self.path) as file:
            with reading(self.path, "uns"):
                self.uns: dict[str, Any] = read_elem(file["uns"]) if "uns" in file else {}
            self.record: dict[str, Any] = self.uns.get("nmfbench", {})
            key = self.record.get("embedding")
            if self.record.get("schema") != SCHEMA or f"obsm/{key}" not in file or "varm" not in file:
                raise InputError(
                    f"{self.path}: uns['nmfbench']",
                    "a result.h5ad of this workflow",
                    "an h5ad file of other origin",
                    "name the result.h5ad of a fit",
                )
            self.embedding_key = str(key)
            with reading(self.path, f"obsm[{key!r}]"):
                self.n_cells, self.n_factors = file[f"obsm/{key}"].shape
                self.n_genes = frame_length(file["var"])
                self.columns_of_obs = frame_columns(file["obs"])
            with reading(self.path, "varm"):
                varm = {name: read_elem(file["varm"][name]) for name in file["varm"]}
        self.loadings = choose_loadings(str(path), self.uns, varm, self.embedding_key, self.n_factors)

    @property
    def name(self) -> str:
        """Model, rank and seed, for messages and titles."""
        record = self.record
        return f"{record['display_name']}, rank {record['rank']}, seed {record['seed']}"

    @cached_property
    def var(self) -> pd.DataFrame:
        """Genes, as the filtered counts have them."""
        with open_h5ad(self.path) as file, reading(self.path, "var"):
            return read_frame(file["var"])

    def cell_names(self) -> np.ndarray:
        """Names of the cells, shape (cells,), objects."""
        with open_h5ad(self.path) as file, reading(self.path, "obs"):
            return frame_index(file["obs"])

    def label(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Codes (int32, -1 where it is missing) and classes of a label of the cells; see `encode_labels`.

        Raises
        ------
        InputError
            There is no such column of obs.
        """
        if name not in self.columns_of_obs:
            raise InputError(
                f"{self.path}: obs[{name!r}]",
                "a column of obs",
                f"the columns {', '.join(self.columns_of_obs)}",
                f"add {name!r} to datasets.<name>.keep_obs and train again",
            )
        with open_h5ad(self.path) as file, reading(self.path, f"obs[{name!r}]"):
            codes, classes = encode_labels(frame_column(file["obs"], name))
        return codes.astype(np.int32), classes

    def rows(self, start: int, stop: int, *, as_stored: bool = False) -> np.ndarray:
        """The embedding of some cells, float64 or in the precision of the file."""
        with open_h5ad(self.path) as file, reading(self.path, f"obsm[{self.embedding_key!r}]"):
            found = file[f"obsm/{self.embedding_key}"][start:stop]
        return found if as_stored and found.dtype.kind == "f" else found.astype(np.float64)

    def columns(self) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of a factor's number (from 0) and its column, of shape (cells,), float64.

        The file is read once for as many factors as :data:`COLUMN_BYTES` hold, in its own precision.
        """
        key = f"obsm/{self.embedding_key}"
        with open_h5ad(self.path) as file, reading(self.path, f"obsm[{self.embedding_key!r}]"):
            stored = file[key]
            width = COLUMN_BYTES // max(stored.dtype.itemsize * self.n_cells, 1)
            width = int(max(1, min(self.n_factors, width)))
            for first in range(0, self.n_factors, width):
                group = np.empty((min(width, self.n_factors - first), self.n_cells), stored.dtype)
                for start in range(0, self.n_cells, BLOCK_ROWS):
                    rows = stored[start : start + BLOCK_ROWS]
                    group[:, start : start + len(rows)] = rows[:, first : first + width].T
                for j, column in enumerate(group, start=first):
                    yield j, column.astype(np.float64)
