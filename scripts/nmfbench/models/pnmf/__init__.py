"""Poisson factorisation with a Gaussian latent (PNMF): estimator, functions, PyTorch objects.

Names are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    **dict.fromkeys(("PNMF",), "estimator"),
    **dict.fromkeys(("PNMFDonor",), "donor"),
    **dict.fromkeys(("GaussianPrior", "LatentPrior"), "prior"),
    **dict.fromkeys(("ConstrainedParameter", "PositiveParameter"), "parameters"),
    **dict.fromkeys(
        (
            "PoissonFactorization",
            "compute_elbo",
            "compute_log_likelihood_terms",
            "expected_log_likelihood",
            "kl_divergence",
        ),
        "api.factorization",
    ),
    "initialize_factors": "start",
    **dict.fromkeys(
        (
            "factor_samples",
            "factor_uncertainty",
            "factors",
            "factors_from_prior",
            "get_factors",
            "get_loadings",
            "get_prior",
            "log_factors",
            "log_factors_from_prior",
            "transform_F",
            "transform_W",
            "uncertainty_from_prior",
        ),
        "api.transforms",
    ),
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"nmfbench.models.pnmf.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
