"""Which solver `solver="auto"` takes: a cost model of a few measured rates.

On a CPU it knows the data and the settings, not the machine's speed or its number of threads, so that the
same fit makes the same choice on every one. Cards differ by a factor of ten, so two rates of the one at hand
are measured. The rates and their sources are in docs/solvers.md and docs/gpu.md.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nmfbench.errors import InputError
from nmfbench.gram_cost import card_gram_bytes, gram_bytes
from nmfbench.models.autoencoder.costs import (
    REFERENCE_CARD,
    CardRates,
    fit_seconds,
    gram_method,
    pass_seconds,
)
from nmfbench.rows.disk import FilteredRows
from nmfbench.rows.memory import RowSource

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
    memory : dict or None
        What XᵀX may take: ``need_mb``, ``granted_mb`` and ``granted_by``.
    rates : dict or None
        Of the card that the estimates are made for: ``product``, ``copy`` and their ``source``. None on a
        CPU, whose rates are the same on every machine.
    """

    solver: str
    route: str | None
    seconds: dict[str, float | None]
    reason: str
    memory: dict[str, Any] | None = None
    rates: dict[str, Any] | None = None

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
    granted_by: str = "gram_memory_mb",
    stays_there: bool = True,
    rates: CardRates = REFERENCE_CARD,
) -> SolverChoice:
    """The solver that was asked for, or the exact one, by the route that is estimated to be sooner.

    ``auto`` decides how the optimum is reached, never whether: minibatches stop before it, in another
    embedding.

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
    granted_by : str
        What decided `memory`, for the record.
    stays_there : bool
        Whether XᵀX that is gathered on a card is left there.
    rates : CardRates
        Of the card, where `device` is one.

    Returns
    -------
    SolverChoice

    Raises
    ------
    InputError
        With ``auto``, if the cells are on disk and XᵀX does not fit.
    """
    found = fit_seconds(n_cells, n_genes, nnz, rank, epochs, donors, device, batch_size, rates)
    on_card, n_grams = device.startswith("cuda"), max(donors, 1)
    if on_card and stays_there:
        need = card_gram_bytes(n_genes, n_grams=n_grams, item=8 if dtype == "float64" else 4)
    else:
        method = gram_method(n_cells, n_genes, nnz, device)
        need = gram_bytes(n_genes, n_grams=n_grams, method=method, dtype=dtype)
    fits = need <= memory * _MIB
    gathering = pass_seconds(n_cells, n_genes, nnz, device, rates)
    seconds: dict[str, float | None] = {
        "sparse": found["sparse"] if in_memory else None,
        "gram": gathering + found["gram"] if fits else None,
        "minibatch": found["minibatch"],
    }
    possible = {route: s for route, s in seconds.items() if s is not None and route != "minibatch"}
    # Nothing fits: the Gram route then refuses with the numbers, where it was asked for.
    route = min(possible, key=possible.get) if possible else "gram"
    if solver != "auto":
        reason = "as set"
    elif not possible:
        # minibatches end elsewhere, so that is for the user to decide
        raise InputError(
            "solver: auto", "the cells in memory, or room for XᵀX",
            f"cells on disk, and XᵀX does not fit in gram_memory_mb = {memory:.0f}",
            "raise gram_memory_mb, set shared_statistics: true or keep fewer genes; solver: minibatch needs "
            "neither, but ends before the optimum, in another embedding",
        )  # fmt: skip
    else:
        solver, reason = "statistics", f"the optimum, in an estimated {possible[route]:.3g} s by {route}"
    granted = None if math.isinf(memory) else memory
    return SolverChoice(
        solver,
        route if solver == "statistics" else None,
        seconds,
        reason,
        {"need_mb": need / _MIB, "granted_mb": granted, "granted_by": granted_by},
        asdict(rates) if on_card else None,
    )


def with_batches_of(source: RowSource, choice: SolverChoice) -> SolverChoice:
    """The same choice, refused where it needs rows at random that `source` does not have.

    Parameters
    ----------
    source : RowSource
    choice : SolverChoice

    Raises
    ------
    InputError
        If minibatches were asked for and there is no shuffled store.
    """
    if choice.solver != "minibatch" or not isinstance(source, FilteredRows) or source.order is not None:
        return choice
    raise InputError(
        "minibatches out of core",
        "the shuffled store that the rule shuffle_cells writes",
        f"none ({choice.reason})",
        "set out_of_core: true in the config, or raise gram_memory_mb and set solver: statistics",
    )
