"""Gene sets from a GMT file that the user names; none is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from nmfbench.errors import InputError
from nmfbench.factors.genes import without_version

if TYPE_CHECKING:
    import pandas as pd

MIN_SIZE, MAX_SIZE = 5, 500


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Read gene sets: a line for each, name, description and genes, apart by tabs.

    Returns
    -------
    dict of str to list of str
        Genes of each set in their order, each once. A weight after a comma (``GENE,0.5``) is left off.

    Raises
    ------
    InputError
        The file is missing, is no GMT, holds no set, or two sets have one name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: it cannot be read",
            "a GMT file (text)",
            str(error),
            "check factors.enrichment.gene_sets",
        ) from error
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        if len(rest) < 2:
            raise InputError(
                f"{path}: line {number}",
                "name, description and genes, apart by tabs",
                repr(line[:60]),
                "give a GMT file, such as those of MSigDB",
            )
        if name in sets:
            raise InputError(
                f"{path}: line {number}",
                "each name once",
                f"{name!r} a second time",
                "rename one of the sets",
            )
        sets[name] = list(dict.fromkeys(gene.split(",")[0] for gene in rest[1:] if gene))
    if not sets:
        raise InputError(f"{path}: gene sets", "one at least", "none", "give a GMT file with sets")
    return sets


@dataclass(frozen=True)
class GeneSets:
    """Gene sets over the genes of a dataset.

    Attributes
    ----------
    names : list of str
        Sets of a size that can be tested, in the order of the file.
    membership : csr_matrix of shape (sets, universe)
        1 where a gene is in a set.
    universe : ndarray of int
        Positions, in the dataset, of the genes that are ranked.
    genes : ndarray of str
        What these genes are called in the sets.
    n_small, n_large : int
        Sets left out for their size.
    """

    names: list[str]
    membership: sparse.csr_matrix
    universe: np.ndarray
    genes: np.ndarray
    n_small: int
    n_large: int

    def members(self) -> dict[str, list[str]]:
        """Genes of each set, as they are in the universe."""
        rows = np.split(self.membership.indices, self.membership.indptr[1:-1])
        return {name: list(self.genes[row]) for name, row in zip(self.names, rows, strict=True)}


def align_sets(
    sets: dict[str, list[str]],
    var: pd.DataFrame,
    scored: np.ndarray,
    *,
    min_size: int = MIN_SIZE,
    max_size: int = MAX_SIZE,
    universe: Literal["gene_sets", "measured"] = "gene_sets",
    where: str = "gene sets",
) -> GeneSets:
    """Find the genes of sets among those of a dataset.

    Parameters
    ----------
    sets : dict
        From :func:`read_gmt`: symbols, or Ensembl ids (with or without version).
    var : DataFrame of p genes
        ``symbol``, ``ensembl_id``, ``mean``, as ``programs.h5ad`` has them. Of genes with one symbol the one
        with the largest mean stands for all.
    scored : ndarray of bool, shape (p,)
        Genes that have scores.
    min_size, max_size : int
        Genes that a set must have, and may have, in the universe.
    universe : {"gene_sets", "measured"}
        Rank the scored genes that are in a set of the file, or all scored genes.
    where : str
        The file, for messages.

    Raises
    ------
    InputError
        No set has enough genes here: another organism, or other names.
    """
    wanted = {gene for genes in sets.values() for gene in genes}
    by_id = sum(bool(name) for name in without_version(np.array(sorted(wanted), dtype=object)))
    kind = "ensembl_id" if by_id > len(wanted) / 2 else "symbol"
    called = var[kind].to_numpy(dtype=object).astype(str)
    order = np.argsort(-var["mean"].to_numpy(), kind="stable")
    _, first = np.unique(called[order], return_index=True)
    usable = np.zeros(len(called), dtype=bool)
    usable[order[first]] = True
    usable &= scored & (called != "")
    if kind == "ensembl_id":
        sets = {name: list(dict.fromkeys(map(_bare, genes))) for name, genes in sets.items()}
        wanted = {gene for genes in sets.values() for gene in genes}
    if universe == "gene_sets":
        usable &= np.isin(called, list(wanted))
    positions = np.flatnonzero(usable)
    place = {name: column for column, name in enumerate(called[positions])}
    rows = {name: sorted(place[g] for g in genes if g in place) for name, genes in sets.items()}
    kept = [
        name for name, row in rows.items() if min_size <= len(row) <= max_size and len(row) < len(positions)
    ]
    n_small = sum(len(row) < min_size for row in rows.values())
    if not kept:
        some, there = ", ".join(sorted(wanted)[:3]), ", ".join(called[:3])
        raise InputError(
            f"{where}: overlap with the genes of the fit",
            f"a set with {min_size} to {max_size} of its genes among those of the fit",
            f"none of {len(sets)} sets; {len(wanted & set(place))} of their {len(wanted)} genes are there "
            f"(sets name such as {some}; the fit has such as {there})",
            "give sets of the same organism with symbols or Ensembl ids, or lower min_size",
        )
    indptr = np.concatenate([[0], np.cumsum([len(rows[name]) for name in kept])])
    indices = np.concatenate([rows[name] for name in kept]).astype(np.int32)
    membership = sparse.csr_matrix(
        (np.ones(len(indices)), indices, indptr), shape=(len(kept), len(positions))
    )
    return GeneSets(kept, membership, positions, called[positions], n_small, len(sets) - len(kept) - n_small)


def _bare(name: str) -> str:
    return without_version(np.array([name], dtype=object))[0] or name
