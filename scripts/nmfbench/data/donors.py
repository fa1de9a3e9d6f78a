"""Keep the cells of donors that gave enough of them.

The counts are read in row blocks and written in row blocks, twice to four times over (checks;
moments and clipped variance for variable genes; writing), so peak memory holds one block and the
columns of obs, never the matrix.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.data.cells import DONOR, CellTable, read_cells
from nmfbench.data.check import ValueCheck
from nmfbench.data.checksum import as_stored, checksums
from nmfbench.data.counts import CountsLocation, CountsReader, locate_counts, open_counts
from nmfbench.data.filtered import PROVENANCE_KEY, SPATIAL
from nmfbench.data.fingerprint import Fingerprint
from nmfbench.data.frames import frame_column, frame_index, read_lenient_frame
from nmfbench.data.genes import GeneChoice, select_genes
from nmfbench.data.h5ad import open_h5ad, readable, reading
from nmfbench.data.labels import CELLS_AT_ONCE, count_codes, without_unused
from nmfbench.data.names import unique_names
from nmfbench.data.size import size_of
from nmfbench.data.totals import Totals
from nmfbench.data.writer import begin_array, disk_errors, whole_h5ad, write_frame, write_sections
from nmfbench.errors import InputError
from nmfbench.tables.files import write_table

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
        with reading(source_path, "obs, var and the outline of the counts"):
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
            coordinates = _find_coordinates(file, source_path, len(table.names), table.warnings)
        check = ValueCheck(file, source_path, location, table.names, var.index, **matrix)
        output_path.parent.mkdir(parents=True, exist_ok=True)
        scratch = output_path.with_name(f".{output_path.name}.rows")
        with disk_errors(scratch), open_counts(file, location, source_path, scratch) as counts:
            _drop_empty_cells(counts, table, check)
            donors = _choose_donors(table, min_cells_per_donor, source_path, donor_column)
            choice = _choose_genes(counts, table, genes or {})
            _recheck_donors(table, donors, min_cells_per_donor, source_path, donor_column)
            table.warnings += counts.warnings() + check.warnings() + choice.warnings
            provenance = {
                "source_file": source_path.name,
                "source_bytes": source_path.stat().st_size,
                "n_stored_before": size_of(file, location).n_nonzeros or 0,
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
                obs=file["obs"],
                coordinates=coordinates,
                max_nonzeros=check.n_values,
            )
    try:
        with disk_errors(donors_path):
            write_table(donors, donors_path)
    except BaseException:
        output_path.unlink(missing_ok=True)
        raise
    return provenance


def _read_var(file: h5py.File, path: Path, location: CountsLocation, warnings: list[str]) -> pd.DataFrame:
    """Genes of the chosen matrix; the fuller var where raw has the same genes."""
    key = location.var_key
    with reading(path, key):
        index = frame_index(file[key])
    if key != "var":
        with reading(path, "var"):
            key = "var" if np.array_equal(frame_index(file["var"]), index) else key
    with reading(path, key):
        var, left_out = read_lenient_frame(file[key], key, index)
    warnings += left_out
    names, notes = unique_names(var.index.to_numpy(), "gene names")
    warnings += notes
    var.index = names
    var.index.name = None
    return var


def _find_coordinates(file: h5py.File, path: Path, n_cells: int, warnings: list[str]) -> h5py.Dataset | None:
    """``obsm["spatial"]`` (cells x 2 or 3) where the file has it in a form that can be used."""
    import h5py

    place = f"obsm/{SPATIAL}"
    if "obsm" not in file or SPATIAL not in file["obsm"]:
        return None
    stored = file["obsm"].get(SPATIAL)  # None where a link leads nowhere
    fits = isinstance(stored, h5py.Dataset) and stored.ndim == 2 and stored.shape[1] in (2, 3)
    if not fits or stored.shape[0] != n_cells or stored.dtype.kind not in "iuf":
        warnings.append(f"obsm[{SPATIAL!r}] is not a matrix of two or three columns and is left out")
        return None
    with reading(path, place):
        finite = all(np.isfinite(part).all() for part in _coordinates(stored))
    if not finite:
        warnings.append(f"obsm[{SPATIAL!r}] holds values that are not finite and is left out")
    return stored if finite else None


def _coordinates(stored: h5py.Dataset, keep: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Where the cells (those that `keep` marks) lie, float64, a block of cells at a time."""
    for start in range(0, len(stored), CELLS_AT_ONCE):
        part = readable(stored)[start : start + CELLS_AT_ONCE].astype(np.float64)
        yield part if keep is None else part[keep[start : start + CELLS_AT_ONCE]]


def _copy_coordinates(stored: h5py.Dataset, keep: np.ndarray, obsm: h5py.Group) -> None:
    """Write where the kept cells lie."""
    shape = (int(np.count_nonzero(keep)), stored.shape[1])
    array, end = begin_array(obsm, SPATIAL, shape, np.float64), 0
    for part in _coordinates(stored, keep):
        array[end : end + len(part)] = part
        end += len(part)


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

    labels = table.columns[DONOR]
    sizes = count_codes(labels.codes, len(labels.categories), table.keep)
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


