"""What a fitted autoencoder gives: embeddings, loadings and settings by the published keys, and its score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nmfbench.models.autoencoder.embed import embed, times_blocks
from nmfbench.models.autoencoder.exact.held_out import Decoder
from nmfbench.models.autoencoder.exact.operators import Operator
from nmfbench.models.autoencoder.exact.sweeps import Objective
from nmfbench.models.autoencoder.from_cells import Cells
from nmfbench.models.estimator import Embedding
from nmfbench.rows.memory import BLOCK_ROWS, InMemoryRows, RowSource


class Results(Embedding):
    """The loadings of a fit, and what follows from them."""

    transform_is_embedding = True
    _loadings_name = "W_tied"
    _model_name = ""

    def transform(self, X) -> np.ndarray:
        """The embedding of cells, ``X Wᵀ`` or what is scored in its place, of shape (cells, k)."""
        check_is_fitted(self)
        return self._scored(self._embed(InMemoryRows(self._check_input(X, reset=False))))

    def loadings(self) -> dict[str, np.ndarray]:
        """Arrays for varm, genes x ., by the published keys."""
        check_is_fitted(self)
        return {f"{self._loadings_name}_k{self.n_components_}": np.ascontiguousarray(self.components_.T)}

    def embedding_parts(self) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """A function that gives the arrays for obsm of some cells from their ``X Wᵀ`` and condition codes."""
        key = f"{self._embedding_name}_k{self.n_components_}"
        return lambda H, codes: {key: H}

    def embeddings(self) -> dict[str, np.ndarray]:
        """Arrays for obsm, cells x ., by the published keys."""
        return self.embedding_parts()(self.projection_, self.conditions_.codes)

    def embedding_blocks(
        self, source: RowSource, *, size: int = BLOCK_ROWS
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """The arrays for obsm, block by block.

        Parameters
        ----------
        source : RowSource
            The cells of the fit in their own order (``source.order`` is None), normalised as for the fit.
        size : int
            Cells in a block.

        Yields
        ------
        start : int
            Number of the first cell.
        parts : dict of str to ndarray of shape (cells of the block, .)
            By the published keys; the same numbers as :meth:`embeddings`, to the last bit.
        """
        parts, codes = self.embedding_parts(), self.conditions_.codes
        for first, H in self._projected(source, size):
            yield first, parts(H, codes[first : first + len(H)])

    def scored_blocks(self, source: RowSource, *, size: int = BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of the first cell's number and the block's embedding that is scored, of any cells."""
        for first, H in self._projected(source, size):
            yield first, self._scored(H)

    def unstructured(self, **preparation: Any) -> dict[str, Any]:
        """Entries for uns, by the published keys.

        Parameters
        ----------
        **preparation
            How X was made (``libsize_log1p``, ``target_sum``, ``use_hvg``), as the published files say it.
        """
        check_is_fitted(self)
        names = {"model_name": self._model_name, "k_rank": self.n_components_}
        return {**names, **preparation, **self._published_settings()}

    def evaluate(self, operator: Operator, cells: Cells) -> tuple[float, float, Decoder]:
        """How the fitted loadings do on `cells`: objective, relative error, and how they are written."""
        check_is_fitted(self)
        objective = self._objective(operator, cells, self.components_, self._condition_weights())
        objective.refresh()
        parts, relative_error = objective.evaluate()
        return sum(parts.values()), relative_error, self._decoder()

    def expected_values(self, X, rows: slice) -> np.ndarray:
        """What is written of some cells, conditions included; see :meth:`Embedding.expected_values`."""
        decoder, source = self._decoder(), InMemoryRows(self._check_input(X[rows], reset=False))
        H = self._embed(source).astype(np.float64)
        codes = self.conditions_.codes[rows]
        if len(decoder.V) == 1:
            found = H @ np.asarray(decoder.V[0], np.float64)
        else:
            found = np.empty((len(H), decoder.V.shape[2]))
            for group in np.unique(codes[:, 0]):
                mine = codes[:, 0] == group
                found[mine] = H[mine] @ np.asarray(decoder.V[group], np.float64)
        if decoder.U is not None:
            for column in range(codes.shape[1]):
                found += np.asarray(decoder.U, np.float64)[codes[:, column]]
        return found

    # What a model adds ------------------------------------------------------------------------------

    def _objective(
        self, operator: Operator, cells: Cells, W: np.ndarray, U: np.ndarray | None = None
    ) -> Objective:
        """The objective on the statistics of `cells`, at W (k x genes) and U."""
        raise NotImplementedError

    def _embed(self, source: RowSource) -> np.ndarray:
        """The projection ``X Wᵀ`` of the cells of `source`, which is as `fit` was given."""
        return embed(self.components_, source)

    def _projected(self, source: RowSource, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """The same in blocks of `size` cells."""
        return times_blocks(self.components_, source, size)

    def _scored(self, H: np.ndarray) -> np.ndarray:
        """What is scored of cells whose projection ``X Wᵀ``, (cells, k), is H."""
        return H

    def _decoder(self) -> Decoder:
        """How the fitted model writes a cell."""
        raise NotImplementedError

    def _condition_weights(self) -> np.ndarray | None:
        """The fitted U, as :meth:`_objective` takes it."""
        return None

    def _published_settings(self) -> dict[str, Any]:
        return {}

    def _keep(self, weights: dict[str, np.ndarray]) -> None:
        self.components_ = np.ascontiguousarray(weights["W"].T)
        self.n_components_ = self.components_.shape[0]
