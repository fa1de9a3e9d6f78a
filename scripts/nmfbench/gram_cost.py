"""Size and making of a Gram matrix, by arithmetic alone: the workflow plans with it before any job runs."""

from __future__ import annotations

from typing import Literal

SPARSE_BELOW = 0.13  # density at which sparse and dense products take the same time (docs/solvers.md)
HOST_GRAM_MB = 6144.0
"""MiB that `gram_memory_mb: auto` grants to XᵀX in memory."""

CARD_SHARE = 0.95
"""Of the free memory of a card that `auto` grants to it."""

_CARD_TILE = 1024  # rows of a product on a card
_DENSEST = 0.1  # share of nonzeros of a block of cells on a card that memory is asked for
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


def host_gram_mb(setting: float | str) -> float:
    """MiB that `gram_memory_mb` grants to XᵀX in memory, or on a card that is not known yet."""
    return HOST_GRAM_MB if setting == "auto" else float(setting)


def granted_gram_mb(setting: float | str, free: float | None) -> tuple[float, str]:
    """MiB that `gram_memory_mb` grants to XᵀX, and what decided it.

    Parameters
    ----------
    setting : float or "auto"
    free : float or None
        Bytes that are free on the card that XᵀX would lie on; None where it would lie in memory.
    """
    if setting != "auto":
        return float(setting), "gram_memory_mb"
    if free is None:
        return HOST_GRAM_MB, "auto: the default of a CPU"
    return CARD_SHARE * free / 2**20, f"auto: {100 * CARD_SHARE:.0f} % of what is free on the card"


def card_gram_bytes(n_genes: int, *, n_grams: int = 1, block_rows: int = 4096, item: int = 4) -> int:
    """Bytes that a card needs at its peak for XᵀX of a fit, gathered there and left there.

    While it is gathered: upper tiles in float64, a dense block with its nonzeros twice, and a product. Then:
    the tiles beside the whole matrix that they are put into.

    Parameters
    ----------
    n_genes : int
    n_grams : int
        Gram matrices: one, or one per donor.
    block_rows : int
        Cells of a block.
    item : int
        Bytes of a value of the result.
    """
    upper = n_grams * 8 * n_genes * (n_genes + _CARD_TILE) // 2
    block = n_genes * block_rows * item + int(_DENSEST * n_genes * block_rows) * 48
    product = _CARD_TILE * n_genes * item
    return upper + max(block + 2 * product, n_grams * n_genes**2 * item + 2 * product)


def choose_method(n_cells: int, n_genes: int, n_nonzeros: int) -> Literal["sparse", "dense"]:
    """The faster way to Xᵀ X at this density, decided from the data alone."""
    return "sparse" if n_nonzeros < SPARSE_BELOW * n_cells * n_genes else "dense"
