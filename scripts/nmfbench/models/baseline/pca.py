"""Principal components of the cells."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nmfbench.components import placed, principal_directions, variable_genes
from nmfbench.models.baseline import card
from nmfbench.models.card import OnCpu
from nmfbench.models.given import GivenEmbedding
from nmfbench.models.parameters import parameters


@parameters(card.PCA, OnCpu)
class PCA(GivenEmbedding):
    """Principal components of the log-normalised, most variable genes.

    The best linear embedding in squared error, without a sign or a label: what an embedding has to beat.

    {parameters}
    """

    _embedding_name = "X_pca"
    transform_is_embedding = True

    def _embed(self, X, donors, types) -> np.ndarray:
        self.genes_ = chosen_genes(X, self)
        X = X[:, self.genes_]
        self.mean_, self.directions_ = principal_directions(X, number_of(self), seed=self.seed_)
        return placed(X, self.mean_, self.directions_)

    def transform(self, X) -> np.ndarray:
        """Place new cells on the components, shape (cells, k)."""
        check_is_fitted(self)
        X = self._check_input(X, reset=False)
        return placed(X[:, self.genes_], self.mean_, self.directions_).astype(X.dtype)

    def transform_state(self):
        """The genes that the components are made of, their means and the directions."""
        return {"genes": self.genes_, "mean": self.mean_, "directions": self.directions_}

    def _restore(self, state) -> None:
        self.genes_, self.mean_, self.directions_ = (
            np.asarray(state[key]) for key in ("genes", "mean", "directions")
        )


def chosen_genes(X, settings) -> np.ndarray:
    """Positions of the most variable genes, or of all, as a section with `n_genes` asks for them."""
    if settings.n_genes is None or settings.n_genes >= X.shape[1]:
        return np.arange(X.shape[1])
    return variable_genes(X, settings.n_genes)


def number_of(settings) -> int:
    """Components that a section with `n_pcs` asks for."""
    return settings.n_pcs or settings.n_components
