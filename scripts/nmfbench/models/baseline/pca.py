"""Principal components of the cells."""

from __future__ import annotations

import numpy as np

from nmfbench.components import principal_components, variable_genes
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

    def _embed(self, X, donors, types) -> np.ndarray:
        return components_of(X, self)


def components_of(X, settings) -> np.ndarray:
    """Principal components as a section with `n_genes` and `n_pcs` asks for them."""
    if settings.n_genes is not None and settings.n_genes < X.shape[1]:
        X = X[:, variable_genes(X, settings.n_genes)]
    return principal_components(X, settings.n_pcs or settings.n_components, seed=settings.seed_)
