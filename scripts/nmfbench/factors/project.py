"""Cells that a model was not fitted to, embedded by it.

>>> from nmfbench.factors.project import project
>>> projection = project("new_cells.h5ad", "ae_nmf/rank-30/seed-42/result.h5ad")  # doctest: +SKIP
>>> projection.embedding, projection.cells["cell_type_transferred"]  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.data.check import ValueCheck
from nmfbench.data.counts import locate_counts, open_counts
from nmfbench.data.filtered import normalise_block, read_filtered
from nmfbench.data.frames import frame_column, frame_columns, frame_index, read_lenient_frame
from nmfbench.data.h5ad import open_h5ad, reading
from nmfbench.errors import InputError
from nmfbench.factors.alignment import Alignment, align_genes, require_overlap
from nmfbench.factors.genes import GeneNames
from nmfbench.factors.restore import Restored, restore
from nmfbench.factors.transfer import N_NEIGHBOURS, NeighbourLabels, score_transfer
from nmfbench.metrics.labels import encode_labels
from nmfbench.rows.scaled import scale_columns

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from scipy import sparse

log = logging.getLogger(__name__)

_LABELS = ("cell_type",)


@dataclass(frozen=True)
class Projection:
    """What :func:`project` found.

    Attributes
    ----------
    embedding : ndarray of shape (n, k)
        Of the new cells, in the order of their file.
    key : str
        What the fit calls its embedding.
    cells : DataFrame of n rows
        Index: names of the cells. Transferred labels, confidence, distance; see
        :meth:`nmfbench.factors.transfer.NeighbourLabels.look_up`.
    genes : DataFrame
        How each gene of the fit was found; see :meth:`nmfbench.factors.alignment.Alignment.table`.
    scores : DataFrame
        A row for each label that is known of the new cells; see
        :class:`nmfbench.factors.transfer.TransferScore`.
    """

    embedding: np.ndarray
    key: str
    cells: pd.DataFrame
    genes: pd.DataFrame
    scores: pd.DataFrame


def project(
    cells: str | Path,
    result: str | Path,
    *,
    record: str | Path | None = None,
    filtered: str | Path | None = None,
    matrix: str = "auto",
    labels: Mapping[str, str | None] | None = None,
    n_neighbours: int = N_NEIGHBOURS,
    n_jobs: int = 1,
) -> Projection:
    """Embed the cells of an .h5ad by a fit, and give them the labels of the nearest cells of the fit.

    Genes are aligned by Ensembl id without version, then by name, then by symbol; those that are missing
    count as zero. The size of a cell is its sum over the aligned genes. The embedding is the model's own
    ``transform``.

    Parameters
    ----------
    cells : str or Path
        An .h5ad with raw counts.
    result, record : str or Path
        ``result.h5ad`` and ``run.json`` of the fit; the second by default beside the first.
    filtered : str or Path, optional
        The counts that the fit was trained on. Models whose stored embedding is not their transform (all but
        the autoencoders) embed them anew for the neighbours; without it the stored one is taken, and said.
    matrix : str
        Where the counts lie: ``auto``, ``X``, ``raw`` or a layer.
    labels : mapping of str to (str or None), optional
        Label of the fit to be transferred -> column of the new cells that holds the truth, or None. By
        default ``cell_type``, with the truth in a column of that name if there is one.
    n_neighbours, n_jobs : int

    Returns
    -------
    Projection

    Raises
    ------
    InputError
        The file cannot be read, holds no counts, or lacks more than half of the fit's genes; the model
        cannot embed new cells.
    """
    import pandas as pd

    restored = restore(result, record)
    reference = GeneNames.of(restored.fit.var)
    with open_h5ad(cells) as file:
        location = locate_counts(file, cells, matrix)
        names = frame_index(file["obs"])
        columns = frame_columns(file["obs"])
        var = _read_var(file, cells, location.var_key)
        other = GeneNames.of(var)
        alignment = align_genes(reference, other)
        require_overlap(alignment, (str(result), str(cells)), reference, other)
        check = ValueCheck(file, Path(cells), location, names, var.index)
        with open_counts(file, location, cells, Path(f"{result}.project-rows")) as counts:
            embedding = _embed(restored, alignment, counts.blocks(), len(names), check)
        truths = {
            label: frame_column(file["obs"], column)
            for label, column in _truths(labels, columns, cells).items()
            if column is not None
        }
    there = int((alignment.positions >= 0).sum())
    log.info("%d cells; %d of %d genes of the fit are there", len(names), there, len(alignment.positions))
    known = {label: restored.fit.label(label) for label in _truths(labels, columns, cells)}
    neighbours = NeighbourLabels(_training_cells(restored, filtered), known, n_neighbours, n_jobs)
    found = neighbours.look_up(embedding).set_index(pd.Index(names.astype(str), name="cell"))
    scores = []
    for label, values in truths.items():
        codes, classes = encode_labels(values)
        truth = np.append(classes, None)[codes]
        score = score_transfer(truth, found[f"{label}_transferred"].to_numpy(), known[label][1])
        scores.append({"label": label, **vars(score)})
    return Projection(
        embedding, restored.fit.embedding_key, found, alignment.table(reference, other), pd.DataFrame(scores)
    )


def write_projection(projection: Projection, path: str | Path, obs: pd.DataFrame | None = None) -> None:
    """Write the embedding (obsm) and the transferred labels (obs) as an .h5ad, whole or not at all."""
    from nmfbench.data.writer import whole_h5ad, write_sections

    table = projection.cells.copy()
    for column in table.select_dtypes(object):
        table[column] = table[column].fillna("").astype("category")
    if obs is not None:
        table = obs.join(table)
    uns = {"nmfbench_projection": {"schema": "nmfbench-projection-1", "embedding": projection.key}}
    with whole_h5ad(path) as new:
        embedding = projection.embedding.astype(np.float32)
        write_sections(new.hdf5, {"obs": table, "obsm": {projection.key: embedding}, "uns": uns})


def _read_var(file: h5py.File, cells: str | Path, key: str) -> pd.DataFrame:
    """Genes of the chosen matrix, repeated names left as they are; the fuller var where raw has the same."""
    with reading(cells, key):
        var, notes = read_lenient_frame(file[key], key)
        if key != "var" and np.array_equal(frame_index(file["var"]), var.index):
            var, notes = read_lenient_frame(file["var"], "var")
    for note in notes:
        log.warning("%s", note)
    return var


def _embed(
    restored: Restored,
    alignment: Alignment,
    blocks: Iterator[tuple[np.ndarray, sparse.csr_matrix]],
    n_cells: int,
    check: ValueCheck | None = None,
) -> np.ndarray:
    embedding = np.zeros((n_cells, restored.fit.n_factors), dtype=np.float32)
    selector = alignment.selector()
    for rows, block in blocks:
        if check is not None:
            check.update(rows, block)
        embedding[rows] = _transform(restored, (block.astype(np.float32) @ selector).tocsr())
    if check is not None:
        check.warnings()
    return embedding


def _transform(restored: Restored, counts: sparse.csr_matrix) -> np.ndarray:
    """The model's own transform of raw counts with the genes of the fit."""
    counts.sort_indices()
    values = normalise_block(counts, **restored.normalisation)
    if restored.gene_factors is not None:
        values = scale_columns(values, restored.gene_factors)
    H = restored.model.transform(values)
    # constant cell patterns stand before the factors and are not scored
    return H[:, H.shape[1] - restored.fit.n_factors :]


