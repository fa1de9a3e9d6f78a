"""PNMF's function family and PyTorch objects; the documented examples."""

from __future__ import annotations

import doctest
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.exceptions import NotFittedError

import reference_pnmf as dense
from nmfbench.errors import InputError
from nmfbench.models import PNMF, pnmf

K = 3


@pytest.fixture(scope="module")
def planted():
    return dense.counts(150, 60, K, depth=0.8)


@pytest.fixture(scope="module")
def model(planted):
    return PNMF(K, mode="lower-bound", random_state=0).fit(planted[0])


@pytest.mark.parametrize(
    "module",
    ["estimator", "api.factorization", "parameters", "prior", "start", "api.transforms", "spatial.estimator"],
)
def test_documented_examples(module):
    result = doctest.testmod(import_module(f"nmfbench.models.pnmf.{module}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_is_there():
    for name in pnmf.__all__:
        assert getattr(pnmf, name).__doc__
    assert pnmf.factors is pnmf.get_factors
    with pytest.raises(AttributeError):
        pnmf.no_such_name  # noqa: B018


def test_factors_and_their_uncertainty(model, planted):
    n = planted[0].shape[0]
    mu, sigma = pnmf.log_factors(model), pnmf.factor_uncertainty(model)
    assert mu.shape == sigma.shape == (n, K)
    np.testing.assert_allclose(mu, model.log_factors_, atol=1e-9)
    np.testing.assert_allclose(sigma, model.factor_scale_, rtol=1e-6)
    np.testing.assert_allclose(pnmf.factor_uncertainty(model, return_variance=True), sigma**2)
    np.testing.assert_allclose(pnmf.get_factors(model), np.exp(mu))
    np.testing.assert_allclose(pnmf.factors(model, use_mgf=True), np.exp(mu + sigma**2 / 2))
    np.testing.assert_allclose(pnmf.factors(model, use_mgf=True), model.embedding_, rtol=1e-6)
    prior = pnmf.get_prior(model)
    np.testing.assert_array_equal(pnmf.log_factors_from_prior(prior), mu)
    np.testing.assert_allclose(pnmf.factors_from_prior(prior), model.embedding_, rtol=1e-6)
    np.testing.assert_allclose(pnmf.factors_from_prior(prior, use_mgf=False), np.exp(mu))
    np.testing.assert_array_equal(pnmf.uncertainty_from_prior(prior), sigma)
    np.testing.assert_allclose(pnmf.uncertainty_from_prior(prior, return_variance=True), sigma**2)
    np.testing.assert_array_equal(pnmf.get_loadings(model), model.components_.T)
    assert isinstance(pnmf.get_loadings(model, return_tensor=True), torch.Tensor)
    draws = pnmf.factor_samples(model, 400, random_state=1)
    assert draws.shape == (400, n, K)
    np.testing.assert_allclose(draws.mean(axis=0), mu, atol=0.25)
    np.testing.assert_allclose(
        pnmf.factor_samples(model, 5, return_exp=True, random_state=1),
        np.exp(pnmf.factor_samples(model, 5, random_state=1)),
    )


@pytest.mark.parametrize(
    "function",
    ["log_factors", "factors", "factor_uncertainty", "factor_samples", "get_loadings", "get_prior"],
)
def test_a_model_that_is_not_fitted_is_refused(function):
    with pytest.raises(NotFittedError):
        getattr(pnmf, function)(PNMF())


@pytest.mark.parametrize("mode", ["lower-bound", "expanded", "simple"])
def test_transform_f_is_the_posterior(mode, model, planted):
    X, W = planted[0], pnmf.get_loadings(model)
    H = pnmf.transform_F(X, W, mode=mode)
    if mode == "lower-bound":
        np.testing.assert_allclose(H, model.embedding_, rtol=1e-2, atol=1e-3)
    else:
        assert np.corrcoef(H.ravel(), model.embedding_.ravel())[0, 1] > 0.995
    prior = pnmf.transform_F(X.toarray(), torch.from_numpy(W), mode=mode, return_prior=True)
    np.testing.assert_allclose(pnmf.factors_from_prior(prior), H, rtol=1e-6)


def test_transform_w_climbs_the_poisson_likelihood(model, planted):
    X = planted[0]
    F = model.embedding_
    full = torch.from_numpy(X.toarray())

    def deviance(W):
        return float(dense.deviance(full, torch.from_numpy(F @ W.T)))

    values = [deviance(pnmf.transform_W(X, F, max_iter=i, tol=0.0)) for i in (1, 2, 5, 20, 300)]
    assert (np.diff(values) < 0).all()
    best = pnmf.transform_W(X, F, max_iter=2000, tol=1e-9)
    other = pnmf.transform_W(X, F, max_iter=2000, tol=1e-9, loss="frobenius")
    assert deviance(best) < deviance(other)
    errors = [((X.toarray() - F @ W.T) ** 2).sum() for W in (best, other)]
    assert errors[1] < errors[0]
    resumed = pnmf.transform_W(X, F, W_init=pnmf.transform_W(X, F, max_iter=5, tol=0.0), max_iter=5, tol=0.0)
    np.testing.assert_allclose(resumed, pnmf.transform_W(X, F, max_iter=10, tol=0.0))
    H0 = np.exp(model.log_factors_)
    own = pnmf.transform_W(X, H0, mean_factors=F, W_init=model.components_.T, max_iter=1)
    np.testing.assert_allclose(own, model.components_.T, rtol=0.05, atol=1e-3)


def test_what_does_not_fit_together_is_refused(model, planted):
    X, W, F = planted[0], pnmf.get_loadings(model), model.embedding_
    for call, message in (
        (lambda: pnmf.transform_F(X, W[:-1]), "60 genes"),
        (lambda: pnmf.transform_F(X, W, n_components=4), "n_components"),
        (lambda: pnmf.transform_F(X, W, mode="jensen"), "mode"),
        (lambda: pnmf.transform_F(X, W, E=0), "E"),
        (lambda: pnmf.transform_F(X, W, learning_rate=0), "learning_rate"),
        (lambda: pnmf.transform_W(X, F[:-1]), "150 cells"),
        (lambda: pnmf.transform_W(X, F, n_components=4), "n_components"),
        (lambda: pnmf.transform_W(X, F, W_init=W[:, :2]), "W_init"),
        (lambda: pnmf.transform_W(X, F, max_iter=0), "max_iter"),
        (lambda: pnmf.transform_W(X, F, loss="l1"), "loss"),
        (lambda: pnmf.factor_samples(model, 0), "n_samples"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(ValueError, match="Negative"):
        pnmf.transform_F(-X, W)


@pytest.mark.parametrize("mode", ["simple", "expanded", "lower-bound"])
@pytest.mark.parametrize("loadings_mode", ["softplus", "exp", "projected"])
def test_the_torch_objects_agree_with_autograd(mode, loadings_mode, planted):
    y = torch.from_numpy(planted[0].T.toarray())
    prior = pnmf.GaussianPrior(y, L=K, dtype=torch.float64)
    module = pnmf.PoissonFactorization(prior, y, L=K, loadings_mode=loadings_mode, mode=mode)
    terms, qF, pF = module(E=2)
    value, divergence = pnmf.compute_elbo(mode, terms, qF, pF, y)
    (divergence - value).backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    assert {name for name, _ in module.named_parameters()} == {"prior.mu", "prior.raw_sigma", "raw_W"}
    module.zero_grad()
    source = pnmf.api.factorization.generator(0, 1, 1)
    eps = torch.randn((1, *prior.marginals()[0].shape), generator=source, dtype=torch.float64)
    mu, sigma = prior.marginals()
    expected = dense.log_likelihood(y.T, mu, sigma, module.W.data, mode, [eps[0], -eps[0]])
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    (dense.divergence(mu, sigma) - expected).backward()
    for ours, parameter in zip(gradients, module.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-9)


def test_the_torch_objects_on_batches(planted):
    y = torch.from_numpy(planted[0].T.toarray()).float()
    prior = pnmf.GaussianPrior(y, L=K)
    module = pnmf.PoissonFactorization(prior, sp.csr_matrix(y.numpy()), L=K, mode="lower-bound")
    assert (module.D, module.N, module.L) == (60, 150, K)
    rows, genes = torch.tensor([3, 7, 9]), torch.tensor([0, 5])
    terms, qF, pF = module(rows, genes)
    assert qF.mean.shape == pF.mean.shape == (K, 3)
    same = module(rows, genes, X=y[genes][:, rows])[0]
    torch.testing.assert_close(terms["log_likelihood"], same["log_likelihood"])
    A, W = torch.exp(prior.mean + prior.scale**2 / 2), module.W.data
    torch.testing.assert_close(terms["rate_sum"], (W[genes] @ A[:, rows]).sum())
    assert module.get_rate(prior.sample(4).transpose(1, 2), genes).shape == (4, 2, 150)
    assert pnmf.compute_log_likelihood_terms(module, rows)["exp_mu"].shape == (K, 3)
    doubled = pnmf.compute_elbo("lower-bound", terms, qF, pF, kl_fn=lambda q, p: 2 * pnmf.kl_divergence(q, p))
    torch.testing.assert_close(doubled[1], 2 * pnmf.kl_divergence(qF, pF))
    with pytest.raises(InputError, match="mode"):
        pnmf.PoissonFactorization(prior, y, mode="jensen")
