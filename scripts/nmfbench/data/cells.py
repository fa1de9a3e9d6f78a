"""Which cells of a file can be used, told from obs alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data.frames import RESERVED, frame_column, frame_columns, stored_form
from nmfbench.data.h5ad import reading
from nmfbench.data.labels import as_text, count_codes, require_columns, stored_labels
from nmfbench.data.names import CellNames
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    import pandas as pd

logger = logging.getLogger(__name__)

LABEL, DONOR = "cell_type", "donor_id"


@dataclass
class CellTable:
    """What is known of the cells of a file before any count is read.

    Attributes
    ----------
    columns : dict
        What is kept, in its order: text and labels as clean categories (a byte or two a cell), each cell of
        the file; of other columns the name in the file.
    names : CellNames
        The cells' ids, without repetition.
    keep : numpy.ndarray, shape (cells,)
        Booleans: the cell passes the filters and has its labels.
    dropped : dict
        Number of cells by reason; the first reason counts.
    warnings : list of str
        For the provenance.
    """

    columns: dict[str, pd.Categorical | str]
    names: CellNames
    keep: np.ndarray
    dropped: dict[str, int]
    warnings: list[str] = field(default_factory=list)

    def drop(self, reason: str, keep: np.ndarray) -> None:
        """Keep only cells for which `keep`, shape (cells,), is true; count the others under `reason`."""
        count = int(np.count_nonzero(self.keep & ~keep))
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.keep &= keep
        if count:
            logger.info("dropped %d cells: %s", count, reason.replace("_", " "))


def read_cells(
    file: h5py.File,
    path: Path,
    *,
    cell_type_column: str,
    donor_column: str,
    condition_columns: Sequence[str] = (),
    keep_obs: Sequence[str] = (),
    obs_filters: Mapping[str, Any] | None = None,
) -> CellTable:
    """Read the columns of obs that matter and decide which cells can be used.

    Cell type and donor are also stored under the standard names ``cell_type`` and ``donor_id``, which
    stand for them in `condition_columns` too. Cells without one of the labels are dropped.

    Parameters
    ----------
    file, path
        The open h5ad file and its name.
    cell_type_column, donor_column
        Columns with the cell type and the donor.
    condition_columns
        Further columns a model may be conditioned on.
    keep_obs
        Further columns to keep.
    obs_filters
        Column -> value or list of values that a cell must have.

    Raises
    ------
    InputError
        A column is missing, or no cell is left.
    """
    filters = dict(obs_filters or {})
    condition_columns = [name for name in condition_columns if name not in (LABEL, DONOR)]
    wanted = [("cell_type_column", cell_type_column), ("donor_column", donor_column)]
    wanted += [("condition_columns", name) for name in condition_columns]
    wanted += [("keep_obs", name) for name in keep_obs]
    columns = frame_columns(file["obs"])
    require_columns([*wanted, *(("obs_filters", name) for name in filters)], columns, path)

    notes: list[str] = []

    def labels_of(name: str) -> pd.Categorical:
        with reading(path, f"obs[{name!r}]"):
            return stored_labels(file["obs"], name, notes)

    with reading(path, "obs"):
        names = CellNames(file["obs"])
    labels = {name: labels_of(name) for name in (cell_type_column, donor_column, *condition_columns)}
    kept: dict[str, pd.Categorical | str] = {}
    for name in dict.fromkeys(name for _, name in wanted):
        if name in labels:
            kept[name] = labels[name]
        else:
            with reading(path, f"obs[{name!r}]"):
                kept[name] = _kept(file["obs"], name, notes)
    filtered_on = {name: labels_of(name) for name in filters}
    notes = names.warnings + list(dict.fromkeys(notes))
    notes += _add_standard_names(kept, cell_type_column, donor_column, columns)
    for name in [name for name in kept if name == RESERVED or "/" in name]:
        # anndata writes no such column; as cell type or donor it has a name of its own anyway
        if name not in (cell_type_column, donor_column):
            notes.append(f"obs[{name!r}] is left out: a name that anndata does not write")
        del kept[name]
    table = CellTable(kept, names, np.ones(len(names), dtype=bool), {}, notes)
    for name, values in filters.items():
        _apply_filter(table, path, name, values, filtered_on[name])
    for reason, name in (("missing_label", cell_type_column), ("missing_donor", donor_column)):
        table.drop(reason, labels[name].codes >= 0)
    for name in condition_columns:
        table.drop("missing_condition", labels[name].codes >= 0)
    if not table.keep.any():
        raise InputError(
            f"{path}: obs",
            f"cells with a {cell_type_column!r} and a {donor_column!r}",
            f"none of {len(names)} cells is left: {json.dumps(table.dropped)}",
            "choose other columns with datasets.<name>.cell_type_column, donor_column, condition_columns",
        )
    return table


def _kept(group: h5py.Group, name: str, notes: list[str]) -> pd.Categorical | str:
    """A column that is only carried along: text as clean categories, else its name."""
    form = stored_form(group, name)
    if form == "numbers":
        return name
    if form == "nullable" and not (
        isinstance(values := frame_column(group, name), np.ndarray) and values.dtype == object
    ):
        return name
    return stored_labels(group, name, notes)


def _add_standard_names(
    obs: dict[str, pd.Categorical | str], label: str, donor: str, columns: Sequence[str]
) -> list[str]:
    """Give obs the columns ``cell_type`` and ``donor_id``; returns warnings about what they hide."""
    notes = []
    chosen = {LABEL: obs[label], DONOR: obs[donor]}
    for standard, name in ((LABEL, label), (DONOR, donor)):
        if name == standard or standard not in columns:
            continue
        notes.append(f"{standard} of the results is {name!r} of the source, not its own {standard!r}")
        if standard in obs and standard not in (label, donor):
            obs[f"source_{standard}"] = obs[standard]
    for standard, values in chosen.items():
        obs[standard] = values
    return notes


def _apply_filter(table: CellTable, path: Path, name: str, values: Any, column: pd.Categorical) -> None:
    """Keep the cells whose `column` has one of `values`."""
    wanted = {as_text(value) for value in (values if isinstance(values, list | tuple | set) else [values])}
    there = np.array([*column.categories, None], dtype=object)  # the code -1 is a missing value
    hit = np.array([value in wanted for value in there])[column.codes]
    counts = count_codes(column.codes, len(column.categories), table.keep)
    available = ", ".join(
        f"{value!r} ({count})" for value, count in zip(column.categories, counts, strict=True) if count
    )
    if not (hit & table.keep).any():
        raise InputError(
            f"{path}: obs[{name!r}]",
            f"some cells with {' or '.join(repr(value) for value in sorted(wanted))}",
            f"none; the values are {available or 'all missing'}",
            f"change datasets.<name>.obs_filters.{name}",
        )
    unknown = sorted(wanted - set(column.categories))
    if unknown:
        table.warnings.append(f"obs_filters.{name}: no cell has {', '.join(map(repr, unknown))}")
    table.drop("obs_filters", hit)
