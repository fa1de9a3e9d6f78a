"""What is scored of a model of counts: its factors as they are, or each cell's shares, without its depth.

The factors of a model of counts carry how deeply a cell was sequenced, in all of them at once. What a factor
contributes to a cell's expected counts, divided by what all of them do, does not; the square roots of these
shares lie on the unit sphere, where Euclidean distance is Hellinger's (Rao 1995, Qüestiió 19:23).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nmfbench.models.estimator import Embedding


def in_form(factors: np.ndarray, units: np.ndarray, form: str) -> np.ndarray:
    """Factors of cells in the form that is scored.

    Parameters
    ----------
    factors : ndarray of shape (n, k)
        Not negative.
    units : ndarray of shape (k,)
        Counts that a factor of 1 stands for.
    form : {"raw", "shares", "sqrt_shares"}
        As they are; each cell's contributions over their sum; the square roots of these.

    Returns
    -------
    ndarray of shape (n, k)
        In the dtype of `factors`. A cell without any contribution has equal shares.

    Examples
    --------
    >>> in_form(np.array([[1.0, 3.0], [10.0, 30.0]]), np.array([1.0, 1.0]), "shares")
    array([[0.25, 0.75],
           [0.25, 0.75]])
    """
    if form == "raw":
        return factors
    counts = factors.astype(np.float64) * units
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, 1 / counts.shape[1]), where=totals > 0)
    return np.ascontiguousarray(np.sqrt(shares) if form == "sqrt_shares" else shares, dtype=factors.dtype)


def names_of(X: Any, cells: Any, genes: Any) -> tuple[Any, Any]:
    """Names of cells and genes: those given, else X's where it is a DataFrame or an AnnData, else None."""
    cells = getattr(X, "index", getattr(X, "obs_names", None)) if cells is None else cells
    return cells, getattr(X, "columns", getattr(X, "var_names", None)) if genes is None else genes


class CountEmbedding(Embedding):
    """An estimator with the parameter ``embedding``; its factors keep their published keys."""

    held_out_entries_: list[dict[str, Any]] | None = None

    def outcome(self) -> dict[str, Any]:
        """Further entries of ``run.json``: scores of the entries that were left out, where some were."""
        scores = self.held_out_entries_
        return {} if scores is None else {"mask_fraction": self.mask_fraction, "held_out_entries": scores}

    def _checkpoint_settings(self) -> dict[str, Any]:
        settings = super()._checkpoint_settings()
        if not self.mask_fraction:  # as in checkpoints from before there was one
            del settings["mask_fraction"]
        return settings

    @property
    def _suffix(self) -> str:
        """What the key of the scored embedding adds to that of the factors."""
        return "" if self.embedding == "raw" else f"_{self.embedding}"

    def _units(self) -> np.ndarray:
        """Expected counts of each factor at 1, of shape (k,): the sums of its loadings."""
        return self.components_.sum(axis=1, dtype=np.float64)

    def _scored(self, factors: np.ndarray) -> np.ndarray:
        """Factors of shape (n, k), of the last k components, in the form that is scored."""
        return in_form(factors, self._units()[-factors.shape[1] :], self.embedding)

    def _with_scored(self, keys: dict[str, Any]) -> dict[str, Any]:
        """Arrays for obsm, and what is scored where it is not among them."""
        return keys if self.embedding_key_ in keys else keys | {self.embedding_key_: self.embedding_}
