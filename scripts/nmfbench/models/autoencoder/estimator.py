"""What the autoencoding estimators share: how they are fitted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from nmfbench.device import resolve_device
from nmfbench.errors import InputError
from nmfbench.fitting.engine import Engine
from nmfbench.fitting.loop import Run
from nmfbench.fitting.observer import Observer
from nmfbench.gram_cost import host_gram_mb
from nmfbench.models.autoencoder.embed import embed
from nmfbench.models.autoencoder.exact.gathered import GatheredCells, categories_of, operator_within
from nmfbench.models.autoencoder.exact.operators import GramOperator, Operator
from nmfbench.models.autoencoder.exact.start import start
from nmfbench.models.autoencoder.exact.sweeps import Sweeps
from nmfbench.models.autoencoder.from_cells import (
    Cells,
    RowCells,
    blas_threads,
    numba_threads,
    operator_of_rows,
)
from nmfbench.models.autoencoder.solver_choice import SolverChoice
from nmfbench.models.autoencoder.with_batches import WithBatches
from nmfbench.models.labels import Conditions, FitData, encode_conditions, encode_strata
from nmfbench.models.limits import check_parameters
from nmfbench.rows.memory import InMemoryRows, RowSource
from nmfbench.statistics import Statistics


class Autoencoder(WithBatches):
    """An embedding ``H = X Wᵀ``, learnt from all cells at once or by minibatch Adam on sparse gradients."""

    _not_in_checkpoint: ClassVar[set[str]] = {
        "device",
        "verbose",
        "max_iter",
        "save_u",
        "gram_memory_mb",
    }

    def fit(
        self,
        X,
        y=None,
        *,
        conditions: Any = None,
        strata: Any = None,
        checkpoint: str | Path | None = None,
        fingerprint: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        progress: bool | None = None,
        observer: Observer | None = None,
    ):
        """Learn the loadings.

        Parameters
        ----------
        X : CSR, CSC or dense of shape (cells, genes)
            Non-negative, float32 or float64 (kept); converted to CSR once where it is something else.
        y : ignored
        conditions : array-like of shape (cells,) or (cells, columns), Series, DataFrame or None
            Labels that a conditional model is conditioned on; None: one condition for all.
        strata : array-like of shape (cells,) or None
            Cell types, for the batches and the invariance penalty; without them neither uses a label.
        checkpoint : path or None
            A folder to keep the state in. Training goes on from it where it holds one.
        fingerprint : str or None
            A text that identifies the content of X; computed where a checkpoint needs it and it is None.
        should_stop : callable or None
            Asked after each step (sweep); once it says True the state is written and training ends with
            ``stop_reason_ == "interrupted"``.
        progress : bool or None
            True: a bar; False: lines in the log; None: a bar if stderr is a terminal.
        observer : Observer or None
            Told of every epoch (sweep); the fit is the same with and without it.

        Returns
        -------
        self
        """
        check_parameters(self)
        self._check_solver()
        resolve_device(self.device)
        source = InMemoryRows(self._check_input(X, reset=True), fingerprint)
        run = Run(checkpoint, should_stop, True if self.verbose else progress, observer)
        self.fit_rows(source, conditions=conditions, strata=strata, **vars(run))
        self.projection_ = self._embed(source)
        self.embedding_ = self._scored(self.projection_)
        return self

    def fit_rows(self, source: RowSource, *, conditions: Any = None, strata: Any = None, **around: Any):
        """Learn the loadings from rows wherever they lie; the cells are left to :meth:`embedding_blocks`.

        Parameters
        ----------
        source : RowSource
            Non-negative numbers, in memory or on disk. Their rows may come in another order than the
            cells (``source.order``).
        conditions, strata
            As in :meth:`fit`; the labels in the order of the cells.
        **around
            ``checkpoint``, ``should_stop``, ``progress`` and ``observer`` of :meth:`fit`.

        Returns
        -------
        self
            Without ``embedding_``.
        """
        check_parameters(self)
        self._check_solver()
        device = resolve_device(self.device)
        self._check_rank(source.n_rows, source.n_columns)
        self.n_features_in_ = source.n_columns
        self.conditions_ = encode_conditions(conditions if self._conditional else None, source.n_rows)
        self._check_conditions(self.conditions_)
        data = FitData.of(source, self.conditions_, encode_strata(strata, source.n_rows))
        choice = self._solver_taken or self._choose_solver(source, data.conditions, device)
        choice = self.solver_choice_ = self._as_before(choice, around.get("checkpoint"))
        fit = self._fit_minibatch if choice.solver == "minibatch" else self._fit_cells
        by_label = fit(data, device, Run(**around))
        self.uses_labels_ = strata is not None and (by_label or self._labels_in_the_loss())
        return self

    def fit_statistics(
        self,
        statistics: Statistics,
        *,
        operator: GramOperator | None = None,
        use_types: bool = True,
        rows: RowSource | None = None,
        **around: Any,
    ):
        """Learn the loadings from statistics that were gathered before: no cell is read.

        Parameters
        ----------
        statistics : Statistics
            Of all shards, or of those that are to be fitted. The conditions are all columns of their layout.
        operator : GramOperator, optional
            What :meth:`gram_of` made of the same statistics, for many fits that share it.
        use_types : bool
            Whether the invariance penalty of model 1 may use the cell types.
        rows : RowSource, optional
            The cells, for an observer.
        **around
            ``checkpoint``, ``should_stop``, ``progress`` and ``observer`` of :meth:`fit`.

        Returns
        -------
        self
            Without ``embedding_``; its ``conditions_`` have the categories and no cell's code.

        Raises
        ------
        InputError
            If the model needs minibatches, its rank is too large, or its statistics are not among these.
        """
        check_parameters(self)
        if only := self._minibatch_only():
            raise InputError(
                f"{type(self).__name__}: a fit from statistics with {' and '.join(only)}",
                "init 'nndsvd' or 'random', and row_norm=False", ", ".join(only),
                "change these, or fit the cells with solver='minibatch'",
            )  # fmt: skip
        layout = statistics.layout
        self._check_rank(statistics.n_cells, len(layout.genes))
        self.n_features_in_ = len(layout.genes)
        self.conditions_ = categories_of(statistics) if self._conditional else encode_conditions(None, 0)
        self._check_conditions(self.conditions_)
        self.solver_choice_ = SolverChoice("statistics", "gram", {}, "from statistics gathered before")
        cells = GatheredCells(statistics, use_types)
        self._fit_exact(
            cells,
            lambda: operator or self.gram_of(statistics),
            Run(**around),
            None if rows is None else lambda W: embed(W, rows),
            cells.fingerprint,
            use_types=use_types,
        )
        device = resolve_device(self.device) if operator is None else operator.device
        self.device_ = str(device) if str(device).startswith("cuda") else "cpu"
        self.uses_labels_ = use_types and self._labels_in_the_loss()
        return self

    def gram_of(self, statistics: Statistics) -> GramOperator:
        """XᵀX as the model needs it: held where it fits in `gram_memory_mb`, else left on disk.

        Raises
        ------
        InputError
            If the model needs a Gram matrix for each donor and there is none, or the GPU has no room for it.
        """
        return operator_within(
            statistics, self._own_loadings, resolve_device(self.device), host_gram_mb(self.gram_memory_mb)
        )

    def _fit_cells(self, data: FitData, device: torch.device, run: Run) -> bool:
        """All cells at once, from their rows."""
        route = self.solver_choice_.route
        self.device_ = str(device) if route == "gram" and device.type == "cuda" else "cpu"
        codes = data.conditions.codes[:, 0] if self._own_loadings else None
        memory = (self.solver_choice_.memory or {}).get("granted_mb") or host_gram_mb(self.gram_memory_mb)
        self._fit_exact(
            RowCells(data),
            lambda: operator_of_rows(data.source, codes, route, memory, self.device_),
            run,
            lambda W: embed(W, data.source),
            data.fingerprint,
        )
        return False

    def _fit_exact(self, cells: Cells, operator: Callable[[], Operator], run, embedding, text, **decided):
        def build(resumed: bool) -> Engine:
            held = operator()
            threads.enter_context(blas_threads(held, self.n_components))
            k, n = self.n_components, held.n_cells
            W = np.zeros((k, held.n_genes))  # in place of what a checkpoint holds
            if not resumed:
                W = self._start(held, self.penalty_W * n)
            objective = self._objective(held, cells, W)
            return Sweeps(
                objective, max_iter=self._most("statistics"), tol=self._tol("statistics"), embed=embedding
            )

        choice = self.solver_choice_
        with ExitStack() as threads:
            threads.enter_context(numba_threads(torch.get_num_threads()))
            outcome = self._fit(
                build,
                run,
                n_cells=cells.n_cells,
                fingerprint=text,
                **{"solver": choice.solver, "route": choice.route, **decided},
            )
        weights = {"W": outcome.engine.objective.W}
        if (U := outcome.engine.objective.U) is not None:
            weights["U"] = self._arranged(U)
        self._keep(weights)

    # What a model adds ------------------------------------------------------------------------------

    def _start(self, operator: Operator, ridge: float) -> np.ndarray:
        """W (k x genes) where the sweeps begin; `ridge` is the penalty times the number of cells."""
        return start(operator, self.n_components, self.init, seed=self.seed_, ridge=ridge)

    @staticmethod
    def _arranged(U: np.ndarray) -> np.ndarray:
        """U of an objective on statistics as the minibatches hold it."""
        return np.ascontiguousarray(U.T)

    def _check_conditions(self, conditions: Conditions) -> None:
        pass

    def _labels_in_the_loss(self) -> bool:
        return False