def _recheck_donors(table: CellTable, donors: pd.DataFrame, minimum: int, path: Path, column: str) -> None:
    """Hold the donors to the minimum again after cells without a count in the chosen genes have gone.

    `donors` is brought up to date. The genes are not chosen anew.
    """
    if not table.dropped.get("no_counts_in_chosen_genes"):
        return
    labels = table.columns[DONOR]
    sizes = count_codes(labels.codes, len(labels.categories), table.keep)
    now = donors["donor"].map(dict(zip(labels.categories, sizes.tolist(), strict=True))).to_numpy()
    small = donors["kept"].to_numpy() & (now < max(minimum, 1))
    donors.loc[donors["kept"], "n_cells"] = now[donors["kept"].to_numpy()]
    donors.loc[small, "kept"] = False
    donors.loc[small, "reason"] = f"fewer than {minimum} cells with a count in the chosen genes"
    if not donors["kept"].any():
        raise InputError(
            f"{path}: obs[{column!r}]",
            f"a donor with at least {minimum} cells that have a count in the chosen genes",
            f"at most {now.max()} cells of a donor",
            "keep more genes (datasets.<name>.genes), or lower datasets.<name>.min_cells_per_donor",
        )
    large = np.isin(np.asarray(labels.categories), donors.loc[donors["kept"], "donor"])
    table.drop("small_donor", large[labels.codes])
    donors.sort_values(
        ["kept", "n_cells", "donor"], ascending=[False, False, True], ignore_index=True, inplace=True
    )


def _write(
    counts: CountsReader,
    table: CellTable,
    var: pd.DataFrame,
    choice: GeneChoice,
    path: Path,
    provenance: dict[str, Any],
    *,
    obs: h5py.Group,
    coordinates: h5py.Dataset | None,
    max_nonzeros: int,
) -> None:
    """Write ``filtered.h5ad`` and complete `provenance`; `obs` and `coordinates` are those of the source."""
    from anndata.io import write_elem

    keep = table.keep
    n_cells = int(np.count_nonzero(keep))
    var = var[choice.keep].copy()
    fingerprint, totals = Fingerprint(), Totals()
    n_nonzero = np.zeros(len(var), dtype=np.int64)
    with whole_h5ad(path) as file:
        # Decompressing h5py blocks costs more than selecting columns, so all genes are read.
        writer = file.csr("X", len(var), max_nonzeros)
        for _, block in counts.blocks(keep):
            totals.update(block)
            block = block if choice.keep.all() else block[:, choice.keep]
            block = block.astype(np.float32, copy=False)
            writer.append(block)
            fingerprint.add_block(block)
            n_nonzero += np.bincount(block.indices, minlength=len(var))
        writer.finish()
        table.warnings += totals.warnings(counts.location.source)
        for note in table.warnings:
            logger.warning("%s", note)
        var["n_cells"] = n_nonzero
        if choice.variances_norm is not None:
            var["variances_norm"] = choice.variances_norm[choice.keep]
        text = {
            name: without_unused(values[keep])
            for name, values in table.columns.items()
            if not isinstance(values, str)
        }
        fingerprint.add_words(str(name).encode() for name in var.index)
        fingerprint.add_words(_names(table, counts.path))
        fingerprint.add_labels({name: text[name] for name in sorted(text)})
        if coordinates is not None:
            for part in _coordinates(coordinates, keep):
                fingerprint.add_coordinates(part)
        provenance |= {
            "fingerprint": fingerprint.hexdigest(),
            "n_cells": n_cells,
            "n_cells_before": len(keep),
            "n_genes": len(var),
            "n_genes_before": counts.n_genes,
            "n_nonzeros": writer.nnz,
            "n_genes_all_zero": int((n_nonzero == 0).sum()),
            "dropped_cells": table.dropped,
            "warnings": np.array(table.warnings, dtype=object),
        }
        columns = _columns(table, obs, text, counts.path)
        write_frame(file.hdf5, "obs", n_cells, _names(table, counts.path), columns)
        write_sections(file.hdf5, {"var": var})
        if coordinates is not None:
            _copy_coordinates(coordinates, keep, file.hdf5["obsm"])
        provenance["checksums"] = as_stored(
            fingerprint.of_counts() | checksums(file.hdf5, "obs", "var", f"obsm/{SPATIAL}")
        )
        write_elem(file.hdf5, f"uns/{PROVENANCE_KEY}", provenance)
    provenance["warnings"] = list(table.warnings)
    del provenance["checksums"]  # of use beside the content alone
    logger.info(
        "kept %d of %d cells, %d of %d donors, %d of %d genes (%d of them all zero), %d nonzeros",
        n_cells, len(keep), provenance["n_donors"], provenance["n_donors_before"],
        len(var), counts.n_genes, provenance["n_genes_all_zero"], writer.nnz,
    )  # fmt: skip


def _names(table: CellTable, path: Path) -> Iterator[bytes]:
    """The ids of the kept cells."""
    with reading(path, "obs"):
        for block in table.names.blocks(table.keep):
            yield from block


def _columns(
    table: CellTable, obs: h5py.Group, text: Mapping[str, pd.Categorical], path: Path
) -> Iterator[tuple[str, Any]]:
    """The columns of the kept cells: those in `text` as they are there, others from the source."""
    for name, values in table.columns.items():
        if name in text:
            yield name, text[name]
            continue
        with reading(path, f"obs[{values!r}]"):
            column = frame_column(obs, values)[table.keep]
        yield name, column
