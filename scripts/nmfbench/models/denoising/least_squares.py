"""What is scored of a denoising model: the projection X Wᵀ, or the usages with which W writes a cell best.

Where the factors overlap, a cell of one program has a projection on all that share genes with it. Its
non-negative least squares have not: they are what of the cell each factor is left with, beside the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nmfbench.least_squares import non_negative_least_squares
from nmfbench.models.autoencoder.results import Results

#: Sweeps of coordinate descent; factors that nearly coincide would take thousands, and go to an active set.
SWEEPS = 500


class ChosenEmbedding(Results):
    """An autoencoder with the parameter ``embedding``; its projection keeps the published key."""

    embedding: str

    @property
    def embedding_key_(self) -> str:
        """The key of :meth:`embeddings` that is scored."""
        if self.embedding == "projection":
            return super().embedding_key_
        return f"{self._embedding_name}_{self.embedding}_k{self.n_components_}"

    def embedding_parts(self) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """As in the parent, from ``X Wᵀ`` and condition codes; what is scored comes beside it."""
        published = super().embedding_parts()
        if self.embedding == "projection":
            return published
        key = self.embedding_key_
        return lambda H, codes: published(H, codes) | {key: self._scored(H)}

    def _scored(self, H: np.ndarray) -> np.ndarray:
        if self.embedding == "projection":
            return H
        W = self.components_.astype(np.float64)
        return non_negative_least_squares(W @ W.T, H, max_sweeps=SWEEPS).astype(H.dtype)
