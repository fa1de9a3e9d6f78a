"""Exponential priors, negative binomial counts."""

from __future__ import annotations

from nmfbench.models.bayesian import card
from nmfbench.models.bayesian.estimator import BayesianNMF
from nmfbench.models.bayesian.prior import GammaPrior
from nmfbench.models.parameters import parameters


@parameters(card.Given, card.PyroExponential)
class PyroExponential(BayesianNMF):
    """Exponential priors: ``P_ik ~ Exp(rate_P)``, ``A_kg ~ Exp(rate_A)``.

    Counts are negative binomial, ``D_ig ~ NB(theta_ig, p)`` with ``theta = P A``, of mean
    ``theta p / (1 - p)`` and variance ``theta p / (1 - p)²``. Maximised is the ELBO: the expected
    log-likelihood of the counts minus the divergence of the posterior from the prior; ``objective_`` is minus
    the ELBO of a cell.

    {parameters}
    """

    _model_name = "pyro_exponential"

    def _priors(self, k_cells: int, k_genes: int) -> tuple[GammaPrior, GammaPrior]:
        return tuple(
            GammaPrior(k, 1.0, self.prior_rate, "fixed", self.learn_rates) for k in (k_cells, k_genes)
        )
