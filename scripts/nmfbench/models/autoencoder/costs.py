"""What fits of the autoencoders and passes over the cells cost, from a few measured rates.

Arithmetic alone, so that the workflow can plan with it. Rates are of one thread, their sources in
docs/solvers.md; estimates come within a factor of two of the fits there.
"""

from __future__ import annotations

import math

from nmfbench.gram_cost import choose_method

# Multiply-adds a second of one thread.
NONZEROS_OF_A_SWEEP = 2.5e9
GENES_OF_A_SWEEP = 0.7e9
DENSE_PRODUCT = 44e9
SPARSE_GRAM = 0.7e9
NONZEROS_OF_A_STEP = 4.4e9
GENES_OF_A_STEP = 1.1e10

GPU_FACTOR = 20.0
"""How many times faster a GPU is thought to be at minibatch steps and dense products. Not measured."""

START_PRODUCTS = 8
"""Products with XᵀX that the start takes."""

SWEEPS_PER_EPOCH = 0.2
"""Sweeps after which the objective is that of one epoch of minibatches: 20 for 100."""


def gram_method(n_cells: int, n_genes: int, nnz: int, device: str) -> str:
    """How XᵀX is gathered: ``sparse`` or ``dense``, the latter always on a GPU."""
    return "dense" if device.startswith("cuda") else choose_method(n_cells, n_genes, nnz)


def pass_seconds(n_cells: int, n_genes: int, nnz: int, device: str = "cpu") -> float:
    """Seconds of one pass over the cells that gathers XᵀX."""
    if gram_method(n_cells, n_genes, nnz, device) == "sparse":
        return 0.5 * nnz**2 / max(n_cells, 1) / SPARSE_GRAM
    return 0.5 * n_cells * n_genes**2 / (DENSE_PRODUCT * _faster(device))


def fit_seconds(
    n_cells: int,
    n_genes: int,
    nnz: int,
    rank: int,
    epochs: int,
    donors: int = 0,
    device: str = "cpu",
    batch_size: int = 512,
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

    Returns
    -------
    dict
        ``sparse``, through the nonzeros; ``gram``, through an XᵀX that was gathered before; ``minibatch``.
    """
    gpu = _faster(device)
    groups, images = max(donors, 1), 2 if donors else 1
    sweeps = SWEEPS_PER_EPOCH * epochs
    products = images * (START_PRODUCTS + sweeps)
    inner = sweeps * groups * rank**2 * n_genes / GENES_OF_A_SWEEP
    steps = math.ceil(n_cells / batch_size)
    epoch = 3 * nnz * rank / NONZEROS_OF_A_STEP + steps * 2 * rank**2 * n_genes / GENES_OF_A_STEP
    return {
        "sparse": products * 2 * nnz * rank / NONZEROS_OF_A_SWEEP + inner,
        "gram": products * groups * n_genes**2 * rank / (DENSE_PRODUCT * gpu) + inner,
        "minibatch": epochs * images * epoch / gpu,
    }


def _faster(device: str) -> float:
    return GPU_FACTOR if device.startswith("cuda") else 1.0
