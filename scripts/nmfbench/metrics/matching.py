"""Which factor of one fit is which factor of another: correlations and one assignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PAIR_COLUMNS = ("factor", "other_factor", "embedding_correlation", "loadings_correlation", "score", "matched")
MATCH_COLUMNS = (
    *("factor", "other_factor", "embedding_correlation", "loadings_correlation", "score"),
    *("next_best", "status"),
)
#: A column whose standard deviation is below this part of its root mean square counts as constant:
#: an embedding of one factor with rows scaled to sum 1 is all ones but for rounding in float32.
CONSTANT = 1e-6
_BLOCK_ROWS = 65_536


def factor_correlations(A: Any, B: Any) -> np.ndarray:
    """Pearson correlation of every column of A with every column of B.

    Parameters
    ----------
    A : array-like of shape (n, k)
    B : array-like of shape (n, m)
        Rows are the same cells (or genes) in the same order.

    Returns
    -------
    ndarray of shape (k, m)
        Float64, between -1 and 1; NaN in the rows and columns of constant factors, for which no
        correlation is defined.
    """
    A, B = np.asarray(A), np.asarray(B)
    n = len(A)
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, n, _BLOCK_ROWS)]
    means = [M.mean(axis=0, dtype=np.float64) for M in (A, B)]
    products = np.zeros((A.shape[1], B.shape[1]))
    squares = [np.zeros(M.shape[1]) for M in (A, B)]
    for rows in blocks:  # centred in blocks, so that no second copy of either is made in float64
        centred = [M[rows].astype(np.float64) - mean for M, mean in zip((A, B), means, strict=True)]
        products += centred[0].T @ centred[1]
        for square, values in zip(squares, centred, strict=True):
            square += np.einsum("ij,ij->j", values, values)
    scales = []
    for square, mean in zip(squares, means, strict=True):
        constant = square <= CONSTANT**2 * (square + n * mean**2)
        scales.append(np.where(constant, np.nan, np.sqrt(square)))
    return np.clip(products / np.outer(*scales), -1, 1)


def log_profiles(W: Any) -> np.ndarray:
    """Put loadings on a scale on which they can be correlated.

    ``log(1 + w / mean of the factor)``: the unit of a factor, which is arbitrary, is gone, and
    a few very high genes no longer decide the correlation alone.

    Parameters
    ----------
    W : array-like of shape (genes, k)
        Non-negative loadings.

    Returns
    -------
    ndarray of shape (genes, k)
        Float64; a factor without any loading stays zero.
    """
    W = np.asarray(W, dtype=np.float64)
    mean = W.mean(axis=0)
    return np.log1p(W / np.where(mean > 0, mean, 1.0))


def match_factors(
    embedding_correlation: np.ndarray, loadings_correlation: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match the factors of two fits by one assignment for embedding and loadings together.

    The score of a pair is the mean of its two correlations, one that is not defined counting as 0; the
    assignment with the largest sum of scores is taken (Kuhn 1955, doi:10.1002/nav.3800020109, as
    :func:`scipy.optimize.linear_sum_assignment` solves it). A factor that is constant in the cells and in the
    genes cannot be told from any other and is left out.

    Parameters
    ----------
    embedding_correlation, loadings_correlation : ndarray of shape (k, m)
        As :func:`factor_correlations` gives them.

    Returns
    -------
    matches : DataFrame
        Columns :data:`MATCH_COLUMNS`; factors are counted from 1. First the min(k, m) matched pairs, the best
        score on top, then a row for each factor that is left over, with the other side missing.
        ``next_best`` is the best score that either factor of the pair reaches with a third one: a match is
        clear when it lies well below ``score``. ``status`` is ``matched``, ``unmatched`` (the other fit has
        no factor left) or ``constant``.
    pairs : DataFrame
        Columns :data:`PAIR_COLUMNS`, a row for each of the k x m pairs.
    """
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    both = np.stack([embedding_correlation, loadings_correlation])
    score = np.nan_to_num(both).mean(axis=0)
    k, m = score.shape
    defined = np.isfinite(both).any(axis=0)
    usable = [np.flatnonzero(defined.any(axis=1)), np.flatnonzero(defined.any(axis=0))]
    row, column = linear_sum_assignment(score[np.ix_(*usable)], maximize=True)
    row, column = usable[0][row], usable[1][column]
    matched = np.zeros((k, m), dtype=bool)
    matched[row, column] = True
    grid = np.indices((k, m)).reshape(2, -1) + 1
    pairs = pd.DataFrame(
        dict(zip(PAIR_COLUMNS, (*grid, *both.reshape(2, -1), score.ravel(), matched.ravel()), strict=True))
    )
    matches = pairs[pairs["matched"]].drop(columns="matched").assign(status="matched")
    rival = np.where(matched | ~defined, -np.inf, score)
    next_best = np.maximum(
        rival.max(axis=1, initial=-np.inf)[row], rival.max(axis=0, initial=-np.inf)[column]
    )
    matches["next_best"] = np.where(np.isfinite(next_best), next_best, np.nan)
    matches = matches.sort_values("score", ascending=False, kind="stable")
    left = []
    for side, name in enumerate(("factor", "other_factor")):
        for factor in np.flatnonzero(~matched.any(axis=1 - side)):
            left.append({name: factor + 1, "status": "unmatched" if factor in usable[side] else "constant"})
    rows = [*matches.to_dict("records"), *left]
    matches = pd.DataFrame(rows, columns=list(MATCH_COLUMNS))
    return matches.astype({"factor": "Int64", "other_factor": "Int64"}), pairs


def match_by_cosine(A: Any, B: Any) -> tuple[np.ndarray, pd.DataFrame]:
    """Match the columns of two sets of loadings over the same genes by one assignment on their cosines.

    Parameters
    ----------
    A : array-like of shape (genes, k)
    B : array-like of shape (genes, m)

    Returns
    -------
    cosine : ndarray of shape (k, m)
        Float64; NaN for columns of zeros.
    matches : DataFrame
        Columns ``factor``, ``other_factor`` (from 1), ``cosine`` and ``reciprocal``: whether each is the most
        similar factor of the other, whatever else is matched. The best first. The assignment has the largest
        sum of cosines; columns of zeros are left out.
    """
    import pandas as pd
    from scipy.optimize import linear_sum_assignment

    units = []
    for M in (A, B):
        M = np.asarray(M, dtype=np.float64)
        norms = np.linalg.norm(M, axis=0)
        units.append(M / np.where(norms > 0, norms, np.nan))
    cosine = np.clip(units[0].T @ units[1], -1, 1)
    usable = [np.flatnonzero(np.isfinite(unit[:1]).all(axis=0)) for unit in units]
    part = cosine[np.ix_(*usable)]
    row, column = linear_sum_assignment(part, maximize=True)
    best = part.argmax(axis=1) if part.size else row
    best_back = part.argmax(axis=0) if part.size else column
    matches = pd.DataFrame(
        {
            "factor": usable[0][row] + 1,
            "other_factor": usable[1][column] + 1,
            "cosine": part[row, column],
            "reciprocal": (best[row] == column) & (best_back[column] == row),
        }
    )
    return cosine, matches.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)
