"""Simple models of the same counts, each worth what it adds to the one before it.

``gene_poisson``: one rate a gene; ``rank_one_poisson``: rate of the gene times the cell's, by iterative
proportional fitting; ``rank_one_nb``: the same means, one dispersion by its likelihood; ``rank_one_nb_gene``:
a dispersion for each gene, most probable under a log-normal prior about the common one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood
from nmfbench.models.nb_hierarchical.means import Means
from nmfbench.totals import cell_totals, gene_totals

NULLS = ("gene_poisson", "rank_one_poisson", "rank_one_nb", "rank_one_nb_gene")
SWEEPS, CLOSE = 200, 1e-9
PRIOR_SD = 1.0


def fit_nulls(counts: Any, mask: Any = None) -> dict[str, Means]:
    """All four, fitted to `counts` without the entries of `mask`.

    Parameters
    ----------
    counts : csr of shape (cells, genes)
        Already without the entries that are held out.
    mask : csr of shape (cells, genes) or None
        Ones at these entries.

    Returns
    -------
    dict of str to Means
        By the names of :data:`NULLS`. A gene or cell without a count has a rate of half a count.
    """
    n, p = counts.shape
    of_genes = np.maximum(gene_totals(counts), 0.5)
    of_cells = np.maximum(cell_totals(counts), 0.5)
    hidden = np.zeros(p) if mask is None else np.asarray(mask.sum(axis=0, dtype=np.float64)).ravel()
    group, zero = np.zeros(n, dtype=np.int64), np.zeros(p)
    found = {"gene_poisson": Means(np.zeros(n), np.log(of_genes / (n - hidden))[None], zero, group, True)}
    rows, columns = np.ones(n), of_genes / (n - hidden)
    for _ in range(SWEEPS):
        seen = columns.sum() - (0.0 if mask is None else mask @ columns)
        before, rows = rows, of_cells / seen
        columns = of_genes / (rows.sum() - (0.0 if mask is None else mask.T @ rows))
        if np.max(np.abs(rows / before - 1)) < CLOSE:
            break
    t, q = np.log(rows), np.log(columns)
    found["rank_one_poisson"] = Means(t, q[None], zero, group, True)
    shared = SplitLikelihood(counts, shared=True, mask=mask)

    def loss(log_alpha):
        terms = shared.evaluate(t, q[None] - log_alpha, np.array([log_alpha]))
        return -terms.value

    best = float(minimize_scalar(loss, bounds=(-6.0, 12.0), method="bounded", options={"xatol": 1e-3}).x)
    found["rank_one_nb"] = Means(t, q[None] - best, np.full(p, best), group)
    by_gene = SplitLikelihood(counts, mask=mask)
    x = np.full(p, best)
    for _ in range(12):
        terms = by_gene.evaluate(t, q[None] - x, x, value=False, bend=True)
        gradient = terms.log_alpha - terms.c[0] - (x - best) / PRIOR_SD**2
        bend = -(terms.log_alpha_bend + terms.c_bend[0] + 2 * terms.c_information[0])
        x = np.clip(x + np.clip(gradient / (np.maximum(bend, 0) + 1 / PRIOR_SD**2), -1, 1), -6.0, 12.0)
    found["rank_one_nb_gene"] = Means(t, q[None] - x, x, group)
    return found
