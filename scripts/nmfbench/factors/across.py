"""Programs of one dataset in another: loadings matched over the genes that both have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.factors.alignment import align_genes, require_overlap
from nmfbench.factors.genes import GeneNames
from nmfbench.factors.stored import StoredFit
from nmfbench.metrics.matching import match_by_cosine

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("factor", "other_factor", "cosine", "reciprocal", "next_best", "n_genes")


def compare_programs(first: str | Path, second: str | Path) -> pd.DataFrame:
    """Match the factors of two fits of different cells by the cosine of their loadings on shared genes.

    Parameters
    ----------
    first, second : path
        ``result.h5ad`` of any two models, ranks and datasets of one organism.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`; a row for each pair of one assignment (factors from 1), the best on top.
        ``reciprocal``: each is the other's most similar factor (reciprocal best hits); ``next_best``: the
        largest cosine of either with a third factor; ``n_genes``: shared genes, by id, name or symbol.

    Raises
    ------
    InputError
        Fewer than half of the first fit's genes are in the second: another organism, or other names.
    """
    one, other = StoredFit(first), StoredFit(second)
    names = GeneNames.of(one.var), GeneNames.of(other.var)
    alignment = align_genes(*names)
    require_overlap(alignment, (str(first), str(second)), *names)
    here = np.flatnonzero(alignment.positions >= 0)
    cosine, matches = match_by_cosine(one.loadings[here], other.loadings[alignment.positions[here]])
    rest = np.where(np.isfinite(cosine), cosine, -np.inf)
    rows, columns = matches["factor"].to_numpy() - 1, matches["other_factor"].to_numpy() - 1
    rest[rows, columns] = -np.inf
    rival = np.maximum(rest.max(axis=1, initial=-np.inf)[rows], rest.max(axis=0, initial=-np.inf)[columns])
    matches["next_best"] = np.where(np.isfinite(rival), rival, np.nan)
    return matches.assign(n_genes=len(here))[list(COLUMNS)]