def _training_cells(restored: Restored, filtered: str | Path | None) -> np.ndarray:
    """The embedding of the fit's own cells, made as that of new ones is."""
    if restored.model.transform_is_embedding or filtered is None:
        if not restored.model.transform_is_embedding:
            log.warning("the stored embedding of the fit is taken for its cells: name its filtered counts")
        return restored.fit.rows(0, restored.fit.n_cells)
    data = read_filtered(filtered)
    if data.n_cells != restored.fit.n_cells or data.n_genes != restored.fit.n_genes:
        raise InputError(
            f"{filtered} and {restored.fit.path}",
            "the filtered counts that the fit was trained on",
            f"{data.n_cells} cells x {data.n_genes} genes",
            "name the filtered.h5ad of its dataset",
        )
    return np.vstack([_transform(restored, block) for _, block in data.blocks()])


def _truths(
    labels: Mapping[str, str | None] | None, columns: list[str], cells: str | Path
) -> dict[str, str | None]:
    """Label to be transferred -> column with the truth, or None; a column that is named must be there."""
    if labels is None:
        return {label: label if label in columns else None for label in _LABELS}
    for column in labels.values():
        if column is not None and column not in columns:
            raise InputError(
                f"{cells}: obs[{column!r}]",
                "a column with known labels",
                f"the columns {', '.join(columns)}",
                "name one of these, or none",
            )
    return dict(labels)
