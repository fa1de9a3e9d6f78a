"""The part of the Bayesian estimators' docstrings and limits that they share."""

from __future__ import annotations

from nmfbench.models.limits import Limit, one_of, real

SHARED_PARAMETERS = """Parameters
    ----------
    n_components : int, default=80
        Number of learnt patterns k; 0 is for `fixed_genes` alone.
    inference : {"cavi", "svi", "map"}, default="cavi"
        ``cavi``: closed-form coordinate ascent, whose ELBO never falls (with `batch_size`, its stochastic
        version). ``svi``: Pyro's stochastic gradients of a log-normal posterior. ``map``: the most probable
        factors in place of a posterior, by the ascent's updates; the priors are then kept as they are given.
    batch_size : int or None, default=None
        Cells in a minibatch; None, or at least as many as there are: all at once.
    max_epochs : int, default=200
        Passes over the cells, at most (cavi).
    tol : float, default=1e-5
        `patience` passes that lower the objective by no more than this share end the fit (cavi).
    patience : int, default=3
    forgetting, delay : float, default=0.5, 10
        Step t of a minibatch ascent moves the genes by the share ``(t + delay) ** -forgetting``.
    local_steps : int, default=5
        Updates of a minibatch's cells before the genes move (cavi).
    num_steps : int, default=2000
        Gradient steps (svi).
    lr : float, default=0.1
        Adam's step (svi).
    clip_norm : float or None, default=None
        Bound of each entry of the gradient, as Pyro's ClippedAdam has it (svi).
    param_P : bool, default=True
        The posterior of P as parameters written out, on `storage_device`; False: Pyro's AutoNormal, the same
        family, on the device of the fit (svi).
    nb_probs : float, default=0.5
        p of the negative binomial, of mean ``theta p / (1 - p)``; the start where it is learnt.
    learn_probs : {"fixed", "all", "gene", "donor"}, default="fixed"
        Whether p is kept, or set to its optimum: one number, one for each gene, or one for each donor.
    learn_rates : {"pattern", "matrix", "fixed"}, default="matrix"
        Priors' rates: one for each pattern (automatic relevance determination), one for each matrix, or
        `prior_rate`.
    prior_rate : float, default=1.0
        Rate of the priors, or its start.{shape_parameters}
    use_pois, use_chisq : bool, default=False
        Add ten times the Poisson log-likelihood, or minus chi-squared (svi alone), whose mean is theta: both
        need p = 0.5. The uncertainty of a count d is max(0.3, 0.1 d).
    fixed_genes, fixed_samples : DataFrame, path or None, default=None
        Constant patterns: gene weights of patterns whose cells are learnt, or the other way round. Rows are
        aligned by name. ``fixed_samples="donors"``: an additive profile of genes for each donor.
    post_full_P_steps : int, default=0
        At the end, this many updates of all cells given the genes.
    held_out_fraction : float, default=0.0
        Share of the counts set aside by thinning; their log-likelihood is in the history and chooses the
        best state.
    marker_draws : int, default=50
        Posterior draws behind the marker votes.
    storage_device : {"auto", "cpu", "compute"}, default="auto"
        Where the posterior of the cells lies; ``auto``: the CPU with minibatches, else where the work is.
    keep_on_cpu : bool, default=False
        Leave the counts on the CPU and copy each minibatch over.
    random_state : int, RandomState, Generator or None
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
    verbose : int, default=0
        Above 0: a progress bar, whether or not stderr is a terminal."""

SHAPE_PARAMETERS = """
    prior_shape_P, prior_shape_A : float
        Shapes of the gamma priors, or their starts.
    learn_shapes : {"fixed", "matrix", "pattern"}, default="matrix"
        Whether the shapes are kept, learnt for each matrix, or for each pattern."""


class Share(Limit):
    """A number from 0 (or above it) to below 1."""

    def admits(self, value):
        return super().admits(value) and value < 1


LIMITS: dict[str, Limit] = {
    "n_components": real(0, whole=True),
    "inference": one_of("cavi", "svi", "map"),
    "batch_size": real(1, whole=True).or_none(),
    "max_epochs": real(1, whole=True),
    "tol": real(0),
    "patience": real(1, whole=True),
    "forgetting": real(0, above=True),
    "delay": real(0),
    "local_steps": real(1, whole=True),
    "num_steps": real(1, whole=True),
    "lr": real(0, above=True),
    "clip_norm": real(0, above=True).or_none(),
    "param_P": one_of(True, False),
    "nb_probs": Share("a number between 0 and 1", low=0, above=True),
    "learn_probs": one_of("fixed", "all", "gene", "donor"),
    "learn_rates": one_of("pattern", "matrix", "fixed"),
    "prior_rate": real(0, above=True),
    "use_pois": one_of(True, False),
    "use_chisq": one_of(True, False),
    "post_full_P_steps": real(0, whole=True),
    "held_out_fraction": Share("a number from 0 to below 1", low=0),
    "marker_draws": real(0, whole=True),
    "storage_device": one_of("auto", "cpu", "compute"),
    "keep_on_cpu": one_of(True, False),
    "verbose": real(0, whole=True),
}
