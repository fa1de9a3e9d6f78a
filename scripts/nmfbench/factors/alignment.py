"""Two sets of genes brought together: by Ensembl id without version, then by name, then by symbol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from nmfbench.errors import InputError
from nmfbench.factors.genes import GeneNames

if TYPE_CHECKING:
    import pandas as pd

#: With a smaller share of its genes a fit says nothing about other cells.
FEWEST_SHARED = 0.5
_FEWEST_GENES = 3


@dataclass(frozen=True)
class Alignment:
    """Where the genes of a reference lie in another dataset.

    Attributes
    ----------
    positions : ndarray of int, shape (p,)
        Position in the other dataset of each reference gene, -1 where it is missing.
    matched_by : ndarray of str, shape (p,)
        ``ensembl id``, ``name``, ``symbol``, ``missing``, or ``ambiguous`` (only by a name that stands
        for several genes on either side).
    n_other : int
        Genes of the other dataset.
    """

    positions: np.ndarray
    matched_by: np.ndarray
    n_other: int

    @property
    def shared(self) -> float:
        """Share of the reference's genes that are there."""
        return float(np.mean(self.positions >= 0))

    def selector(self) -> sparse.csr_matrix:
        """Matrix S of shape (other genes, p): ``X S`` has the genes of the reference, missing ones zero."""
        found = np.flatnonzero(self.positions >= 0)
        ones = np.ones(len(found), dtype=np.float32)
        shape = (self.n_other, len(self.positions))
        return sparse.csr_matrix((ones, (self.positions[found], found)), shape=shape)

    def table(self, reference: GeneNames, other: GeneNames) -> pd.DataFrame:
        """A row for each gene of the reference: how it was matched, and what it is called there."""
        import pandas as pd

        there = np.where(self.positions >= 0, other.names[self.positions], None)
        columns = {"gene": reference.names, "symbol": reference.symbols, "ensembl_id": reference.ids}
        return pd.DataFrame({**columns, "matched_by": self.matched_by, "other_gene": there})


def align_genes(reference: GeneNames, other: GeneNames) -> Alignment:
    """Find each gene of a reference in another dataset; no gene of it is taken twice."""
    p = len(reference.names)
    positions = np.full(p, -1, dtype=np.int64)
    matched_by = np.full(p, "missing", dtype=object)
    taken = np.zeros(len(other.names), dtype=bool)
    for how, mine, theirs in (
        ("ensembl id", reference.ids, other.ids),
        ("name", reference.names, other.names),
        ("symbol", reference.symbols, other.symbols),
    ):
        place = _unique_places(theirs)
        doubled = {name for name, n in Counter(mine).items() if n > 1}
        for gene in np.flatnonzero(positions < 0):
            name = mine[gene]
            # two different Ensembl ids under one symbol are two genes
            if not name or name not in place or _contradict(reference, other, gene, place[name]):
                continue
            where = place[name]
            if where < 0 or name in doubled:
                matched_by[gene] = "ambiguous"
            elif not taken[where]:
                positions[gene], matched_by[gene], taken[where] = where, how, True
    return Alignment(positions, matched_by, len(other.names))


def require_overlap(
    alignment: Alignment, names: tuple[str, str], reference: GeneNames, other: GeneNames
) -> None:
    """Refuse a dataset that lacks more than half of the reference's genes.

    Raises
    ------
    InputError
        With examples of the names on both sides, since the usual causes are another organism and other ids.
    """
    found = int((alignment.positions >= 0).sum())
    if alignment.shared >= FEWEST_SHARED and found >= min(_FEWEST_GENES, len(alignment.positions)):
        return
    n = len(alignment.positions)
    missing = np.flatnonzero(alignment.positions < 0)[:3]
    some = ", ".join(str(reference.names[gene]) for gene in missing)
    there = ", ".join(map(str, other.names[:3]))
    ambiguous = int((alignment.matched_by == "ambiguous").sum())
    raise InputError(
        f"{names[1]}: genes of {names[0]}",
        f"at least {FEWEST_SHARED:.0%} of the {n} genes of the fit, by Ensembl id or symbol",
        f"{found} ({alignment.shared:.0%}), and {ambiguous} whose name stands for several genes; "
        f"missing are such as {some}, there are such as {there}",
        "give cells of the same organism with Ensembl ids or symbols in var, and all measured genes",
    )


def _unique_places(names: np.ndarray) -> dict[str, int]:
    """Position of each name, -1 for one that occurs more than once."""
    place: dict[str, int] = {}
    for position, name in enumerate(names):
        place[name] = -1 if name in place else position
    return place


def _contradict(reference: GeneNames, other: GeneNames, gene: int, where: int) -> bool:
    """Whether both have an Ensembl id of the same kind of organism, and they differ."""
    if where < 0:
        return False
    mine, theirs = reference.ids[gene], other.ids[where]
    return bool(mine and theirs and mine != theirs)
