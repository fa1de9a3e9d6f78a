"""What the exact solvers take, from statistics that were gathered before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmfbench.device import free_bytes
from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact.conditions import ConditionSums
from nmfbench.models.autoencoder.exact.operators import GramOperator
from nmfbench.models.labels import Conditions
from nmfbench.statistics import Statistics

if TYPE_CHECKING:
    import torch

_MIB = 2**20


def operator_of(
    statistics: Statistics, *, by_donor: bool = False, partial: bool = False, **options
) -> GramOperator:
    """The Gram operator of statistics.

    Parameters
    ----------
    by_donor : bool
        One group per donor, as model 2 needs.
    partial : bool
        Whether statistics of some shards will do.
    options
        device, dtype and block_size of `GramOperator`.
    """
    if not partial:
        statistics.require()
    if by_donor and statistics.donor_grams is None:
        raise InputError(
            "statistics", "a Gram matrix for each donor", "one for all cells",
            "gather with donor_grams: true, or fit cae_nmf2 by minibatch",
        )  # fmt: skip
    return GramOperator(
        statistics.donor_grams if by_donor else statistics.gram,
        n_cells=statistics.n_cells,
        squared_norm=statistics.squared_norm,
        **options,
    )


def conditions_of(statistics: Statistics) -> ConditionSums:
    """Condition sums of the cells of statistics."""
    if statistics.layout.n_categories == 0:
        raise InputError(
            "statistics", "sums over conditions", "none", "gather with at least one condition column"
        )
    return ConditionSums(sums=statistics.group_sums, counts=statistics.group_counts)


@dataclass(frozen=True)
class GatheredCells:
    """What a descent asks of the cells, from statistics."""

    statistics: Statistics
    has_types: bool = True

    @property
    def n_cells(self) -> int:
        return self.statistics.n_cells

    def condition_sums(self, *, by_type: bool) -> ConditionSums:
        """See :class:`nmfbench.models.autoencoder.from_cells.Cells`."""
        found = conditions_of(self.statistics)
        if by_type:
            return found
        return ConditionSums(found.sums.sum(axis=0, keepdims=True), found.counts.sum(axis=0, keepdims=True))

    def fingerprint(self) -> str:
        """A text that changes with the cells that were read and with how they were laid out."""
        text = self.statistics.layout.to_json() + " ".join(self.statistics.digests)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def operator_within(
    statistics: Statistics, by_donor: bool, device: torch.device, memory_mb: float
) -> GramOperator:
    """XᵀX of statistics, of all cells or by donor: held where it fits in `memory_mb`, else left on disk.

    Raises
    ------
    InputError
        If there is no Gram matrix for each donor, or the GPU has no room for it.
    """
    held = statistics.donor_grams if by_donor else statistics.gram
    if device.type == "cuda" and held is not None:
        _check_room(held, device)
    options = {"by_donor": by_donor, "device": str(device) if device.type == "cuda" else "cpu"}
    operator = operator_of(statistics, partial=True, **options)
    if isinstance(held, np.memmap) and held.nbytes <= memory_mb * _MIB:
        operator.hold()
    return operator


def _check_room(held: np.ndarray, device: torch.device) -> None:
    need, free = held.nbytes / _MIB, free_bytes(device) / _MIB
    if need > free:
        raise InputError(
            f"XᵀX of {held.shape[-1]} genes on {device}", f"at most the {free:.0f} MiB that are free",
            f"{need:.0f} MiB", "keep fewer genes (datasets.<name>.genes), or set device: cpu",
        )  # fmt: skip


def categories_of(statistics: Statistics) -> Conditions:
    """The condition columns of statistics with their categories, and no cell's code."""
    columns = statistics.layout.conditions
    for name, categories in columns.items():
        if len(categories) < 2:
            raise InputError(
                f"conditions: column {name!r} has one category",
                "at least two, for a model that tells conditions apart", str(categories),
                "give data of several donors (lower min_cells_per_donor), or use ae_nmf",
            )  # fmt: skip
    return Conditions(
        tuple(columns),
        tuple(np.array(categories) for categories in columns.values()),
        np.zeros((0, len(columns)), np.int64),
    )
