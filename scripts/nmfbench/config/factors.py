"""Config section of what is said of factors."""

from __future__ import annotations

from pydantic import Field

from nmfbench.config.base import Name, Section


class Factors(Section):
    """What is said of the factors of each fit."""

    n_top_genes: int = Field(100, ge=1, description="Genes listed of each factor, by gene score.")
    matched_with: Name | None = Field(
        None,
        description="Model of `models` whose loadings the other models' are matched with in the figure of "
        "orthogonality; none: the first.",
    )
