"""The additive statistics of a data set, or of one shard of it, and how shards add up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np

from nmfbench.errors import InputError

SPARSE_BELOW = 0.10  # density at which sparse and dense products take the same time (docs/solvers.md)
_MIB = 2**20


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
    """

    fingerprint: str
    genes: tuple[str, ...]
    n_cells: int
    n_shards: int = 1
    normalisation: dict = field(default_factory=dict)
    conditions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    types: tuple[str, ...] = ("",)
    donor_grams: bool = False
    method: Literal["sparse", "dense"] = "sparse"
    dtype: Literal["float32", "float64"] = "float32"

    @property
    def n_categories(self) -> int:
        """M, the categories of all condition columns."""
        return sum(len(categories) for categories in self.conditions.values())

    @property
    def n_grams(self) -> int:
        """Gram matrices kept: one, or one per donor."""
        return len(next(iter(self.conditions.values()))) if self.donor_grams else 1

    def range(self, shard: int) -> tuple[int, int]:
        """First and last + 1 cell of a shard."""
        return shard * self.n_cells // self.n_shards, (shard + 1) * self.n_cells // self.n_shards

    def to_json(self) -> str:
        """The layout as text that is equal where layouts are equal."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """The layout `to_json` wrote."""
        values = json.loads(text)
        values["genes"] = tuple(values["genes"])
        values["types"] = tuple(values["types"])
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


_SUMMED = ("n_cells", "squared_norm", "group_sums", "group_counts", "type_sizes", "gene_sums", "gene_squares")


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Add the shards of one data set, in the order of the shards whatever the order given.

    Parameters
    ----------
    parts : iterable of Statistics
        One shard each, given in any order. Sorted input (a generator that loads one file after the other) is
        consumed piece by piece, so that no two Gram matrices but the running sum and one shard are held.

    Returns
    -------
    Statistics

    Raises
    ------
    InputError
        If a shard is missing or comes twice, or belongs to other data, genes, settings or dtype.
    """
    waiting: dict[int, Statistics] = {}
    total: Statistics | None = None
    layout: Layout | None = None
    seen: set[int] = set()
    for part in parts:
        layout = layout or part.layout
        _check_part(layout, part, seen)
        seen.add(part.shards[0])
        waiting[part.shards[0]] = part
        while (following := 0 if total is None else len(total.shards)) in waiting:
            total = _add(total, waiting.pop(following))
        del part
    if layout is None:
        raise InputError("merge of statistics", "at least one shard", "none", "gather the shards first")
    missing = sorted(set(range(layout.n_shards)) - seen)
    if missing:
        raise InputError(
            "merge of statistics", f"all of {layout.n_shards} shards", f"missing: {missing}",
            "gather the missing shards",
        )  # fmt: skip
    dtype = np.dtype(layout.dtype)
    donor_grams = total.donor_grams
    total = replace(
        total,
        gram=total.gram.astype(dtype, copy=False),
        donor_grams=None if donor_grams is None else donor_grams.astype(dtype, copy=False),
    )
    total.check()
    return total


def _check_part(layout: Layout, part: Statistics, seen: Sequence[int]) -> None:
    if part.layout != layout:
        ours, theirs = asdict(layout), asdict(part.layout)
        name = next(key for key in ours if ours[key] != theirs[key])
        raise InputError(
            f"merge of statistics: {name} of shard {part.shards[0]}",
            _short(ours[name]),
            _short(theirs[name]),
            "gather all shards from the same data with the same settings",
        )  # fmt: skip
    if len(part.shards) != 1:
        raise InputError(
            "merge of statistics", "single shards", f"shards {part.shards}", "merge once, at the end"
        )
    shard = part.shards[0]
    if shard in seen:
        raise InputError("merge of statistics", "each shard once", f"shard {shard} twice", "leave one out")
    start, stop = layout.range(shard)
    if part.n_cells != stop - start:
        raise InputError(
            f"merge of statistics: shard {shard}",
            f"{stop - start} cells",
            str(part.n_cells),
            "gather it again",
        )


def _add(total: Statistics | None, part: Statistics) -> Statistics:
    if total is None:
        grams = part.donor_grams
        return replace(
            part,
            gram=part.gram.astype(np.float64),
            donor_grams=None if grams is None else grams.astype(np.float64),
        )
    total.gram += part.gram
    if total.donor_grams is not None:
        total.donor_grams += part.donor_grams
    sums = {name: getattr(total, name) + getattr(part, name) for name in _SUMMED}
    return replace(total, shards=total.shards + part.shards, digests=total.digests + part.digests, **sums)


def gram_bytes(n_genes: int, *, n_grams: int = 1, method: str = "sparse", dtype: str = "float32") -> int:
    """Bytes that gathering or merging one shard needs at its peak for the Gram matrices.

    Parameters
    ----------
    n_genes : int
    n_grams : int
        Gram matrices: one, or one per donor.
    method : {"sparse", "dense"}
        The dense one has a float32 buffer beside the float64 sum.
    dtype : {"float32", "float64"}
        Of the result.
    """
    kept = np.dtype(dtype).itemsize * (n_grams + (n_grams > 1))
    return n_genes**2 * (8 * n_grams + max(kept, 4 if method == "dense" else 0))


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


def choose_method(n_cells: int, n_genes: int, n_nonzeros: int) -> Literal["sparse", "dense"]:
    """The faster way to Xᵀ X at this density, decided from the data alone."""
    return "sparse" if n_nonzeros < SPARSE_BELOW * n_cells * n_genes else "dense"


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
