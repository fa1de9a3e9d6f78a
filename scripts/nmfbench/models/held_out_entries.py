"""Entries (cell, gene) that are left out of a fit, the same ones for every model of counts, and their scores.

Which they are is decided by the names of cells and genes, the share and the seed of the fit. A model that is
fitted without them has no number for what they were; how it does that is its own matter
(:mod:`nmfbench.models.hidden` has the sums over them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nmfbench.data.by_name import keys_of, mask_entries, without
from nmfbench.totals import cell_totals, gene_nonzeros, gene_totals

COLUMNS = ("split", "source", "stratum", "n_entries", "value", "se", "predictive", "conditional")
DECILES = 10


class Density(Protocol):
    """What is scored: the density of counts that a fit expects."""

    def log_density(self, y: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Log density of counts `y` of the entries (rows, genes)."""


@dataclass(frozen=True)
class HeldOutEntries:
    """Counts without some of their entries, and these.

    Attributes
    ----------
    counts, train : csr of shape (cells, genes)
        With the entries that are held out, and without.
    mask : csr of shape (cells, genes)
        Ones at these.
    """

    counts: Any
    train: Any
    mask: Any

    @classmethod
    def of(
        cls,
        counts: Any,
        fraction: float,
        seed: int,
        cell_names: Sequence[str] | None,
        gene_names: Sequence[str] | None,
    ) -> HeldOutEntries:
        """The entries that every model of counts leaves out at this share and seed."""
        n, p = counts.shape
        mask = mask_entries(
            keys_of(cell_names, n, seed, "mask"), keys_of(gene_names, p, seed, "mask"), fraction
        )
        return cls(counts, without(counts, mask), mask)

    def totals(self) -> np.ndarray:
        """Totals of the cells, from what is fitted."""
        return training_totals(self.train, self.mask)

    def scores(self, expected: Density) -> list[dict[str, Any]]:
        """Rows of :func:`score_entries`, their ``split``, ``stratum``, ``n_entries``, ``value`` and ``se``.

        A gene that has lost every count is not scored: nothing is known of it.
        """
        fitted = np.flatnonzero(gene_nonzeros(self.train) > 0)
        counts, mask = self.counts, self.mask
        if len(fitted) < counts.shape[1]:
            counts, mask, expected = counts[:, fitted], mask[:, fitted], _OfGenes(expected, fitted)
        kept = ("split", "stratum", "n_entries", "value", "se")
        return [{key: row[key] for key in kept} for row in score_entries({"": expected}, counts, mask)[0]]


@dataclass(frozen=True)
class _OfGenes:
    """A density of some of the genes."""

    whole: Density
    genes: np.ndarray

    def log_density(self, y: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
        return self.whole.log_density(y, rows, self.genes[genes])


def training_totals(counts: Any, mask: Any = None) -> np.ndarray:
    """Total of each cell from its training part alone, scaled up for the entries that are held out.

    A cell's unmasked counts are divided by the share of all counts that its unmasked genes have: what is held
    out does not enter. A cell that has lost all its counts gets half a count.
    """
    totals = cell_totals(counts)
    if mask is not None:
        genes = gene_totals(counts)
        seen = counts.shape[0] - np.asarray(mask.sum(axis=0, dtype=np.float64)).ravel()
        share = np.divide(genes, seen, out=np.zeros_like(genes), where=seen > 0)
        share /= share.sum() or 1.0
        totals = totals / np.maximum(1.0 - np.asarray(mask @ share).ravel(), 1e-3)
    return np.maximum(totals, 0.5)


def gene_deciles(means: np.ndarray) -> np.ndarray:
    """Decile of each gene by its mean count, 0 to 9."""
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return ranks * DECILES // max(len(means), 1)


def score_entries(
    sources: Mapping[str, Density],
    counts: Any,
    mask: Any,
    draws: Iterable[Density] = (),
    drawn: str | None = None,
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Scores of the entries of `mask`.

    Parameters
    ----------
    sources : mapping of str to Density
        The models.
    counts : csr of shape (cells, genes)
        With the entries that were held out.
    mask : csr of shape (cells, genes)
    draws : iterable of Density
        Posterior draws of the source `drawn`: its ``predictive`` is ``ln mean p(y | draw)``.

    Returns
    -------
    rows : list of dict
        Columns :data:`COLUMNS`.
    cells : ndarray of shape (cells,)
        Mean of each cell, of the source `drawn`; NaN where none of its entries was held out.
    """
    rows, genes, y = values_at(counts, mask)
    decile = gene_deciles(np.asarray(counts.mean(axis=0)).ravel())[genes]
    strata = {"all": np.ones(len(y), bool)}
    strata |= {f"decile_{k + 1}": decile == k for k in range(DECILES)}
    strata |= {"zeros": y == 0, "nonzeros": y > 0}
    n, table, cells = counts.shape[0], [], np.full(counts.shape[0], np.nan)
    numbers = np.bincount(rows, minlength=n)
    predictive, drawn_so_far = None, 0
    for means in draws:
        drawn_so_far += 1
        value = means.log_density(y, rows, genes)
        predictive = value if predictive is None else np.logaddexp(predictive, value)
    if predictive is not None:
        predictive = predictive - np.log(drawn_so_far)
    for name, means in sources.items():
        value = means.log_density(y, rows, genes)
        if name == drawn:
            total = np.bincount(rows, weights=value, minlength=n)
            cells = np.divide(total, numbers, out=cells, where=numbers > 0)
        for stratum, within in strata.items():
            if not within.any():
                continue
            table.append(
                {"split": "entries", "source": name, "stratum": stratum, "n_entries": int(within.sum())}
                | {"value": float(value[within].mean()), "se": _error(value[within], rows[within], n)}
                | {"predictive": _mean(predictive, within) if name == drawn else np.nan}
                | {"conditional": np.nan}
            )
    return table, cells


def _error(value: np.ndarray, rows: np.ndarray, n: int) -> float:
    """Standard error of the mean, by cell: entries of one cell are not independent."""
    deviation = np.bincount(rows, weights=value - value.mean(), minlength=n)
    return float(np.sqrt((deviation**2).sum()) / len(value))


def _mean(values: np.ndarray | None, within: np.ndarray) -> float:
    return float("nan") if values is None else float(values[within].mean())


def values_at(counts: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, genes and counts of the stored entries of `mask`."""
    n, p = counts.shape
    rows = np.repeat(np.arange(n), np.diff(mask.indptr))
    wanted = rows * p + mask.indices
    keys = np.repeat(np.arange(n), np.diff(counts.indptr)) * p + counts.indices
    places = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    values = np.zeros(len(wanted))
    if len(keys):
        met = keys[places] == wanted
        values[met] = counts.data[places[met]]
    return rows, mask.indices, values
