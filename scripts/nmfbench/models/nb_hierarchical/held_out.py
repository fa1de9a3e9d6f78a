"""The held-out scores of a fit, its nulls beside it: entries, molecules and cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from nmfbench.models.held_out_entries import COLUMNS, score_entries
from nmfbench.models.nb_hierarchical.cells import infer_cells
from nmfbench.models.nb_hierarchical.means import Means, density
from nmfbench.models.nb_hierarchical.nulls import fit_nulls
from nmfbench.models.nb_hierarchical.scores import score_molecules
from nmfbench.totals import cell_totals

if TYPE_CHECKING:
    import pandas as pd

MODEL = "nb_hierarchical"
NEARLY_POISSON = 12.0
"""Log dispersion of genes of which nothing is known."""
PREDICTIVE_DRAWS = 100
MOST_EVALUATIONS = 2e9
"""Entries times draws behind ``predictive``: fewer draws above."""
HELD_OUT_COLUMNS = (*COLUMNS, "delta")


def score(model: Any, ready: Any, csr: Any) -> tuple[pd.DataFrame, np.ndarray, float | None]:
    """Every held-out score that the settings ask for.

    Parameters
    ----------
    model : NBHierarchical
        With its effects kept.
    ready : Prepared
    csr : csr of shape (cells, genes)
        All counts.

    Returns
    -------
    table : DataFrame
        Columns :data:`HELD_OUT_COLUMNS`: ``split`` (entries, molecules, cells), ``source`` (the model or a
        null), ``stratum``, and nats per entry. ``delta`` is the model less the source.
    by_cell : ndarray of shape (fitted cells,)
        Of the model; NaN without held-out counts.
    comparable : float or None
        The score of molecules, comparable between models of counts.
    """
    import pandas as pd

    rows, by_cell, comparable = [], np.full(len(ready.cells), np.nan), None
    group = ready.group[ready.cells]
    fitted = Means(model.t_[ready.cells], model.means_.c, model.means_.log_alpha, group)
    if ready.mask is not None or ready.test is not None:
        sources = {MODEL: fitted, **fit_nulls(ready.train, ready.mask)}
        if ready.mask is not None:
            most = int(min(PREDICTIVE_DRAWS, max(MOST_EVALUATIONS // max(ready.mask.nnz, 1), 1)))
            draws = _drawn(model, ready, group, most)
            rows, by_cell = score_entries(sources, ready.whole, ready.mask, draws, MODEL)
        else:
            fraction = model.settings_["held_out_fraction"]
            every = {name: _of_all_genes(means, ready.counted) for name, means in sources.items()}
            train = _in_all_genes(ready.train, ready.counted)
            rows, by_cell = score_molecules(every, train, ready.test, fraction, MODEL)
            if ready.test.shape == csr.shape:  # a panel's entries are not those of the other models
                comparable = next(
                    row["value"] for row in rows if row["source"] == MODEL and row["stratum"] == "all"
                )
    rows = rows + _score_cells(model, ready, csr)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if len(table):
        ours = table[table["source"] == MODEL].set_index(["split", "stratum"])["value"]
        keys = pd.MultiIndex.from_frame(table[["split", "stratum"]])
        table["delta"] = ours.reindex(keys).to_numpy() - table["value"]
    return table.reindex(columns=list(HELD_OUT_COLUMNS)), by_cell, comparable


def _in_all_genes(counts: Any, counted: np.ndarray) -> Any:
    """Counts of the fitted genes among all of the panel."""
    indices = np.flatnonzero(counted).astype(counts.indices.dtype)[counts.indices]
    return sp.csr_matrix((counts.data, indices, counts.indptr), shape=(counts.shape[0], len(counted)))


def _of_all_genes(means: Means, counted: np.ndarray) -> Means:
    """The same with the genes that had no count to fit: half a count over all cells, as the nulls have it.

    Other models of counts are scored on every gene; without these the entries would be fewer and fuller.
    """
    nothing = 0.0 if means.poisson else NEARLY_POISSON
    level = np.log(0.5) - np.logaddexp.reduce(means.t) - nothing
    c, log_alpha = np.full((len(means.c), len(counted)), level), np.full(len(counted), nothing)
    c[:, counted], log_alpha[counted] = means.c, means.log_alpha
    return replace(means, c=c, log_alpha=log_alpha)


def _drawn(model: Any, ready: Any, group: np.ndarray, most: int):
    """Posterior draws as means of the counts."""
    family, size = model.posterior_.family, ready.size[ready.cells]
    for block in model.posterior_.draws(most, model.seed_):
        for a, b, log_alpha, effect in zip(
            *(block[key] for key in ("gene", "cell", "log_alpha", "effect")), strict=True
        ):
            log_alpha = np.broadcast_to(log_alpha, family.n_genes)
            yield Means(b + size, family.gene_sides(a, log_alpha, effect, ready.length), log_alpha, group)


def _score_cells(model: Any, ready: Any, csr: Any) -> list[dict[str, Any]]:
    """Cells outside the panel: their effect from one half of the genes, their score on the other."""
    others = np.setdiff1d(np.arange(csr.shape[0]), ready.cells)
    p = len(ready.genes)
    if not len(others) or p < 4:
        return []
    seen = np.zeros(p, dtype=bool)
    seen[np.random.default_rng([model.seed_, 5]).permutation(p)[: p // 2]] = True
    counts = csr[others][:, ready.genes]
    shown, hidden = counts[:, np.flatnonzero(seen)], counts[:, np.flatnonzero(~seen)]
    size = np.zeros(len(others)) + ready.size[ready.cells].mean()
    if model.settings_["offset"] in ("total", "column"):
        # depth from the genes that are shown: the cell's total would tell of the others
        of_fitted = cell_totals(ready.train[:, np.flatnonzero(seen)])
        totals = np.maximum(cell_totals(shown), 0.5)
        unit = np.median(of_fitted) * np.exp(-np.median(ready.size[ready.cells]))
        size = np.log(totals / max(unit, 0.5))
    group = ready.group[others]
    ours = model.means_
    part = Means(ours.t, ours.c[:, seen], ours.log_alpha[seen], ours.group)
    b, _ = infer_cells(shown, size, group, part, model._cell_prior())
    sources = {MODEL: Means(b + size, ours.c[:, ~seen], ours.log_alpha[~seen], group)}
    totals = np.maximum(cell_totals(shown), 0.5)
    for name, null in fit_nulls(ready.train, ready.mask).items():
        t = np.full(len(others), np.mean(null.t))
        if name != "gene_poisson":
            t = np.log(totals / np.exp(null.c[0] + null.log_alpha)[seen].sum())
        one = np.zeros(len(others), dtype=np.int64)
        sources[name] = Means(t, null.c[:, ~seen], null.log_alpha[~seen], one, null.poisson)
    rows = []
    for name, means in sources.items():
        found = density(means, hidden)
        by_cell = found.cell / hidden.shape[1]
        rows.append(
            {"split": "cells", "source": name, "stratum": "all", "n_entries": found.n_entries}
            | {"value": found.total / found.n_entries}
            | {"se": float(by_cell.std(ddof=1) / np.sqrt(len(others))) if len(others) > 1 else np.nan}
            | {"predictive": np.nan, "conditional": np.nan}
        )
    return rows
