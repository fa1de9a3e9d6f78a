"""Exact full-batch solvers of the tied models, on sufficient statistics or on the nonzeros of X."""

from nmfbench.models.autoencoder.exact.conditions import ConditionSums, sums_of_blocks
from nmfbench.models.autoencoder.exact.coordinate import fit_ae_nmf, fit_cae_nmf1, fit_cae_nmf2
from nmfbench.models.autoencoder.exact.loop import SolverResult
from nmfbench.models.autoencoder.exact.operators import GramOperator, SparseOperator

__all__ = [
    "ConditionSums",
    "GramOperator",
    "SolverResult",
    "SparseOperator",
    "fit_ae_nmf",
    "fit_cae_nmf1",
    "fit_cae_nmf2",
    "sums_of_blocks",
]
