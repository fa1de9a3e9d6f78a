"""Harmony on principal components."""

from __future__ import annotations

import numpy as np

from nmfbench.components import principal_components
from nmfbench.errors import InputError
from nmfbench.models.baseline import card
from nmfbench.models.baseline.pca import chosen_genes, number_of
from nmfbench.models.card import OnCpu
from nmfbench.models.given import GivenEmbedding
from nmfbench.models.parameters import parameters

HARMONYPY = "harmonypy==0.0.10"


@parameters(card.Harmony, OnCpu)
class Harmony(GivenEmbedding):
    """Harmony (Korsunsky et al. 2019) on principal components: donors are moved onto each other.

    {parameters}
    """

    _embedding_name = "X_harmony"

    def _embed(self, X, donors, types) -> np.ndarray:
        if donors is None:
            raise InputError(
                "Harmony: conditions", "the donor of each cell", "none", "give `conditions` to fit"
            )
        try:
            import harmonypy
        except ImportError as error:
            raise InputError(
                "model harmony",
                f"the package {HARMONYPY}",
                "it is not installed",
                f"pip install {HARMONYPY}, run with --sdm conda (envs/harmony.yaml), or leave harmony out of "
                "`models`",
            ) from error
        import pandas as pd

        components = principal_components(X[:, chosen_genes(X, self)], number_of(self), seed=self.seed_)
        meta = pd.DataFrame({"donor": donors.astype(str)})
        found = harmonypy.run_harmony(
            components.astype(np.float64),
            meta,
            ["donor"],
            theta=self.theta,
            max_iter_harmony=self.max_iter,
            random_state=self.seed_,
            verbose=False,
        )
        corrected = np.asarray(found.Z_corr)
        return corrected if corrected.shape == components.shape else corrected.T
