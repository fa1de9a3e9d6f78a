"""Non-negative factors whose donors Harmony moves onto each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.fitting.observer import Observer
from nmfbench.models.base_nmf import card
from nmfbench.models.base_nmf.estimator import BaseNMF
from nmfbench.models.baseline.harmony import harmonypy_for, moved
from nmfbench.models.card import OnCpu
from nmfbench.models.given import codes_of
from nmfbench.models.limits import check_parameters
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
        """Learn the factors, then move the donors.

        Parameters
        ----------
        conditions : array-like of shape (cells,) or (cells, columns)
            The donor of each cell; several columns together are one label.
        X, y, strata, checkpoint, fingerprint, should_stop, progress, observer
            As in :meth:`BaseNMF.fit`.

        Returns
        -------
        self
        """
        check_parameters(self)
        donors = codes_of(conditions)
        harmonypy_for("nmf_harmony", donors)
        around = {"checkpoint": checkpoint, "fingerprint": fingerprint, "should_stop": should_stop}
        super().fit(X, **around, progress=progress, observer=observer)
        self.factors_ = self.embedding_
        self.embedding_ = self._moved(donors)
        return self

    def _moved(self, donors: np.ndarray) -> np.ndarray:
        H = self.factors_.astype(np.float64)
        mean, sd = H.mean(axis=0), H.std(axis=0)
        sd[sd == 0] = 1
        options = {"theta": self.theta, "rounds": self.max_rounds, "seed": self.seed_}
        corrected = moved((H - mean) / sd, donors, "nmf_harmony", **options)
        return np.maximum(corrected * sd + mean, 0).astype(self.factors_.dtype)

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm: what is scored, and the NMF's own factors, ``H_sklearn_nmf_k{k}``."""
        return {**super().embeddings(), f"H_sklearn_nmf_k{self.n_components_}": self.factors_}
