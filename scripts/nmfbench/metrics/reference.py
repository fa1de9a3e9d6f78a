"""What integration scores compare an embedding with: principal components of the cells, and of each donor's.

They are those of the log-normalised, most variable genes: exact, from the Gram matrix of these genes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nmfbench.components import principal_components
from nmfbench.errors import InputError
from nmfbench.metrics.separation import type_distances

N_COMPONENTS = 50
N_GENES = 2000
DONOR_CELLS = 100  # a donor with fewer has no part in the consensus


@dataclass(frozen=True)
class Reference:
    """The unintegrated cells of a dataset.

    Attributes
    ----------
    components : ndarray of float32, shape (n_cells, 50)
        Principal components.
    consensus : ndarray of float64, shape (n_types, n_types)
        Mean over donors of the distances between cell types in each donor's own components; NaN where no
        donor has both.
    types : ndarray of str, shape (n_types,)
        Cell types of the rows and columns.
    n_donors : int
        Donors in the consensus.
    """

    components: np.ndarray
    consensus: np.ndarray
    types: np.ndarray
    n_donors: int


def make_reference(filtered: str | Path, *, n_genes: int = N_GENES) -> Reference:
    """Make the reference of a dataset from its filtered counts.

    Parameters
    ----------
    filtered : path
        The filtered counts. Always normalised to 10,000 a cell and log1p here, whatever the models are given.
    n_genes : int
        Most variable genes (standardised variance of the counts, as seurat_v3).
    """
    from scipy.sparse import vstack

    from nmfbench.data.filtered import normalise_block, read_filtered
    from nmfbench.data.genes import gene_moments, standardised_variance
    from nmfbench.metrics.labels import encode_labels

    data = read_filtered(filtered)

    def blocks():
        return (block for _, block in data.blocks())

    chosen = np.arange(len(data.var))
    if n_genes < chosen.size:
        variance = standardised_variance(blocks, gene_moments(blocks(), chosen.size))
        chosen = np.sort(np.argsort(-variance, kind="stable")[:n_genes])
    X = vstack(
        [normalise_block(block, target_sum=1e4, log1p=True)[:, chosen] for block in blocks()], format="csr"
    )
    types, names = encode_labels(data.obs["cell_type"])
    donors, _ = encode_labels(data.obs["donor_id"])
    graphs = []
    for donor in range(int(donors.max()) + 1):
        cells = np.flatnonzero(donors == donor)
        if cells.size >= DONOR_CELLS:
            own = principal_components(X[cells], N_COMPONENTS)
            graphs.append(type_distances(own, types[cells], names.size))
    stack = np.array(graphs) if graphs else np.full((1, names.size, names.size), np.nan)
    counted = np.isfinite(stack).sum(axis=0)
    consensus = np.where(counted > 0, np.nansum(stack, axis=0) / np.maximum(counted, 1), np.nan)
    return Reference(principal_components(X, N_COMPONENTS), consensus, names.astype(str), len(graphs))


def save_reference(path: str | Path, reference: Reference) -> None:
    """Write a reference, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.new.npz")
    try:
        np.savez(temporary, **vars(reference))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_reference(path: str | Path, n_cells: int, cells: np.ndarray | None = None) -> Reference:
    """Read a reference for so many cells: all of the dataset's, or those that `cells` numbers."""
    with open(path, "rb") as file, np.load(file) as arrays:
        found = Reference(**{name: arrays[name] for name in arrays.files})
    if cells is not None and len(cells) == n_cells and cells.max(initial=-1) < len(found.components):
        return replace(found, components=found.components[cells])
    if len(found.components) != n_cells:
        raise InputError(
            f"{path}: cells",
            f"the {n_cells} cells of the embedding",
            str(len(found.components)),
            "make it anew (snakemake --forcerun make_reference)",
        )
    return found
