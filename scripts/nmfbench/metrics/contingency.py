"""Counts of cells by donor, label and what was found, and the scores that follow from sums of them.

A score of counts needs no cells: that of a resample of the donors is the score of the weighted sum of their
tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def count_cells(donors: Any, true: Any, found: Any, n_donors: int, n_true: int, n_found: int) -> np.ndarray:
    """Cells by donor, true label and found label.

    Parameters
    ----------
    donors, true, found : ndarray of int, shape (n_cells,)
        Codes; a cell with a negative one is left out.
    n_donors, n_true, n_found : int
        Size of the table.

    Returns
    -------
    ndarray of int64, shape (n_donors, n_true, n_found)
    """
    donors, true, found = (np.asarray(codes, dtype=np.int64) for codes in (donors, true, found))
    known = (donors >= 0) & (true >= 0) & (found >= 0)
    place = (donors[known] * n_true + true[known]) * n_found + found[known]
    return np.bincount(place, minlength=n_donors * n_true * n_found).reshape(n_donors, n_true, n_found)


def adjusted_rand_index(tables: np.ndarray) -> np.ndarray:
    """Adjusted Rand index of each table of counts, shape (..., n_true, n_found)."""
    tables = np.asarray(tables, dtype=np.float64)

    def pairs(counts):
        return (counts * (counts - 1.0)).sum(axis=-1) / 2.0

    n = tables.sum(axis=(-2, -1))
    both = pairs(tables.reshape(*tables.shape[:-2], -1))
    rows, columns = pairs(tables.sum(axis=-1)), pairs(tables.sum(axis=-2))
    expected = rows * columns / np.maximum(n * (n - 1.0) / 2.0, 1.0)
    range_ = (rows + columns) / 2.0 - expected
    # one group on both sides, or every cell its own on both: they agree
    return np.divide(both - expected, range_, out=np.ones_like(range_), where=range_ != 0)


def mutual_information(tables: np.ndarray) -> np.ndarray:
    """Mutual information of each table, over the arithmetic mean of the two entropies."""
    shares = np.asarray(tables, dtype=np.float64)
    shares = shares / shares.sum(axis=(-2, -1), keepdims=True)

    def entropy(p):
        return -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)

    rows, columns = entropy(shares.sum(axis=-1)), entropy(shares.sum(axis=-2))
    shared = rows + columns - entropy(shares.reshape(*shares.shape[:-2], -1))
    mean = (rows + columns) / 2.0
    return np.divide(shared, mean, out=np.ones_like(mean), where=mean > 0)


def prediction_scores(tables: np.ndarray) -> dict[str, np.ndarray]:
    """Macro F1, precision, recall, and accuracy of each table of true by predicted classes.

    A class without a cell in a table has no part in that table's means.
    """
    tables = np.asarray(tables, dtype=np.float64)
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    true, predicted = tables.sum(axis=-1), tables.sum(axis=-2)
    there = true > 0

    def macro(numerator, denominator):
        values = np.divide(numerator, denominator, out=np.zeros_like(right), where=denominator > 0)
        return np.where(there, values, 0.0).sum(axis=-1) / there.sum(axis=-1)

    return {
        "F1": macro(2.0 * right, true + predicted),
        "Precision": macro(right, predicted),
        "Accuracy": right.sum(axis=-1) / tables.sum(axis=(-2, -1)),
        "Recall": macro(right, true),
    }
