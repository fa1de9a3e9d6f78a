"""PNMF with Gaussian process priors, as an estimator."""

from __future__ import annotations

import pickle

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from nmfbench.errors import InputError
from nmfbench.models import PNMF, PNMFDonor, pnmf
from nmfbench.models.pnmf.api.transforms import log_factors
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.likelihood import log_likelihood
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.spatial.ascent import AscentStage
from nmfbench.models.pnmf.spatial.estimator import SpatialPNMF
from nmfbench.models.pnmf.spatial.kernels import Matern32, Points
from nmfbench.models.pnmf.spatial.svgp import SVGP

K = 3


@pytest.fixture(scope="module")
def tissue():
    """Counts of 150 cells whose three factors are smooth in the plane, 60 genes, few counts a cell."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 10, (150, 2))
    centres = np.array([[2, 2], [8, 3], [5, 8]])
    log_factors = 3 * np.exp(-((xy[:, None] - centres) ** 2).sum(axis=2) / 8) - 1
    W = rng.gamma(0.3, 0.6, (K, 60))
    X = sparse.csr_matrix(rng.poisson(np.exp(log_factors) @ W).astype(np.float32))
    return X, xy, log_factors


def fitted(X, xy, **parameters):
    options = {"mode": "lower-bound", "lengthscale": 3.0, "max_iter": 60, "random_state": 0, "device": "cpu"}
    options["exposure"] = None  # cells of equal depth
    return SpatialPNMF(K, **{**options, **parameters}).fit(X, coordinates=xy)


def predict(model, *where):
    return tuple(part.numpy() for part in model.predict_factors(*where))


def best_correlations(found, truth) -> np.ndarray:
    corr = np.corrcoef(found.T, truth.T)[:K, K:]
    from scipy.optimize import linear_sum_assignment

    return corr[linear_sum_assignment(-corr)]


def test_ascent_never_lowers_the_bound_and_ends_where_its_gradient_vanishes(tissue):
    X, xy, _ = tissue
    counts = Counts(X.astype(np.float64))
    generator = torch.Generator().manual_seed(0)
    points = Points.of(xy)
    prior = SVGP(points, points[:40], Matern32(3.0), K, dtype=torch.float64)
    prior.start_from(torch.randn((150, K), generator=generator, dtype=torch.float64))
    W = torch.rand((60, K), generator=generator, dtype=torch.float64)
    stage = AscentStage(counts, prior, W, RateScales(), 400)
    bounds = [stage.step(t).elbo for t in range(300)]
    assert np.diff(bounds).min() > -1e-8 * abs(bounds[-1])
    loadings = stage.W.clone()
    for t in range(100):  # of q alone
        stage.step(t)
        stage.W = loadings.clone()
    mu, sigma = prior.marginals()
    terms = log_likelihood(counts, mu.detach(), sigma.detach(), stage.W, "lower-bound", latent=True)
    start = log_likelihood(counts, mu.detach(), sigma.detach(), W, "lower-bound", latent=True)
    left = prior.gradients(-terms.mu, -terms.sigma, 1.0)
    for name in ("mean", "raw_diagonal"):
        assert left[name].abs().max() < 0.05, name
    assert start.mu.abs().max() > 5, "a gradient that is small where nothing was optimised would say nothing"


def test_momentum_climbs_faster_than_plain_sweeps(tissue, monkeypatch):
    X, xy, _ = tissue
    quick = fitted(X, xy, tol=0.0).elbo_
    monkeypatch.setattr(AscentStage, "_hasten", lambda self: None)
    slow = [row["elbo"] for row in fitted(X, xy, tol=0.0, max_iter=120).history_]
    assert quick > slow[30 + 100], "60 sweeps with it are worth more than 100 without"


def test_the_lengthscale_is_the_one_with_the_highest_bound(tissue):
    X, xy, _ = tissue
    options = {"num_inducing": 60, "max_iter": 150, "tol": 1e-7}
    tuned = [fitted(X, xy, train_lengthscale=True, lengthscale=start, **options) for start in (1.0, 12.0)]
    assert tuned[0].lengthscale_ == pytest.approx(tuned[1].lengthscale_, rel=0.05)
    assert tuned[0].elbo_ == pytest.approx(tuned[1].elbo_, abs=1.0)
    for model in tuned:
        bounds = [row["elbo"] for row in model.history_[30:]]
        assert np.diff(bounds).min() > -1e-7 * abs(bounds[-1])
        for length in (3.0, 12.0):
            assert model.elbo_ > fitted(X, xy, lengthscale=length, **options).elbo_ + 5


@torch.no_grad()
@pytest.mark.parametrize("cholesky_mode", ["exp", "softplus"])
def test_another_lengthscale_can_leave_the_inducing_values_as_they_are(tissue, cholesky_mode):
    _, xy, _ = tissue
    points = Points.of(xy)
    prior = SVGP(points, points[:40], Matern32(3.0), K, cholesky_mode=cholesky_mode, dtype=torch.float64)
    prior.start_from(torch.randn((150, K), generator=torch.Generator().manual_seed(0)).double())
    prior.lower += torch.tril(0.1 * torch.ones((40, 40), dtype=torch.float64), diagonal=-1)
    whitened, at_inducing = prior.mean.clone(), prior.predict(points[:40])
    prior.set_log_lengthscale(np.log(2.0), keep_process=True)
    assert prior.kernel.lengthscale == pytest.approx(2.0)
    for before, now in zip(at_inducing, prior.predict(points[:40]), strict=True):
        torch.testing.assert_close(now, before, rtol=1e-3, atol=1e-3)  # up to the jitter
    assert not torch.allclose(prior.mean, whitened)
    kept = prior.mean.clone()
    prior.set_log_lengthscale(np.log(5.0))
    assert torch.equal(prior.mean, kept)
    assert not torch.allclose(prior.predict(points[:40])[0], at_inducing[0], atol=0.1)


@pytest.mark.parametrize("mode", ["expanded", "simple"])
def test_the_evidence_bound_rises_from_the_lower_bounds_optimum(tissue, mode):
    X, xy, _ = tissue
    lower = fitted(X, xy)
    counts, scales = Counts(X), RateScales()
    W = torch.from_numpy(lower.components_.T.copy())
    stage = AscentStage(counts, lower.prior_, W, scales, 60, mode=mode, seed=1)
    before = stage.evaluate().elbo
    width = lower.prior_.marginals()[1].mean().item()
    for t in range(60):
        stage.step(t)
    assert before > lower.elbo_, "Jensen's bound lies below the evidence bound"
    assert stage.evaluate().elbo > before + 1
    assert lower.prior_.marginals()[1].mean().item() > width, "Jensen's bound makes sigma too small"


def test_planted_smooth_factors_are_found_and_predicted_where_no_cell_was(tissue):
    X, xy, truth = tissue
    seen = np.arange(150) % 5 != 0
    model = fitted(X[seen], xy[seen])
    assert best_correlations(model.log_factors_, truth[seen]).min() > 0.9
    mu, sigma = predict(model, xy[~seen])
    assert best_correlations(mu, truth[~seen]).min() > 0.85
    far = predict(model, [[500.0, 500.0]])
    np.testing.assert_allclose(far[0], 0, atol=1e-3)  # the prior, far from all cells
    np.testing.assert_allclose(far[1], 1, atol=1e-3)
    assert sigma.max() < 0.9
    np.testing.assert_allclose(model.transform(None, xy[seen]), model.embedding_, rtol=2e-3)
    np.testing.assert_allclose(model.inverse_transform(model.embedding_).sum() / X[seen].sum(), 1, rtol=0.05)


def test_space_helps_where_counts_are_few(tissue):
    X, xy, truth = tissue
    thin = X.copy()
    thin.data = np.random.default_rng(1).binomial(thin.data.astype(int), 0.3).astype(np.float32)
    thin.eliminate_zeros()
    plain = PNMF(K, mode="lower-bound", random_state=0, max_iter=100, device="cpu").fit(thin)
    smooth = best_correlations(fitted(thin, xy).log_factors_, truth).mean()
    assert smooth > best_correlations(plain.log_factors_, truth).mean() + 0.03


@pytest.mark.parametrize(
    "parameters",
    [
        {"mode": "expanded", "max_iter": 30},
        {"num_inducing": 30},
        {"diagonal_only": True, "learning_rate": 0.05},
        {"local": True, "K": 12, "learning_rate": 0.05},
        {"local": True, "K": 12, "neighbors": "probabilistic", "learning_rate": 0.05},
        {"train_lengthscale": True, "lengthscale": 1.0, "num_inducing": 30, "max_iter": 120},
        {"batch_size": 64, "train_lengthscale": True, "num_inducing": 30, "learning_rate": 0.05},
        {"cholesky_mode": "softplus", "engine": "gradient", "mode": "simple", "num_inducing": 30},
    ],
    ids=["expanded", "inducing", "diagonal", "local", "drawn", "lengthscale", "batches", "simple"],
)
def test_every_form_finds_the_factors(tissue, parameters):
    X, xy, truth = tissue
    model = fitted(X, xy, **parameters)
    assert best_correlations(model.log_factors_, truth).min() > 0.85
    assert model.prior_type == ("LCGP" if parameters.get("local") else "SVGP")
    near = model.transform(None, xy + 0.01)
    assert np.corrcoef(near.ravel(), model.embedding_.ravel())[0, 1] > 0.95
    if parameters.get("train_lengthscale"):
        start = parameters.get("lengthscale", 3.0)
        assert abs(np.log(model.lengthscale_ / start)) > 0.1
        assert model.lengthscale_ > 1.2, "the truth is smoother than the start"


def test_groups_are_smoothed_apart(tissue):
    """Two sections at the same coordinates with opposite patterns: one process for both would see neither."""
    _, xy, _ = tissue
    rng = np.random.default_rng(0)
    section = np.array(["a", "b"])[np.arange(150) % 2]
    pattern = np.where(section == "a", 1.0, -1.0) * (xy[:, 0] - 5) / 2
    W = rng.gamma(1.0, 0.5, (1, 60))
    X = rng.poisson(np.exp(pattern[:, None]) @ W)
    options = {"mode": "lower-bound", "lengthscale": 3.0, "max_iter": 60, "random_state": 0, "device": "cpu"}
    options["exposure"] = None  # cells of equal depth
    apart = SpatialPNMF(1, multigroup=True, **options).fit(X, coordinates=xy, groups=section)
    shared = SpatialPNMF(1, **options).fit(X, coordinates=xy)

    def agreement(model):
        return np.corrcoef(model.log_factors_[:, 0], pattern)[0, 1]

    assert agreement(apart) > 0.95 > agreement(shared)
    same_place = [[8.0, 5.0], [8.0, 5.0]]
    mu, _ = predict(apart, same_place, ["a", "b"])
    assert mu[0, 0] > 0.5 > -0.5 > mu[1, 0]
    with pytest.raises(InputError, match=r"groups of the fit: a, b\n.*c"):
        apart.transform(None, same_place, ["a", "c"])


@pytest.mark.parametrize(
    "parameters",
    [{"mode": "expanded"}, {"local": True, "K": 8}, {"train_lengthscale": True}],
    ids=["expanded", "local", "lengthscale"],
)
def test_resumed_equals_unbroken(tissue, tmp_path, parameters, monkeypatch):
    X, xy, _ = tissue
    monkeypatch.setattr("nmfbench.models.pnmf.spatial.ascent._TUNE_FROM", 5)
    options = {"mode": "lower-bound", "max_iter": 12, "random_state": 0, "lengthscale": 3.0, "device": "cpu"}
    options |= parameters
    whole = SpatialPNMF(K, **options).fit(X, coordinates=xy)
    for stop_at in (15, 20, None):  # in the stages with space, that follow 12 sweeps without
        calls = iter(range(1000))
        model = SpatialPNMF(K, **options).fit(
            X,
            coordinates=xy,
            checkpoint=tmp_path / "checkpoint",
            should_stop=lambda calls=calls, stop_at=stop_at: next(calls) == stop_at,
        )
    assert model.stop_reason_ == whole.stop_reason_ != "interrupted"
    np.testing.assert_array_equal(model.embedding_, whole.embedding_)
    np.testing.assert_array_equal(model.components_, whole.components_)


def test_the_constructor_of_pnmf_takes_the_parameters_of_space(tissue):
    """As the reference documents it: ``PNMF(spatial=True).fit(X, coordinates=, groups=)``."""
    X, xy, _ = tissue
    section = np.array(["a", "b"])[np.arange(150) % 2]
    options = {"num_inducing": 20, "lengthscale": 3.0, "mode": "lower-bound", "max_iter": 8}
    options |= {"multigroup": True, "group_diff_param": 1.0, "random_state": 0, "device": "cpu"}
    model = PNMF(K, spatial=True, exposure="total", **options)
    assert model.prior_type == "SVGP"
    assert PNMF(K, spatial=True, local=True).prior_type == "LCGP"
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert twin.get_params()["group_diff_param"] == 1.0
    model.fit(X, coordinates=xy, groups=section)
    named = SpatialPNMF(K, **options).fit(X, coordinates=xy, groups=section)
    np.testing.assert_array_equal(model.embedding_, named.embedding_)
    assert set(named.get_params()) == set(model.get_params()) - {"spatial"}
    np.testing.assert_array_equal(
        model.transform(X[:3], xy[:3], section[:3]), named.transform(None, xy[:3], section[:3])
    )
    again = twin.fit_transform(X, coordinates=xy, groups=section)
    np.testing.assert_array_equal(again, model.embedding_)
    with pytest.raises(InputError, match="local=True requires spatial=True"):
        PNMF(K, local=True).fit(X)
    with pytest.raises(InputError, match="PNMFDonor: parameter spatial"):
        PNMFDonor(K, spatial=True).fit(X, coordinates=xy)
    with pytest.raises(TypeError, match="spatial"):
        SpatialPNMF(K, spatial=False)


def test_a_lengthscale_in_other_units_is_warned_of(tissue):
    X, xy, _ = tissue
    with pytest.warns(UserWarning, match="lengthscale=1 is short against the usual distance"):
        fitted(X, 1000 * xy, lengthscale=1.0, max_iter=2, num_inducing=10)


def test_the_torch_objects_take_a_spatial_prior(tissue):
    X, xy, _ = tissue
    points = Points.of(xy)
    prior = SVGP(points, points[:10], Matern32(3.0), K, dtype=torch.float64)
    y = torch.from_numpy(X.T.toarray()).double()
    module = pnmf.PoissonFactorization(prior, y, L=K, mode="lower-bound")
    terms, qF, qU, pU = module(spatial=True)
    assert (qF.mean.shape, qU.mean.shape) == ((K, 150), (K, 10))
    value, divergence = pnmf.compute_elbo("lower-bound", terms, qU, pU)
    torch.testing.assert_close(divergence, prior.divergence())
    (divergence - value).backward()
    assert all(p.grad is not None for p in module.parameters())
    with pytest.raises(InputError, match="spatial"):
        module()
    plain = pnmf.PoissonFactorization(pnmf.GaussianPrior(y, L=K), y, L=K)
    with pytest.raises(InputError, match="inducing"):
        plain(spatial=True)


def test_it_is_an_estimator(tissue):
    X, xy, _ = tissue
    model = fitted(X, xy, num_inducing=20, max_iter=8)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert {"lengthscale", "K", "mode", "exposure"} <= set(twin.get_params())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(None, xy[:5]), model.transform(None, xy[:5]))
    adata = anndata.AnnData(X, obsm={"spatial": xy})
    np.testing.assert_array_equal(twin.fit(adata).embedding_, model.embedding_)
    np.testing.assert_array_equal(clone(model).fit_transform(X.toarray(), coordinates=xy), model.embedding_)
    np.testing.assert_array_equal(log_factors(model), model.log_factors_)
    np.testing.assert_array_equal(log_factors(model, xy[:4]), predict(model, xy[:4])[0])
    with pytest.raises(NotFittedError):
        SpatialPNMF(2).transform(None, xy)


@pytest.mark.parametrize(
    ("parameters", "given", "words"),
    [
        ({}, {}, "coordinates"),
        ({}, {"coordinates": np.zeros((7, 2))}, "coordinates"),
        ({}, {"coordinates": np.full((150, 2), np.nan)}, "coordinates"),
        ({"multigroup": True}, {"coordinates": "xy"}, "groups"),
        ({"training_mode": "natural"}, {"coordinates": "xy"}, "Natural gradient"),
        ({"K": 0, "local": True}, {"coordinates": "xy"}, "K"),
        ({"engine": "coordinate", "local": True}, {"coordinates": "xy"}, "local=True"),
        ({"no_such": 1}, {"coordinates": "xy"}, "no_such"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tissue, parameters, given, words):
    X, xy, _ = tissue
    given = {name: xy if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises((ValueError, TypeError), match=words):
        SpatialPNMF(K, **parameters).fit(X, **given)


def test_inducing_points_of_a_local_prior_are_warned_of(tissue):
    X, xy, _ = tissue
    with pytest.warns(UserWarning, match="num_inducing"):
        fitted(X, xy, local=True, num_inducing=10, K=4, max_iter=2)
