"""Where a matrix of counts lies in an .h5ad file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class CountsLocation:
    """Where a matrix lies in an h5ad file.

    Attributes
    ----------
    source : str
        In the words of anndata: ``raw.X``, ``X`` or ``layers['name']``.
    key, var_key : str
        HDF5 paths of the matrix and of the genes that belong to it.
    form : str
        How it is stored.
    dtype : numpy.dtype
        Type of the stored values.
    shape : tuple of int
        Cells x genes.
    """

    source: str
    key: str
    var_key: str
    form: Literal["csr", "csc", "dense"]
    dtype: np.dtype
    shape: tuple[int, int]
