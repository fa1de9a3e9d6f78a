"""Random choices that go by the names of cells and genes: in another order of the rows they are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from nmfbench.errors import InputError

_ROWS = 1024
MOST_MASKED = 400_000_000


def keys_of(names: Sequence[str] | None, n: int, seed: int, what: str) -> np.ndarray:
    """A random number of 64 bits for each name (or place, where there are no names); shape (n,), uint64."""
    names = [str(k) for k in range(n)] if names is None else [str(name) for name in names]
    salt = f"{what}\0{seed}\0".encode()
    digests = b"".join(hashlib.blake2b(salt + name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, dtype=np.uint64).copy()


def uniform_of(keys: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) of keys."""
    return (keys >> np.uint64(11)).astype(np.float64) / 2**53


def choose(names: Sequence[str] | None, n: int, wanted: int | None, seed: int, what: str) -> np.ndarray:
    """Places of a random panel of `wanted` names, ascending; None takes all."""
    if wanted is None or wanted >= n:
        return np.arange(n)
    return np.sort(np.argsort(keys_of(names, n, seed, what), kind="stable")[:wanted])


def mask_entries(cell_keys: np.ndarray, gene_keys: np.ndarray, fraction: float) -> sp.csr_matrix:
    """Entries that are held out: each with chance `fraction`, decided by the names of its cell and gene.

    Parameters
    ----------
    cell_keys, gene_keys : ndarray of uint64
        Of :func:`keys_of`.
    fraction : float

    Returns
    -------
    csr_matrix of shape (cells, genes), float32
        Ones. Every stratum of genes loses the same share, up to chance.

    Raises
    ------
    InputError
        If the list of entries would not fit in memory.
    """
    n, p = len(cell_keys), len(gene_keys)
    if n * p * fraction > MOST_MASKED:
        raise InputError(
            f"mask_fraction={fraction:g} of {n} cells x {p} genes",
            f"at most {MOST_MASKED:,} entries in the list of those held out",
            f"{n * p * fraction:,.0f}",
            "set molecules aside instead (held_out_fraction), or fit a panel (n_cells, n_genes)",
        )
    limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    columns, lengths = [], np.zeros(n + 1, dtype=np.int64)
    for start in range(0, n, _ROWS):
        mixed = _mixed(cell_keys[start : start + _ROWS, None] ^ gene_keys[None])
        rows, found = np.nonzero(mixed < limit)
        columns.append(found.astype(np.int32))
        lengths[start + 1 : start + 1 + len(mixed)] = np.bincount(rows, minlength=len(mixed))
    columns = np.concatenate(columns)
    mask = sp.csr_matrix((np.ones(len(columns), np.float32), columns, np.cumsum(lengths)), shape=(n, p))
    mask.has_canonical_format = True
    return mask


def without(counts: Any, mask: sp.csr_matrix) -> sp.csr_matrix:
    """`counts` with the entries of `mask` left out."""
    held = counts.multiply(mask).tocsr()
    rest = (counts - held).tocsr()
    rest.eliminate_zeros()
    rest.sort_indices()
    return rest.astype(counts.dtype)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Steele, Lea and Flood's finaliser (2014, doi:10.1145/2714064.2660195): every bit depends on all."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
