"""Two halves of every count, apart from one another: what is learnt from one is judged by the other.

Each molecule of a cell goes to the first or the second half with equal chances (binomial thinning, as in
molecular cross-validation, Batson, Royer and Webber 2019, doi:10.1101/786269). Poisson counts fall into
independent halves; what the halves share is then the cell's, what they do not share is noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from nmfbench.compiled import compiled
from nmfbench.data.filtered import TARGET_SUM, normalise_block
from nmfbench.errors import InputError

_STEP = np.uint64(0x9E3779B97F4A7C15)


@compiled()
def _mixed(x):
    """SplitMix64's finaliser: 64 bits that depend on each bit of `x`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled()
def _ones(x):
    """Number of ones among the bits of `x`."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(nogil=True)
def _first_half(indptr, indices, data, first, key, out):
    """Binomial(count, 1/2) of each entry, from bits that its cell, its gene and the key decide."""
    for i in range(indptr.shape[0] - 1):
        row = _mixed(key + np.uint64(first + i) * _STEP)
        for e in range(indptr[i], indptr[i + 1]):
            state = _mixed(row + np.uint64(indices[e]) * _STEP)
            left = np.int64(data[e])
            taken = np.int64(0)
            while left > 0:  # 64 molecules at a time
                state = _mixed(state + _STEP)
                bits = state if left >= 64 else state >> np.uint64(64 - left)
                taken += _ones(bits)
                left -= 64
            out[e] = taken


def split_counts(counts, first: int = 0, seed: int | Sequence[int] = 0) -> tuple[np.ndarray, np.ndarray]:
    """Divide every count at random in two, each molecule with chance one half, apart from all others.

    Parameters
    ----------
    counts : csr_matrix of shape (cells, genes)
        Whole numbers, not negative.
    first : int
        Number of the first cell: what an entry falls into depends on its cell, its gene and the seed alone,
        and so not on how the cells are cut into blocks.
    seed : int or sequence of int

    Returns
    -------
    one, other : ndarray of shape (nonzeros,), float32
        Add up to ``counts.data``; either may hold zeros.

    Raises
    ------
    InputError
        If a value is not a whole number.
    """
    values = counts.data
    odd = values != np.floor(values)
    if odd.any():
        raise InputError(
            "splitting of counts", "whole numbers: molecules are dealt out one by one",
            f"{values[odd][0]:g}", "give raw counts, or choose a model of normalised values",
        )  # fmt: skip
    one = np.empty(counts.nnz, np.float32)
    key = np.random.SeedSequence([*np.atleast_1d(seed), 0x5917]).generate_state(1, np.uint64)[0]
    _first_half(counts.indptr, counts.indices, values, first, key, one)
    return one, values.astype(np.float32) - one


def mean_and_difference(
    counts,
    first: int = 0,
    seed: int | Sequence[int] = 0,
    *,
    target_sum: float | None = TARGET_SUM,
    log1p: bool = True,
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Mean and half the difference of the two halves of counts, each half normalised like whole cells.

    Parameters
    ----------
    counts, first, seed
        As in :func:`split_counts`.
    target_sum, log1p
        As in :func:`nmfbench.data.normalise_block`, for either half. A half without a count stays zero.

    Returns
    -------
    mean, difference : csr_matrix of shape (cells, genes), float32
        ``(X_A + X_B) / 2`` and ``(X_A - X_B) / 2``, on the nonzeros of `counts`, whose index arrays they
        share.
    """
    halves = [
        normalise_block(
            sparse.csr_matrix((half, counts.indices, counts.indptr), shape=counts.shape), target_sum, log1p
        ).data
        for half in split_counts(counts, first, seed)
    ]
    parts = (0.5 * (halves[0] + halves[1]), 0.5 * (halves[0] - halves[1]))
    made = [sparse.csr_matrix((part, counts.indices, counts.indptr), shape=counts.shape) for part in parts]
    for matrix in made:
        matrix.has_sorted_indices = True
    return made[0], made[1]
