"""Gaussian process priors of PNMF against dense formulas in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from nmfbench.models.pnmf.spatial.inducing import choose_inducing, share_out
from nmfbench.models.pnmf.spatial.kernels import Matern32, Points
from nmfbench.models.pnmf.spatial.lcgp import LCGP
from nmfbench.models.pnmf.spatial.neighbours import find_neighbours
from nmfbench.models.pnmf.spatial.svgp import SVGP

N, M, K = 30, 12, 3
JITTER = 1e-6


def positions(n=N, seed=0, n_groups=None):
    rng = np.random.default_rng(seed)
    groups = None if n_groups is None else rng.integers(0, n_groups, n)
    return Points.of(rng.uniform(0, 5, (n, 2)), groups)


def dense_kernel(a: Points, b: Points, lengthscale, sigma=1.0, alpha=None) -> np.ndarray:
    """Covariance by covariance, from the formula."""
    K = np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            r = float(np.linalg.norm(a.xy[i].numpy() - b.xy[j].numpy()))
            v = 1.0
            if alpha is not None and a.groups[i] != b.groups[j]:
                v = 1 / (1 + abs(alpha))
            rho = np.sqrt(3) * r / lengthscale * np.sqrt(v)
            K[i, j] = sigma**2 * (1 + rho) * np.exp(-rho) * v ** ((3 + 2) / 2)
    return K


def randomised(prior, seed=1):
    """The prior with every parameter at some value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            if parameter.ndim:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(parameter + 0.3 * noise)
    return prior


def test_matern_is_the_formula():
    a, b = positions(7), positions(9, seed=1)
    found = Matern32(1.7, 0.8)(a, b).numpy()
    np.testing.assert_allclose(found, dense_kernel(a, b, 1.7, 0.8), rtol=1e-5)
    from sklearn.gaussian_process.kernels import Matern

    np.testing.assert_allclose(found, 0.64 * Matern(1.7, nu=1.5)(a.xy.numpy(), b.xy.numpy()), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -10.0])
def test_multigroup_kernel(alpha):
    a = positions(40, n_groups=3)
    kernel = Matern32(1.3, 0.9, group_diff_param=alpha)
    found = kernel(a, a).numpy()
    np.testing.assert_allclose(found, dense_kernel(a, a, 1.3, 0.9, alpha), rtol=1e-5)
    assert np.linalg.eigvalsh(found).min() > -1e-9
    if alpha == 0:
        np.testing.assert_allclose(found, Matern32(1.3, 0.9)(a, a), rtol=1e-12)
    here = Points(torch.zeros((2, 2), dtype=torch.float64), torch.tensor([0, 1]))
    assert kernel(here, here)[0, 1] == pytest.approx(0.81 * (1 + abs(alpha)) ** -2.5, rel=1e-5)


def svgp(points, inducing, **options):
    kernel = Matern32(1.5, 1.2, group_diff_param=None if points.groups is None else 1.0)
    return SVGP(points, inducing, kernel, K, jitter=JITTER, dtype=torch.float64, **options)


