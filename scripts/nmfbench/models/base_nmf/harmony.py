"""Non-negative factors whose donors Harmony moves onto each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from nmfbench.models.base_nmf import card
from nmfbench.models.base_nmf.estimator import BaseNMF
from nmfbench.models.baseline.harmony import harmonypy_for, moved
from nmfbench.models.card import OnCpu
from nmfbench.models.given import codes_of
from nmfbench.models.parameters import parameters


@parameters(card.NMFHarmony, OnCpu)
class NMFHarmony(BaseNMF):
    """NMF, with the donors of its cells moved onto each other by Harmony, and never below zero.

    The factors of ``base_nmf``, each with mean 0 and standard deviation 1, are what Harmony (Korsunsky et al.
    2019) corrects; what comes back gets its scale and mean again and is cut off at 0. The loadings are those
    of the NMF: they say what a factor is, and H W writes the cells without what the donors had moved.

    {parameters}
    """

    _embedding_name = "H_nmf_harmony"

    def _check_conditions(self, conditions: Any) -> None:
        harmonypy_for("nmf_harmony", codes_of(conditions))

    def _embed(self, H: np.ndarray, conditions: Any) -> np.ndarray:
        self.factors_ = H
        options = {"theta": self.theta, "rounds": self.max_rounds, "seed": self.seed_}
        return moved_factors(H, codes_of(conditions), "nmf_harmony", **options)

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm: what is scored, and the NMF's own factors, ``H_sklearn_nmf_k{k}``."""
        return {**super().embeddings(), f"H_sklearn_nmf_k{self.n_components_}": self.factors_}


def moved_factors(H: np.ndarray, donors: np.ndarray | None, model: str, **options: Any) -> np.ndarray:
    """Factors H, (cells, k) and not negative, with the donors moved onto each other and cut off at 0.

    `donors`, `model` and `options` are those of :func:`nmfbench.models.baseline.harmony.moved`.
    """
    factors = H.astype(np.float64)
    mean, sd = factors.mean(axis=0), factors.std(axis=0)
    sd[sd == 0] = 1
    corrected = moved((factors - mean) / sd, donors, model, **options)
    return np.maximum(corrected * sd + mean, 0).astype(H.dtype)
