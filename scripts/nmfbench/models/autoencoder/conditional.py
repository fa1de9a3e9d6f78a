"""What the conditional models share: weights that belong to conditions, and their part of the embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nmfbench.models.autoencoder.estimator import Autoencoder


class ConditionalAutoencoder(Autoencoder):
    """An autoencoder with weights U that belong to conditions (donors)."""

    _conditional = True
    _loadings_name = "W_concat"

    def embedding_parts(self) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """As in the parent: the shared embedding, the conditions' part, and both side by side."""
        k, part_of = self.n_components_, self._condition_part()

        def parts(H: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
            condition = np.ascontiguousarray(part_of(H, codes), dtype=H.dtype)
            return {
                f"H_shared_k{k}": H,
                f"H_cond_latent_k{k}": condition,
                f"H_concat_full_k{k}": np.hstack([H, condition]),
            }

        return parts

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        record = {f"cond_meta_concat_k{self.n_components_}": self._condition_record()}
        return {**super().unstructured(**preparation), **record}

    def _condition_part(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """A function that gives the conditions' part of the embedding of some cells."""
        raise NotImplementedError

    def _condition_record(self) -> dict[str, Any]:
        raise NotImplementedError
