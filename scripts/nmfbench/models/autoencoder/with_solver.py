"""Which solver a fit takes, and its budget and tolerance, from the parameters and the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.card_rates import measured_rates
from nmfbench.device import free_bytes, resolve_device
from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import settings_of
from nmfbench.gram_cost import granted_gram_mb
from nmfbench.models.autoencoder.card import MAX_ITER, TOL
from nmfbench.models.autoencoder.costs import CardRates
from nmfbench.models.autoencoder.results import Results
from nmfbench.models.autoencoder.solver_choice import SolverChoice, choose_solver, with_batches_of
from nmfbench.models.labels import Conditions, encode_conditions
from nmfbench.renamed import told_value
from nmfbench.rows.memory import RowSource


class WithSolver(Results):
    """An estimator with several solvers."""

    _conditional = False
    _own_loadings = False  # of each condition: one Gram matrix for each
    _solver_taken: SolverChoice | None = None

    @property
    def training_(self) -> str:
        """What was estimated: ``exact``, the optimum; ``minibatch``; ``published``, as the published runs."""
        check_is_fitted(self)
        if self.solver_choice_.solver == "statistics":
            return "exact"
        published = self.init == "uniform" and self.batches == "round_robin"
        return "published" if published else "minibatch"

    @property
    def is_conditional(self) -> bool:
        """Whether it has weights that belong to conditions (donors)."""
        return self._conditional

    @property
    def needs_donor_grams(self) -> bool:
        """Whether each donor has loadings, and so a Gram matrix, of its own."""
        return self._own_loadings

    def solver_for(
        self, source: RowSource, conditions: Any = None, *, gathered: bool = False
    ) -> SolverChoice:
        """The solver and route that :meth:`fit_rows` of these rows takes, or :meth:`fit_statistics`."""
        if gathered:
            return SolverChoice("statistics", "gram", {}, "from statistics gathered before")
        encoded = encode_conditions(conditions if self._conditional else None, source.n_rows)
        return self._choose_solver(source, encoded, resolve_device(self.device))

    def take_solver(self, choice: SolverChoice):
        """Have a fit take this solver and route, whatever the data; of a copy that warms up."""
        self._solver_taken = choice
        return self

    def _most(self, solver: str) -> int:
        """Iterations of a solver, at most."""
        return told_value(self.max_iter, solver, MAX_ITER[solver])

    def _tol(self, solver: str) -> float:
        """Tolerance of a solver; a number alone is that of minibatches."""
        given = self.tol if isinstance(self.tol, Mapping) else {"minibatch": self.tol}
        return told_value(given, solver, TOL[solver])

    def _minibatch_only(self) -> list[str]:
        """The settings, as given, that the solver on statistics does not have."""
        return ["init='uniform'"] * (self.init == "uniform") + ["row_norm=True"] * bool(self.row_norm)

    def _check_solver(self) -> None:
        only = self._minibatch_only()
        if self.solver == "statistics" and only:
            raise InputError(
                f"{type(self).__name__}: solver='statistics' with {' and '.join(only)}",
                "init 'nndsvd' or 'random', and row_norm=False",
                ", ".join(only),
                "change these, or set solver to 'minibatch' (or 'auto')",
            )

    def _choose_solver(self, source: RowSource, conditions: Conditions, device: torch.device) -> SolverChoice:
        only = self._minibatch_only()
        memory, granted_by = granted_gram_mb(self.gram_memory_mb, free_bytes(device))
        of_card = {"rates": self._rates_of(device)} if device.type == "cuda" else {}
        choice = choose_solver(
            source.n_rows,
            source.n_columns,
            source.nnz,
            self.n_components,
            self._most("minibatch"),
            conditions.size if self._own_loadings else 0,
            memory,
            str(device),
            batch_size=self.batch_size,
            dtype=str(np.dtype(source.dtype)),
            in_memory=hasattr(source, "csr"),
            solver="minibatch" if only else self.solver,
            granted_by=granted_by,
            **of_card,
        )
        if only:
            choice = replace(choice, reason=f"only minibatch has {', '.join(only)}")
        return with_batches_of(source, choice)

    @staticmethod
    def _rates_of(device: torch.device) -> CardRates:
        product, copy = measured_rates(device)
        return CardRates(product, copy, f"measured on {torch.cuda.get_device_name(device)}")

    @staticmethod
    def _as_before(choice: SolverChoice, checkpoint: str | Path | None) -> SolverChoice:
        """The route of a fit that is gone on with, which rates that were measured anew must not turn."""
        if checkpoint is None or choice.solver != "statistics" or choice.rates is None:
            return choice
        before = settings_of(checkpoint).get("route")
        if before == choice.route or choice.seconds.get(before) is None:
            return choice
        return replace(choice, route=before, reason=f"{before}, as the fit began")
