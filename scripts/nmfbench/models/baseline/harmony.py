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
from nmfbench.packages import HARMONYPY


@parameters(card.Harmony, OnCpu)
class Harmony(GivenEmbedding):
    """Harmony (Korsunsky et al. 2019) on principal components: donors are moved onto each other.

    {parameters}
    """

    _embedding_name = "X_harmony"

    def _embed(self, X, donors, types) -> np.ndarray:
        components = principal_components(X[:, chosen_genes(X, self)], number_of(self), seed=self.seed_)
        return moved(components, donors, "harmony", theta=self.theta, rounds=self.max_iter, seed=self.seed_)


def harmonypy_for(model: str, donors: np.ndarray | None):
    """The package, for a model that has donors to move.

    Raises
    ------
    InputError
        If there are no donors, or harmonypy is not installed.
    """
    if donors is None:
        raise InputError(
            f"model {model}: conditions", "the donor of each cell", "none", "give `conditions` to fit"
        )
    try:
        import harmonypy
    except ImportError as error:
        raise HARMONYPY.absent(model) from error
    return harmonypy


def moved(
    places: np.ndarray, donors: np.ndarray | None, model: str, *, theta: float, rounds: int, seed: int
) -> np.ndarray:
    """Places of cells, with the donors moved onto each other.

    Parameters
    ----------
    places : (cells, k) array
        About zero: Harmony clusters cells by their directions.
    donors : (cells,) array of int or None
    model : str
        Which is asked for, for messages.
    theta : float
        How much a cluster of one donor is penalised.
    rounds : int
        At most.
    seed : int

    Returns
    -------
    (cells, k) array
    """
    harmonypy = harmonypy_for(model, donors)
    import pandas as pd

    found = harmonypy.run_harmony(
        places.astype(np.float64),
        pd.DataFrame({"donor": donors.astype(str)}),
        ["donor"],
        theta=theta,
        max_iter_harmony=rounds,
        random_state=seed,
        verbose=False,
    )
    corrected = np.asarray(found.Z_corr)
    return corrected if corrected.shape == places.shape else corrected.T