@pytest.mark.parametrize("options", [{}, {"cholesky_mode": "softplus"}, {"diagonal_only": True}])
@pytest.mark.parametrize("n_groups", [None, 2])
def test_svgp_moments_and_divergence_are_those_of_the_dense_process(options, n_groups):
    """In the values u themselves, unwhitened, with inverses."""
    points, inducing = positions(n_groups=n_groups), positions(M, seed=2, n_groups=n_groups)
    elsewhere = positions(8, seed=3, n_groups=n_groups)
    prior = randomised(svgp(points, inducing, **options))
    Kzz = prior.kernel(inducing, inducing) + JITTER * torch.eye(M)
    C, T = torch.linalg.cholesky(Kzz), prior.triangle()
    inverse = torch.linalg.inv(Kzz)
    total = 0.0
    for where, (mu, sigma) in ((points, prior.marginals()), (elsewhere, prior.predict(elsewhere))):
        Kzx = prior.kernel(inducing, where)
        Kxx = prior.kernel(where, where)
        for l in range(K):
            m, S = C @ prior.mean[:, l], C @ T[l] @ T[l].T @ C.T
            cov = Kxx - Kzx.T @ inverse @ Kzx + Kzx.T @ inverse @ S @ inverse @ Kzx
            torch.testing.assert_close(mu[:, l], Kzx.T @ inverse @ m, rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(sigma[:, l] ** 2, cov.diagonal(), rtol=1e-6, atol=1e-8)
    for l in range(K):
        m, S = C @ prior.mean[:, l], C @ T[l] @ T[l].T @ C.T
        prior_u = MultivariateNormal(torch.zeros(M, dtype=torch.float64), Kzz)
        total += kl_divergence(MultivariateNormal(m, S), prior_u)
    torch.testing.assert_close(prior.divergence(), total, rtol=1e-7, atol=0)


def test_svgp_with_the_exact_posterior_is_gaussian_process_regression():
    points, elsewhere = positions(), positions(9, seed=4)
    prior = svgp(points, points)
    y = torch.sin(points.xy[:, :1]) * torch.ones(1, K, dtype=torch.float64)
    noise = 0.3
    Kxx = prior.kernel(points, points) + JITTER * torch.eye(N)
    gain = torch.linalg.inv(Kxx + noise**2 * torch.eye(N))
    C = torch.linalg.cholesky(Kxx)
    S = Kxx - Kxx @ gain @ Kxx
    T = torch.linalg.cholesky(torch.linalg.solve(C, torch.linalg.solve(C, S).T))
    with torch.no_grad():
        prior.mean.copy_(torch.linalg.solve(C, Kxx @ gain @ y))
        prior.raw_diagonal.copy_(T.diagonal().log().expand(K, -1))
        prior.lower.copy_(T.expand(K, -1, -1))
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    kernel = ConstantKernel(1.44) * Matern(1.5, nu=1.5)
    dense = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None).fit(
        points.xy.numpy(), y[:, 0].numpy()
    )
    mean, sd = dense.predict(elsewhere.xy.numpy(), return_std=True)
    mu, sigma = prior.predict(elsewhere)
    np.testing.assert_allclose(mu[:, 0].detach(), mean, atol=1e-4)
    np.testing.assert_allclose(sigma[:, 0].detach(), sd, atol=1e-4)
    prior = svgp(points, points)
    prior.start_from(y, noise=noise)
    np.testing.assert_allclose(prior.predict(elsewhere)[0][:, 0].detach(), mean, atol=1e-4)


def test_svgp_batches_agree_with_the_whole_and_projections_with_those_kept(monkeypatch):
    points, inducing = positions(), positions(M, seed=2)
    kept = randomised(svgp(points, inducing))
    rows = torch.tensor([4, 1, 17])
    whole = kept.marginals()
    monkeypatch.setattr("nmfbench.models.pnmf.spatial.svgp._LARGEST_PROJECTION", 0)
    for prior in (kept, randomised(svgp(points, inducing))):
        for part, all_of_it in zip(prior.marginals(rows), whole, strict=True):
            torch.testing.assert_close(part, all_of_it[rows])
    assert kept.divergence_weight(N, 3) == 1
    assert svgp(points, inducing, scale_kl_NM=True).divergence_weight(N, 3) == N / M


