"""Keep the cells of donors that gave enough of them.

The counts are read in row blocks and written in row blocks, twice to four times over (checks;
moments and clipped variance for variable genes; writing), so peak memory holds one block and the
columns of obs, never the matrix.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data.cells import DONOR, CellTable, read_cells, unique_names
from nmfbench.data.check import ValueCheck
from nmfbench.data.counts import CountsLocation, CountsReader, locate_counts, open_counts
from nmfbench.data.filtered import PROVENANCE_KEY, SPATIAL
from nmfbench.data.genes import GeneChoice, select_genes
from nmfbench.data.h5ad import open_h5ad, read_frame, reading
from nmfbench.data.writer import disk_errors, whole_h5ad, write_frame, write_sections
from nmfbench.errors import InputError

if TYPE_CHECKING:
    import h5py
    import pandas as pd

logger = logging.getLogger(__name__)


def filter_donors(
    source_path: str | Path,
    output_path: str | Path,
    donors_path: str | Path,
    *,
    matrix: Mapping[str, Any] | None = None,
    cell_type_column: str = "cell_type",
    donor_column: str = "donor_id",
    condition_columns: Sequence[str] = (),
    keep_obs: Sequence[str] = (),
    obs_filters: Mapping[str, Any] | None = None,
    min_cells_per_donor: int = 5000,
    genes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the counts of the usable cells of the large enough donors.

    Parameters
    ----------
    source_path
        An h5ad file; never loaded as a whole.
    output_path
        ``filtered.h5ad``: X raw counts (CSR, float32), obs, var, the provenance in uns, and
        ``obsm["spatial"]`` where the source has it.
    donors_path
        ``donors.tsv``: donor, n_cells (usable ones), kept, reason.
    matrix
        Where the counts are: ``source`` (see :func:`~nmfbench.data.counts.locate_counts`),
        ``allow_non_integer``, ``assume`` (see :class:`~nmfbench.data.check.ValueCheck`).
    cell_type_column, donor_column, condition_columns, keep_obs, obs_filters
        See :func:`~nmfbench.data.cells.read_cells`.
    min_cells_per_donor
        Usable cells a donor must have.
    genes
        ``select``, ``min_cells``, ``n_top``; see :func:`~nmfbench.data.genes.select_genes`.

    Returns
    -------
    dict
        The provenance that is stored in ``uns["nmfbench_filter"]``.

    Raises
    ------
    InputError
        The input cannot be used or the disk is full. Nothing is left half-written.
    """
    source_path, output_path, donors_path = Path(source_path), Path(output_path), Path(donors_path)
    matrix = dict(matrix or {})
    with open_h5ad(source_path) as file:
        location = locate_counts(file, source_path, matrix.pop("source", "auto"))
        table = read_cells(
            file,
            source_path,
            cell_type_column=cell_type_column,
            donor_column=donor_column,
            condition_columns=condition_columns,
            keep_obs=keep_obs,
            obs_filters=obs_filters,
        )
        var = _read_var(file, source_path, location, table.warnings)
        coordinates = _read_coordinates(file, source_path, table.warnings)
        check = ValueCheck(file, source_path, location, table.names, var.index, **matrix)
        output_path.parent.mkdir(parents=True, exist_ok=True)
        scratch = output_path.with_name(f".{output_path.name}.rows")
        with disk_errors(scratch), open_counts(file, location, source_path, scratch) as counts:
            _drop_empty_cells(counts, table, check)
            donors = _choose_donors(table, min_cells_per_donor, source_path, donor_column)
            choice = _choose_genes(counts, table, genes or {})
            table.warnings += check.warnings() + choice.warnings
            for note in table.warnings:
                logger.warning("%s", note)
            provenance = {
                "source_file": source_path.name,
                "source_bytes": source_path.stat().st_size,
                "counts": check.report(),
                "normalised": False,
                "cell_type_column": cell_type_column,
                "donor_column": donor_column,
                "condition_columns": list(condition_columns),
                "obs_filters": json.dumps(dict(obs_filters or {}), default=str, sort_keys=True),
                "min_cells_per_donor": min_cells_per_donor,
                "genes": {"select": "none", **(genes or {})},
                "n_donors": int(donors["kept"].sum()),
                "n_donors_before": len(donors),
            }
            _write(
                counts,
                table,
                var,
                choice,
                output_path,
                provenance,
                coordinates=coordinates,
                max_nonzeros=check.n_values,
            )
    try:
        with disk_errors(donors_path):
            _write_table(donors, donors_path)
    except BaseException:
        output_path.unlink(missing_ok=True)
        raise
    return provenance


