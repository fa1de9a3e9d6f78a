"""Vectors of genes and of targets, from tables, from control cells or from a fit of the first task."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError
from nmfbench.perturbation.screen import Screen
from nmfbench.perturbation.splits import TRAIN_CONTROL, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedding:
    """Vectors, aligned to the genes of a screen.

    Attributes
    ----------
    genes : ndarray of shape (genes, width)
        A gene without a vector has a row of zeros.
    vectors : dict of str to ndarray of shape (width of targets,)
        Of the targets that have one.
    missing_genes : list of str
    components : int
        More than 0: there are no vectors yet; they are made in each fold from the responses of its training
        targets (:func:`response_embedding`), so many of them.
    pair_separator : str
        A double perturbation without a vector of its own has the sum of its two.
    """

    genes: np.ndarray
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    missing_genes: list[str] = field(default_factory=list)
    components: int = 0
    pair_separator: str = "+"

    @property
    def target_width(self) -> int:
        """Width of the targets' vectors."""
        return len(next(iter(self.vectors.values()))) if self.vectors else self.genes.shape[1]

    def of(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of targets, shape (targets, width), and a mask of those that have none (rows of zeros)."""
        rows = np.zeros((len(names), self.target_width))
        missing = np.zeros(len(names), dtype=bool)
        for row, name in enumerate(names):
            parts = [name] if name in self.vectors else str(name).split(self.pair_separator)
            missing[row] = not all(part in self.vectors for part in parts)
            if not missing[row]:
                rows[row] = np.sum([self.vectors[part] for part in parts], axis=0)
        return rows, missing

    def save(self, path: str | Path) -> None:
        """Write the vectors and the names of those that have none."""
        np.savez(
            path,
            genes=self.genes,
            names=np.array(list(self.vectors), dtype=str),
            vectors=np.array(list(self.vectors.values())).reshape(len(self.vectors), self.target_width),
            missing_genes=np.array(self.missing_genes, dtype=str),
            components=self.components,
            pair_separator=self.pair_separator,
        )


def read_embedding(path: str | Path) -> Embedding:
    """Read what :meth:`Embedding.save` wrote."""
    with np.load(path) as stored:
        return Embedding(
            stored["genes"],
            dict(zip(stored["names"].tolist(), stored["vectors"], strict=True)),
            stored["missing_genes"].tolist(),
            int(stored["components"]),
            str(stored["pair_separator"]),
        )


def embed(
    screen: Screen,
    split: Split,
    settings: Mapping[str, Any],
    *,
    fit: str | Path | None = None,
    also: Sequence[str] = (),
) -> Embedding:
    """Make the vectors of a screen's genes and targets.

    Parameters
    ----------
    screen, split
        The screen; only its control cells for training are read.
    settings : mapping
        A section of ``perturbation.embeddings``.
    fit : path, optional
        The result of the first task that ``from: fit`` names.
    also : sequence of str
        Targets that are not in the screen and are predicted all the same.

    Raises
    ------
    InputError
        A table is missing, has no number where one belongs, or names none of the genes.
    """
    source, separator = settings["source"], screen.pair_separator
    if source == "responses":
        empty = np.zeros((len(screen.genes), settings["components"]))
        return Embedding(empty, components=settings["components"], pair_separator=separator)
    own_targets = None
    if source == "control":
        names, table = list(screen.genes), control_components(screen, split, settings["components"])
    elif source == "fit":
        names, table = _loadings(fit)
    else:
        names, table = read_vectors(settings["genes"])
        own_targets = None if settings["targets"] is None else read_vectors(settings["targets"])
    table = prepare(table, settings["standardise"], settings["normalise"])
    place = {name: row for row, name in enumerate(names)}
    if not set(place) & set(screen.genes):
        raise InputError(
            f"perturbation.embeddings: {source}",
            f"vectors of the screen's genes, such as {screen.genes[0]!r}",
            f"none of them; the table has {', '.join(map(repr, names[:3]))} ...",
            "give a table with the same kind of names (symbols or Ensembl ids)",
        )
    genes = np.zeros((len(screen.genes), table.shape[1]))
    missing = []
    for row, name in enumerate(screen.genes):
        if name in place:
            genes[row] = table[place[name]]
        else:
            missing.append(name)
    if own_targets is not None:
        rows = prepare(own_targets[1], settings["standardise"], settings["normalise"])
        vectors = dict(zip(own_targets[0], rows, strict=True))
    else:
        vectors = {name: table[row] for name, row in place.items()}
    wanted = {part for name in (*screen.targets, *also) for part in (name, *name.split(separator))}
    kept = {name: np.asarray(vector) for name, vector in vectors.items() if name in wanted}
    found = Embedding(genes, kept, missing, pair_separator=separator)
    without = [name for name in (*screen.targets, *also) if found.of([name])[1][0]]
    if missing:
        log.warning("%d of %d genes have no vector: %s ...", len(missing), len(genes), ", ".join(missing[:5]))
    if without:
        log.warning(
            "%d targets have no vector and fall back to the shared response: %s",
            len(without),
            ", ".join(without),
        )
    return found


def prepare(table: np.ndarray, standardise: bool, normalise: bool) -> np.ndarray:
    """Standardise the columns, then bring the rows to length 1.

    In this order: rows of uncentred principal components all point along the first one.
    """
    table = np.asarray(table, dtype=np.float64)
    if standardise:
        spread = table.std(axis=0)
        table = (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    if normalise:
        length = np.linalg.norm(table, axis=1, keepdims=True)
        table = table / np.where(length > 0, length, 1.0)
    return table


def control_components(screen: Screen, split: Split, n_components: int) -> np.ndarray:
    """Loadings of the genes on the leading principal components of the control cells, shape (genes, k).

    Cells are log1p of counts scaled to the median total; genes are centred, implicitly, so that the matrix
    stays sparse.
    """
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator, svds

    from nmfbench.data.filtered import normalise_block

    mine = split.fold == TRAIN_CONTROL
    median = float(np.median(split.totals[mine]))
    parts = [
        normalise_block(block[np.flatnonzero(mine[start : start + block.shape[0]])], median)
        for start, block in screen.counts.blocks()
        if mine[start : start + block.shape[0]].any()
    ]
    X = sparse.vstack(parts, format="csr").astype(np.float64)
    most = min(X.shape) - 1
    if n_components > most:
        raise InputError(
            "perturbation.embeddings: components",
            f"at most {most}, for {X.shape[0]} control cells and {X.shape[1]} genes",
            str(n_components),
            "ask for fewer",
        )
    mean = np.asarray(X.mean(axis=0)).ravel()
    centred = LinearOperator(
        X.shape,
        matvec=lambda v: X @ v - mean @ v,
        rmatvec=lambda u: X.T @ u - mean * u.sum(),
        matmat=lambda V: X @ V - mean @ V,
        rmatmat=lambda U: X.T @ U - np.outer(mean, U.sum(axis=0)),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(min(X.shape))
    _, values, loadings = svds(centred, k=n_components, v0=start)
    order = np.argsort(-values)
    loadings = loadings[order].T
    # a sign that does not depend on the library: the largest entry is positive
    signs = np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(n_components)])
    return loadings * signs * values[order] / np.sqrt(X.shape[0])


def response_embedding(
    change: np.ndarray, weight: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Genes and training targets by the leading singular vectors of the targets' own responses.

    Parameters
    ----------
    change : ndarray of shape (targets, genes)
        Log fold changes of the training targets, their mean taken off.
    weight : ndarray of shape (genes,)
        Weight of each gene.
    n_components : int

    Returns
    -------
    genes : ndarray of shape (genes, k)
    targets : ndarray of shape (targets, k)
    """
    root = np.sqrt(weight)
    k = min(n_components, *change.shape)
    left, values, right = np.linalg.svd(change * root, full_matrices=False)
    genes = right[:k].T / root[:, None]
    return genes * np.sqrt(values[:k]), left[:, :k] * np.sqrt(values[:k])


def read_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Names and vectors from a table (.csv, .tsv) or from an .npz with the arrays names and vectors.

    Raises
    ------
    InputError
        The file is missing, a name stands twice, or a value is no number.
    """
    import pandas as pd

    if not Path(path).is_file():
        raise InputError(f"{path}", "a table of vectors", "no such file", "mend perturbation.embeddings")
    if str(path).endswith(".npz"):
        with np.load(path, allow_pickle=False) as stored:
            if not {"names", "vectors"} <= set(stored.files):
                raise InputError(
                    f"{path}", "the arrays names and vectors", ", ".join(stored.files), "write them so"
                )
            names, vectors = stored["names"].astype(str).tolist(), stored["vectors"].astype(np.float64)
    else:
        frame = pd.read_csv(path, sep=None, engine="python", index_col=0, keep_default_na=False)
        names = frame.index.astype(str).tolist()
        try:
            vectors = frame.to_numpy(dtype=np.float64)
        except ValueError as error:
            raise InputError(
                f"{path}", "numbers in every column but the first", str(error), "mend the table"
            ) from None
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice or not np.isfinite(vectors).all():
        got = f"{', '.join(twice[:3])} twice" if twice else "values that are not finite"
        raise InputError(f"{path}", "one vector of finite numbers for each name", got, "mend the table")
    return names, vectors


def _loadings(path: str | Path | None) -> tuple[list[str], np.ndarray]:
    """Genes and loadings of a fit of the first task, by symbol where the file has symbols."""
    import anndata

    from nmfbench.perturbation.screen import SYMBOL_COLUMNS

    result = anndata.read_h5ad(path, backed="r")
    key = next(iter(sorted(result.varm.keys(), key=lambda name: (np.ndim(result.varm[name]) != 2, name))))
    table = np.asarray(result.varm[key], dtype=np.float64)
    symbols = next((name for name in SYMBOL_COLUMNS if name in result.var), None)
    names = (result.var_names if symbols is None else result.var[symbols]).astype(str)
    first = ~names.to_series().duplicated().to_numpy()
    return list(np.asarray(names)[first]), table[first]
