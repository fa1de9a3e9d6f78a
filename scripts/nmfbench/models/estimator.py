"""What all estimators share: checks of the input, and scikit-learn's conventions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from nmfbench.errors import InputError
from nmfbench.linalg import as_sorted_csr
from nmfbench.models.limits import Limit, real


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Input checks and names that all models share."""

    _limits: ClassVar[dict[str, Limit]] = {"n_components": real(1, whole=True)}
    _embedding_name = "H_shared"

    @property
    def embedding_key_(self) -> str:
        """The key of :meth:`embeddings` that is scored."""
        check_is_fitted(self)
        return f"{self._embedding_name}_k{self.n_components_}"

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm, cells x ., by the published keys."""
        return {self.embedding_key_: self.embedding_}

    def fit_transform(self, X, y=None, **fit_parameters) -> np.ndarray:
        """Fit, then the embedding of the training cells; see :meth:`fit`."""
        return self.fit(X, y, **fit_parameters).embedding_

    def _check_input(self, X, *, reset: bool):
        X = validate_data(
            self,
            X,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_non_negative=True,
            reset=reset,
        )
        return as_sorted_csr(X)

    def _check_rank(self, n: int, p: int) -> None:
        if self.n_components > min(n, p):
            raise InputError(
                f"{type(self).__name__}: n_components={self.n_components} is more than the data can carry",
                f"at most {min(n, p)}",
                f"n_samples = {n}, n_features = {p}",
                "lower n_components, or give more cells or genes",
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
