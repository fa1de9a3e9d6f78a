"""Exact full-batch solvers of the tied models, on sufficient statistics or on the nonzeros of X."""

from nmfbench.models.autoencoder.exact.conditions import ConditionSums, sums_of_blocks
from nmfbench.models.autoencoder.exact.coordinate import DonorObjective, TiedObjective
from nmfbench.models.autoencoder.exact.operators import GramOperator, SparseOperator
from nmfbench.models.autoencoder.exact.start import start
from nmfbench.models.autoencoder.exact.sweeps import SolverResult, Sweeps, minimise

__all__ = [
    "ConditionSums",
    "DonorObjective",
    "GramOperator",
    "SolverResult",
    "SparseOperator",
    "Sweeps",
    "TiedObjective",
    "minimise",
    "start",
    "sums_of_blocks",
]
