"""Factors in expected counts, whatever p is: what is kept under the published keys.

The mean is ``theta p / (1 - p)``, and ``theta = P A`` at p = 0.5 alone. With the odds in the factors a cell's
factors are the counts that each pattern accounts for, and A says how these fall on the genes.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from nmfbench.models.bayesian.posterior import Marginals
from nmfbench.models.bayesian.terms import Probability


def counts_of_patterns(genes: Marginals, probability: Probability, n_fixed_cells: int = 0) -> torch.Tensor:
    """Expected counts of each pattern over its theta, both summed over the genes, of shape (f + k,).

    1 for the constant patterns of cells, which stay as they were given: their genes have the counts.
    """
    means = genes.mean()
    odds = probability.odds().to(means)
    if probability.by != "gene":
        odds = odds.expand(len(means))
    found = (means * odds[:, None]).sum(0) / means.sum(0).clamp(min=1e-30)
    found[:n_fixed_cells] = 1
    return found


def cells_in_counts(cells: Marginals, genes: Marginals, probability: Probability) -> Marginals:
    """The cells' factors, in the counts that each pattern accounts for.

    Parameters
    ----------
    cells, genes : Marginals of shapes (cells, f + k) and (genes, f + k)
        Of theta.
    probability : Probability
        A donor's p multiplies all of its cells' factors, constant ones too.
    """
    if probability.by == "donor":
        return cells.per_row(1 / probability.odds()[probability.donors])
    return cells.scaled(counts_of_patterns(genes, probability, cells.n_fixed))


def genes_in_counts(genes: Marginals, probability: Probability, n_fixed_cells: int = 0) -> Marginals:
    """The genes' factors, of the same sums as in theta but for constant patterns of cells.

    With those of :func:`cells_in_counts` the product of the means is ``theta p / (1 - p)``.
    """
    if probability.by == "donor":
        return genes
    unit = counts_of_patterns(genes, probability, n_fixed_cells)
    found = genes.per_row(1 / probability.odds().expand(len(genes.first))).scaled(1 / unit)
    return found if found.fixed is None else replace(found, fixed=found.fixed / unit[: found.n_fixed])
