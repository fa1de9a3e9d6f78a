"""Config section of the comparisons of two fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import Field, model_validator

from nmfbench.section import Name, Rank, Section, Seed


class Fit(NamedTuple):
    """One fit of the grid."""

    model: str
    rank: int
    seed: int


class ComparedFit(Section):
    """One side of a comparison: a fit of the grid."""

    model: Name = Field(description="A model of `models`.")
    rank: Rank | None = Field(
        None,
        description="One of `ranks`; none: that of the other side, or each of `ranks` where neither has one.",
    )
    seed: Seed | None = Field(None, description="One of `seeds`; none: the first.")


class Comparison(Section):
    """Two fits whose factors are matched, or all seeds of one model against its first."""

    first: ComparedFit | None = Field(None, description="One side of a pair; needs `second`.")
    second: ComparedFit | None = Field(None, description="The other side.")
    seeds_of: Name | None = Field(
        None,
        description="Instead of a pair: each further seed of this model against its first, at every rank.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Comparison:
        if (self.first is None) != (self.second is None) or (self.first is None) == (self.seeds_of is None):
            raise ValueError("either first and second, or seeds_of, is needed")
        return self

    def sides(self) -> Iterator[tuple[str, ComparedFit]]:
        """Name of the key, and what it holds, of every fit that is named."""
        named = {"first": self.first, "second": self.second}
        if self.seeds_of is not None:
            named["seeds_of"] = ComparedFit(model=self.seeds_of)
        yield from ((key, side) for key, side in named.items() if side is not None)

    def pairs(self, ranks: Sequence[int], seeds: Sequence[int]) -> Iterator[tuple[Fit, Fit]]:
        """The pairs of fits that this comparison means in a grid of ranks and seeds."""
        if self.seeds_of is not None:
            for rank in ranks:
                for seed in seeds[1:]:
                    yield Fit(self.seeds_of, rank, seeds[0]), Fit(self.seeds_of, rank, seed)
            return
        one, other = self.first, self.second
        named = one.rank or other.rank
        for rank in [named] if named else ranks:
            yield tuple(
                Fit(side.model, side.rank or rank, seeds[0] if side.seed is None else side.seed)
                for side in (one, other)
            )
