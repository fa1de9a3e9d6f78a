"""The controls: embeddings made of noise, of labels, or of cells at the wrong places."""

from __future__ import annotations

import numpy as np

from nmfbench.components import principal_components, variable_genes
from nmfbench.models.card import OnCpu
from nmfbench.models.control import card
from nmfbench.models.given import GivenEmbedding
from nmfbench.models.parameters import parameters

N_GENES, N_PCS = 3000, 50


@parameters(card.ControlRandom, OnCpu)
class ControlRandom(GivenEmbedding):
    """Normal random numbers, cells x rank.

    {parameters}
    """

    _embedding_name = "X_random"

    def _embed(self, X, donors, types) -> np.ndarray:
        return np.random.default_rng(self.seed_).normal(size=(X.shape[0], self.n_components))


@parameters(card.ControlShuffled, OnCpu)
class ControlShuffled(GivenEmbedding):
    """Principal components of the cells, dealt out anew: the right cloud, and no cell at its place.

    {parameters}
    """

    _embedding_name = "X_shuffled"

    def _embed(self, X, donors, types) -> np.ndarray:
        self.uses_labels_ = self.within == "cell_type"
        self.uses_conditions_ = self.within == "donor"
        groups = {"all": None, "cell_type": types, "donor": donors}[self.within]
        groups = np.zeros(X.shape[0], dtype=int) if groups is None else groups
        components = _components(X, self.n_components, self.seed_)
        rng, shuffled = np.random.default_rng(self.seed_), np.empty_like(components)
        for group in np.unique(groups):
            cells = np.flatnonzero(groups == group)
            shuffled[cells] = components[rng.permutation(cells)]
        return shuffled


@parameters(card.ControlPCAByDonor, OnCpu)
class ControlPCAByDonor(GivenEmbedding):
    """50 principal components of each donor alone, which have nothing to do with another's.

    {parameters}
    """

    _embedding_name = "X_pca_by_donor"

    def _embed(self, X, donors, types) -> np.ndarray:
        donors = np.zeros(X.shape[0], dtype=int) if donors is None else donors
        found = np.zeros((X.shape[0], min(N_PCS, *X.shape)), dtype=np.float32)
        for donor in np.unique(donors):
            cells = np.flatnonzero(donors == donor)
            own = _components(X[cells], N_PCS, self.seed_)
            found[cells, : own.shape[1]] = own
        return found


@parameters(card.ControlDepth, OnCpu)
class ControlDepth(GivenEmbedding):
    """``log(1 + total counts)`` of each cell, one column.

    {parameters}
    """

    _embedding_name = "X_depth"

    def _embed(self, X, donors, types) -> np.ndarray:
        return np.log1p(np.asarray(X.sum(axis=1), dtype=np.float64).reshape(-1, 1))


@parameters(card.ControlCellType, OnCpu)
class ControlCellType(GivenEmbedding):
    """One column for each cell type.

    {parameters}
    """

    _embedding_name = "X_cell_type"
    uses_labels_ = True

    def _embed(self, X, donors, types) -> np.ndarray:
        return _one_hot(types, X.shape[0])


@parameters(card.ControlCellTypeNoise, OnCpu)
class ControlCellTypeNoise(GivenEmbedding):
    """One column for each cell type, with noise.

    {parameters}
    """

    _embedding_name = "X_cell_type_noise"
    uses_labels_ = True

    def _embed(self, X, donors, types) -> np.ndarray:
        exact = _one_hot(types, X.shape[0])
        rng = np.random.default_rng(self.seed_)
        if self.noise == "normal":
            return exact + rng.normal(scale=self.amount, size=exact.shape)
        return exact + rng.uniform(-self.amount, self.amount, size=exact.shape)


@parameters(card.ControlDonor, OnCpu)
class ControlDonor(GivenEmbedding):
    """One column for each donor.

    {parameters}
    """

    _embedding_name = "X_donor"

    def _embed(self, X, donors, types) -> np.ndarray:
        return _one_hot(donors, X.shape[0])


def _one_hot(codes: np.ndarray | None, n_cells: int) -> np.ndarray:
    codes = np.zeros(n_cells, dtype=int) if codes is None else codes
    return np.eye(int(codes.max()) + 1)[codes]


def _components(X, k: int, seed: int) -> np.ndarray:
    if X.shape[1] > N_GENES:
        X = X[:, variable_genes(X, N_GENES)]
    return principal_components(X, k, seed=seed)
