"""What all estimators share: checks of the input, scikit-learn's conventions, and how they are fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.fitting.engine import Engine
from nmfbench.fitting.loop import Outcome, Run, fit
from nmfbench.linalg import as_sorted_csr
from nmfbench.models.limits import Limit, seed_from
from nmfbench.renamed import Renamed, in_keys_of_now


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Input checks, names and the shell of a fit that all models share."""

    _limits: ClassVar[dict[str, Limit]] = {}  # by @parameters
    _renamed: ClassVar[dict[str, Renamed]] = {}
    _not_in_checkpoint: ClassVar[set[str]] = {"device", "verbose"}
    _embedding_name = "H_shared"
    iterations_, unit_ = 1, "step"  # of a model that is computed at once
    #: Whether `transform` gives the training cells their embedding, to rounding.
    transform_is_embedding = False

    def set_params(self, **given):
        """Set parameters, also under names of before, as the constructor does."""
        gone = {key: now for key, now in self._renamed.items() if now.key != key}
        if gone.keys() & given.keys():
            now = in_keys_of_now(type(self).__name__, given, gone)
            present = self.get_params(deep=False)
            given = {
                name: present[name] | value
                if isinstance(value, dict) and isinstance(present[name], dict)
                else value
                for name, value in now.items()
            }
        return super().set_params(**given)

    @property
    def embedding_key_(self) -> str:
        """The key of :meth:`embeddings` that is scored."""
        check_is_fitted(self)
        return f"{self._embedding_name}_k{self.n_components_}"

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm, cells x ., by the published keys."""
        return {self.embedding_key_: self.embedding_}

    def fit_transform(self, X, y=None, **fit_parameters) -> np.ndarray:
        """Fit, then the embedding of the training cells; see :meth:`fit`."""
        return self.fit(X, y, **fit_parameters).embedding_

    def expected_values(self, X, rows: slice) -> np.ndarray:
        """What the fitted model expects of some of its own cells, in the unit it was fitted to.

        Parameters
        ----------
        X : csr of shape (cells, genes)
            What was given to `fit`.
        rows : slice
            Which of its cells.

        Returns
        -------
        ndarray of float64, shape (cells of `rows`, genes)
            Normalised values, or counts of a model of counts.

        Raises
        ------
        NotApplicable
            The model says nothing of each gene of each cell.
        """
        check_is_fitted(self)
        return self.embedding_[rows].astype(np.float64) @ self.components_.astype(np.float64)

    def transform_state(self) -> dict[str, Any]:
        """What `transform` needs besides parameters and loadings: what results keep for new cells."""
        return {}

    def restore(self, components: np.ndarray, state: Mapping[str, Any], seed: int):
        """Make a new estimator able to `transform` as the fitted one did.

        Parameters
        ----------
        components : ndarray of shape (k, genes)
        state : mapping
            Of :meth:`transform_state`.
        seed : int
            Of the fit.

        Returns
        -------
        self
        """
        self.components_ = np.ascontiguousarray(components)
        self.n_components_, self.n_features_in_ = components.shape
        self.seed_ = seed
        self._restore(state)
        return self

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`transform_state` gave."""

    def _check_input(self, X, *, reset: bool):
        X = validate_data(
            self,
            X,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_non_negative=True,
            reset=reset,
        )
        return as_sorted_csr(X)

    def _check_rank(self, n: int, p: int) -> None:
        if self.n_components > min(n, p):
            raise InputError(
                f"{type(self).__name__}: n_components={self.n_components} is more than the data can carry",
                f"at most {min(n, p)}",
                f"n_samples = {n}, n_features = {p}",
                "lower n_components, or give more cells or genes",
            )

    def _fit(
        self,
        build: Callable[[bool], Engine],
        run: Run,
        *,
        n_cells: int,
        fingerprint: Callable[[], str],
        **decided: Any,
    ) -> Outcome:
        """Fit what `build` makes, from the checkpoint where there is one, and keep how it went.

        Parameters
        ----------
        build : callable
            As in :func:`nmfbench.fitting.loop.fit`; ``seed_`` is set when it is called.
        run : Run
        n_cells : int
        fingerprint : callable
            Gives a text that identifies the data; called where a checkpoint needs it.
        **decided
            What else decides the trajectory beside the parameters.
        """
        checkpoint, stored = None, None
        if run.checkpoint is not None:
            checkpoint = Checkpoint(run.checkpoint, self._checkpoint_settings() | decided, fingerprint())
            stored = checkpoint.load()
        self.seed_ = seed_from(self.random_state) if stored is None else stored[1]["seed"]
        name, seed = type(self).__name__, self.seed_
        outcome = fit(
            build, name=name, n_cells=n_cells, seed=seed, run=run, checkpoint=checkpoint, stored=stored
        )
        self.history_ = outcome.history
        self.stop_reason_ = outcome.stop_reason
        self.converged_ = outcome.stop_reason == "converged"
        self.n_iter_ = int(np.ceil(outcome.clock))
        self.iterations_, self.unit_ = outcome.engine.iterations
        self.best_epoch_ = outcome.best_row["epoch"]
        self.objective_ = outcome.best_row["objective"]
        self.relative_error_ = outcome.relative_error
        return outcome

    def _checkpoint_settings(self) -> dict[str, Any]:
        """The parameters that decide the trajectory: a state of others is refused."""
        settings = {name: v for name, v in self.get_params().items() if name not in self._not_in_checkpoint}
        if not isinstance(self.random_state, (int, np.integer)):
            settings["random_state"] = "not a number"
        return {"model": type(self).__name__, **settings}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
