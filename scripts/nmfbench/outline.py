"""What a dataset holds, from the outline of its file: cells, donors kept and dropped, before any job runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError


@dataclass(frozen=True)
class Outline:
    """Cells, genes and donors of a dataset.

    Attributes
    ----------
    n_cells, n_genes : int
        Of the file.
    n_usable, n_kept : int
        Cells that have every label and pass the filters, and those of them whose donor is kept.
    donors : dict of str to int
        Usable cells of each donor, largest first.
    minimum : int
        Usable cells that a donor must have.
    n_types : int
        Cell types among the usable cells.
    """

    n_cells: int
    n_genes: int
    n_usable: int
    n_kept: int
    donors: dict[str, int]
    minimum: int
    n_types: int

    def __str__(self) -> str:
        kept = {donor: n for donor, n in self.donors.items() if n >= self.minimum}
        dropped = {donor: n for donor, n in self.donors.items() if n < self.minimum}
        text = f"{self.n_cells:,} cells x {self.n_genes:,} genes; {self.n_usable:,} usable, "
        text += f"{self.n_types} cell types\n  kept: {self.n_kept:,} cells of {len(kept)} donors "
        text += f"with at least {self.minimum:,}: {_list(kept)}"
        if dropped:
            n_cells = sum(dropped.values())
            text += f"\n  dropped: {n_cells:,} cells of {len(dropped)} smaller donors: {_list(dropped)}"
        return text


def outline(dataset: Any) -> Outline | str:
    """Read the outline of a dataset.

    Parameters
    ----------
    dataset : section of a config
        ``path``, or ``url``, or ``simulate``; the columns; ``obs_filters``; ``min_cells_per_donor``.

    Returns
    -------
    Outline or str
        In words what is known where the file is made or fetched only when the workflow runs.

    Raises
    ------
    InputError
        The file, a column (with those that may be meant) or the donors cannot be used.
    """
    if dataset.simulate is not None:
        simulated = dataset.simulate
        text = f"simulated, {simulated.n_cells:,} cells x {simulated.n_genes:,} genes, "
        return f"{text}{simulated.n_donors} donors and {simulated.n_small_donors} small ones"
    if dataset.path is None:
        size = f"{dataset.size / 1e9:.1f} GB" if dataset.size else "of a size that is not stated"
        return f"a download {size}: its columns and donors are read when it is there"
    return outline_of_file(
        dataset.path,
        source=dataset.matrix.source,
        minimum=dataset.min_cells_per_donor,
        cell_type_column=dataset.cell_type_column,
        donor_column=dataset.donor_column,
        condition_columns=dataset.condition_columns,
        keep_obs=dataset.keep_obs,
        obs_filters=dataset.obs_filters,
    )


def outline_of_file(path: str | Path, *, source: str = "auto", minimum: int, **columns: Any) -> Outline:
    """Read the outline of an .h5ad: obs and the shape of the counts, but no count.

    Parameters
    ----------
    path : path
    source : str
        Where the counts lie (:func:`nmfbench.data.counts.locate_counts`).
    minimum : int
        Usable cells that a donor must have.
    **columns
        As :func:`nmfbench.data.cells.read_cells` takes them.
    """
    from nmfbench.data.cells import DONOR, LABEL, read_cells
    from nmfbench.data.counts import locate_counts
    from nmfbench.data.h5ad import open_h5ad
    from nmfbench.data.labels import count_codes

    with open_h5ad(path) as file:
        location = locate_counts(file, Path(path), source)
        table = read_cells(file, Path(path), **columns)
    donors, types = table.columns[DONOR], table.columns[LABEL]
    sizes = count_codes(donors.codes, len(donors.categories), table.keep)
    order = np.argsort(-sizes, kind="stable")
    counted = {str(donors.categories[place]): int(sizes[place]) for place in order if sizes[place]}
    kept = sum(n for n in counted.values() if n >= minimum)
    if not kept:
        largest = next(iter(counted.items()), ("none", 0))
        raise InputError(
            f"{path}: donors",
            f"a donor with at least {minimum:,} usable cells",
            f"{len(counted)} donors, the largest, {largest[0]!r}, with {largest[1]:,}",
            "lower datasets.<name>.min_cells_per_donor",
        )
    return Outline(
        n_cells=location.shape[0],
        n_genes=location.shape[1],
        n_usable=int(np.count_nonzero(table.keep)),
        n_kept=kept,
        donors=counted,
        minimum=minimum,
        n_types=int(np.count_nonzero(count_codes(types.codes, len(types.categories), table.keep))),
    )


def _list(donors: dict[str, int], most: int = 6) -> str:
    """Donors with their cells, the first few of them."""
    shown = ", ".join(f"{donor} ({n:,})" for donor, n in list(donors.items())[:most])
    return shown + (f" and {len(donors) - most} more" if len(donors) > most else "")
