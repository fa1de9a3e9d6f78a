"""Which gene sets lead a factor: a linear model on its gene scores, or gene set enrichment analysis."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.factors.gene_sets import GeneSets, align_sets, read_gmt

if TYPE_CHECKING:
    import anndata
    import pandas as pd

log = logging.getLogger(__name__)

METHODS = ("ulm", "prerank")
LEVELS = (0.05, 0.01)
_LEADING = 8


def enrich(
    programs: str | Path | anndata.AnnData,
    gene_sets: str | Path,
    *,
    method: str = "ulm",
    min_size: int = 5,
    max_size: int = 500,
    universe: str = "gene_sets",
    n_permutations: int = 1000,
    seed: int = 0,
    n_jobs: int = 1,
) -> pd.DataFrame:
    """Test every set for every factor of a fit.

    Parameters
    ----------
    programs : path or AnnData
        ``programs.h5ad`` of the fit: its gene scores are ranked.
    gene_sets : str or Path
        A GMT file.
    method : {"ulm", "prerank"}
        :func:`univariate_linear_model`, or GSEA's preranked test by gseapy (an extra).
    min_size, max_size, universe
        See :func:`nmfbench.factors.gene_sets.align_sets`.
    n_permutations, seed, n_jobs : int
        Of ``prerank``.

    Returns
    -------
    DataFrame
        A row for each factor and set: ``factor``, ``set``, ``n_genes``, ``score`` (t, or the normalised
        enrichment score), ``p``, ``padj`` (Benjamini-Hochberg over all sets and factors of the fit),
        ``direction`` (``up``: the set's genes have the larger scores), ``leading_genes``. For each factor the
        most significant first. Factors without scores are left out.
    """
    import anndata
    import pandas as pd

    if method not in METHODS:
        raise InputError(
            "factors.enrichment.method", f"one of {', '.join(METHODS)}", repr(method), "choose one"
        )
    if isinstance(programs, (str, Path)):
        programs = anndata.read_h5ad(programs)
    scores = np.asarray(programs.X, dtype=np.float64)
    factors = np.flatnonzero(np.isfinite(scores).any(axis=1))
    scored = np.isfinite(scores[factors]).all(axis=0) if len(factors) else np.zeros(scores.shape[1], bool)
    sets = align_sets(
        read_gmt(gene_sets), programs.var, scored, min_size=min_size, max_size=max_size, universe=universe,
        where=str(gene_sets),
    )  # fmt: skip
    log.info(
        "%d sets over %d genes (%d too small, %d too large)",
        *(len(sets.names), len(sets.universe), sets.n_small, sets.n_large),
    )
    values = scores[np.ix_(factors, sets.universe)]
    if method == "ulm":
        statistic, p = univariate_linear_model(values, sets)
    else:
        statistic, p = preranked(values, sets, n_permutations=n_permutations, seed=seed, n_jobs=n_jobs)
    numbers = np.asarray(programs.obs["factor"])[factors]
    table = pd.DataFrame(
        {
            "factor": np.repeat(numbers, len(sets.names)),
            "set": np.tile(np.array(sets.names, dtype=object), len(numbers)),
            "n_genes": np.tile(np.diff(sets.membership.indptr), len(numbers)),
            "score": statistic.ravel(),
            "p": p.ravel(),
            "padj": benjamini_hochberg(p.ravel()),
            "direction": np.where(statistic.ravel() >= 0, "up", "down"),
            "leading_genes": [" ".join(genes) for row in values for genes in _leading(row, sets)],
        }
    )
    return table.sort_values(["factor", "p", "score"], ascending=[True, True, False], ignore_index=True)


def univariate_linear_model(values: np.ndarray, sets: GeneSets) -> tuple[np.ndarray, np.ndarray]:
    """The t-value of a set's slope in a regression of the scores on its membership, for each factor and set.

    As decoupler's ``ulm`` (Badia-i-Mompel et al. 2022, doi:10.1093/bioadv/vbac016) with weights of 1: the
    difference between the mean score of the set's genes and of the other genes of the universe, over its
    standard error. Two-sided.

    Returns
    -------
    t, p : ndarray of shape (factors, sets)
    """
    from scipy import stats

    n = values.shape[1]
    sizes = np.diff(sets.membership.indptr).astype(np.float64)
    centred = values - values.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).sum(axis=1))
    covariance = np.asarray(sets.membership @ centred.T).T
    scale = np.outer(spread, np.sqrt(sizes * (1 - sizes / n)))
    r = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0).clip(-1, 1)
    with np.errstate(divide="ignore"):
        t = r * np.sqrt((n - 2) / ((1 - r) * (1 + r)))
    return t, 2 * stats.t.sf(np.abs(t), n - 2)


def preranked(
    values: np.ndarray, sets: GeneSets, *, n_permutations: int, seed: int, n_jobs: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised enrichment scores and p-values of GSEA's preranked test, with weight 1, by gseapy.

    A p-value is at least 1 over the permutations and 1.

    Raises
    ------
    InputError
        gseapy is not installed.
    """
    try:
        import gseapy
    except ImportError as error:
        raise InputError(
            "factors.enrichment.method: prerank", "the package gseapy", str(error),
            "install it (pip install gseapy==1.3.1, or --sdm conda with envs/enrichment.yaml), or take ulm",
        ) from error  # fmt: skip
    import pandas as pd

    members, order = sets.members(), {name: column for column, name in enumerate(sets.names)}
    scores, p = np.full((2, len(values), len(sets.names)), np.nan)
    for row, value in enumerate(values):
        ranking = pd.Series(value, index=sets.genes).sort_values(ascending=False, kind="stable")
        found = gseapy.prerank(
            rnk=ranking, gene_sets=members, weight=1.0, min_size=1, max_size=len(ranking), seed=seed,
            permutation_num=n_permutations, threads=n_jobs, outdir=None, no_plot=True, verbose=False,
        ).res2d  # fmt: skip
        columns = found["Term"].map(order).to_numpy(dtype=int)
        scores[row, columns] = found["NES"].to_numpy(dtype=float)
        p[row, columns] = found["NOM p-val"].to_numpy(dtype=float)
    return np.nan_to_num(scores), np.nan_to_num(p, nan=1.0).clip(1 / (n_permutations + 1), 1)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values, in the order given; missing ones stay and are not counted."""
    p = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return adjusted


def count_enriched(table: pd.DataFrame, n_factors: int) -> dict[str, Any]:
    """How many factors lead a set, and how many pairs of factor and set there are, at 0.05 and 0.01.

    Only sets whose genes have the larger scores count: a factor is not about the genes it lacks.
    """
    row: dict[str, Any] = {"n_factors": n_factors, "n_sets": table["set"].nunique()}
    for level in LEVELS:
        found = table[(table["padj"] < level) & (table["direction"] == "up")]
        text = f"{level:g}".removeprefix("0.")
        n = found["factor"].nunique()
        row |= {f"factors_{text}": n, f"share_{text}": n / n_factors if n_factors else np.nan}
        row |= {f"pairs_{text}": len(found)}
    return row


def _leading(values: np.ndarray, sets: GeneSets) -> list[np.ndarray]:
    """The genes of each set with the largest positive scores."""
    found = []
    for row in np.split(sets.membership.indices, sets.membership.indptr[1:-1]):
        best = row[np.argsort(-values[row], kind="stable")[:_LEADING]]
        found.append(sets.genes[best[values[best] > 0]])
    return found
