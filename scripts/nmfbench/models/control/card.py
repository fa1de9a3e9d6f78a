"""Cards of the controls, and their sections of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nmfbench.models.card import ModelCard, ModelSection, Resources


class ControlRandom(ModelSection):
    """Normal random numbers: knows nothing."""

    kind: Literal["control_random"] = "control_random"


class ControlShuffled(ModelSection):
    """Principal components of the cells, dealt out to them anew."""

    kind: Literal["control_shuffled"] = "control_shuffled"
    within: Literal["all", "cell_type", "donor"] = Field(
        "all", description="Dealt out among all cells, those of a cell type, or those of a donor."
    )


class ControlPCAByDonor(ModelSection):
    """Principal components of each donor alone: the worst mixing of donors."""

    kind: Literal["control_pca_by_donor"] = "control_pca_by_donor"


class ControlDepth(ModelSection):
    """One column, the log of a cell's total counts: what depth alone explains."""

    kind: Literal["control_depth"] = "control_depth"


class ControlCellType(ModelSection):
    """One column for each cell type: knows it exactly, and nothing else."""

    kind: Literal["control_cell_type"] = "control_cell_type"


class ControlCellTypeNoise(ModelSection):
    """The same with noise: clouds instead of points."""

    kind: Literal["control_cell_type_noise"] = "control_cell_type_noise"
    noise: Literal["uniform", "normal"] = Field(
        "uniform", description="Within `amount` to both sides, or normal with that deviation."
    )
    amount: float = Field(0.01, ge=0, description="Size of the noise.")


class ControlDonor(ModelSection):
    """One column for each donor: knows the donor exactly, and nothing else."""

    kind: Literal["control_donor"] = "control_donor"


def _card(section, name, marker, colour, **more) -> ModelCard:
    return ModelCard(
        section=section,
        estimator=section.__name__,
        display_name=name,
        colour=colour,
        marker=marker,
        revision=1,
        resources=Resources(3000, 12, threads=1),
        role="control",
        gpu=False,
        unseen_donors=False,
        non_negative=False,
        own_cells_only="a control, which is made for its own cells alone",
        **more,
    )


CARDS = (
    _card(ControlRandom, "Random", "X", "#6B6B6B"),
    _card(ControlShuffled, "Shuffled", "P", "#7D7D7D", conditional=True),
    _card(ControlPCAByDonor, "PCA_by_donor", "d", "#8F8F8F", conditional=True),
    _card(ControlDepth, "Depth", "*", "#A0A0A0", input="counts", no_mask="it expects no counts"),
    _card(ControlCellType, "Cell_type", "p", "#5A5A5A"),
    _card(ControlCellTypeNoise, "Cell_type_noise", "h", "#B0B0B0"),
    _card(ControlDonor, "Donor", "8", "#4A4A4A", conditional=True),
)
