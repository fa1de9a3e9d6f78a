"""Config sections of the sufficient statistics and of what is fitted from them alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nmfbench.section import Name, Rank, Section, Seed


class Statistics(Section):
    """The pass over the cells of a dataset with `shared_statistics`, or for a `rank_selection`."""

    shards: int = Field(
        4, ge=1, description="Jobs that the pass over the cells is cut into; each reads its own cells."
    )
    memory_mb: float = Field(
        6144,
        gt=0,
        description="MiB for Gram matrices in a job that gathers them (12 bytes x genes²). A larger one is "
        "made in tiles on disk; one for each donor is kept only where all fit.",
    )
    passes: int = Field(
        4,
        ge=1,
        description="A Gram matrix made in tiles takes a pass over the cells for each; at most so many.",
    )
    device: Literal["cpu", "auto", "cuda"] = Field(
        "cpu",
        description="Where the pass multiplies. `cuda`: on all GPUs that a job sees; `auto`: there if any is "
        "seen, which must be the same for all shards.",
    )
    gpu_memory_mb: float | None = Field(
        None, gt=0, description="MiB on each GPU for the pass; by default what is free when it starts."
    )


class RankSelection(Section):
    """Light fits (loadings and objective, nothing scored) that say which rank the data support."""

    models: list[Name] = Field(
        [], description="Autoencoders to fit, by their names in `models`. Empty: no rank selection."
    )
    criterion: Literal["hidden_genes", "unseen_molecules"] = Field(
        "hidden_genes",
        description="What fits are judged by: genes hidden in cells left out, predicted from the others; "
        "or half of the molecules of all cells, written from the other half.",
    )
    tolerance: float = Field(
        0.002,
        ge=0,
        description="With `unseen_molecules`, the smallest rank is taken whose error is above the least "
        "by no more than this share of it.",
    )
    ranks: list[Rank] = Field([10, 20, 40, 80], min_length=1, description="Numbers of factors k to compare.")
    seeds: list[Seed] = Field(
        [0, 1, 2],
        min_length=2,
        description="Random starts of each; their agreement is the stability. With `unseen_molecules`: "
        "random halves.",
    )
    penalties: list[dict[str, float]] = Field(
        [{}],
        min_length=1,
        description="With `hidden_genes`, sets of penalties to compare, each over the model's own: "
        "`[{}, {penalty_W: 0.1}]`.",
    )
    held_out_shards: int = Field(
        1,
        ge=1,
        description="With `hidden_genes`, of `statistics.shards`, random sets of cells: so many are "
        "left out of the fits, which are then judged on them.",
    )
    gene_folds: int = Field(
        5,
        ge=2,
        description="With `hidden_genes`, in the cells left out, the genes of each fold in turn are "
        "predicted from the others.",
    )

    @property
    def by_hidden_genes(self) -> list[str]:
        """The models that are fitted from statistics and judged on cells left out."""
        return self.models if self.criterion == "hidden_genes" else []

    @property
    def by_unseen_molecules(self) -> list[str]:
        """The models that are fitted to half of the molecules and judged by the other half."""
        return self.models if self.criterion == "unseen_molecules" else []

    @model_validator(mode="after")
    def _penalties_have_their_criterion(self) -> RankSelection:
        if self.by_unseen_molecules and self.penalties != [{}]:
            raise ValueError("penalties: sets of them are compared by criterion hidden_genes alone")
        return self

    @model_validator(mode="after")
    def _no_value_twice(self) -> RankSelection:
        for key in ("models", "ranks", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: {values} holds a value twice")
        return self
