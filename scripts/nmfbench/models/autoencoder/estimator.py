"""What the autoencoding estimators share: parameters, training, and the names of their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.device import resolve_device
from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.loop import Schedule, State, train
from nmfbench.models.autoencoder.embed import embed
from nmfbench.models.autoencoder.exact import SolverResult
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.from_cells import Cells, RowCells, fit_exact, operator_from_rows
from nmfbench.models.autoencoder.minibatch import AutoencoderProblem
from nmfbench.models.autoencoder.solver_choice import SolverChoice, choose_solver, with_batches_of
from nmfbench.models.estimator import Embedding
from nmfbench.models.labels import Conditions, FitData, encode_conditions, encode_strata
from nmfbench.models.limits import check_parameters, seed_from
from nmfbench.models.start import start_loadings
from nmfbench.rows.batches import Sampler, WindowSampler
from nmfbench.rows.memory import InMemoryRows, RowSource
from nmfbench.rows.shuffled import WINDOW_SHARDS, ShuffledRows


class Autoencoder(Embedding):
    """An embedding ``H = X Wᵀ``, learnt from all cells at once or by minibatch Adam on sparse gradients."""

    transform_is_embedding = True
    _conditional = False
    _own_loadings = False  # of each condition: one Gram matrix for each
    _loadings_name = "W_tied"
    _model_name = ""
    _not_in_checkpoint: ClassVar[set[str]] = {
        "device",
        "verbose",
        "max_epochs",
        "save_u",
        "max_sweeps",
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

        Returns
        -------
        self
        """
        check_parameters(self)
        self._check_solver()
        resolve_device(self.device)
        source = InMemoryRows(self._check_input(X, reset=True), fingerprint)
        self.fit_rows(
            source,
            conditions=conditions,
            strata=strata,
            checkpoint=checkpoint,
            should_stop=should_stop,
            progress=True if self.verbose else progress,
        )
        self.embedding_ = embed(self.components_, source)
        return self

    def fit_rows(
        self,
        source: RowSource,
        *,
        conditions: Any = None,
        strata: Any = None,
        checkpoint: str | Path | None = None,
        should_stop: Callable[[], bool] | None = None,
        progress: bool | None = None,
    ):
        """Learn the loadings from rows wherever they lie; the cells are left to :func:`.embed_blocks`.

        Parameters
        ----------
        source : RowSource
            Non-negative numbers, in memory or on disk. Their rows may come in another order than the
            cells (``source.order``).
        conditions, strata, checkpoint, should_stop, progress
            As in :meth:`fit`; the labels in the order of the cells.

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
        choice = self.solver_choice_ = self._choose_solver(source, data.conditions, device)
        keeper, stored = None, None
        if checkpoint is not None:
            keeper = Checkpoint(checkpoint, self._checkpoint_settings(choice), data.fingerprint())
            stored = keeper.load()
        self.seed_ = seed_from(self.random_state) if stored is None else stored[1]["seed"]
        fit = self._fit_minibatch if choice.solver == "minibatch" else self._fit_statistics
        weights, state, label_batches = fit(data, device, keeper, stored, should_stop, progress)
        self._keep_state(state)
        self.uses_labels_ = strata is not None and (label_batches or self._labels_in_the_loss())
        self._keep(weights)
        return self

    def _fit_statistics(self, data, device, keeper, stored, should_stop, progress):
        on_gpu = self.solver_choice_.route == "gram" and device.type == "cuda"
        self.device_ = str(device) if on_gpu else "cpu"
        weights, state = fit_exact(
            self,
            RowCells(data),
            lambda: operator_from_rows(self, data),
            self.seed_,
            checkpoint=keeper,
            stored=stored,
            should_stop=should_stop,
            progress=progress,
        )
        return weights, state, False

    def _fit_minibatch(self, data, device, keeper, stored, should_stop, progress):
        source, seed, k = data.source, self.seed_, self.n_components
        if device.type == "mps" and source.dtype == np.float64:
            raise InputError(
                f"{type(self).__name__}: X in double precision on device {device}",
                "float32, as Metal has no double precision",
                "float64",
                "give X.astype('float32'), or set device: cpu",
            )
        if stored is None:
            W = start_loadings(source, k, self.init, seed, unit_rows=self.row_norm, device=device)
        else:
            dtype = torch.float64 if source.dtype == np.float64 else torch.float32
            W = torch.empty((source.n_columns, k), dtype=dtype, device=device)
        self.device_ = str(device)
        problem = self._problem(data, W)
        sampler = self._sampler(data, seed)
        state = train(
            problem,
            sampler,
            Schedule(self.max_epochs, self.patience, self.tol, self.learning_rate_schedule == "cosine"),
            name=type(self).__name__,
            checkpoint=keeper,
            stored=stored,
            should_stop=should_stop,
            progress=progress,
        )
        return problem.weights(), state, sampler.order in ("proportional", "round_robin")

    def transform(self, X) -> np.ndarray:
        """The embedding ``X Wᵀ`` of cells, of shape (cells, k)."""
        check_is_fitted(self)
        return embed(self.components_, InMemoryRows(self._check_input(X, reset=False)))

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm, genes x ., by the published keys."""
        check_is_fitted(self)
        return {f"{self._loadings_name}_k{self.n_components_}": np.ascontiguousarray(self.components_.T)}

    def embedding_parts(self) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """A function that gives the arrays for obsm of some cells from their H and condition codes."""
        key = self.embedding_key_
        return lambda H, codes: {key: H}

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm, cells x ., by the published keys."""
        return self.embedding_parts()(self.embedding_, self.conditions_.codes)

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns, by the published keys.

        Parameters
        ----------
        **preparation
            How X was made (``libsize_log1p``, ``target_sum``, ``use_hvg``), as the published files say it.
        """
        check_is_fitted(self)
        names = {"model_name": self._model_name, "k_rank": self.n_components_}
        return {**names, **preparation, **self._published_settings()}

    # What a model adds ------------------------------------------------------------------------------

    def _problem(self, data: FitData, W: torch.Tensor) -> AutoencoderProblem:
        raise NotImplementedError

    def _descend(self, operator: Operator, cells: Cells, **run: Any) -> SolverResult:
        raise NotImplementedError

    def _judge(self, operator: Operator, cells: Cells) -> tuple[float, float, Decoder]:
        """Objective and squared error of `cells` at the present loadings, and how they are written."""
        raise NotImplementedError

    def _check_conditions(self, conditions: Conditions) -> None:
        pass

    def _published_settings(self) -> dict[str, Any]:
        return {}

    def _labels_in_the_loss(self) -> bool:
        return False

    def _keep(self, weights: dict[str, np.ndarray]) -> None:
        self.components_ = np.ascontiguousarray(weights["W"].T)
        self.n_components_ = self.components_.shape[0]

    # ------------------------------------------------------------------------------------------------

    def _sampler(self, data: FitData, seed: int) -> Sampler | WindowSampler:
        order = self.batches
        if order in ("proportional", "round_robin") and data.strata is None:
            order = "random"
        labels = {"strata": data.strata, "conditions": data.conditions.codes[:, 0]}
        if isinstance(data.source, ShuffledRows):
            return WindowSampler(
                order, data.source, self.batch_size, seed, **labels, shards_in_window=WINDOW_SHARDS
            )
        return Sampler(order, data.source.n_rows, self.batch_size, seed, **labels)

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
        choice = choose_solver(
            source.n_rows,
            source.n_columns,
            source.nnz,
            self.n_components,
            self.max_epochs,
            conditions.size if self._own_loadings else 0,
            self.gram_memory_mb,
            str(device),
            batch_size=self.batch_size,
            dtype=str(np.dtype(source.dtype)),
            in_memory=hasattr(source, "csr"),
            solver="minibatch" if only else self.solver,
        )
        if only:
            choice = replace(choice, reason=f"only minibatch has {', '.join(only)}")
        return with_batches_of(source, choice, forced=bool(only) or self.solver != "auto")

    def _checkpoint_settings(self, choice: SolverChoice) -> dict[str, Any]:
        left_out = set(self._not_in_checkpoint)
        if self.learning_rate_schedule == "cosine":
            left_out.remove("max_epochs")  # the learning rates depend on it
        settings = {name: value for name, value in self.get_params().items() if name not in left_out}
        if not isinstance(self.random_state, (int, np.integer)):
            settings["random_state"] = "not a number"
        return {"model": type(self).__name__, **settings, "solver": choice.solver, "route": choice.route}

    def _keep_state(self, state: State) -> None:
        self.history_ = state.history
        self.n_iter_ = state.epoch
        self.best_epoch_ = state.best_epoch
        self.objective_ = state.best
        self.relative_error_ = state.best_error
        self.stop_reason_ = state.stop_reason
        self.converged_ = state.stop_reason == "converged"
