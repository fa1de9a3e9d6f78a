"""Which solver `solver="auto"` takes: a cost model of a few measured rates.

It knows the data, the settings and the kind of device, not the machine's speed or its number of threads, so
that the same fit makes the same choice on every CPU. The rates and their sources are in docs/solvers.md.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from nmfbench.errors import InputError
from nmfbench.statistics.record import choose_method, gram_bytes
from nmfbench.training.disk import FilteredRows
from nmfbench.training.rows import RowSource

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

_MIB = 2**20


@dataclass(frozen=True)
class SolverChoice:
    """The solver of a fit, and why.

    Attributes
    ----------
    solver : {"statistics", "minibatch"}
    route : {"sparse", "gram"} or None
        How the statistics are held: the nonzeros of X, or XᵀX. None for minibatches.
    seconds : dict of str to float or None
        Estimated seconds of one CPU thread (or the GPU) to the objective that the minibatches would reach,
        for ``sparse``, ``gram`` and ``minibatch``; None for what the data or the memory rule out.
    reason : str
    """

    solver: str
    route: str | None
    seconds: dict[str, float | None]
    reason: str

    def record(self) -> dict[str, Any]:
        """The choice as plain values, for ``run.json``."""
        return asdict(self)


def choose_solver(
    n_cells: int,
    n_genes: int,
    nnz: int,
    rank: int,
    epochs: int,
    donors: int = 0,
    memory: float = math.inf,
    device: str = "cpu",
    *,
    batch_size: int = 512,
    dtype: str = "float32",
    in_memory: bool = True,
    solver: str = "auto",
) -> SolverChoice:
    """Pick the solver that is estimated to come sooner to the objective of `epochs` minibatch epochs.

    Parameters
    ----------
    n_cells, n_genes, nnz : int
        Cells, genes and nonzeros of X.
    rank : int
    epochs : int
        Minibatch epochs at most.
    donors : int
        Donors with loadings of their own (model 2), 0 for the other models.
    memory : float
        MiB granted to Gram matrices.
    device : str
    batch_size : int
    dtype : {"float32", "float64"}
    in_memory : bool
        Whether the nonzeros lie in memory, as the sparse route needs.
    solver : {"auto", "statistics", "minibatch"}
        What was asked for; the estimates are made all the same.

    Returns
    -------
    SolverChoice
    """
    gpu = GPU_FACTOR if device.startswith("cuda") else 1.0
    groups, images = max(donors, 1), 2 if donors else 1
    sweeps = SWEEPS_PER_EPOCH * epochs
    products = images * (START_PRODUCTS + sweeps)
    inner = sweeps * groups * rank**2 * n_genes / GENES_OF_A_SWEEP
    seconds: dict[str, float | None] = {"sparse": None, "gram": None}
    if in_memory:
        seconds["sparse"] = products * 2 * nnz * rank / NONZEROS_OF_A_SWEEP + inner
    method = gram_method(n_cells, n_genes, nnz, device)
    if gram_bytes(n_genes, n_grams=groups, method=method, dtype=dtype) <= memory * _MIB:
        if method == "sparse":
            gathering = 0.5 * nnz**2 / max(n_cells, 1) / SPARSE_GRAM
        else:
            gathering = 0.5 * n_cells * n_genes**2 / (DENSE_PRODUCT * gpu)
        seconds["gram"] = gathering + products * groups * n_genes**2 * rank / (DENSE_PRODUCT * gpu) + inner
    steps = math.ceil(n_cells / batch_size)
    epoch = 3 * nnz * rank / NONZEROS_OF_A_STEP + steps * 2 * rank**2 * n_genes / GENES_OF_A_STEP
    seconds["minibatch"] = epochs * images * epoch / gpu

    possible = {route: s for route, s in seconds.items() if s is not None and route != "minibatch"}
    # Nothing fits: the Gram route then refuses with the numbers, where it was asked for.
    route = min(possible, key=possible.get) if possible else "gram"
    if solver != "auto":
        reason = "as set"
    elif not possible:
        solver, reason = "minibatch", f"XᵀX does not fit in {memory:.0f} MiB, X is not in memory"
    else:
        solver = "statistics" if possible[route] <= seconds["minibatch"] else "minibatch"
        sooner = f"{possible[route]:.3g} s by {route} statistics, {seconds['minibatch']:.3g} s by minibatch"
        reason = f"estimated to the same objective: {sooner}"
    return SolverChoice(solver, route if solver == "statistics" else None, seconds, reason)


def with_batches_of(source: RowSource, choice: SolverChoice, *, forced: bool) -> SolverChoice:
    """The same choice, or statistics where the rows of `source` cannot be had at random.

    Parameters
    ----------
    source : RowSource
    choice : SolverChoice
    forced : bool
        Whether minibatches were asked for.

    Raises
    ------
    InputError
        If only minibatches would do.
    """
    if choice.solver != "minibatch" or not isinstance(source, FilteredRows) or source.order is not None:
        return choice
    if choice.seconds["gram"] is not None and not forced:
        reason = "minibatches out of core need the shuffled store, and there is none"
        return replace(choice, solver="statistics", route="gram", reason=reason)
    raise InputError(
        "minibatches out of core",
        "the shuffled store that the rule shuffle_cells writes",
        f"none ({choice.reason})",
        "set out_of_core: true in the config, or raise gram_memory_mb and set solver: statistics",
    )


def gram_method(n_cells: int, n_genes: int, nnz: int, device: str) -> str:
    """How XᵀX is gathered: ``sparse`` or ``dense``, the latter always on a GPU."""
    return "dense" if device.startswith("cuda") else choose_method(n_cells, n_genes, nnz)
