"""Embeddings that are no factorisation: what baselines, controls and external embeddings share.

They say where the cells lie and leave the genes open. Loadings are the least squares of the values on the
embedding, with an intercept, so that every table and figure of factors is made of them as of the models'.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nmfbench.fitting.engine import orthogonality
from nmfbench.fitting.observer import Observer
from nmfbench.memory import peak_mb
from nmfbench.models.estimator import Embedding
from nmfbench.models.limits import check_parameters, seed_from

log = logging.getLogger(__name__)


class GivenEmbedding(Embedding):
    """An embedding that is computed at once, or given; a subclass says which in `_embed`."""

    device_ = "cpu"
    uses_labels_ = False
    cells_: np.ndarray | None = None
    """Rows of X that have a place in the embedding; None: all."""
    _embedding_name = "H_given"

    def fit(
        self,
        X,
        y=None,
        *,
        conditions: Any = None,
        strata: Any = None,
        checkpoint: Any = None,
        fingerprint: str | None = None,
        should_stop: Any = None,
        progress: bool | None = None,
        observer: Observer | None = None,
        cell_names: Any = None,
        gene_names: Any = None,
    ):
        """Make the embedding, and its loadings.

        Parameters
        ----------
        X : CSR, CSC or dense of shape (cells, genes)
            Non-negative, float32 or float64.
        conditions, strata : array-like of n cells, optional
            Donors and cell types, for those that are made of them.
        cell_names : array-like of n cells, optional
            By which an external embedding is aligned.
        observer : Observer, optional
            Told of the result, the only step there is.
        y, checkpoint, fingerprint, should_stop, progress, gene_names : ignored

        Returns
        -------
        self
        """
        check_parameters(self)
        X = self._check_input(X, reset=True)
        started = time.monotonic()
        self.seed_ = seed_from(self.random_state)
        self._names = None if cell_names is None else np.asarray(cell_names).astype(str)
        given = self._embed(X, codes_of(conditions), codes_of(strata))
        self.embedding_ = np.ascontiguousarray(given, dtype=np.float32)
        self._regress(X if self.cells_ is None else X[self.cells_])
        self.n_components_ = self.components_.shape[0]
        seconds = time.monotonic() - started
        self.n_iter_ = self.best_epoch_ = 1
        self.stop_reason_, self.converged_ = "converged", True
        self.history_ = [
            {
                "epoch": 1,
                "objective": self.objective_,
                "reconstruction": self.objective_,
                "relative_error": self.relative_error_,
                "seconds": seconds,
                "cells_per_s": X.shape[0] / max(seconds, 1e-9),
                "peak_mb": peak_mb(),
                "orthogonality": orthogonality(self.components_ @ self.components_.T),
            }
        ]
        if observer is not None:
            observer.step(
                1, {"loss": self.objective_, "relative_error": self.relative_error_, "seconds": seconds}
            )
            observer.end(1, {"cell_factors": self.embedding_, "gene_factors": self.components_})
        log.info("%s: %d columns for %d cells", type(self).__name__, *self.embedding_.shape[::-1])
        return self

    def _embed(self, X, donors: np.ndarray | None, types: np.ndarray | None) -> np.ndarray:
        """The embedding, cells x columns."""
        raise NotImplementedError

    def _regress(self, X) -> None:
        """Least squares of the values on the embedding: loadings, intercept and what is left."""
        n = X.shape[0]
        H = self.embedding_.astype(np.float64)
        self._centre = H.mean(axis=0)
        H -= self._centre
        self.intercept_ = np.asarray(X.mean(axis=0), dtype=np.float64).ravel()
        products = np.asarray((X.T @ H).T, dtype=np.float64)  # Σ H = 0: the intercept drops out
        loadings = np.linalg.lstsq(H.T @ H, products, rcond=1e-10)[0]
        squares = float(np.square(X.data, dtype=np.float64).sum())
        error = squares - n * float(self.intercept_ @ self.intercept_) - float((loadings * products).sum())
        self.components_ = np.ascontiguousarray(loadings, dtype=np.float32)
        self.objective_ = max(error, 0.0) / n
        self.relative_error_ = max(error, 0.0) / squares if squares else float("nan")

    def expected_values(self, X, rows: slice) -> np.ndarray:
        """Least squares of the values on the embedding; see :meth:`Embedding.expected_values`."""
        check_is_fitted(self)
        H = self.embedding_[rows].astype(np.float64) - self._centre
        return H @ self.components_.astype(np.float64) + self.intercept_

    def transform(self, X) -> np.ndarray:
        """Embed new cells: least squares of their values on the loadings, of shape (cells, columns)."""
        check_is_fitted(self)
        X = self._check_input(X, reset=False)
        B = self.components_.astype(np.float64)
        products = X @ B.T - self.intercept_ @ B.T
        return (products @ np.linalg.pinv(B @ B.T, hermitian=True) + self._centre).astype(X.dtype)

    def transform_state(self) -> dict[str, Any]:
        """The intercept, and the embedding's mean."""
        return {"intercept": self.intercept_, "centre": self._centre}

    def _restore(self, state) -> None:
        self.intercept_, self._centre = np.asarray(state["intercept"]), np.asarray(state["centre"])

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm: ``W_{name}_k{k}`` (genes x k)."""
        check_is_fitted(self)
        name = self._embedding_name.removeprefix("H_")
        return {f"W_{name}_k{self.n_components_}": np.ascontiguousarray(self.components_.T)}

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns; `preparation` says how X was made."""
        check_is_fitted(self)
        settings = {"k": self.n_components_, "random_state": self.seed_, **preparation}
        name = self._embedding_name.removeprefix("H_")
        return {f"{name}_settings": settings, "model_name": name, "k_rank": self.n_components_}


def codes_of(labels: Any) -> np.ndarray | None:
    """Numbers of the labels; several columns together are one label."""
    if labels is None:
        return None
    values = np.asarray(labels, dtype=object)
    text = np.array([" ".join(map(str, row)) for row in values.reshape(len(values), -1)])
    return np.unique(text, return_inverse=True)[1]