def _read_var(file: h5py.File, path: Path, location: CountsLocation, warnings: list[str]) -> pd.DataFrame:
    """Genes of the chosen matrix; the fuller var where raw has the same genes."""
    with reading(path, location.var_key):
        var = read_frame(file[location.var_key])
        if location.var_key != "var":
            other = read_frame(file["var"])
            if var.index.equals(other.index):
                var = other
    names, notes = unique_names(var.index.to_numpy(), "gene names")
    warnings += notes
    var.index = names
    var.index.name = None
    return var


def _read_coordinates(file: h5py.File, path: Path, warnings: list[str]) -> np.ndarray | None:
    """``obsm["spatial"]`` (cells x 2 or 3) where the file has it in a form that can be used."""
    import h5py

    place = f"obsm/{SPATIAL}"
    if place not in file:
        return None
    stored = file[place]
    if not isinstance(stored, h5py.Dataset) or stored.ndim != 2 or stored.shape[1] not in (2, 3):
        warnings.append(f"obsm[{SPATIAL!r}] is not a matrix of two or three columns and is left out")
        return None
    with reading(path, place):
        coordinates = stored[:].astype(np.float64)
    if not np.isfinite(coordinates).all():
        warnings.append(f"obsm[{SPATIAL!r}] holds values that are not finite and is left out")
        return None
    return coordinates


def _drop_empty_cells(counts: CountsReader, table: CellTable, check: ValueCheck) -> None:
    """Check every value of the candidate cells and drop the cells without a count."""
    has_counts = np.zeros(counts.n_cells, dtype=bool)
    for rows, block in counts.blocks(table.keep):
        check.update(rows, block)
        has_counts[rows] = np.diff(block.indptr) > 0
    table.drop("no_counts", has_counts)
    if not table.keep.any():
        raise InputError(
            f"{check.path}: {check.location.source}",
            "cells with counts",
            f"only zeros in all {check.location.shape[0]} cells that could be used",
            "choose other counts with datasets.<name>.matrix.source",
        )


def _choose_donors(table: CellTable, minimum: int, path: Path, column: str) -> pd.DataFrame:
    """Table of donors (donor, n_cells, kept, reason), largest first; drops the cells of small ones."""
    import pandas as pd

    labels = table.obs[DONOR].array
    sizes = np.bincount(labels.codes[table.keep], minlength=len(labels.categories))
    large = sizes >= max(minimum, 1)
    reasons = [
        "" if ok else f"fewer than {minimum} cells" if size else "no usable cell"
        for ok, size in zip(large, sizes, strict=True)
    ]
    donors = pd.DataFrame(
        {"donor": np.asarray(labels.categories), "n_cells": sizes, "kept": large, "reason": reasons}
    ).sort_values(["n_cells", "donor"], ascending=[False, True], ignore_index=True)
    if not large.any():
        first = donors.iloc[0]
        raise InputError(
            f"{path}: obs[{column!r}]",
            f"a donor with at least {minimum} usable cells",
            f"{len(donors)} donors, the largest, {first['donor']!r}, with {first['n_cells']}",
            "lower datasets.<name>.min_cells_per_donor",
        )
    # A usable cell has a donor, so the code -1 is never looked up for one.
    table.drop("small_donor", large[labels.codes])
    return donors


def _choose_genes(counts: CountsReader, table: CellTable, genes: Mapping[str, Any]) -> GeneChoice:
    """Select genes from the kept cells; drop the cells that have counts only in other genes."""
    choice = select_genes(lambda: (block for _, block in counts.blocks(table.keep)), counts.n_genes, **genes)
    if choice.keep.all():
        return choice
    has_counts = np.zeros(counts.n_cells, dtype=bool)
    for rows, block in counts.blocks(table.keep):
        has_counts[rows] = np.diff(block[:, choice.keep].indptr) > 0
    table.drop("no_counts_in_chosen_genes", has_counts)
    return choice


