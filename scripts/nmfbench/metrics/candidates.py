"""Nearest neighbours of every fold from one search among all cells, with a proof that they are the nearest.

A fold scales the factors by its own training cells, which moves distances a little. A cell that is not among
the candidates, the k nearest in the scaling of all cells, is at least ``d_k`` away there, and so at least
``rho d_k`` in the scaling of the fold, with ``rho`` the smallest ratio of the two over the factors. A test
cell whose 15th training candidate is nearer than that needs no search. The others, and those where cells of
different classes tie for the last place, are asked of scikit-learn's classifier itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.metrics.labels import scale_embedding
from nmfbench.metrics.neighbours import Neighbours

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

logger = logging.getLogger(__name__)

N_NEAREST = 15
#: Rows of a block of scikit-learn's search, whose rounding depends on the shape of a block.
_BLOCK = 256


class Candidates:
    """Candidates of the cells that are classified.

    Parameters
    ----------
    H : ndarray of shape (n_cells, k)
        Embedding of all cells.
    neighbours : Neighbours
        Their neighbours in the z-scored embedding.
    cells : ndarray of int64
        Positions of the cells that are classified, in the order in which they are.
    """

    def __init__(self, H: np.ndarray, neighbours: Neighbours, cells: np.ndarray) -> None:
        scaled, _ = scale_embedding(H)
        self._spread = H.std(axis=0, dtype=np.float64)
        self._varies = H.max(axis=0) > H.min(axis=0)
        self._norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64))[cells]
        position = np.full(len(H), -1, dtype=np.int32)
        position[cells] = np.arange(cells.size, dtype=np.int32)
        self._candidates = position[neighbours.indices[cells, 1:]]
        self._reach = neighbours.distances[cells, -1].astype(np.float64)

    def predict_proba(
        self,
        classifier: Pipeline,
        H: np.ndarray,
        codes: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
        *,
        n_jobs: int,
    ) -> np.ndarray:
        """What ``classifier.predict_proba(H[test])`` gives, to the last bit.

        Parameters
        ----------
        classifier : Pipeline
            StandardScaler and KNeighborsClassifier(15), fitted to ``H[train]``.
        H : ndarray of shape (n_classified, k)
            The cells that are classified.
        codes : ndarray of int, shape (n_classified,)
            Their classes.
        train, test : ndarray of int
            Cells of the fold.
        n_jobs : int
            Threads of scikit-learn's search.
        """
        from nmfbench.metrics.kernels import vote

        scaler, nearest = classifier[0], classifier[-1]
        Z = scaler.transform(H)
        scale = np.ones(H.shape[1]) if scaler.scale_ is None else scaler.scale_
        ratios = (self._spread / scale)[self._varies]
        rho = ratios.min() if ratios.size else 0.0
        norms = np.sqrt(np.einsum("ij,ij->i", Z, Z, dtype=np.float64))
        # single precision moves a distance by 2^-23 of the two norms at most, the far one by its distance
        reach = rho * (self._reach * (1 - 1e-6) - 1e-6 * self._norms) - 1e-6 * norms
        in_train = np.zeros(len(H), dtype=np.bool_)
        in_train[train] = True
        number = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
        number[nearest.classes_] = np.arange(nearest.classes_.size)
        votes = np.zeros((test.size, nearest.classes_.size), dtype=np.int64)
        proven = np.zeros(test.size, dtype=np.bool_)
        vote(Z, number[codes], test, self._candidates, in_train, reach, votes, proven)
        probability = votes / np.float64(N_NEAREST)
        asked = _rows_to_ask(~proven, n_jobs)
        if asked.size:
            probability[asked] = nearest.predict_proba(Z[test[asked]])
        logger.info("nearest neighbours: %d of %d test cells proven", int(proven.sum()), test.size)
        return probability


def _rows_to_ask(unproven: np.ndarray, n_jobs: int) -> np.ndarray:
    """Rows to hand to scikit-learn so that its rounding of the unproven is that of all rows.

    Its search takes blocks of 256 rows, and shares out other work where there are few of them; so whole
    blocks are asked, and enough of them.
    """
    n = unproven.size
    if not unproven.any():
        return np.zeros(0, dtype=np.int64)
    enough = 4 * n_jobs + 1
    blocks = np.unique(np.flatnonzero(unproven) // _BLOCK)
    if n <= enough * _BLOCK:
        return np.arange(n)
    if blocks.size < enough:
        others = np.setdiff1d(np.arange(n // _BLOCK), blocks)
        blocks = np.union1d(blocks, others[: enough - blocks.size])
    rows = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    return rows[rows < n]
