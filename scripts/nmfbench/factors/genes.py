"""Names of genes: Ensembl ids without their version, and symbols."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

#: Columns of var that hold symbols and ids, in the order in which they are looked for.
SYMBOL_COLUMNS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "gene_names", "symbol", "name")
ID_COLUMNS = ("feature_id", "gene_id", "gene_ids", "ensembl_id", "ensembl", "ensembl_gene_id")
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{6,})(\.\d+)?$")


@dataclass(frozen=True)
class GeneNames:
    """What each gene is called.

    Attributes
    ----------
    names : ndarray of str, shape (p,)
        The index of var.
    ids : ndarray of str, shape (p,)
        Ensembl ids without their version; empty where there is none.
    symbols : ndarray of str, shape (p,)
        Symbols; the name in the index where there is none.
    """

    names: np.ndarray
    ids: np.ndarray
    symbols: np.ndarray

    @classmethod
    def of(cls, var: pd.DataFrame) -> GeneNames:
        """Find ids and symbols in the index and the columns of var."""
        names = np.asarray(var.index.astype(str), dtype=object)
        ids = without_version(names)
        for column in ID_COLUMNS:
            if column in var and not any(ids):
                ids = without_version(_texts(var[column]))
        symbols = names
        for column in SYMBOL_COLUMNS:
            if column in var:
                found = _texts(var[column])
                symbols = np.where(found == "", names, found)
                break
        return cls(names, ids, np.asarray(symbols, dtype=object))


def without_version(names: np.ndarray) -> np.ndarray:
    """Ensembl ids of genes without what follows their dot; empty text for what is none."""
    found = (_ENSEMBL.match(name) for name in names)
    return np.array([match.group(1) if match else "" for match in found], dtype=object)


def _texts(column: pd.Series) -> np.ndarray:
    values = column.astype(object)
    return np.asarray(values.where(values.notna(), "").astype(str), dtype=object)
