"""A perturbation screen: which target each cell of the filtered counts has, and whether that can be right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from nmfbench.data.filtered import FilteredCounts, read_filtered
from nmfbench.errors import InputError
from nmfbench.perturbation.cell_cycle import PHASES, score_phases
from nmfbench.perturbation.join import DUPLICATE

if TYPE_CHECKING:
    import pandas as pd

CONTROL, DROPPED = -1, -2
SYMBOL_COLUMNS = ("feature_name", "gene_symbol", "gene_symbols", "gene_name", "symbol")
_GUIDE = re.compile(
    r"([_.-](sg|g|guide)?_?\d+$)|((?<=[A-Z0-9])(sg|g)\d+$)|(^sg[A-Z])|([ACGT]{15,})|(\(mod\))|(_pBA\d+)"
)


@dataclass(frozen=True)
class Screen:
    """The cells of a screen.

    Attributes
    ----------
    counts : FilteredCounts
        Raw counts, on disk.
    control : str
        Label of the control cells.
    targets : list of str
        Cleaned names of the targets, sorted; the control is none of them.
    codes : ndarray of shape (cells,), int32
        Number of the cell's target; ``CONTROL`` or ``DROPPED``.
    genes : ndarray of shape (genes,), object
        Gene symbols where the file has them.
    labels : DataFrame
        label, target, cells, kept, reason.
    batch, guide, phase : Categorical or None
        Columns of the cells; the phase is one of G1, S, G2M.
    pair_separator : str
        Between the two names of a double perturbation.
    score_phases : bool
        Score the cell cycle from the counts where there is no column of phases.
    """

    counts: FilteredCounts
    control: str
    targets: list[str]
    codes: np.ndarray
    genes: np.ndarray
    labels: pd.DataFrame
    batch: pd.Categorical | None
    guide: pd.Categorical | None
    phase: pd.Categorical | None
    pair_separator: str
    score_phases: bool = False

    @cached_property
    def gene_of(self) -> np.ndarray:
        """Number of the gene that each target is, shape (targets,); -1 where it is not measured."""
        place = {gene: number for number, gene in enumerate(self.genes)}
        return np.array([place.get(target, -1) for target in self.targets], dtype=np.int64)

    def phases(self) -> np.ndarray:
        """0, 1, 2 for G1, S, G2M, shape (cells,), int8; all 0 where phases are not known."""
        if self.phase is not None:
            return np.asarray(self.phase.codes, dtype=np.int8)
        if self.score_phases:
            return score_phases(self.counts.path, self.genes)
        return np.zeros(len(self.codes), dtype=np.int8)


def read_screen(filtered: str | Path, settings: Mapping[str, Any]) -> Screen:
    """Read the labels of a screen and check them.

    Parameters
    ----------
    filtered : path
        ``filtered.h5ad``; its counts were checked when it was written.
    settings : mapping
        The section ``screen`` of the dataset (:class:`nmfbench.config.perturbation.Screen`).

    Returns
    -------
    Screen

    Raises
    ------
    InputError
        There is no control cell, the labels are guides and not genes, phases are unknown, or no target
        has enough cells.
    """
    import pandas as pd

    counts = read_filtered(filtered)
    raw = counts.label(settings["column"])
    cleaned = _clean(raw.categories, settings, counts.path)
    sizes = np.bincount(raw.codes[raw.codes >= 0], minlength=len(raw.categories))
    control = settings["control"]
    _require_control(control, cleaned, sizes, counts.path, settings["column"])
    table = pd.DataFrame({"label": raw.categories.astype(str), "target": cleaned, "cells": sizes})
    of_target = table.groupby("target")["cells"].transform("sum")
    enough = (of_target >= settings["min_cells"]) | (table["target"] == control)
    named = table["target"] != ""
    table["kept"] = enough & named & (table["cells"] > 0)
    table["reason"] = np.where(
        ~named,
        "no target in target_map",
        np.where(enough, "", [f"fewer than {settings['min_cells']} cells"] * len(table)),
    )
    targets = sorted(set(table.loc[table["kept"], "target"]) - {control})
    if not targets:
        raise InputError(
            f"{counts.path}: obs[{settings['column']!r}]",
            f"targets with at least {settings['min_cells']} cells",
            f"{len(table)} labels, the largest with {sizes.max()} cells",
            "lower datasets.<name>.screen.min_cells, or name another column",
        )
    _refuse_guides(targets, counts.path, settings)
    place = {target: number for number, target in enumerate(targets)} | {control: CONTROL}
    code_of = np.array(
        [place[name] if kept else DROPPED for name, kept in zip(table["target"], table["kept"], strict=True)]
        + [DROPPED],  # a missing label has the code -1
        dtype=np.int32,
    )
    codes = code_of[raw.codes]
    if settings.get("test_path") is not None:
        codes = np.where(np.asarray(counts.label(DUPLICATE) == "yes"), DROPPED, codes)
    return Screen(
        counts=counts,
        control=control,
        targets=targets,
        codes=codes,
        genes=_symbols(counts, targets),
        labels=table,
        batch=_column(counts, settings["batch_column"]),
        guide=_column(counts, settings["guide_column"]),
        phase=_phases(counts, settings["phase_column"]),
        pair_separator=settings["pair_separator"],
        score_phases=settings["score_phases"],
    )


def rows_of(screen: Screen, mask: np.ndarray) -> sparse.csr_matrix:
    """Counts of some cells of a screen, in row order."""
    parts = [
        block[np.flatnonzero(mask[start : start + block.shape[0]])]
        for start, block in screen.counts.blocks()
        if mask[start : start + block.shape[0]].any()
    ]
    if not parts:
        return sparse.csr_matrix((0, screen.counts.n_genes), dtype=np.float32)
    return sparse.vstack(parts, format="csr")


def _clean(labels: pd.Index, settings: Mapping[str, Any], path: Path) -> list[str]:
    """The target of each label: by the table where there is one, else the label itself."""
    names = [str(label).strip() for label in labels]
    if settings["target_map"] is None:
        return names
    from nmfbench.tables.files import read_table

    table = read_table(settings["target_map"], text=("label", "target"))
    if not {"label", "target"} <= set(table.columns):
        raise InputError(
            f"{settings['target_map']}",
            "a table with the columns label and target",
            f"the columns {', '.join(table.columns)}",
            "rename its columns, or set screen.target_map: null",
        )
    known = dict(zip(table["label"], table["target"], strict=True))
    if not set(known) & set(names):
        raise InputError(
            f"{settings['target_map']}: label",
            f"labels of obs[{settings['column']!r}] of {path.name}, such as {names[0]!r}",
            f"none of them; the table has {', '.join(map(repr, list(known)[:3]))} ...",
            "write one row for each label; labels without a row are dropped",
        )
    return [known.get(name, "") for name in names]


def _require_control(control: str, names: list[str], sizes: np.ndarray, path: Path, column: str) -> None:
    n_cells = sum(int(size) for name, size in zip(names, sizes, strict=True) if name == control)
    if n_cells >= 2:
        return
    likely = [name for name in names if re.search(r"control|ctrl|non.?target|^nt|safe", name, re.IGNORECASE)]
    hint = f"; of these {', '.join(map(repr, likely[:5]))} may be meant" if likely else ""
    raise InputError(
        f"{path}: obs[{column!r}]",
        f"control cells, labelled {control!r}",
        f"{n_cells} of them; the labels are {', '.join(map(repr, sorted(names)[:8]))} ...{hint}",
        "name the label of the control cells in datasets.<name>.screen.control",
    )


def _refuse_guides(targets: list[str], path: Path, settings: Mapping[str, Any]) -> None:
    """Labels of guides in place of targets: each guide would be a perturbation of its own."""
    if settings["labels_are_targets"]:
        return
    guides = [target for target in targets if _GUIDE.search(target)]
    if len(guides) <= len(targets) / 2:
        return
    raise InputError(
        f"{path}: obs[{settings['column']!r}]",
        "one label for each target gene",
        f"labels of guides: {', '.join(map(repr, guides[:4]))} ... ({len(guides)} of {len(targets)})",
        "name the column of targets in datasets.<name>.screen.column, give a table from label to target in "
        "screen.target_map, or say screen.labels_are_targets: true",
    )


def _symbols(counts: FilteredCounts, targets: list[str]) -> np.ndarray:
    """Names of the genes: the index of var or the column of symbols, whichever names more of the targets."""
    from nmfbench.data.names import unique_names

    wanted = set(targets)
    candidates = [counts.var.index.astype(str)]
    candidates += [counts.var[name].astype(str) for name in SYMBOL_COLUMNS if name in counts.var]
    best = max(candidates, key=lambda names: len(wanted & set(names)))  # the first of the best
    return np.asarray(unique_names(np.asarray(best, dtype=object), "gene symbols")[0], dtype=object)


def _column(counts: FilteredCounts, name: str | None) -> pd.Categorical | None:
    return None if name is None else counts.label(name)


def _phases(counts: FilteredCounts, name: str | None) -> pd.Categorical | None:
    """Cell cycle phases as the three categories in their order."""
    import pandas as pd

    if name is None:
        return None
    column = counts.label(name)
    unknown = sorted(set(column.categories) - set(PHASES))
    n_missing = int(np.count_nonzero(column.codes < 0))
    if unknown or n_missing:
        raise InputError(
            f"{counts.path}: obs[{name!r}]",
            f"the phases {', '.join(PHASES)}",
            f"{', '.join(map(repr, unknown[:5]))}{' and ' * bool(unknown and n_missing)}"
            f"{f'{n_missing} cells without one' if n_missing else ''}",
            "mend the column, or set screen.phase_column: null and screen.score_phases: true, which scores "
            "the cell cycle from the counts",
        )
    return pd.Categorical(np.asarray(column, dtype=object), categories=list(PHASES))
