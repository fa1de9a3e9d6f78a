"""What fits of the autoencoders and passes over the cells cost, from a few measured rates.

Arithmetic alone, so that the workflow can plan with it. Rates are of one thread, their sources in
docs/solvers.md; estimates come within a factor of two of the fits there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nmfbench.gram_cost import choose_method

# Multiply-adds a second of one thread.
NONZEROS_OF_A_SWEEP = 2.5e9
GENES_OF_A_SWEEP = 0.7e9
DENSE_PRODUCT = 44e9
SPARSE_GRAM = 0.7e9
NONZEROS_OF_A_STEP = 4.4e9
GENES_OF_A_STEP = 1.1e10

# Shares of a card's speed at large float32 products that the work of a fit reaches there: prototypes on one
# H200 (docs/gpu.md) at 20,000 genes, where they are lowest.
OF_THE_PASS = 0.15
OF_A_PRODUCT = 0.43
OF_A_STEP = 0.4
BYTES_SENT = 8
"""Of a nonzero that is sent to a card."""


@dataclass(frozen=True)
class CardRates:
    """How fast a card is: all that the estimates for it rest on.

    Attributes
    ----------
    product : float
        Multiply-adds a second of a large float32 product, without TF32.
    copy : float
        Bytes a second from pinned memory to the card.
    source : str
        Where the numbers come from.
    """

    product: float
    copy: float
    source: str


REFERENCE_CARD = CardRates(25e12, 25e9, "assumed: an H100- or H200-class card")
"""What is planned with where no card can be seen."""

START_PRODUCTS = 8
"""Products with XᵀX that the start takes."""

SWEEPS_PER_EPOCH = 0.2
"""Sweeps after which the objective is that of one epoch of minibatches: 20 for 100."""


def gram_method(n_cells: int, n_genes: int, nnz: int, device: str) -> str:
    """How XᵀX is gathered: ``sparse`` or ``dense``, the latter always on a GPU."""
    return "dense" if device.startswith("cuda") else choose_method(n_cells, n_genes, nnz)


def pass_seconds(
    n_cells: int, n_genes: int, nnz: int, device: str = "cpu", rates: CardRates = REFERENCE_CARD
) -> float:
    """Seconds of one pass over the cells that gathers XᵀX."""
    if device.startswith("cuda"):  # sparse by dense, while the next block is on its way
        return max(nnz * n_genes / (OF_THE_PASS * rates.product), BYTES_SENT * nnz / rates.copy)
    if gram_method(n_cells, n_genes, nnz, device) == "sparse":
        return 0.5 * nnz**2 / max(n_cells, 1) / SPARSE_GRAM
    return 0.5 * n_cells * n_genes**2 / DENSE_PRODUCT


def fit_seconds(
    n_cells: int,
    n_genes: int,
    nnz: int,
    rank: int,
    epochs: int,
    donors: int = 0,
    device: str = "cpu",
    batch_size: int = 512,
    rates: CardRates = REFERENCE_CARD,
) -> dict[str, float]:
    """Seconds until the objective is the one that minibatches reach in `epochs`.

    Parameters
    ----------
    n_cells, n_genes, nnz : int
        Cells, genes and nonzeros of X.
    rank, epochs : int
    donors : int
        Donors with loadings of their own (model 2), 0 for the other models.
    device : str
    batch_size : int
    rates : CardRates
        Of the card, where `device` is one.

    Returns
    -------
    dict
        ``sparse``, through the nonzeros; ``gram``, through an XᵀX that was gathered before; ``minibatch``.
    """
    groups, images = max(donors, 1), 2 if donors else 1
    sweeps = SWEEPS_PER_EPOCH * epochs
    products = images * (START_PRODUCTS + sweeps)
    inner = sweeps * groups * rank**2 * n_genes / GENES_OF_A_SWEEP
    steps = math.ceil(n_cells / batch_size)
    if device.startswith("cuda"):
        product = OF_A_PRODUCT * rates.product
        dense = (3 * batch_size * rank + 2 * rank**2) * n_genes
        epoch = steps * dense / (OF_A_STEP * rates.product)
    else:
        product = DENSE_PRODUCT
        epoch = 3 * nnz * rank / NONZEROS_OF_A_STEP + steps * 2 * rank**2 * n_genes / GENES_OF_A_STEP
    return {
        "sparse": products * 2 * nnz * rank / NONZEROS_OF_A_SWEEP + inner,
        "gram": products * groups * n_genes**2 * rank / product + inner,
        "minibatch": epochs * images * epoch,
    }
