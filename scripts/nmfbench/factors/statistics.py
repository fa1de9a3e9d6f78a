"""Numbers that describe each factor: sparsity, norms, overlap, orthogonality, effective sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmfbench.compiled import compiled

if TYPE_CHECKING:
    import pandas as pd


def column_statistics(values: np.ndarray) -> dict[str, float]:
    """Zeros, norms and effective number of the entries of one column.

    The effective number is the exponential of the entropy of the entries' shares of the L1 norm: m entries
    that are equal, and zeros besides, are m.

    Parameters
    ----------
    values : ndarray of shape (n,)

    Returns
    -------
    dict
        ``zeros`` (share of exact zeros), ``L1``, ``L2`` and ``effective`` (NaN for a column of zeros).
    """
    zeros, L1, squares, logs = _column_sums(np.asarray(values, dtype=np.float64))
    return {
        "zeros": zeros / len(values),
        "L1": L1,
        "L2": float(np.sqrt(squares)),
        # of shares s = x / L1: -Σ s log s = log L1 - Σ x log x / L1
        "effective": float(np.exp(np.log(L1) - logs / L1)) if L1 > 0 else float("nan"),
    }


@compiled(nogil=True)
def _column_sums(values):
    zeros, L1, squares, logs = 0, 0.0, 0.0, 0.0
    for value in values:
        x = abs(value)
        if x == 0:
            zeros += 1
        else:
            L1 += x
            squares += x * x
            logs += x * np.log(x)
    return zeros, L1, squares, logs


def cosines(gram: np.ndarray) -> np.ndarray:
    """Cosines of the columns whose Gram matrix this is; NaN on the diagonal and for columns of zeros."""
    scale = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip(gram / np.outer(scale, scale), -1, 1)
    np.fill_diagonal(found, np.nan)
    return found


def nearest(cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean cosine of each factor with the others, the largest, and with which (from 1; 0 where none is)."""
    defined = np.isfinite(cosine)
    n = defined.sum(axis=1)
    sums = np.where(defined, cosine, 0.0).sum(axis=1)
    mean = np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0)
    filled = np.where(defined, cosine, -np.inf)
    largest = filled.max(axis=1, initial=-np.inf)
    which = np.where(n > 0, filled.argmax(axis=1) + 1, 0)
    return mean, np.where(n > 0, largest, np.nan), which


def orthogonality(gram: np.ndarray) -> np.ndarray:
    """What each row adds to ``||W Wᵀ - I||²``, of shape (k,); the sum over factors is the whole."""
    return np.square(gram - np.eye(len(gram))).sum(axis=1)


def pair_table(W_cosine: np.ndarray, H_cosine: np.ndarray) -> pd.DataFrame:
    """A row for each pair of factors (from 1, the smaller number first) with both cosines."""
    import pandas as pd

    first, second = np.triu_indices(len(W_cosine), 1)
    return pd.DataFrame(
        {
            "factor": first + 1,
            "other_factor": second + 1,
            "W_cosine": W_cosine[first, second],
            "H_cosine": H_cosine[first, second],
        }
    )
