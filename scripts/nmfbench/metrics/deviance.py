"""Held-out counts on one scale: the share of the Poisson deviance explained beyond gene and depth.

Models of different inputs have errors of different units. What they all can say is how many molecules of each
gene a cell should have; and molecules that were set aside before the fit tell who says it best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

FLOOR = 1e-8  # of a cell's counts: what a model holds for impossible costs much, but not everything


@dataclass(frozen=True)
class DevianceScore:
    """How well counts set aside were predicted.

    Attributes
    ----------
    deviance_explained : float
        ``1 - D / D0``: 1 is perfect, 0 the null of gene means and depth, below 0 is worse than that.
    bits_per_molecule : float
        Bits that each molecule set aside is cheaper to say than under the null.
    deviance, null_deviance : float
        Poisson deviances of all entries.
    molecules : int
        Molecules set aside.
    """

    deviance_explained: float
    bits_per_molecule: float
    deviance: float
    null_deviance: float
    molecules: int


def score_deviance(
    train: Callable[[], Iterable[np.ndarray]],
    test: Callable[[], Iterable[np.ndarray]],
    expected: Callable[[], Iterable[np.ndarray]],
    fraction: float,
) -> DevianceScore:
    """Score what a model expects of the training part against the counts that were set aside.

    Parameters
    ----------
    train, test, expected : callable
        Each gives blocks of cells, dense (cells of the block, genes), the same cells in the same order: the
        counts of both parts, and what the model expects of the training part (not negative).
    fraction : float
        Share of the molecules that was set aside.

    Returns
    -------
    DevianceScore
        Expectations are first put right gene by gene: ``c_j = sum_i y_train / sum_i mu_train``, the same for
        every model, so that none gains by the level of a gene alone. The null is ``L_i g_j``, with the counts
        of the cell and the share of the gene in the training part.
    """
    to_test = fraction / (1.0 - fraction)
    of_gene = of_model = None
    for counts, mu in zip(train(), expected(), strict=True):
        mu = np.maximum(np.asarray(mu, np.float64), 0.0)
        sums = counts.sum(axis=0, dtype=np.float64), mu.sum(axis=0)
        of_gene = sums[0] if of_gene is None else of_gene + sums[0]
        of_model = sums[1] if of_model is None else of_model + sums[1]
    right = np.divide(of_gene, of_model, out=np.zeros_like(of_gene), where=of_model > 0)
    share = of_gene / max(of_gene.sum(), 1.0)
    total = null = 0.0
    molecules = 0.0
    for counts, held_out, mu in zip(train(), test(), expected(), strict=True):
        depth = counts.sum(axis=1, dtype=np.float64)[:, None]
        least = FLOOR * np.maximum(depth, 1.0)
        y = np.asarray(held_out, np.float64)
        mu = np.maximum(np.asarray(mu, np.float64), 0.0) * right * to_test
        total += poisson_deviance(y, np.maximum(mu, least))
        null += poisson_deviance(y, np.maximum(depth * share * to_test, least))
        molecules += y.sum()
    explained = 1.0 - total / null if null > 0 else float("nan")
    bits = (null - total) / (2.0 * np.log(2.0) * molecules) if molecules else float("nan")
    return DevianceScore(float(explained), float(bits), float(total), float(null), int(molecules))


def poisson_deviance(y: np.ndarray, mu: np.ndarray) -> float:
    """``2 sum [y log(y / mu) - (y - mu)]`` over all entries; mu is positive."""
    logs = np.log(np.divide(y, mu, out=np.ones_like(mu), where=y > 0))
    return 2.0 * float((y * logs - (y - mu)).sum())
