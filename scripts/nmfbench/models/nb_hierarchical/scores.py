"""Held-out log densities of molecules (thinning), in nats per entry of cells x genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import gammaln

from nmfbench.models.held_out_entries import DECILES, gene_deciles, values_at
from nmfbench.models.nb_hierarchical.means import Means, density


def score_molecules(
    sources: Mapping[str, Means], train: Any, test: Any, fraction: float, drawn: str | None = None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Scores of the molecules in `test`: those of `train` are fitted, a share `fraction` of all is set aside.

    ``value`` is ``ln NB(y_test | mean mu f / (1 - f), alpha)``, comparable between models of counts.
    ``conditional`` is the exact predictive density of an NB, whose two parts are not independent:
    ``NB(size alpha + y_train, mean f (alpha + y_train) / (alpha / mu + 1 - f))``, mu that of the full count.
    """
    n, p = test.shape
    decile = gene_deciles(np.asarray(train.mean(axis=0)).ravel())
    table, cells = [], np.full(n, np.nan)
    for name, means in sources.items():
        found = density(means.scaled(np.log(fraction / (1 - fraction))), test)
        if name == drawn:
            cells = found.cell / p
        exact = np.nan if means.poisson else _conditional(means, train, test, fraction)
        zeros = n - found.gene_nonzeros
        parts = {"all": (found.total, n * p)}
        for k in range(DECILES):
            of = decile == k
            parts[f"decile_{k + 1}"] = (found.gene_zero[of] + found.gene_nonzero[of]).sum(), n * of.sum()
        parts["zeros"] = found.gene_zero.sum(), zeros.sum()
        parts["nonzeros"] = found.gene_nonzero.sum(), found.gene_nonzeros.sum()
        for stratum, (total, number) in parts.items():
            if not number:
                continue
            whole = stratum == "all"
            table.append(
                {"split": "molecules", "source": name, "stratum": stratum, "n_entries": int(number)}
                | {"value": float(total / number)}
                | {"se": float((found.cell / p).std(ddof=1) / np.sqrt(n)) if whole else np.nan}
                | {"predictive": np.nan, "conditional": exact if whole else np.nan}
            )
    return table, cells


def _conditional(means: Means, train: Any, test: Any, f: float) -> float:
    """Mean log density of `test` given `train`, exactly, at the cost of the nonzeros of both."""
    # Where both are 0: -alpha [softplus(eta) - softplus(eta + ln(1 - f))], with eta of the full count.
    full = means.scaled(-np.log1p(-f))
    total = full.zero_sums()[0].sum() - means.zero_sums()[0].sum()
    both = (train + test).tocsr()
    both.sort_indices()
    pattern = both.copy()
    rows, genes, y_train = values_at(train, pattern)
    _, _, y_test = values_at(test, pattern)
    eta = full.t[rows] + full.c[full.group[rows], genes]
    alpha = full.alpha[genes]
    as_zero = -alpha * (np.logaddexp(0, eta) - np.logaddexp(0, eta + np.log1p(-f)))
    size = alpha + y_train
    # mean / size = f / (exp(-eta) + 1 - f)
    ratio = np.log(f) - np.logaddexp(-eta, np.log1p(-f))
    value = gammaln(y_test + size) - gammaln(size) - gammaln(y_test + 1)
    value += y_test * ratio - (y_test + size) * np.logaddexp(0, ratio)
    return float((total + (value - as_zero).sum()) / np.prod(test.shape))
