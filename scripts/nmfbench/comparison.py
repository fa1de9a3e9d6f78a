"""Two fits of the same cells, compared factor by factor.

>>> from nmfbench.comparison import compare_fits
>>> comparison = compare_fits("ae_nmf/rank-80/seed-42/result.h5ad",
...                           "ae_nmf/rank-80/seed-43/result.h5ad")  # doctest: +SKIP
>>> comparison.matches["score"].median()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.metrics.matching import factor_correlations, log_profiles, match_factors

if TYPE_CHECKING:
    import anndata
    import pandas as pd

#: Fewer cells or genes in common carry no correlation worth the name.
FEWEST_SHARED = 3


@dataclass(frozen=True)
class FitComparison:
    """What :func:`compare_fits` found.

    Attributes
    ----------
    matches : DataFrame
        A row for each matched pair of factors and for each factor left over
        (:func:`~nmfbench.metrics.matching.match_factors`).
    pairs : DataFrame
        A row for every pair of factors: the two correlations, the score, matched or not.
    n_cells, n_genes : int
        Cells and genes that the two fits share, on which the correlations are.
    """

    matches: pd.DataFrame
    pairs: pd.DataFrame
    n_cells: int
    n_genes: int


@dataclass(frozen=True)
class Factors:
    """The two factors of one fit, with the names of their rows.

    Attributes
    ----------
    name : str
        The file, for messages.
    embedding : ndarray of shape (n_cells, k)
    loadings : ndarray of shape (n_genes, k)
    cells, genes : Index
    """

    name: str
    embedding: np.ndarray
    loadings: np.ndarray
    cells: pd.Index
    genes: pd.Index


def compare_fits(
    first: str | Path | anndata.AnnData,
    second: str | Path | anndata.AnnData,
    *,
    embeddings: tuple[str | None, str | None] = (None, None),
    loadings: tuple[str | None, str | None] = (None, None),
) -> FitComparison:
    """Match the factors of two fits of the same cells.

    Cells and genes are aligned by name; what only one fit has is left out. Factors are matched once, by the
    mean of the correlation of their embeddings and of their loadings (on a logarithmic scale, see
    :func:`~nmfbench.metrics.matching.log_profiles`), so that a matched pair is one pair in both. The numbers
    of factors may differ.

    Parameters
    ----------
    first, second : path or AnnData
        Results of this workflow (``result.h5ad``).
    embeddings, loadings : pair of str or None
        Keys of obsm and varm to be compared, for the first and the second; None takes the embedding that is
        scored and the loadings that belong to it.

    Returns
    -------
    FitComparison

    Raises
    ------
    InputError
        If a file is not a result, a key is missing or ambiguous, names are not unique, or
        fewer than three cells or genes are shared.
    """
    one, other = (
        read_factors(fit, embedding=embeddings[place], loadings=loadings[place])
        for place, fit in enumerate((first, second))
    )
    cells = _shared(one.cells, other.cells, "cells", one.name, other.name)
    genes = _shared(one.genes, other.genes, "genes", one.name, other.name)
    in_cells = factor_correlations(one.embedding[cells[0]], other.embedding[cells[1]])
    in_genes = factor_correlations(
        log_profiles(one.loadings[genes[0]]), log_profiles(other.loadings[genes[1]])
    )
    matches, pairs = match_factors(in_cells, in_genes)
    return FitComparison(matches, pairs, len(cells[0]), len(genes[0]))


def read_factors(
    fit: str | Path | anndata.AnnData, *, embedding: str | None = None, loadings: str | None = None
) -> Factors:
    """Read the embedding of a result and the loadings that belong to it.

    The loadings of a result are its array of varm whose key begins with ``W_`` and that has a column for
    each factor, standard deviations (``_sd_`` in the key) aside; of the Bayesian models it is ``best_A``, or
    ``best_A_total`` where some of its patterns were given.

    Parameters
    ----------
    fit : path or AnnData
    embedding, loadings : str, optional
        Keys of obsm and varm to be taken instead.

    Raises
    ------
    InputError
        If a key is not there, or more than one array could be the loadings.
    """
    from nmfbench.results import check_result, read_result

    if isinstance(fit, (str, Path)):
        name, adata = str(fit), read_result(fit)
    else:
        name, adata = "result", fit
        check_result(adata, name)
    embedding = embedding or adata.uns["nmfbench"]["embedding"]
    if embedding not in adata.obsm:
        raise InputError(
            f"{name}: embedding",
            f"one of the keys of obsm: {', '.join(adata.obsm)}",
            embedding,
            "name one of these, or none for the embedding that is scored",
        )
    H = np.asarray(adata.obsm[embedding])
    chosen = choose_loadings(name, adata.uns, adata.varm, embedding, H.shape[1], loadings)
    return Factors(name, H, chosen, adata.obs_names.astype(str), adata.var_names.astype(str))


def choose_loadings(
    name: str, uns: Any, varm: Mapping[str, Any], embedding: str, n_factors: int, key: str | None = None
) -> np.ndarray:
    """The loadings that belong to an embedding, of shape (genes, factors); see :func:`read_factors`.

    Parameters
    ----------
    name : str
        The file, for the message.
    uns, varm : mapping
        Of the result.
    embedding : str
        Key of the embedding.
    n_factors : int
        Its columns.
    key : str, optional
        Key of varm to be taken.

    Raises
    ------
    InputError
        If none or more than one array could be the loadings.
    """
    named = f"{embedding}_loadings"  # a model whose embedding names its own
    if key is None and named in varm and varm[named].shape[1] == n_factors:
        return np.asarray(varm[named])
    constant = len(uns.get("fixed_patterns", ()))
    fitting = {}
    for candidate, values in varm.items():
        if values.ndim == 2 and (candidate == key or _are_loadings(candidate)):
            # patterns of constant cells have genes, before the others', and no column in the embedding
            surplus = values.shape[1] - n_factors
            if surplus in (0, constant):
                fitting[candidate] = np.asarray(values)[:, surplus:]
    chosen = [candidate for candidate in fitting if key in (None, candidate)]
    if len(chosen) != 1:
        raise InputError(
            f"{name}: loadings of {embedding}",
            f"one array of varm with {n_factors} columns and a key that begins with W_ (or best_A)",
            f"{', '.join(chosen) or 'none'}; varm holds {', '.join(varm)}",
            "say which (loadings=...)",
        )
    return fitting[chosen[0]]


def _are_loadings(key: str) -> bool:
    return (key.startswith("W_") and "_sd_" not in key) or key in ("best_A", "best_A_total")


def _shared(
    one: pd.Index, other: pd.Index, what: str, name: str, other_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the shared names in the first and in the second index, in the order of the first."""
    for index, file in ((one, name), (other, other_name)):
        if not index.is_unique:
            twice = index[index.duplicated()][0]
            raise InputError(
                f"{file}: names of {what}",
                "each name once, since fits are aligned by name",
                f"{twice!r} more than once",
                "make the names unique in the dataset and train again",
            )
    positions = other.get_indexer(one)
    here = np.flatnonzero(positions >= 0)
    if len(here) < FEWEST_SHARED:
        raise InputError(
            f"{name} and {other_name}: {what}",
            f"two fits of the same {what}, at least {FEWEST_SHARED} names in common",
            f"{len(here)} in common of {len(one)} and {len(other)} (such as {one[0]!r} and {other[0]!r})",
            "compare fits of one dataset, or rename so that the names agree",
        )
    return here, positions[here]
