"""Card of consensus fits, and their section of the configuration: a row of all tables, made of other fits."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources
from nmfbench.section import Name

#: Between the training seeds of two members of a consensus: the grid's own seeds lie nearer together.
SEED_STEP = 1000


class Consensus(ModelSection):
    """Consensus of fits of another model that differ in their seed alone, as cNMF makes it."""

    not_parameters: ClassVar[frozenset[str]] = frozenset({"kind", "display_name", "of", "n_fits"})

    kind: Literal["consensus"] = "consensus"
    of: Name = Field(description="The model of `models` whose fits are taken together.")
    n_fits: int = Field(
        20,
        ge=2,
        description="How many fits: of the training seed s these are s, s + 1000, s + 2000 ...",
    )
    density_threshold: float = Field(
        0.5,
        gt=0,
        le=2,
        description="Factors whose mean distance to their nearest neighbours is not below this are left out; "
        "2 keeps all.",
    )
    neighbour_share: float = Field(0.3, gt=0, le=1, description="These neighbours, as a share of `n_fits`.")

    def member_seeds(self, seed: int) -> list[int]:
        """Training seeds of the fits that are taken together."""
        return [seed + SEED_STEP * number for number in range(self.n_fits)]


CARD = ModelCard(
    section=Consensus,
    estimator="ConsensusPrograms",
    display_name="Consensus",
    colour="#5A5A5A",
    marker="h",
    revision=1,
    resources=Resources(3000, 8),
    role="consensus",
    expects_values=False,
    gpu=False,
    unseen_donors=False,
)
