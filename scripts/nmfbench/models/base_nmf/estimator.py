"""Base NMF: scikit-learn's coordinate descent, one sweep at a time, with history and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.decomposition import non_negative_factorization

# scikit-learn offers its start, its sweep and its error only as a whole, without a hook between two
# sweeps. These three are what `NMF(solver="cd")` itself calls; a test holds the result to it, digit by digit.
from sklearn.decomposition._cdnmf_fast import _update_cdnmf_fast as sweep
from sklearn.decomposition._nmf import _beta_divergence, _initialize_nmf
from sklearn.utils.validation import check_is_fitted

from nmfbench.fitting.engine import Engine, Row
from nmfbench.fitting.loop import Run
from nmfbench.fitting.observer import Observer
from nmfbench.linalg import SparseRows
from nmfbench.models.base_nmf import card
from nmfbench.models.card import OnCpu
from nmfbench.models.estimator import Embedding
from nmfbench.models.limits import check_parameters
from nmfbench.models.parameters import parameters
from nmfbench.rows.memory import InMemoryRows


@parameters(card.BaseNMF, OnCpu)
class BaseNMF(Embedding):
    """Non-negative matrix factorisation, the baseline: scikit-learn's NMF by coordinate descent.

    Minimises ``||X - H W||²`` over non-negative H (cells x k) and W (k x genes). The numbers are those of
    ``sklearn.decomposition.NMF(n_components, init=init, solver="cd", max_iter=max_iter, tol=tol,
    random_state=random_state)``; the two sparse products of a sweep use all threads.

    {parameters}
    """

    _embedding_name = "H_sklearn_nmf"
    _not_in_checkpoint: ClassVar[set[str]] = {"verbose", "max_iter"}
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
        conditions : array-like of shape (cells,) or (cells, columns)
            The donor of each cell, for the model that is told it; else ignored, as y and strata are.
        checkpoint, fingerprint, should_stop, progress
            As in :meth:`nmfbench.models.autoencoder.estimator.Autoencoder.fit`, a sweep for an epoch.
        observer : Observer or None
            Told of every sweep.

        Returns
        -------
        self
        """
        check_parameters(self)
        self._check_conditions(conditions)
        X = self._check_input(X, reset=True)
        self._check_rank(*X.shape)
        outcome = self._fit(
            lambda resumed: CoordinateDescent(
                *(X, self.n_components, self.init, self.seed_),
                **{"max_iter": self.max_iter, "tol": self.tol, "resumed": resumed},
            ),
            Run(checkpoint, should_stop, True if self.verbose else progress, observer),
            n_cells=X.shape[0],
            fingerprint=lambda: InMemoryRows(X, fingerprint).fingerprint(),
        )
        descent = outcome.engine
        self.components_ = np.ascontiguousarray(descent.Wt.T)
        self.n_components_ = self.components_.shape[0]
        self.reconstruction_err_ = float(
            _beta_divergence(X, descent.H, descent.Wt.T, "frobenius", square_root=True)
        )
        self.embedding_ = self._embed(descent.H, conditions)
        return self

    def _check_conditions(self, conditions: Any) -> None:
        """Refuse, before the fit, labels from which no embedding could be made after it."""

    def _embed(self, H: np.ndarray, conditions: Any) -> np.ndarray:
        """The embedding of the cells that were fitted: their factors as they are."""
        return H

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


class CoordinateDescent(Engine):
    """Sweeps of coordinate descent; Wt is genes x k, H cells x k."""

    unit = "sweep"
    remedy = "fit in double precision (float64); check that X is normalised"

    def __init__(
        self, X, k: int, init: str, seed: int, *, max_iter: int, tol: float, resumed: bool = False
    ) -> None:
        self.rows = SparseRows(X)
        self.limit, self.tol = max_iter, tol
        self.squared_norm = self.rows.squared_norm()
        self.clock = 0
        self.violation = self.first_violation = 0.0
        if not resumed:
            H, W = _initialize_nmf(X, k, init=init, random_state=seed)
            self.H, self.Wt = np.ascontiguousarray(H), np.ascontiguousarray(W.T)

    def advance(self, pause: Callable[[], bool]) -> Row:
        """Update H, then W."""
        order = np.arange(self.H.shape[1], dtype=np.intp)
        XW = self.rows.times(torch.from_numpy(self.Wt), as_scipy=True).numpy()
        violation = sweep(self.H, np.dot(self.Wt.T, self.Wt), XW, order)
        XtH = self.rows.transposed_times(torch.from_numpy(self.H)).numpy()
        A = np.dot(self.H.T, self.H)
        violation += sweep(self.Wt, A, XtH, order)
        self.clock += 1
        self.violation = float(violation)
        if self.clock == 1:
            self.first_violation = self.violation
        # ||E||² = ||X||² - 2 <Xᵀ H, Wᵀ> + <HᵀH, W Wᵀ>: both products are at hand after the sweep.
        cross = np.einsum("gl,gl->", XtH, self.Wt, dtype=np.float64)
        gram = self.gene_gram()
        squared_error = self.squared_norm - 2 * cross + np.einsum("ij,ij->", A, gram, dtype=np.float64)
        objective = float(squared_error / self.rows.shape[0])
        relative = float(squared_error / self.squared_norm) if self.squared_norm else float("nan")
        shared = {"epoch": self.clock, "objective": objective, "reconstruction": objective}
        return {**shared, "relative_error": relative}

    def has_converged(self) -> bool:
        if not self.clock:
            return False
        return self.first_violation == 0 or self.violation / self.first_violation <= self.tol

    def gene_gram(self) -> np.ndarray:
        return np.dot(self.Wt.T, self.Wt)

    def describe(self) -> dict[str, np.ndarray]:
        return {"cell_factors": self.H, "gene_factors": self.Wt.T}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        names = ("clock", "violation", "first_violation")
        return {"H": self.H, "Wt": self.Wt}, {name: getattr(self, name) for name in names}

    def load_state(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        self.H, self.Wt = arrays["H"], arrays["Wt"]
        for name, value in record.items():
            setattr(self, name, value)
