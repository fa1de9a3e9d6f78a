"""From gathered statistics to what the solvers take."""

from __future__ import annotations

from nmfbench.errors import InputError
from nmfbench.models.autoencoder.exact.conditions import ConditionSums
from nmfbench.models.autoencoder.exact.operators import GramOperator
from nmfbench.statistics import Statistics


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