def _write(
    counts: CountsReader,
    table: CellTable,
    var: pd.DataFrame,
    choice: GeneChoice,
    path: Path,
    provenance: dict[str, Any],
    *,
    coordinates: np.ndarray | None,
    max_nonzeros: int,
) -> None:
    """Write ``filtered.h5ad`` and complete `provenance`."""
    obs, names = table.obs[table.keep].copy(), table.names[table.keep]
    for name in obs.select_dtypes("category"):
        obs[name] = obs[name].cat.remove_unused_categories()
    var = var[choice.keep].copy()
    fingerprint = _Fingerprint()
    n_nonzero = np.zeros(len(var), dtype=np.int64)
    with whole_h5ad(path) as file:
        # Decompressing h5py blocks costs more than selecting columns, so all genes are read.
        writer = file.csr("X", len(var), max_nonzeros)
        for _, block in counts.blocks(table.keep):
            block = block if choice.keep.all() else block[:, choice.keep]
            block = block.astype(np.float32)
            writer.append(block)
            fingerprint.add_block(block)
            n_nonzero += np.bincount(block.indices, minlength=len(var))
        writer.finish()
        var["n_cells"] = n_nonzero
        if choice.variances_norm is not None:
            var["variances_norm"] = choice.variances_norm[choice.keep]
        fingerprint.add_names(names, obs, var)
        obsm = {}
        if coordinates is not None:
            obsm[SPATIAL] = coordinates[table.keep]
            fingerprint.add_coordinates(obsm[SPATIAL])
        provenance |= {
            "fingerprint": fingerprint.hexdigest(),
            "n_cells": len(obs),
            "n_cells_before": len(table.keep),
            "n_genes": len(var),
            "n_genes_before": counts.n_genes,
            "n_nonzeros": writer.nnz,
            "n_genes_all_zero": int((n_nonzero == 0).sum()),
            "dropped_cells": table.dropped,
            "warnings": np.array(table.warnings, dtype=object),
        }
        write_frame(file.hdf5, "obs", obs, names)
        write_sections(file.hdf5, {"var": var, "obsm": obsm, "uns": {PROVENANCE_KEY: provenance}})
    provenance["warnings"] = list(table.warnings)
    logger.info(
        "kept %d of %d cells, %d of %d donors, %d of %d genes (%d of them all zero), %d nonzeros",
        len(obs), len(table.keep), provenance["n_donors"], provenance["n_donors_before"],
        len(var), counts.n_genes, provenance["n_genes_all_zero"], writer.nnz,
    )  # fmt: skip


def _write_table(donors: pd.DataFrame, path: Path) -> None:
    """Write `donors` as TSV, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        donors.to_csv(part, sep="\t", index=False)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class _Fingerprint:
    """SHA-256 of the content that training sees, whatever the blocks it came in.

    Covers the counts, the gene names, the cell ids, the text columns of obs (labels, donors,
    conditions) and the coordinates, so that a changed label is a changed data set.
    """

    def __init__(self) -> None:
        self._parts = {name: hashlib.sha256() for name in ("lengths", "indices", "data", "names")}

    def add_block(self, block: Any) -> None:
        """Add rows of counts."""
        self._parts["lengths"].update(np.diff(block.indptr).astype("<i8").tobytes())
        self._parts["indices"].update(block.indices.astype("<i8", copy=False).tobytes())
        self._parts["data"].update(block.data.astype("<f4", copy=False).tobytes())

    def add_names(self, names: np.ndarray, obs: pd.DataFrame, var: pd.DataFrame) -> None:
        """Add the names and labels; `names` are the cells' ids as bytes."""
        columns = {name: obs[name] for name in sorted(obs.select_dtypes("category"))}
        for words in (var.index, names, columns, *columns.values()):
            for word in words:
                text = word if isinstance(word, bytes) else str(word).encode()
                self._parts["names"].update(text + b"\0")
            self._parts["names"].update(b"\1")

    def add_coordinates(self, coordinates: np.ndarray) -> None:
        """Add where the cells lie; a data set without coordinates keeps the digest it had."""
        self._parts["names"].update(coordinates.astype("<f8").tobytes())

    def hexdigest(self) -> str:
        """The fingerprint."""
        return hashlib.sha256("".join(p.hexdigest() for p in self._parts.values()).encode()).hexdigest()
