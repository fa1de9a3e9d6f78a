"""Exponential priors, negative binomial counts."""

from __future__ import annotations

from nmfbench.models.bayesian.estimator import BayesianNMF
from nmfbench.models.bayesian.prior import GammaPrior


class PyroExponential(BayesianNMF):
    """Exponential priors: ``P_ik ~ Exp(rate_P)``, ``A_kg ~ Exp(rate_A)``.

    Counts are negative binomial, ``D_ig ~ NB(theta_ig, p)`` with ``theta = P A``, of mean
    ``theta p / (1 - p)`` and variance ``theta p / (1 - p)²``. Maximised is the ELBO: the expected
    log-likelihood of the counts minus the divergence of the posterior from the prior; ``objective_`` is minus
    the ELBO of a cell.

    {parameters}
    """

    _model_name = "pyro_exponential"

    def __init__(
        self,
        n_components=80,
        *,
        inference="cavi",
        batch_size=None,
        max_epochs=200,
        tol=1e-5,
        patience=3,
        forgetting=0.5,
        delay=10.0,
        local_steps=5,
        num_steps=2000,
        lr=0.1,
        clip_norm=None,
        param_P=True,
        nb_probs=0.5,
        learn_probs="fixed",
        learn_rates="matrix",
        prior_rate=1.0,
        use_pois=False,
        use_chisq=False,
        fixed_genes=None,
        fixed_samples=None,
        post_full_P_steps=0,
        held_out_fraction=0.0,
        marker_draws=50,
        storage_device="auto",
        keep_on_cpu=False,
        random_state=None,
        device="auto",
        verbose=0,
    ):
        self.n_components = n_components
        self.inference = inference
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.tol = tol
        self.patience = patience
        self.forgetting = forgetting
        self.delay = delay
        self.local_steps = local_steps
        self.num_steps = num_steps
        self.lr = lr
        self.clip_norm = clip_norm
        self.param_P = param_P
        self.nb_probs = nb_probs
        self.learn_probs = learn_probs
        self.learn_rates = learn_rates
        self.prior_rate = prior_rate
        self.use_pois = use_pois
        self.use_chisq = use_chisq
        self.fixed_genes = fixed_genes
        self.fixed_samples = fixed_samples
        self.post_full_P_steps = post_full_P_steps
        self.held_out_fraction = held_out_fraction
        self.marker_draws = marker_draws
        self.storage_device = storage_device
        self.keep_on_cpu = keep_on_cpu
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _priors(self, k_cells: int, k_genes: int) -> tuple[GammaPrior, GammaPrior]:
        return tuple(
            GammaPrior(k, 1.0, self.prior_rate, "fixed", self.learn_rates) for k in (k_cells, k_genes)
        )
