"""The toy as an estimator."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from nmfbench.models.toy import card
from sklearn.decomposition import TruncatedSVD

from nmfbench.memory import peak_mb
from nmfbench.models.card import OnCpu
from nmfbench.models.estimator import Embedding
from nmfbench.models.limits import check_parameters, seed_from
from nmfbench.models.parameters import parameters


@parameters(card.Toy, OnCpu)
class Toy(Embedding):
    """``min ||X - H W||²`` by a truncated singular value decomposition.

    {parameters}
    """

    _embedding_name = "H_toy"
    transform_is_embedding = True
    device_ = "cpu"
    uses_labels_ = False

    def fit(
        self, X, y=None, *, conditions=None, strata=None, checkpoint=None, fingerprint=None,
        should_stop=None, progress=None, observer=None,
    ):  # fmt: skip
        """Learn the loadings."""
        check_parameters(self)
        started = time.monotonic()
        X = self._check_input(X, reset=True)
        self._check_rank(*X.shape)
        self.seed_ = seed_from(self.random_state)
        svd = TruncatedSVD(self.n_components, n_iter=self.n_iter, random_state=self.seed_).fit(X)
        self.components_, self.n_components_ = svd.components_, self.n_components
        self.embedding_ = self.transform(X)
        squared = float((X.data.astype(float) ** 2).sum())
        self.relative_error_ = 1 - float((self.embedding_.astype(float) ** 2).sum()) / squared
        self.objective_ = self.relative_error_ * squared / X.shape[0]
        seconds = time.monotonic() - started
        row = {"epoch": 1, "objective": self.objective_, "seconds": seconds}
        self.history_ = [row | {"cells_per_s": X.shape[0] / seconds, "peak_mb": peak_mb()}]
        self.n_iter_, self.stop_reason_, self.converged_ = 1, "converged", True
        return self

    def transform(self, X) -> np.ndarray:
        """The embedding ``X Wᵀ``."""
        return np.asarray(self._check_input(X, reset=False) @ self.components_.T)

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm."""
        return {f"W_toy_k{self.n_components_}": np.ascontiguousarray(self.components_.T)}

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns."""
        return {"model_name": "toy", "k_rank": self.n_components_, **preparation}
