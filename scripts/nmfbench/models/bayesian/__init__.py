"""Bayesian non-negative factorisation of counts: gamma and exponential priors, negative binomial likelihood.

Nothing of cells x genes is ever dense: every term of the likelihood is a sum over the nonzeros and a few
products of k-sized sums (:mod:`~nmfbench.models.bayesian.terms`). Two ways of inference share them:
closed-form coordinate ascent (:mod:`~nmfbench.models.bayesian.cavi`) and stochastic gradients with Pyro
(:mod:`~nmfbench.models.bayesian.svi`).

Throughout, P is cells x k, A is kept gene by gene (genes x k), and theta = P Aᵀ.
"""
