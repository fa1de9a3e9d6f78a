"""Programs as a reference for other tools: the table that starCAT reads, and its projection.

starCAT (of the authors of cNMF): spectra in counts per million, divided by each gene's standard deviation in
the reference data; the usages of a cell are the non-negative least squares of its counts, divided by each
gene's standard deviation in the new data, on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nmfbench.errors import InputError
from nmfbench.factors.scores import per_million
from nmfbench.least_squares import non_negative_least_squares

if TYPE_CHECKING:
    import anndata
    import pandas as pd

_BINS = 20


def starcat_reference(
    programs: str | Path | anndata.AnnData,
    *,
    n_genes: int = 2000,
    names: Literal["symbol", "ensembl_id", "name"] = "symbol",
) -> pd.DataFrame:
    """The programs of a fit as a starCAT reference.

    Parameters
    ----------
    programs : path or AnnData
        ``programs.h5ad`` of a fit.
    n_genes : int
        Genes to be kept: those that vary most for their mean.
    names : {"symbol", "ensembl_id", "name"}
        What the genes are called; starCAT looks them up in ``var_names`` of the new cells. Of genes with one
        name the one with the largest mean is kept, and those without a name are left out.

    Returns
    -------
    DataFrame of programs x genes
        Factors that no cell uses are left out.

    Raises
    ------
    InputError
        The embedding has negative entries and so no spectra, or no gene has such a name.
    """
    import anndata
    import pandas as pd

    if isinstance(programs, (str, Path)):
        programs = anndata.read_h5ad(programs)
    spectra = np.asarray(programs.layers["spectra"], dtype=np.float64)
    used = np.isfinite(spectra).all(axis=1)
    if not used.any():
        raise InputError(
            "programs: layers['spectra']",
            "programs with non-negative usages",
            "none: the embedding has negative entries, or no cell uses a factor",
            "export the reference of a non-negative model",
        )
    var = programs.var
    called = np.asarray(var.index if names == "name" else var[names], dtype=object).astype(str)
    mean, sd = var["mean"].to_numpy(), var["sd"].to_numpy()
    order = np.argsort(-mean, kind="stable")
    first = np.zeros(len(called), dtype=bool)
    first[order[np.unique(called[order], return_index=True)[1]]] = True
    usable = np.flatnonzero(first & (called != "") & (sd > 0))
    if not len(usable):
        raise InputError(
            f"programs: var[{names!r}]", "names of genes", "none", "choose another kind of name (names=...)"
        )
    variable = relative_dispersion(mean[usable], sd[usable])
    kept = np.sort(usable[np.argsort(-variable, kind="stable")[:n_genes]])
    values = per_million(spectra[used])[:, kept] / sd[kept]
    return pd.DataFrame(values, index=programs.obs_names[used].astype(str), columns=called[kept])


def write_reference(reference: pd.DataFrame, path: str | Path) -> None:
    """Write a reference as starCAT reads it: tab-separated, the programs' names in the first column."""
    from nmfbench.tables.files import write_table

    write_table(reference.rename_axis("program").reset_index(), path, digits=8)


def project_on_reference(counts: Any, genes: Any, reference: pd.DataFrame) -> np.ndarray:
    """Usages of new cells on a starCAT reference, exactly, in shares of the cell.

    Parameters
    ----------
    counts : CSR of shape (n, p)
    genes : sequence of str, length p
        Their names, without repetition.
    reference : DataFrame of programs x genes

    Returns
    -------
    ndarray of shape (n, programs)
        Rows sum to 1; a cell without any count of the genes has zeros.

    Raises
    ------
    InputError
        Fewer than half of the reference's genes are there.
    """
    import pandas as pd

    place = pd.Index(genes).get_indexer(reference.columns)
    found = place >= 0
    if found.mean() < 0.5:
        some = ", ".join(map(str, reference.columns[~found][:3]))
        raise InputError(
            "genes of the reference",
            f"at least half of the {len(found)} in the new cells",
            f"{found.sum()}; missing are such as {some}",
            "give the names that the reference uses (symbols, or Ensembl ids)",
        )
    X = counts[:, place[found]].astype(np.float64)
    mean = np.asarray(X.mean(axis=0)).ravel()
    square = np.asarray(X.multiply(X).mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    B = reference.loc[:, found].to_numpy(dtype=np.float64) / np.where(sd > 0, sd, 1.0)
    spectra = reference.loc[:, found].to_numpy(dtype=np.float64)
    usage = non_negative_least_squares(spectra @ spectra.T, np.asarray(X @ B.T))
    sums = usage.sum(axis=1, keepdims=True)
    return np.divide(usage, sums, out=np.zeros_like(usage), where=sums > 0)


def relative_dispersion(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """How much genes vary for their mean: log of variance over mean, less the median of genes of that mean.

    Genes are put into 20 bins of equal size by their mean; within a bin the difference is divided by the
    median absolute deviation.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log_fano = np.log(np.square(sd) / mean)
    log_fano = np.where(np.isfinite(log_fano), log_fano, -np.inf)
    order = np.argsort(mean, kind="stable")
    result = np.full(len(mean), -np.inf)
    for part in np.array_split(order, min(_BINS, max(1, len(order) // 10))):
        known = part[np.isfinite(log_fano[part])]
        if len(known):
            away = log_fano[known] - np.median(log_fano[known])
            result[known] = away / max(np.median(np.abs(away)), 1e-12)
    return result
