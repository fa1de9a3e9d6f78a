"""What the workflow knows of a model without loading it: its card, and the section of the config behind it.

A card is the one place where a model's name, look, needs and claims are written; the section beside it is
the one place of its parameters, with their defaults, bounds and texts. The config, the rules, the figures,
the tables of ``config/README.md`` and the estimator's constructor (:mod:`nmfbench.models.parameters`) are
made from the two. Nothing here, or in a family's ``card.py``, imports more than pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from nmfbench.packages import Package
from nmfbench.section import Device, DisplayName, Section

Need = Literal["statistics", "shuffled", "patterns", "coordinates", "names", "tables"]
"""What a fit may begin from beside the counts: the shared sums, the shuffled store, tables of constant
patterns, the cells' places, the names of cells and genes, the
tables of both."""

Role = Literal["model", "baseline", "control", "external", "consensus"]
"""Why a model is in the benchmark. The job of an ``external`` one trains nothing, it takes a file in; that of
a ``consensus`` takes fits of another model together."""


class ModelSection(Section):
    """What every model's section has; a kind's own begins with ``kind: Literal["its_name"] = "its_name"``."""

    not_parameters: ClassVar[frozenset[str]] = frozenset({"kind", "display_name"})
    """Keys that the estimator does not have."""

    display_name: DisplayName | None = Field(
        None, description="Name in CSVs and figures; by default the model's own (`AE_NMF`), or this key."
    )

    def parameters(self) -> dict[str, Any]:
        """The estimator's parameters."""
        return self.model_dump(exclude=set(self.not_parameters))

    def passes(self) -> Any:
        """Passes over the cells at most, for an estimate of the time: a number, one by solver, or None."""
        return getattr(self, "max_iter", None)

    def begins_from_statistics(self) -> bool:
        """Whether a fit with these settings can begin from the shared statistics alone."""
        return False

    def shuffled_order(self, gathered: bool) -> Literal["by_type", "plain"] | None:
        """Order of the shuffled store that minibatches out of core need; None: they need none.

        Parameters
        ----------
        gathered : bool
            Whether the fit begins from the shared statistics.
        """
        return None

    def of_fit(self, fit: Any) -> ModelSection:
        """The section as one fit has it, which has ``dataset`` and maybe ``rank`` and ``seed``."""
        return self

    def obs_columns(self) -> list[str]:
        """Columns of obs that the fit reads."""
        return []

    def pattern_files(self) -> list[str]:
        """Files that the fit reads beside the counts."""
        return []


class CountModelSection(ModelSection):
    """What every model of counts with non-negative factors has beside that."""

    embedding: Literal["raw", "shares", "sqrt_shares"] = Field(
        "raw",
        description="What is scored: the factors as they are; what each contributes to a cell's expected "
        "counts, divided by their sum (no depth is left); or the square roots of these shares. The factors "
        "stay in the result under their own key.",
    )
    mask_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Share of the entries (cell, gene) that are left out of the fit and scored in nats each: "
        "the same ones for every model of counts with this share and seed.",
    )

    def parameters(self) -> dict[str, Any]:
        found = super().parameters()
        if not self.mask_fraction:  # as before there was one: fits that leave nothing out are not run again
            del found["mask_fraction"]
        return found


RandomState = Annotated[Any, "int, RandomState, Generator or None"]


class OnCpu(Section):
    """What an estimator has beside its section; the config says it elsewhere (`ranks`, `seeds`) if at all."""

    n_components: int = Field(80, ge=1, description="Number of factors k.")
    random_state: RandomState = Field(None, description="What decides every draw.")
    verbose: int = Field(0, ge=0, description="Above 0: a progress bar, whether or not stderr is a terminal.")


class OnDevice(OnCpu):
    """The same of one that a GPU can fit."""

    device: Device = Field("auto", description="Where it is fitted; `auto`: on a GPU, where there is one.")


@dataclass(frozen=True)
class Resources:
    """What a training job asks for at first; a retry asks for twice as much.

    Attributes
    ----------
    megabytes, megabytes_per_input : float
        Memory: a base, and a share of each megabyte that is read.
    minutes, minutes_per_input : float
        Time: likewise.
    threads : int
    """

    megabytes: float
    megabytes_per_input: float
    minutes: float = 60
    minutes_per_input: float = 2
    threads: int = 4


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the workflow knows of one kind of model.

    Attributes
    ----------
    section : type of ModelSection
        Its keys in the config: defaults, bounds and texts. The kind is the default of the key ``kind``.
    estimator : str
        Name of the class; the registry says in which module.
    display_name : str
        The name in tables and figures.
    colour, marker : str
        ``#rrggbb`` and matplotlib's marker, the same in every figure whatever else is drawn.
    revision : int
        Raised by hand where the numbers of a fit change: what was trained before is then trained again
        (docs/reruns.md).
    resources : Resources
    input : {"normalised", "counts"}
        What ``fit`` is given: normalised values, or the counts as they are.
    normalises : bool
        Whether a model of counts normalises them itself, as the config says: it has ``target_sum`` and
        ``log1p``.
    role : {"model", "baseline", "control", "external", "consensus"}
    conditional : bool
        Whether it is conditioned on columns of obs (donors), or can be; its ``uses_conditions_`` then tells.
    one_condition : bool
        Whether it can be conditioned on one column alone.
    unseen_donors : bool
        Whether cells of donors that a fit never saw have a place in its embedding.
    own_loadings : bool
        Whether each condition has loadings of its own, and so needs a Gram matrix of its own.
    gpu : bool
        Whether a GPU speeds it up; ``fit`` then has a ``device``.
    non_negative : bool
        Whether it claims that loadings and embedding are not negative; a result that breaks it is refused.
    needs : frozenset of {"statistics", "shuffled", "patterns", "coordinates", "names", "tables"}
    files : tuple of str
        Names of further files that a fit writes beside its result (``write_files``).
    no_mask : str
        Of a model of counts: why it cannot leave single entries out of its fit; empty where it can
        (``mask_fraction``).
    own_cells_only : str
        Why the model embeds no cells but those it was fitted to, as a noun; empty where it embeds others.
    expects_values : bool
        Whether a fit says what it expects of every gene of its cells (``expected_values``).
    package : Package, optional
        What the default installation lacks of what its fits need; its jobs use that package's environment.
    """

    section: type[ModelSection]
    estimator: str
    display_name: str
    colour: str
    marker: str
    revision: int
    resources: Resources
    input: Literal["normalised", "counts"] = "normalised"
    normalises: bool = False
    role: Role = "model"
    conditional: bool = False
    one_condition: bool = False
    own_loadings: bool = False
    unseen_donors: bool = True
    gpu: bool = True
    non_negative: bool = True
    needs: frozenset[Need] = field(default_factory=frozenset)
    files: tuple[str, ...] = ()
    no_mask: str = ""
    own_cells_only: str = ""
    expects_values: bool = True
    package: Package | None = None

    @property
    def environment(self) -> str:
        """Which of ``envs/*.yaml`` its job uses."""
        return self.package.environment if self.package else "models"

    @property
    def kind(self) -> str:
        """The model's name in the config and in the registry."""
        return self.section.model_fields["kind"].default
