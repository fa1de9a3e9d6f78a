"""How the autoencoding estimators are fitted by minibatches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nmfbench.errors import InputError
from nmfbench.fitting.loop import Outcome, Run
from nmfbench.models.autoencoder.embed import embed
from nmfbench.models.autoencoder.epochs import Epochs, Schedule
from nmfbench.models.autoencoder.minibatch import BatchObjective
from nmfbench.models.autoencoder.on_card import steps_on
from nmfbench.models.autoencoder.with_solver import WithSolver
from nmfbench.models.labels import FitData
from nmfbench.models.start import start_loadings
from nmfbench.rows.batches import Sampler, WindowSampler
from nmfbench.rows.shuffled import WINDOW_SHARDS, ShuffledRows


class WithBatches(WithSolver):
    """An estimator that Adam can fit, a batch of cells at a time."""

    def _batch_objective(self, data: FitData, W: torch.Tensor) -> BatchObjective:
        """The objective that minibatches minimise, with W (genes x k) where they begin."""
        raise NotImplementedError

    def outcome(self) -> dict[str, Any]:
        """How minibatches were taken, for ``run.json``; null where there were none."""
        return {"minibatches": getattr(self, "minibatches_", None)}

    def _fit_minibatch(self, data: FitData, device: torch.device, run: Run) -> bool:
        """By minibatches; whether their composition follows the cell types."""
        source = data.source
        if device.type == "mps" and source.dtype == np.float64:
            raise InputError(
                f"{type(self).__name__}: X in double precision on device {device}",
                "float32, as Metal has no double precision",
                "float64",
                "give X.astype('float32'), or set device: cpu",
            )
        self.device_ = str(device)

        choice = self.solver_choice_
        decided = {"solver": choice.solver, "route": choice.route}
        outcome: Outcome = self._fit(
            lambda resumed: self.epochs_of(data, device, resumed),
            run,
            n_cells=source.n_rows,
            fingerprint=data.fingerprint,
            **decided,
        )
        self.minibatches_["recorded"] = outcome.engine.stepper.recorded  # as it turned out
        self._keep(outcome.engine.objective.weights())
        return outcome.engine.sampler.order in ("proportional", "round_robin")

    def epochs_of(self, data: FitData, device: torch.device, resumed: bool = False) -> Epochs:
        """The engine of a fit by minibatches, at its start; `resumed`: about to be told where it stands."""
        source, k = data.source, self.n_components
        if resumed:
            dtype = torch.float64 if source.dtype == np.float64 else torch.float32
            W = torch.empty((source.n_columns, k), dtype=dtype, device=device)
        else:
            W = start_loadings(source, k, self.init, self.seed_, unit_rows=self.row_norm, device=device)
        cosine = self.learning_rate_schedule == "cosine"
        objective, sampler = self._batch_objective(data, W), self._sampler(data, self.seed_)
        stepper, self.minibatches_ = steps_on(objective, sampler, self.precision)
        return Epochs(
            objective,
            sampler,
            Schedule(self._most("minibatch"), self.patience, self._tol("minibatch"), cosine),
            lambda W: embed(W, source),
            stepper,
        )

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

    def _checkpoint_settings(self) -> dict[str, Any]:
        settings = super()._checkpoint_settings()
        if self.learning_rate_schedule == "cosine":
            settings["max_iter"] = self._most("minibatch")  # the learning rates depend on it
        if settings.get("precision") == "float32":
            del settings["precision"]  # states from before there was a choice are of this one
        return settings
