"""Size and making of a Gram matrix, by arithmetic alone: the workflow plans with it before any job runs."""

from __future__ import annotations

from typing import Literal

SPARSE_BELOW = 0.13  # density at which sparse and dense products take the same time (docs/solvers.md)
_ITEM_BYTES = {"float32": 4, "float64": 8}


def gram_bytes(n_genes: int, *, n_grams: int = 1, method: str = "sparse", dtype: str = "float32") -> int:
    """Bytes that gathering or merging one shard needs at its peak for the Gram matrices.

    Parameters
    ----------
    n_genes : int
    n_grams : int
        Gram matrices: one, or one per donor.
    method : {"sparse", "dense"}
        The dense one has a float32 buffer beside the float64 sum.
    dtype : {"float32", "float64"}
        Of the result.
    """
    kept = _ITEM_BYTES[dtype] * (n_grams + (n_grams > 1))
    return n_genes**2 * (8 * n_grams + max(kept, 4 if method == "dense" else 0))


def choose_method(n_cells: int, n_genes: int, n_nonzeros: int) -> Literal["sparse", "dense"]:
    """The faster way to Xᵀ X at this density, decided from the data alone."""
    return "sparse" if n_nonzeros < SPARSE_BELOW * n_cells * n_genes else "dense"
