"""Gamma priors, negative binomial counts."""

from __future__ import annotations

from nmfbench.models.bayesian import card
from nmfbench.models.bayesian.estimator import BayesianNMF
from nmfbench.models.bayesian.prior import GammaPrior
from nmfbench.models.parameters import parameters


@parameters(card.Given, card.PyroGammaNB)
class PyroGammaNB(BayesianNMF):
    """Gamma priors: ``P_ik ~ Gamma(shape_P, rate_P)``, ``A_kg ~ Gamma(shape_A, rate_A)``.

    Counts are negative binomial, ``D_ig ~ NB(theta_ig, p)`` with ``theta = P A``, of mean
    ``theta p / (1 - p)`` and variance ``theta p / (1 - p)²``. Maximised is the ELBO: the expected
    log-likelihood of the counts minus the divergence of the posterior from the prior; ``objective_`` is minus
    the ELBO of a cell.

    {parameters}
    """

    _model_name = "pyro_gamma_nb"

    def _priors(self, k_cells: int, k_genes: int) -> tuple[GammaPrior, GammaPrior]:
        shapes = (k_cells, self.prior_shape_P), (k_genes, self.prior_shape_A)
        return tuple(
            GammaPrior(k, shape, self.prior_rate, self.learn_shapes, self.learn_rates) for k, shape in shapes
        )
