"""What a fitted factorisation holds and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from nmfbench.errors import InputError
from nmfbench.fitting.loop import Outcome
from nmfbench.models.count_embedding import CountEmbedding
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.spatial.coordinates import predicted
from nmfbench.models.pnmf.stages import posterior_prior


class FittedFactors(CountEmbedding):
    """The attributes of a fit, and the names that results are kept by."""

    _embedding_name = "H_pnmf"
    uses_labels_ = False
    groups_: np.ndarray | None = None
    elbo_: float | None = None
    n_iter_ = 0

    @property
    def embedding_key_(self) -> str:
        """The key of :meth:`embeddings` that is scored."""
        check_is_fitted(self)
        return f"{self._embedding_name}{self._donors_part}{self._suffix}_k{self.n_components_}"

    @property
    def _donors_part(self) -> str:
        """What the key says of donors."""
        return ""

    def inverse_transform(self, H) -> np.ndarray:
        """Rates ``H components_`` of factors H of shape (n, k).

        Raises
        ------
        InputError
            If `embedding` is not ``raw``: shares do not say how many counts a cell has.
        """
        check_is_fitted(self)
        if self.embedding != "raw":
            raise InputError(
                f"{type(self).__name__}.inverse_transform: embedding={self.embedding!r}",
                "embedding='raw'",
                "shares, from which a cell's depth is gone",
                "multiply factors that are no shares by components_, or fit with embedding='raw'",
            )
        return np.asarray(H) @ self.components_

    def expected_values(self, X, rows: slice) -> np.ndarray:
        """Counts ``s_n γ_bd Σ_l E[exp F_nl] W_dl``; see :meth:`Embedding.expected_values`."""
        check_is_fitted(self)
        found = self.factors_[rows].astype(np.float64) @ self.components_.astype(np.float64)
        exposure = self._exposure_of(Counts(X[rows], torch.device("cpu")))
        if exposure is not None:
            found *= exposure[:, None]
        if self.multipliers_ is not None:
            found *= self.multipliers_[self.conditions_.codes[rows, 0]]
        return found

    def predict_factors(
        self, coordinates: Any = None, groups: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``mu`` and ``sigma``, both of shape (n, k).

        Parameters
        ----------
        coordinates : array-like of shape (n, dimensions) or None
            With a spatial prior: anywhere. None: the cells of the fit.
        groups : array-like of shape (n,) or None
            Labels of the fit, with `multigroup`.
        """
        check_is_fitted(self)
        with torch.no_grad():
            if self.spatial and coordinates is not None:
                return predicted(self, coordinates, groups)
            return self.prior_.marginals()

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm: the posterior mean and the standard deviation of ``exp F``, and what is scored."""
        check_is_fitted(self)
        k = self.n_components_
        spread = self.factors_ * np.sqrt(np.expm1(self.factor_scale_**2))
        return self._with_scored({f"H_pnmf_k{k}": self.factors_, f"H_pnmf_sd_k{k}": spread})

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm: ``W_pnmf_k{k}`` of shape (d, k)."""
        check_is_fitted(self)
        return {f"W_pnmf_k{self.n_components_}": np.ascontiguousarray(self.components_.T)}

    def transform_state(self) -> dict[str, Any]:
        """The variances of the prior and the mean size of the training cells."""
        if self.spatial:  # places, not counts, say what a cell's factors are
            return {}
        return {"prior_variance": self.prior_variance_, "mean_total": float(self.mean_total_)}

    def _restore(self, state: Mapping[str, Any]) -> None:
        if self.spatial:
            raise InputError(
                f"{type(self).__name__}: new cells",
                "a model whose factors follow from a cell's counts",
                "one whose factors follow from a cell's place",
                "embed them with a model without coordinates, such as pnmf",
            )
        self.prior_variance_ = np.atleast_1d(state["prior_variance"])
        self.mean_total_ = float(state["mean_total"])
        self.multipliers_ = None  # of donors; new cells are of none

    def outcome(self) -> dict[str, Any]:
        """Further entries of ``run.json``."""
        return {"further_gain": self.further_gain_, **super().outcome()}

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns; `preparation` says how X was made."""
        check_is_fitted(self)
        return {
            "model_name": type(self).__name__,
            "k_rank": self.n_components_,
            **preparation,
            "elbo": self.elbo_,
            "mode": self.mode,
            "GLOBAL_SEED": self.seed_,
        }

    def _keep(self, outcome: Outcome) -> None:
        stage = outcome.engine.stage
        state = stage.posterior()
        self.prior_ = posterior_prior(stage)
        self.lr_history_ = outcome.engine.learning_rates
        self.elbo_ = outcome.best_row["elbo"]
        self.components_ = np.ascontiguousarray(state.W.T.cpu().numpy())
        self.n_components_ = len(self.components_)
        self.prior_variance_ = state.prior_variance.cpu().numpy()
        self.log_factors_ = state.mu.cpu().numpy()
        self.factor_scale_ = state.sigma.cpu().numpy()
        self.factors_ = state.mean_factors().cpu().numpy()
        self.embedding_ = self._scored(self.factors_)
        multipliers = state.scales.multipliers
        self.multipliers_ = None if multipliers is None else multipliers.cpu().numpy()