@pytest.mark.parametrize("make", ["svgp", "lcgp"])
def test_gradients_reach_every_parameter_and_the_lengthscale(make):
    points, inducing = positions(12), positions(5, seed=2)
    kernel = Matern32(1.5, train_lengthscale=True)
    if make == "svgp":
        prior = SVGP(points, inducing, kernel, 2, dtype=torch.float64)
    else:
        prior = LCGP(points, kernel, 2, n_neighbours=4, dtype=torch.float64)
    randomised(prior)
    on = torch.randn((2, 12, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = prior.gradients(on[0], on[1], 1.7)
    assert set(found) == {name for name, _ in prior.named_parameters()}

    def loss():
        mu, sigma = prior.marginals()
        return float((on[0] * mu + on[1] * sigma).sum() + 1.7 * prior.divergence())

    step = 1e-6
    for name, parameter in prior.named_parameters():
        place = {"lower": (1, 2, 1), "kernel.log_lengthscale": (0,)}.get(name, (1,) * parameter.ndim)
        with torch.no_grad():
            parameter[place] += step
            high = loss()
            parameter[place] -= 2 * step
            low = loss()
            parameter[place] += step
        slope = (high - low) / (2 * step)
        assert float(found[name][place]) == pytest.approx(slope, rel=2e-4, abs=1e-5), name


def lcgp(points, n_neighbours=6, **options):
    kernel = Matern32(1.5, 1.1, group_diff_param=None if points.groups is None else 1.0)
    return LCGP(points, kernel, K, n_neighbours=n_neighbours, jitter=JITTER, dtype=torch.float64, **options)


def joint(prior, l):
    """Covariance of q's factor l, dense."""
    return torch.diag(prior.diagonal()[:, l]) + prior.V[l] @ prior.V[l].T


@pytest.mark.parametrize("n_groups", [None, 2])
def test_lcgp_divergence_is_the_expected_divergence_of_the_conditionals(n_groups):
    points = positions(n_groups=n_groups)
    prior = randomised(lcgp(points))
    Kxx = prior.kernel(points, points)
    table = find_neighbours(prior.kernel, points, 6)
    expected = []
    for j in range(N):
        part, nu = 0.0, table[j]
        for l in range(K):
            S = joint(prior, l)
            eye = JITTER * torch.eye(6)
            beta = torch.linalg.inv(Kxx[nu][:, nu] + eye) @ Kxx[nu, j]
            alpha = torch.linalg.inv(S[nu][:, nu] + eye) @ S[nu, j]
            p = torch.distributions.Normal(0.0, (Kxx[j, j] - Kxx[j, nu] @ beta).sqrt())
            q = torch.distributions.Normal(0.0, (S[j, j] - S[j, nu] @ alpha).sqrt())
            # E (mean of q - mean of p)² over f_ν ~ q: both means are linear in f_ν
            gap = prior.mean[j, l] - beta @ prior.mean[nu, l]
            spread = (alpha - beta) @ S[nu][:, nu] @ (alpha - beta)
            part += kl_divergence(q, p) + (gap**2 + spread) / (2 * p.scale**2)
        expected.append(part)
    torch.testing.assert_close(prior.divergence(), torch.stack(expected).sum(), rtol=1e-8, atol=0)
    rows = torch.tensor([3, 20])
    torch.testing.assert_close(prior.divergence(rows), expected[3] + expected[20], rtol=1e-8, atol=0)
    assert prior.divergence_weight(N, 2) == N / 2
    fresh = randomised(lcgp(points, precompute=False))
    torch.testing.assert_close(fresh.divergence(rows), prior.divergence(rows), rtol=1e-10, atol=0)


@torch.no_grad()
def test_lcgp_moments_and_predictions():
    points, elsewhere = positions(), positions(5, seed=3)
    prior = randomised(lcgp(points))
    mu, sigma = prior.marginals()
    for l in range(K):
        torch.testing.assert_close(sigma[:, l] ** 2, joint(prior, l).diagonal())
    torch.testing.assert_close(mu, prior.mean)
    mu, sigma = prior.predict(elsewhere)
    for i in range(5):
        distance = (points.xy - elsewhere.xy[i]).norm(dim=1)
        nu = distance.argsort()[:6]
        Knn = prior.kernel(points[nu], points[nu])
        k = prior.kernel(points[nu], elsewhere[i : i + 1])[:, 0]
        beta = torch.linalg.inv(Knn + JITTER * torch.eye(6)) @ k
        for l in range(K):
            S = joint(prior, l)[nu][:, nu] + JITTER * torch.eye(6)
            variance = prior.kernel.variance - k @ beta + beta @ S @ beta
            assert float(mu[i, l]) == pytest.approx(float(beta @ prior.mean[nu, l]), rel=1e-6)
            assert float(sigma[i, l]) == pytest.approx(float(variance.sqrt()), rel=1e-6)


def test_lcgp_with_all_conditionals_equal_has_no_divergence():
    """q = p needs S = K: with V its root, and nothing on the diagonal."""
    points = positions(10)
    prior = lcgp(points, n_neighbours=9)
    with torch.no_grad():
        root = torch.linalg.cholesky(prior.kernel(points, points) + 1e-9 * torch.eye(10))
        prior.V = torch.nn.Parameter(root.expand(K, -1, -1).clone())
        prior.raw_diagonal.fill_(-40)
    assert 0 <= float(prior.divergence().detach()) < 1e-4


def test_neighbours():
    points = positions(50, n_groups=2)
    plain, grouped = Matern32(1.0), Matern32(1.0, group_diff_param=10.0)
    distance = torch.cdist(points.xy, points.xy).fill_diagonal_(torch.inf)
    nearest = distance.argsort(dim=1)[:, :5]
    torch.testing.assert_close(find_neighbours(plain, points, 5), nearest)
    rows = torch.tensor([7, 30])
    torch.testing.assert_close(find_neighbours(plain, points, 5, rows=rows), nearest[rows])
    covariance = grouped(points, points).fill_diagonal_(-1)
    torch.testing.assert_close(find_neighbours(grouped, points, 5), covariance.topk(5, dim=1).indices)
    twins = Points(points.xy[:1].repeat(6, 1))
    found = find_neighbours(plain, twins, 3)
    assert not (found == torch.arange(6)[:, None]).any(), (
        "no point is its own neighbour, not even among twins"
    )


def test_drawn_neighbours_are_other_points_and_mostly_near_ones():
    points = positions(60)
    kernel = Matern32(0.5)
    draws = [
        find_neighbours(kernel, points, 4, rule="probabilistic", rng=np.random.default_rng(seed))
        for seed in range(60)
    ]
    drawn = torch.stack(draws)
    assert not (drawn == torch.arange(60)[None, :, None]).any()
    assert all(len(set(row.tolist())) == 4 for row in draws[0])
    weights = kernel(points, points).fill_diagonal_(0)
    often = torch.zeros((60, 60)).scatter_add_(1, drawn.permute(1, 0, 2).flatten(1), torch.ones(60, 240))
    assert np.corrcoef(often.flatten(), weights.flatten())[0, 1] > 0.7
    again = find_neighbours(kernel, points, 4, rule="probabilistic", rng=np.random.default_rng(0))
    assert torch.equal(again, draws[0])


@pytest.mark.parametrize(
    ("sizes", "total", "equal", "expected"),
    [
        ([60, 30, 10], 10, False, [6, 3, 1]),
        ([50, 30, 20], 5, False, [3, 1, 1]),  # 2.5, 1.5, 1: the first of the largest fractions
        ([90, 5, 5], 9, True, [3, 3, 3]),
        ([90, 2, 5], 9, True, [4, 2, 3]),  # no more than a group has cells
        ([4, 0, 6], 5, True, [3, 0, 2]),
    ],
)
def test_points_are_shared_out_to_the_groups(sizes, total, equal, expected):
    counts = share_out(np.array(sizes), total, equal=equal)
    assert counts.sum() == total
    assert counts.tolist() == expected


@pytest.mark.parametrize("allocation", ["proportional", "equal", "derived"])
def test_inducing_points(allocation):
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [120, 60, 3])
    where = rng.normal(size=(183, 2)) + np.array([[0, 0], [6, 0], [0, 0]])[groups]
    xy, codes = choose_inducing(where, groups, 20, allocation, np.random.default_rng(1))
    assert xy.shape == (20, 2)
    share = np.bincount(codes, minlength=3)
    assert share.sum() == 20
    if allocation == "equal":
        assert share.tolist() == [9, 8, 3]
    if allocation == "proportional":
        assert share.tolist() == [13, 7, 0]
    if allocation == "derived":
        assert (share > 0).all(), "a group without a centre is given cells of its own"
        own = xy[codes == 2]
        assert all((where[groups == 2] == point).all(axis=1).any() for point in own)
    near = (xy[codes == 1] - [6, 0])[:, 0]
    assert np.abs(near).max() < 4
    same = choose_inducing(where, groups, 20, allocation, np.random.default_rng(1))
    np.testing.assert_array_equal(same[0], xy)
    everything, all_codes = choose_inducing(where, groups, 500, allocation, np.random.default_rng(1))
    np.testing.assert_array_equal(everything, where)
    np.testing.assert_array_equal(all_codes, groups)
