"""From counts, tables and settings to what is fitted: panel, held-out part, offsets, groups."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nmfbench.data.by_name import choose, keys_of, mask_entries, without
from nmfbench.data.held_out import thin_counts
from nmfbench.errors import InputError
from nmfbench.models.held_out_entries import training_totals
from nmfbench.models.nb_hierarchical.offsets import length_offsets, size_offsets
from nmfbench.totals import cell_totals, gene_nonzeros

log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """What a fit is given.

    Attributes
    ----------
    cells, genes : ndarray of int
        Places of the fitted cells and genes: the panel, without genes that have no count in it.
    train : csr of shape (fitted cells, fitted genes)
        The counts that are fitted.
    whole : csr of the same shape
        With what was held out.
    mask : csr of the same shape or None
        Ones at the entries that are held out.
    test : csr of shape (fitted cells, genes of the panel) or None
        Molecules that were set aside, also of genes that have none left to fit.
    counted : ndarray of bool, shape (genes of the panel,)
        Which genes of the panel are fitted.
    size : ndarray of shape (all cells,)
    length : ndarray of shape (fitted genes,)
    group : ndarray of shape (all cells,)
        Combination of the covariates' levels.
    design : ndarray of shape (groups, effects)
    effects : list of str
        ``column=level``.
    order : dict of str to ndarray
        Rank of each fitted gene's and cell's name: draws go by these.
    record : dict
        What is said in ``run.json`` and ``uns``.
    """

    cells: np.ndarray
    genes: np.ndarray
    train: Any
    whole: Any
    mask: Any
    test: Any
    counted: np.ndarray
    size: np.ndarray
    length: np.ndarray
    group: np.ndarray
    design: np.ndarray
    effects: list[str]
    order: dict[str, np.ndarray]
    record: dict[str, Any] = field(default_factory=dict)


def prepare(
    csr: Any,
    settings: Mapping[str, Any],
    seed: int,
    *,
    obs: Any = None,
    var: Any = None,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
) -> Prepared:
    """Choose the panel, hold out, and take offsets and levels from the training part and the tables.

    Raises
    ------
    InputError
        If a cell has no count, a column is missing, or too few genes have counts.
    """
    n, p = csr.shape
    empty = np.diff(csr.indptr) == 0
    if empty.any():
        raise InputError(
            f"counts of {n} cells x {p} genes",
            "at least one count in every cell",
            f"{int(empty.sum())} cells without, the first is number {int(np.flatnonzero(empty)[0])}",
            "drop these cells (filter_donors does)",
        )
    kept, test = csr, None
    if settings["held_out_fraction"]:
        kept, test = thin_counts(csr, settings["held_out_fraction"], seed)
    cells = choose(cell_names, n, settings["n_cells"], settings["panel_seed"], "cell")
    panel = choose(gene_names, p, settings["n_genes"], settings["panel_seed"], "gene")
    train = _part(kept, cells, panel)
    mask, whole = None, train if test is None else _part(csr, cells, panel)
    if settings["mask_fraction"]:
        keys = keys_of(cell_names, n, seed, "mask")[cells], keys_of(gene_names, p, seed, "mask")[panel]
        mask = mask_entries(*keys, settings["mask_fraction"])
        train = without(train, mask)
    counted = gene_nonzeros(train) > 0
    if counted.sum() < 2:
        raise InputError(
            f"counts of {len(cells)} cells x {len(panel)} genes",
            "at least two genes with counts",
            f"{int(counted.sum())}",
            "keep more genes; of one gene there is nothing to tell cells by",
        )
    if not counted.all():
        log.warning("%d genes have no count in what is fitted: their effects are NA", int((~counted).sum()))
    genes = panel[counted]
    same = whole is train  # kept once: at the size of an atlas a copy is gigabytes
    train = _columns(train, counted)
    whole = train if same else _columns(whole, counted)
    mask = None if mask is None else _columns(mask, counted)
    test = None if test is None else _part(test, cells, panel)
    # Depth is taken over all genes of the file, but of the panel only what is fitted is seen.
    totals = training_totals(kept)
    if mask is not None:
        totals[cells] = training_totals(train, mask) + _outside(kept, cells, panel)
    size, said = size_offsets(settings["offset"], totals, cells, obs, settings["depth_column"])
    length, said_length = length_offsets(
        settings["length"], gene_names, p, var, settings["length_column"], settings["offset_seed"]
    )
    group, design, effects = covariate_groups(obs, settings["covariates"], n)
    return Prepared(
        cells=cells, genes=genes, train=train, whole=whole, mask=mask, test=test,
        counted=counted, size=size,
        length=length[genes], group=group, design=design, effects=effects,
        order={"gene": _ranks(gene_names, genes), "cell": _ranks(cell_names, cells)},
        record={
            **said, **said_length,
            "cells_fitted": len(cells), "genes_fitted": len(genes),
            "genes_without_counts": int((~counted).sum()), "effects": effects,
        },
    )  # fmt: skip


def covariate_groups(obs: Any, columns: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Group of each cell (one for each combination of levels), the effects of each group, their names."""
    import pandas as pd

    codes, effects, blocks = np.zeros(n, dtype=np.int64), [], []
    found = []
    for column in columns:
        if obs is None or column not in obs.columns:
            raise InputError(
                f"covariates: obs[{column!r}]",
                "a column of obs",
                "no obs" if obs is None else ", ".join(map(str, obs.columns)),
                "mend the name; columns are kept by datasets.<name>.keep_obs",
            )
        values = obs[column]
        if values.isna().any():
            raise InputError(
                f"covariates: obs[{column!r}]",
                "a level for every cell",
                f"{int(values.isna().sum())} cells without",
                "complete the column, or drop these cells",
            )
        values = pd.Categorical(values).remove_unused_categories()
        if len(values.categories) < 2:
            raise InputError(
                f"covariates: obs[{column!r}]", "two levels or more", "one level", "leave the column out"
            )
        found.append(values)
        codes = codes * len(values.categories) + values.codes
    levels, group = np.unique(codes, return_inverse=True)
    first = [int(np.flatnonzero(group == g)[0]) for g in range(len(levels))]
    for column, values in zip(columns, found, strict=True):
        effects += [f"{column}={level}" for level in values.categories[1:]]
        blocks.append(np.equal.outer(values.codes[first], np.arange(1, len(values.categories))))
    design = np.concatenate(blocks, axis=1).astype(np.float64) if blocks else np.zeros((1, 0))
    return group.astype(np.int64), design, effects


def _part(csr: Any, cells: np.ndarray, genes: np.ndarray) -> Any:
    if len(cells) < csr.shape[0]:
        csr = csr[cells]
    return csr[:, genes] if len(genes) < csr.shape[1] else csr


def _columns(csr: Any, kept: np.ndarray) -> Any:
    return csr if kept.all() else csr[:, np.flatnonzero(kept)]


def _outside(kept: Any, cells: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """Totals of the fitted cells over the genes outside the panel."""
    if len(panel) == kept.shape[1]:
        return np.zeros(len(cells))
    return cell_totals(kept[cells]) - cell_totals(kept[cells][:, panel])


def _ranks(names: Sequence[str] | None, chosen: np.ndarray) -> np.ndarray:
    if names is None:
        return np.arange(len(chosen))
    names = np.asarray([str(names[k]) for k in chosen])
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[np.argsort(names, kind="stable")] = np.arange(len(names))
    return ranks
