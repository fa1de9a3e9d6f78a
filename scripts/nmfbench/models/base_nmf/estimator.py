"""Base NMF: scikit-learn's coordinate descent, one sweep at a time, with history and checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import non_negative_factorization

# scikit-learn offers its start, its sweep and its error only as a whole, without a hook between two
# sweeps. These three are what `NMF(solver="cd")` itself calls; a test holds the result to it, digit by digit.
from sklearn.decomposition._cdnmf_fast import _update_cdnmf_fast as sweep
from sklearn.decomposition._nmf import _beta_divergence, _initialize_nmf
from sklearn.utils.validation import check_is_fitted

from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.loop import DivergedError
from nmfbench.fitting.observer import Observer
from nmfbench.fitting.progress import Progress
from nmfbench.linalg import SparseRows
from nmfbench.memory import peak_mb
from nmfbench.models.base_nmf import card
from nmfbench.models.card import OnCpu
from nmfbench.models.estimator import Embedding
from nmfbench.models.limits import check_parameters, seed_from
from nmfbench.models.parameters import parameters
from nmfbench.rows.memory import InMemoryRows

log = logging.getLogger(__name__)


@parameters(card.BaseNMF, OnCpu)
class BaseNMF(Embedding):
    """Non-negative matrix factorisation, the baseline: scikit-learn's NMF by coordinate descent.

    Minimises ``||X - H W||²`` over non-negative H (cells x k) and W (k x genes). The numbers are those of
    ``sklearn.decomposition.NMF(n_components, init=init, solver="cd", max_iter=max_iter, tol=tol,
    random_state=random_state)``; the two sparse products of a sweep use all threads.

    {parameters}
    """

    _embedding_name = "H_sklearn_nmf"
    device_ = "cpu"
    uses_labels_ = False

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
        """Learn the factors.

        Parameters
        ----------
        X : CSR, CSC or dense of shape (cells, genes)
            Non-negative, float32 or float64.
        y, conditions, strata : ignored
            The model knows no labels.
        checkpoint, fingerprint, should_stop, progress
            As in :meth:`nmfbench.models.autoencoder.estimator.Autoencoder.fit`, a sweep for an epoch.
        observer : Observer or None
            Told of every sweep.

        Returns
        -------
        self
        """
        check_parameters(self)
        X = self._check_input(X, reset=True)
        self._check_rank(*X.shape)
        keeper, stored = None, None
        if checkpoint is not None:
            settings = {"model": type(self).__name__, **self._checkpoint_settings()}
            keeper = Checkpoint(checkpoint, settings, InMemoryRows(X, fingerprint).fingerprint())
            stored = keeper.load()
        self.seed_ = seed_from(self.random_state) if stored is None else stored[1]["seed"]
        descent = _Descent(X, self, stored)
        bar = Progress(type(self).__name__, self.max_iter, descent.n_iter, self.verbose > 0 or progress)
        try:
            while descent.stop_reason is None:
                row = descent.sweep()
                bar.update(row)
                if observer is not None:
                    descent.tell(observer, row)
                stop = should_stop is not None and should_stop() and descent.stop_reason is None
                if keeper is not None and (stop or descent.stop_reason or keeper.is_due()):
                    keeper.save(*descent.state())
                if stop:
                    descent.stop_reason = "interrupted"
            if observer is not None:
                observer.end(descent.n_iter, descent.factors())
        finally:
            bar.close()
        self._keep(descent, X)
        log.info(
            "%s: %s after %d sweeps, relative error %.4f",
            type(self).__name__,
            self.stop_reason_,
            self.n_iter_,
            self.relative_error_,
        )
        return self

    def transform(self, X) -> np.ndarray:
        """The cells' factors H given the fitted W, of shape (cells, k)."""
        check_is_fitted(self)
        X = self._check_input(X, reset=False)
        H, *_ = non_negative_factorization(
            X,
            H=self.components_.astype(X.dtype, copy=False),
            n_components=self.n_components_,
            init="custom",
            update_H=False,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        return H

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm: ``W_sklearn_nmf_k{k}`` (genes x k)."""
        check_is_fitted(self)
        return {f"W_sklearn_nmf_k{self.n_components_}": np.ascontiguousarray(self.components_.T)}

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns; `preparation` says how X was made (``libsize_log1p``, ``target_sum``)."""
        check_is_fitted(self)
        k = self.n_components_
        settings = {
            "k": k,
            "max_iter": self.max_iter,
            "random_state": self.seed_,
            "reconstruction_err_": self.reconstruction_err_,
            **preparation,
        }
        return {f"sklearn_nmf_k{k}": settings, "model_name": "sklearn_NMF_baseline", "k_rank": k}

    def _checkpoint_settings(self) -> dict[str, Any]:
        settings = {
            name: value for name, value in self.get_params().items() if name not in ("verbose", "max_iter")
        }
        if not isinstance(self.random_state, (int, np.integer)):
            settings["random_state"] = "not a number"
        return settings

    def _keep(self, descent: _Descent, X) -> None:
        self.components_ = np.ascontiguousarray(descent.Wt.T)
        self.n_components_ = self.components_.shape[0]
        self.embedding_ = descent.H
        self.n_iter_ = self.best_epoch_ = descent.n_iter
        self.history_ = descent.history
        self.stop_reason_ = descent.stop_reason
        self.converged_ = descent.stop_reason == "converged"
        self.reconstruction_err_ = float(
            _beta_divergence(X, self.embedding_, descent.Wt.T, "frobenius", square_root=True)
        )
        self.objective_ = descent.history[-1]["objective"]
        self.relative_error_ = descent.history[-1]["relative_error"]


class _Descent:
    """Coordinate descent that can be left after any sweep; Wt is genes x k, H cells x k."""

    def __init__(self, X, settings: BaseNMF, stored: tuple | None) -> None:
        self.rows = SparseRows(X)
        self.settings = settings
        self.squared_norm = self.rows.squared_norm()
        self.n_iter = 0
        self.seconds = 0.0
        self.first_violation = 0.0
        self.stop_reason: str | None = None
        self.history: list[dict[str, float]] = []
        if stored is None:
            H, W = _initialize_nmf(X, settings.n_components, init=settings.init, random_state=settings.seed_)
            self.H, self.Wt = np.ascontiguousarray(H), np.ascontiguousarray(W.T)
        else:
            arrays, record = stored
            self.H, self.Wt = arrays["H"], arrays["Wt"]
            for name in ("n_iter", "seconds", "first_violation", "stop_reason", "history"):
                setattr(self, name, record[name])
            if self.stop_reason == "max_epochs" or self.n_iter >= settings.max_iter:
                self.stop_reason = "max_epochs" if self.n_iter >= settings.max_iter else None

    def sweep(self) -> dict[str, float]:
        """Update H, then W; return the history's new row."""
        started = time.monotonic()
        order = np.arange(self.H.shape[1], dtype=np.intp)
        XW = self.rows.times(torch.from_numpy(self.Wt), as_scipy=True).numpy()
        violation = sweep(self.H, np.dot(self.Wt.T, self.Wt), XW, order)
        XtH = self.rows.transposed_times(torch.from_numpy(self.H)).numpy()
        A = np.dot(self.H.T, self.H)
        violation += sweep(self.Wt, A, XtH, order)
        self.n_iter += 1
        if self.n_iter == 1:
            self.first_violation = float(violation)
        if self.first_violation == 0 or violation / self.first_violation <= self.settings.tol:
            self.stop_reason = "converged"
        elif self.n_iter >= self.settings.max_iter:
            self.stop_reason = "max_epochs"
        return self._record(A, XtH, started)

    def factors(self) -> dict[str, np.ndarray]:
        """What an observer is shown."""
        return {"cell_factors": self.H, "gene_factors": self.Wt.T}

    def tell(self, observer: Observer, row: dict[str, float]) -> None:
        """Say what the sweep came to."""
        names = ("relative_error", "seconds")
        observer.step(self.n_iter, {"loss": row["objective"], **{name: row[name] for name in names}})
        if observer.state_every and self.n_iter % observer.state_every == 0:
            observer.state(self.n_iter, self.factors())

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a checkpoint keeps."""
        names = ("n_iter", "seconds", "first_violation", "stop_reason", "history")
        record = {name: getattr(self, name) for name in names}
        return {"H": self.H, "Wt": self.Wt}, {"seed": self.settings.seed_, **record}

    def _record(self, A: np.ndarray, XtH: np.ndarray, started: float) -> dict[str, float]:
        # ||E||² = ||X||² - 2 <Xᵀ H, Wᵀ> + <HᵀH, W Wᵀ>: both products are at hand after the sweep.
        cross = np.einsum("gl,gl->", XtH, self.Wt, dtype=np.float64)
        gram = np.dot(self.Wt.T, self.Wt)
        squared_error = self.squared_norm - 2 * cross + np.einsum("ij,ij->", A, gram, dtype=np.float64)
        if not np.isfinite(squared_error):
            raise DivergedError(
                f"the objective at sweep {self.n_iter}",
                "a finite number",
                f"{squared_error}",
                "fit in double precision (float64); check that X is normalised",
            )
        seconds = time.monotonic() - started
        self.seconds += seconds
        objective = squared_error / self.rows.shape[0]
        row = {
            "epoch": self.n_iter,
            "objective": float(objective),
            "reconstruction": float(objective),
            "relative_error": float(squared_error / self.squared_norm) if self.squared_norm else float("nan"),
            "seconds": self.seconds,
            "cells_per_s": self.rows.shape[0] / seconds,
            "peak_mb": peak_mb(),
        }
        self.history.append(row)
        return row
