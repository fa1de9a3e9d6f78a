"""All that is said of the factors of one fit, from one pass over its counts: tables and ``programs.h5ad``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.factors.association import (
    Label,
    Nested,
    is_donor_factor,
    label_associations,
    variance_components,
)
from nmfbench.factors.genes import GeneNames
from nmfbench.factors.moments import FactorMoments, gather_moments
from nmfbench.factors.scores import explained_variance, gene_scores, spectra
from nmfbench.factors.statistics import column_statistics, cosines, nearest, orthogonality, pair_table
from nmfbench.factors.stored import StoredFit

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SCHEMA = "nmfbench-programs-1"
CELL_TYPE, DONOR = "cell_type", "donor_id"
#: A column whose standard deviation is below this part of its root mean square is the same in every cell.
_CONSTANT = 1e-6
_SHOWN_GENES = 10


def describe_factors(
    filtered: str | Path,
    result: str | Path,
    *,
    factors: str | Path,
    summary: str | Path,
    labels_table: str | Path,
    pairs: str | Path,
    top_genes: str | Path,
    programs: str | Path,
    labels: Sequence[str],
    normalisation: Mapping[str, Any],
    n_top_genes: int = 100,
) -> None:
    """Describe every factor of a fit.

    Parameters
    ----------
    filtered, result : str or Path
        The filtered counts, and the fit to them.
    factors, summary, labels_table, pairs, top_genes : str or Path
        Tables to be written: a row for each factor; one row for the fit; a row for each factor and class of a
        label; a row for each pair of factors; the leading genes of each factor.
    programs : str or Path
        The ``programs.h5ad`` to be written: see :func:`write_programs`.
    labels : sequence of str
        Columns of obs that factors are held against.
    normalisation : mapping
        ``target_sum`` and ``log1p`` of the values whose variance the factors explain.
    n_top_genes : int
        Genes listed of each factor.

    Raises
    ------
    InputError
        The files do not belong together.
    """
    from nmfbench.tables.files import write_table

    fit = StoredFit(result)
    moments = gather_moments(filtered, fit, normalisation)
    log.info("one pass over %d cells x %d genes is done", moments.n_cells, len(moments.genes))
    scores, spectrum = gene_scores(moments), spectra(moments)
    names = GeneNames.of(fit.var)
    genes = top_gene_table(scores, spectrum, fit.loadings, names, moments, n_top_genes)
    table, by_class = factor_table(fit, moments, labels)
    leading = genes.groupby("factor")["symbol"].apply(lambda column: " ".join(column[:_SHOWN_GENES]))
    table["top_genes"] = table["factor"].map(leading).fillna("")
    W_cosine, H_cosine = cosines(fit.loadings.T @ fit.loadings), cosines(moments.usage_gram)
    write_table(table, factors)
    summarised = summarise(table, explained_variance(moments)["all"])
    write_table(summarised.assign(n_cells=moments.n_cells), summary)
    write_table(by_class, labels_table)
    write_table(pair_table(W_cosine, H_cosine), pairs, digits=6)
    write_table(genes, top_genes, digits=6)
    write_programs(programs, table, scores, spectrum, fit, names, moments)
    donors = int((table["donor_factor"] == True).sum())  # noqa: E712  (NA is neither)
    log.info("%s: %d factors, %d of them the donors'", fit.name, fit.n_factors, donors)


def factor_table(
    fit: StoredFit, moments: FactorMoments, labels: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each factor, and a row for each factor and class of a label (``docs/tables.md``)."""
    import pandas as pd

    W = np.asarray(fit.loadings, dtype=np.float64)
    W_gram = W.T @ W
    explained = explained_variance(moments)
    held = {name: Label.of(name, *fit.label(name)) for name in dict.fromkeys([*labels, CELL_TYPE, DONOR])}
    groups = Nested.of(held[CELL_TYPE], held[DONOR])
    near = {part: nearest(cosines(gram)) for part, gram in (("W", W_gram), ("H", moments.usage_gram))}
    off_identity = orthogonality(W_gram)
    rows, by_class = [], []
    for j, h in fit.columns():
        of_genes, of_cells = column_statistics(W[:, j]), column_statistics(h)
        row: dict[str, Any] = {"factor": j + 1, "status": _status(h, of_genes, of_cells)}
        for part, found, size in (("W", of_genes, "effective_genes"), ("H", of_cells, "effective_cells")):
            row |= {f"{part}_{key}": found[key] for key in ("zeros", "L1", "L2")}
            row[size] = found["effective"]
            mean, largest, which = (values[j] for values in near[part])
            row |= {f"{part}_cosine_mean": mean, f"{part}_cosine_max": largest}
            row[f"{part}_nearest"] = which or pd.NA
        row["orthogonality"] = off_identity[j]
        row["variance_explained"] = explained["alone"][j]
        row["variance_unique"] = explained["uniquely"][j]
        components = variance_components(h, groups)
        row |= components
        row["donor_factor"] = pd.NA if np.isnan(components["between_donors"]) else is_donor_factor(components)
        found_of = label_associations(h, [held[name] for name in labels])
        for name, found in zip(labels, found_of, strict=True):
            row |= _best_class(found, held[name])
            by_class.append(_class_rows(j + 1, found, held[name]))
        rows.append(row)
    by_class = [part for part in by_class if len(part)]
    return pd.DataFrame(rows), pd.concat(by_class, ignore_index=True) if by_class else _no_classes()


