"""The additive statistics of a data set, or of one shard of it, and how shards add up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from nmfbench.errors import InputError
from nmfbench.gram_cost import gram_bytes

_MIB = 2**20


@lru_cache(maxsize=4)
def _dealt(n: int) -> list[int]:
    """0 .. n - 1 in a random order that no version of a library can change."""
    return sorted(range(n), key=lambda i: hashlib.blake2b(b"piece %d" % i, digest_size=8).digest())


@dataclass(frozen=True)
class Layout:
    """What every shard of one data set must agree on. All of it comes from the config and the data, nothing
    from the machine, so that the result does not depend on who gathers which shard.

    Attributes
    ----------
    fingerprint : str
        Of the data set's content.
    genes : tuple of str
    n_cells : int
        Cells of the whole data set.
    n_shards : int
    piece_rows : int
        Shards are dealt pieces of so many cells in a random order, so that each is a random set of cells
        whatever the order of the file; 0: a shard is one range of cells.
    normalisation : dict
        Parameters of the normalisation applied to the blocks.
    conditions : dict
        Condition column -> its categories, in the order of their codes.
    types : tuple of str
        Cell types in the order of their codes; one nameless type where cells have none.
    donor_grams : bool
        Whether a Gram matrix is kept for each category of the first condition column.
    method : {"sparse", "dense"}
        Products of nonzeros, or of densified blocks.
    dtype : {"float32", "float64"}
        Of the Gram matrix once it is summed; sums themselves are float64.
    shard_sizes : tuple of int
        Cells of each shard, where shards are groups of donors and `piece_rows` says nothing; else empty.
    """

    fingerprint: str
    genes: tuple[str, ...]
    n_cells: int
    n_shards: int = 1
    piece_rows: int = 0
    normalisation: dict = field(default_factory=dict)
    conditions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    types: tuple[str, ...] = ("",)
    donor_grams: bool = False
    method: Literal["sparse", "dense"] = "sparse"
    dtype: Literal["float32", "float64"] = "float32"
    shard_sizes: tuple[int, ...] = ()

    @property
    def n_categories(self) -> int:
        """M, the categories of all condition columns."""
        return sum(len(categories) for categories in self.conditions.values())

    @property
    def n_grams(self) -> int:
        """Gram matrices kept: one, or one per donor."""
        return len(next(iter(self.conditions.values()))) if self.donor_grams else 1

    def range(self, shard: int) -> tuple[int, int]:
        """First and last + 1 of a shard's cells (of its pieces, where there are pieces)."""
        n = -(-self.n_cells // self.piece_rows) if self.piece_rows else self.n_cells
        return shard * n // self.n_shards, (shard + 1) * n // self.n_shards

    def spans(self, shard: int) -> list[tuple[int, int]]:
        """Ranges of cells that make up a shard, in the order of the file."""
        first, last = self.range(shard)
        if not self.piece_rows:
            return [(first, last)]
        n_pieces = -(-self.n_cells // self.piece_rows)
        starts = sorted(piece * self.piece_rows for piece in _dealt(n_pieces)[first:last])
        return [(start, min(start + self.piece_rows, self.n_cells)) for start in starts]

    def size(self, shard: int) -> int:
        """Cells of a shard."""
        if self.shard_sizes:
            return self.shard_sizes[shard]
        return sum(stop - start for start, stop in self.spans(shard))

    def to_json(self) -> str:
        """The layout as text that is equal where layouts are equal; the order of the conditions counts."""
        values = asdict(self) | {"normalisation": dict(sorted(self.normalisation.items()))}
        if not self.shard_sizes:
            del values["shard_sizes"]  # as layouts were written before there were groups of donors
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The layout `to_json` wrote."""
        values = json.loads(text)
        values["genes"] = tuple(values["genes"])
        values["types"] = tuple(values["types"])
        values["shard_sizes"] = tuple(values.get("shard_sizes", ()))
        values["conditions"] = {k: tuple(v) for k, v in values["conditions"].items()}
        return cls(**values)


@dataclass
class Statistics:
    """Sufficient statistics of normalised cells x genes X.

    Attributes
    ----------
    layout : Layout
    shards : tuple of int
        Shards these statistics hold.
    digests : tuple of str
        Checksum of the cells read, shard by shard.
    n_cells : int
        Cells held.
    squared_norm : float
        ||X||².
    gram : (genes, genes) array
        Xᵀ X, symmetric; may be a memory map.
    donor_grams : (donors, genes, genes) array or None
        X_cᵀ X_c of each donor.
    group_sums : (types, M, genes) float64 array
        C_tᵀ X_t, C the stacked one-hot conditions.
    group_counts : (types, M, M) int64 array
        C_tᵀ C_t.
    type_sizes : (types,) int64 array
        Cells of each type.
    gene_sums, gene_squares : (genes,) float64 arrays
        Column sums of X and of its squares.
    """

    layout: Layout
    shards: tuple[int, ...]
    digests: tuple[str, ...]
    n_cells: int
    squared_norm: float
    gram: np.ndarray
    donor_grams: np.ndarray | None
    group_sums: np.ndarray
    group_counts: np.ndarray
    type_sizes: np.ndarray
    gene_sums: np.ndarray
    gene_squares: np.ndarray

    @property
    def complete(self) -> bool:
        """Whether every shard of the data set is in."""
        return self.shards == tuple(range(self.layout.n_shards))

    def of_present(self) -> Statistics:
        """The same without the types and categories that none of the cells have."""
        types = self.type_sizes > 0
        there = np.einsum("tmm->m", self.group_counts) > 0
        conditions, first = {}, 0
        for name, categories in self.layout.conditions.items():
            kept = there[first : first + len(categories)]
            conditions[name] = tuple(c for c, keep in zip(categories, kept, strict=True) if keep)
            first += len(categories)
        kept_types = tuple(t for t, keep in zip(self.layout.types, types, strict=True) if keep)
        return replace(
            self,
            layout=replace(self.layout, conditions=conditions, types=kept_types, donor_grams=False),
            donor_grams=None,
            group_sums=self.group_sums[types][:, there],
            group_counts=self.group_counts[types][:, there][:, :, there],
            type_sizes=self.type_sizes[types],
        )

    def scaled(self, factors: np.ndarray) -> Statistics:
        """The statistics of the same cells with each gene's values multiplied: X becomes X diag(factors).

        Parameters
        ----------
        factors : (genes,) array

        Returns
        -------
        Statistics
            In memory, the Gram matrices too.
        """
        d = np.asarray(factors, np.float64)

        def both(gram: np.ndarray) -> np.ndarray:
            made = np.empty(gram.shape, gram.dtype)
            for row, factor in enumerate(d):  # row by row: in double precision, and what is on disk in order
                made[row] = gram[row] * d * factor
            return made

        text = hashlib.blake2b(d.tobytes(), digest_size=8).hexdigest()
        donors = None if self.donor_grams is None else np.stack([both(gram) for gram in self.donor_grams])
        return replace(
            self,
            squared_norm=float((self.gene_squares * d**2).sum()),
            gram=both(self.gram),
            donor_grams=donors,
            group_sums=self.group_sums * d,
            gene_sums=self.gene_sums * d,
            gene_squares=self.gene_squares * d**2,
            digests=tuple(f"{digest} scaled {text}" for digest in self.digests),
        )

    def check(self) -> None:
        """Refuse statistics whose parts contradict one another."""
        trace = float(np.trace(self.gram, dtype=np.float64))
        squares = float(self.gene_squares.sum())
        for name, value in (("trace of the Gram matrix", trace), ("sum of the genes' squares", squares)):
            if not np.isclose(value, self.squared_norm, rtol=1e-5, atol=1e-12):
                raise InputError(
                    f"statistics: {name}", f"||X||² = {self.squared_norm:.8g}", f"{value:.8g}",
                    "gather the statistics again; they were damaged or made of different cells",
                )  # fmt: skip

    def require(self, *, fingerprint: str | None = None, normalisation: dict | None = None) -> None:
        """Refuse statistics of other data or another normalisation, or with shards missing."""
        if not self.complete:
            missing = sorted(set(range(self.layout.n_shards)) - set(self.shards))
            raise InputError(
                "statistics",
                f"all {self.layout.n_shards} shards",
                f"shards {missing} missing",
                "merge them all",
            )
        wanted = {"fingerprint": fingerprint, "normalisation": normalisation}
        for name, value in wanted.items():
            if value is not None and getattr(self.layout, name) != value:
                raise InputError(
                    f"statistics: {name}", str(value), str(getattr(self.layout, name)),
                    "gather the statistics of the present data and settings",
                )  # fmt: skip


def check_memory(layout: Layout, memory_mb: float | None) -> None:
    """Refuse, before work starts, statistics that would not fit.

    Parameters
    ----------
    memory_mb : float or None
        Memory granted, in MiB; None leaves it to the system.
    """
    p = len(layout.genes)
    need = gram_bytes(p, n_grams=layout.n_grams, method=layout.method, dtype=layout.dtype) / _MIB
    if memory_mb is not None and need > memory_mb:
        genes = int(p * (memory_mb / need) ** 0.5)
        remedy = f"grant {need:.0f} MiB, keep at most {genes} genes, keep it on disk, or train by minibatch"
        if layout.donor_grams:
            remedy = "leave out the Gram matrices of the donors, or " + remedy
        raise InputError(
            f"Gram matrix of {p} genes" + (f" x {layout.n_grams} donors" if layout.donor_grams else ""),
            f"at most the {memory_mb:.0f} MiB granted", f"{need:.0f} MiB", remedy,
        )  # fmt: skip
