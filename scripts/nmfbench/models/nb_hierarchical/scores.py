"""Held-out log densities, in nats per entry: of entries (`mask`) or of molecules (thinning)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import gammaln

from nmfbench.models.nb_hierarchical.means import Means, density, values_at

COLUMNS = ("split", "source", "stratum", "n_entries", "value", "se", "predictive", "conditional")
DECILES = 10


def gene_deciles(means: np.ndarray) -> np.ndarray:
    """Decile of each gene by its mean count, 0 to 9."""
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return ranks * DECILES // max(len(means), 1)


def score_entries(
    sources: Mapping[str, Means],
    counts: Any,
    mask: Any,
    draws: Iterable[Means] = (),
    drawn: str | None = None,
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Scores of the entries of `mask`.

    Parameters
    ----------
    sources : mapping of str to Means
        The models.
    counts : csr of shape (cells, genes)
        With the entries that were held out.
    mask : csr of shape (cells, genes)
    draws : iterable of Means
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


def _error(value: np.ndarray, rows: np.ndarray, n: int) -> float:
    """Standard error of the mean, by cell: entries of one cell are not independent."""
    deviation = np.bincount(rows, weights=value - value.mean(), minlength=n)
    return float(np.sqrt((deviation**2).sum()) / len(value))


def _mean(values: np.ndarray | None, within: np.ndarray) -> float:
    return float("nan") if values is None else float(values[within].mean())