def _status(h: np.ndarray, of_genes: Mapping[str, float], of_cells: Mapping[str, float]) -> str:
    """``dead`` where a factor has no cell or no gene, ``constant`` where it is the same in every cell."""
    if of_genes["L1"] == 0 or of_cells["L1"] == 0:
        return "dead"
    return "constant" if h.std() <= _CONSTANT * of_cells["L2"] / np.sqrt(len(h)) else "ok"


def _best_class(found: Mapping[str, Any], label: Label) -> dict[str, Any]:
    """The class that a factor is most specific to, by AUROC."""
    auroc, name = found["auroc"], label.name
    if not np.isfinite(auroc).any():
        return {f"{name}_top": None, f"{name}_auroc": np.nan, f"{name}_eta2": found["eta2"]}
    best = int(np.nanargmax(auroc))
    top = {f"{name}_top": label.classes[best], f"{name}_auroc": auroc[best]}
    return top | {f"{name}_eta2": found["eta2"]}


def _class_rows(factor: int, found: Mapping[str, Any], label: Label) -> pd.DataFrame:
    import pandas as pd

    columns = {"factor": factor, "label": label.name, "class": label.classes, "n_cells": label.sizes}
    return pd.DataFrame({**columns, **{key: found[key] for key in ("mean", "share", "auroc")}})


def _no_classes() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=["factor", "label", "class", "n_cells", "mean", "share", "auroc"])


def summarise(table: pd.DataFrame, variance_explained: float) -> pd.DataFrame:
    """One row for a fit: counts, and means over its factors."""
    import pandas as pd

    means = ["W_zeros", "H_zeros", "W_L1", "W_L2", "H_L1", "H_L2", "effective_genes", "effective_cells"]
    means += ["W_cosine_mean", "H_cosine_mean"]
    known = table["donor_factor"].dropna()
    row = {
        "n_factors": len(table),
        "dead": int((table["status"] == "dead").sum()),
        "constant": int((table["status"] == "constant").sum()),
        "donor_factors": int(known.sum()) if len(known) else pd.NA,
        "orthogonality": table["orthogonality"].sum(),
        "variance_explained": variance_explained,
        **{name: table[name].mean() for name in means},
    }
    return pd.DataFrame([row])


def top_gene_table(
    scores: np.ndarray,
    spectrum: np.ndarray,
    loadings: np.ndarray,
    names: GeneNames,
    moments: FactorMoments,
    n_genes: int,
) -> pd.DataFrame:
    """The genes with the largest positive scores of each factor, the first on top."""
    import pandas as pd

    parts = []
    for j, score in enumerate(scores):
        order = np.argsort(-np.where(np.isfinite(score), score, -np.inf), kind="stable")[:n_genes]
        order = order[np.nan_to_num(score[order], nan=-1.0) > 0]
        parts.append(
            pd.DataFrame(
                {
                    "factor": j + 1,
                    "position": np.arange(1, len(order) + 1),
                    "symbol": names.symbols[order],
                    "ensembl_id": names.ids[order],
                    "gene": names.names[order],
                    "score": score[order],
                    "spectrum": spectrum[j, order],
                    "loading": loadings[order, j],
                    "detected": moments.detected[order] / moments.n_cells,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def write_programs(
    path: str | Path,
    table: pd.DataFrame,
    scores: np.ndarray,
    spectrum: np.ndarray,
    fit: StoredFit,
    names: GeneNames,
    moments: FactorMoments,
) -> None:
    """Write the factors as an .h5ad of factors x genes, whole or not at all.

    ``X``: gene scores; ``layers["spectra"]``: counts per million of a cell that is one factor only;
    ``layers["loadings"]``: the model's own; obs: the table of factors; var: names, mean and standard
    deviation of counts per million, share of cells with the gene.
    """
    import pandas as pd

    from nmfbench.data.writer import whole_h5ad, write_sections

    index = pd.Index([f"factor {number}" for number in table["factor"]])
    known = table["donor_factor"].map(lambda value: "NA" if pd.isna(value) else str(bool(value)))
    obs = table.assign(donor_factor=known.astype("category")).set_axis(index)
    for column in obs.select_dtypes(object):
        numbers = column.endswith("_nearest")
        obs[column] = [_storable(value, numbers) for value in obs[column]]
    var = pd.DataFrame(
        {
            "symbol": names.symbols.astype(str),
            "ensembl_id": names.ids.astype(str),
            "mean": moments.gene_means,
            "sd": moments.gene_sds,
            "detected": moments.detected / moments.n_cells,
        },
        index=pd.Index(names.names.astype(str)),
    )
    keys = ("model", "display_name", "rank", "seed")
    record = {"schema": SCHEMA, "n_cells": moments.n_cells, **{key: fit.record[key] for key in keys}}
    layers = {
        "spectra": spectrum.astype(np.float32),
        "loadings": np.ascontiguousarray(fit.loadings.T, dtype=np.float32),
    }
    with whole_h5ad(path) as new:
        write_sections(
            new.hdf5,
            {
                "X": scores.astype(np.float32),
                "obs": obs,
                "var": var,
                "layers": layers,
                "uns": {"nmfbench_programs": record},
            },
        )


def _storable(value: Any, number: bool) -> Any:
    """What an .h5ad can hold in a column: a missing factor is 0, a missing text NA."""
    import pandas as pd

    missing = bool(pd.isna(value))
    if number:
        return 0 if missing else int(value)
    return "NA" if missing else str(value)
