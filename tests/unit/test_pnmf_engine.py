"""The engine of PNMF: starts, coordinate ascent, optimisers, schedules, batches, the prior."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference_pnmf as dense
from nmfbench.errors import InputError
from nmfbench.models import PNMF, PNMFDonor
from nmfbench.models.pnmf.coordinate import LatentState, infer, latent_step, lower_bound, sweep
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.draws import noise
from nmfbench.models.pnmf.gradient import GradientSettings, GradientStage
from nmfbench.models.pnmf.optimisers import OPTIMISERS, Optimiser
from nmfbench.models.pnmf.parameters import LOADINGS_MODES, ConstrainedParameter, PositiveParameter
from nmfbench.models.pnmf.prior import GaussianPrior
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.schedules import Constant, OneCycle, Plateau, batch
from nmfbench.models.pnmf.stages import CoordinateStage
from nmfbench.models.pnmf.start import INITS, initialize_factors

N, D, K = 120, 50, 3


@pytest.fixture(scope="module")
def X():
    return dense.counts(N, D, K, depth=0.7)[0]


def started(X, init="random", donors=None, k=K):
    W, H = initialize_factors(X, k, init, random_state=0)
    counts = Counts(X)
    mu = torch.from_numpy(np.log(H))
    scales = RateScales.of(counts, None, donors, strength=1.0)
    state = LatentState(mu, torch.full_like(mu, 0.01), torch.from_numpy(W), torch.ones(k).double(), scales)
    return counts, state


# Starts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [*INITS, None])
@pytest.mark.parametrize("scale", [True, False])
def test_every_start_has_the_scale_of_the_data(X, init, scale):
    W, H = initialize_factors(X, K, init, random_state=0, scale_log_mu=scale)
    assert (W.shape, H.shape) == ((D, K), (N, K))
    assert (W >= 0).all()
    assert (H >= 0).all()
    R = H @ W.T
    assert 0.5 < R.mean() / X.mean() < 2
    genes = np.asarray(X.mean(axis=0)).ravel()
    assert (R.mean(axis=0) < 2 * genes + 1e-6).all()
    assert (R.mean(axis=0) > 0.5 * genes).all()
    again = initialize_factors(X.toarray(), K, init, random_state=0, scale_log_mu=scale)
    assert np.array_equal(W, again[0])
    if scale:
        logs = np.log(H)
        np.testing.assert_allclose(logs.mean(axis=0), 0, atol=1e-9)
        assert (logs.std(axis=0) <= 1 + 1e-9).all()


def test_a_data_driven_start_is_nearer_than_a_random_one(X):
    errors = {}
    for init in INITS:
        W, H = initialize_factors(X, K, init, random_state=0)
        errors[init] = float(dense.deviance(torch.from_numpy(X.toarray()), torch.from_numpy(H @ W.T)))
    assert max(errors, key=errors.get) in ("random", "prior")


def test_starts_that_are_refused(X):
    with pytest.raises(InputError, match="Negative"):
        initialize_factors(-X, K)
    with pytest.raises(InputError, match="init"):
        initialize_factors(X, K, "svd")
    with pytest.raises(InputError, match="at most 50"):
        initialize_factors(X, 51, "nndsvd")
    assert initialize_factors(X, 51)[0].shape == (D, 51)
    assert initialize_factors(X[:2], 4, "k-means", random_state=0)[1].shape == (2, 4)


# Coordinate ascent -------------------------------------------------------------------------------------


def value(counts, state):
    parts = lower_bound(counts, state)
    return parts[0] - parts[1]


@pytest.mark.parametrize("donors", [None, np.arange(N) % 3])
@pytest.mark.parametrize("learn_prior", [False, True])
def test_no_sweep_lowers_the_bound(X, donors, learn_prior):
    counts, state = started(X, donors=donors)
    values = [value(counts, state)]
    for _ in range(60):
        before = sweep(counts, state, learn_prior=learn_prior)
        assert before[0] - before[1] == pytest.approx(values[-1], rel=1e-12)
        values.append(value(counts, state))
    steps = np.diff(values)
    assert steps.min() > -1e-10 * abs(values[-1])
    assert steps[0] > 100 * steps[-1]


def test_the_bound_is_the_one_by_the_book(X):
    counts, state = started(X)
    sweep(counts, state)
    full = torch.from_numpy(X.toarray())
    expected = dense.log_likelihood(full, state.mu, state.sigma, state.W, "lower-bound")
    expected = expected - dense.divergence(state.mu, state.sigma)
    assert value(counts, state) == pytest.approx(float(expected), rel=1e-12)


def test_the_step_of_q_is_the_maximum():
    generator = torch.Generator().manual_seed(0)
    c = 5 * torch.rand((40, 3), generator=generator, dtype=torch.float64) ** 3
    weight = 0.1 + torch.rand((1, 3), generator=generator, dtype=torch.float64) * 3
    s2 = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    mu, v = torch.zeros_like(c), torch.full_like(c, 0.3)
    for _ in range(6):
        mu, v = latent_step(c, weight, mu, v, s2)
    a, b = mu.clone().requires_grad_(), v.clone().requires_grad_()
    objective = c * a - weight * torch.exp(a + b / 2) - (a**2 + b) / (2 * s2) + 0.5 * torch.log(b)
    objective.sum().backward()
    assert a.grad.abs().max() < 1e-6
    assert b.grad.abs().max() < 1e-3


def test_order_and_blocks_do_not_matter(X):
    counts, state = started(X)
    cells, genes, factors = (np.random.default_rng(s).permutation(n) for s, n in ((0, N), (1, D), (2, K)))
    shuffled = X[cells][:, genes]
    shuffled.sort_indices()
    other = LatentState(
        state.mu[cells][:, factors], state.v[cells][:, factors], state.W[genes][:, factors],
        state.prior_variance, RateScales(),
    )  # fmt: skip
    blocks = LatentState(
        state.mu.clone(), state.v.clone(), state.W.clone(), state.prior_variance, RateScales()
    )
    small, mixed = Counts(X, block=200), Counts(shuffled)
    assert len(small.blocks) > 5
    for _ in range(10):
        for c, s in ((counts, state), (mixed, other), (small, blocks)):
            sweep(c, s)
    torch.testing.assert_close(blocks.mu, state.mu, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(blocks.W, state.W, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(other.mu, state.mu[cells][:, factors], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(other.W, state.W[genes][:, factors], rtol=1e-9, atol=1e-11)


def test_the_gauge_is_the_best_one(X):
    counts, state = started(X)
    for _ in range(3):
        sweep(counts, state)
    state.mu += torch.tensor([0.5, -1.0, 0.1])
    likelihood, divergence = lower_bound(counts, state)
    full, eps = torch.from_numpy(X.toarray()), torch.zeros((2, N, K)).double()
    rates = torch.exp(state.mu) @ state.W.T
    state.level()
    torch.testing.assert_close(torch.exp(state.mu) @ state.W.T, rates)
    after = lower_bound(counts, state)
    assert after[0] == pytest.approx(likelihood, rel=1e-12)
    assert after[1] < divergence
    assert state.mu.mean(dim=0).abs().max() < 1e-12
    for mode in ("simple", "expanded"):
        assert torch.isfinite(dense.log_likelihood(full, state.mu, state.sigma, state.W, mode, eps))


def test_long_steps_converge_sooner_to_the_same_and_are_taken_back_when_they_overshoot(X, monkeypatch):
    counts, plain = started(X)
    for _ in range(250):
        sweep(counts, plain)
    best = value(counts, plain)

    def sweeps_to(relaxation):
        monkeypatch.setattr("nmfbench.models.pnmf.stages.RELAXATION", relaxation)
        stage = CoordinateStage(*started(X), steps=250)
        values = [stage.step(t).elbo for t in range(250)]
        assert np.diff(values).min() > -1e-7 * abs(best)
        assert stage.evaluate().elbo >= values[-1] - 1e-7 * abs(best)
        return int(np.argmax(np.array(values) > best - 1.0))

    slow, fast = sweeps_to(1.0), sweeps_to(1.7)
    assert 0 < fast < 0.75 * slow
    sweeps_to(6.0)  # far too long: all the same, the bound does not fall


def test_inference_of_cells_is_their_own_and_the_maximum(X):
    counts, state = started(X)
    for _ in range(30):
        sweep(counts, state)
    alone = [
        LatentState(torch.zeros((len(rows), K)).double(), torch.full((len(rows), K), 0.1).double(), state.W,
                    state.prior_variance, RateScales())
        for rows in (np.arange(N), np.arange(7))
    ]  # fmt: skip
    for rows, part in zip((slice(None), slice(7)), alone, strict=True):
        infer(Counts(X[rows]), part, max_iter=500, tol=1e-10)
    assert torch.equal(alone[0].mu[:7], alone[1].mu)
    best = value(counts, alone[0])
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        off = 0.02 * torch.randn((N, K), generator=generator, dtype=torch.float64)
        for moved in (alone[0].mu + off, alone[0].mu):
            v = alone[0].v if moved is not alone[0].mu else alone[0].v * torch.exp(off)
            assert value(counts, LatentState(moved, v, state.W, state.prior_variance, RateScales())) < best


# Natural steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["simple", "expanded", "lower-bound"])
@pytest.mark.parametrize("rate", [0.02, 0.002])
def test_natural_steps_keep_the_precision_positive_on_hard_data(mode, rate):
    rng = np.random.default_rng(0)
    X = dense.counts(80, 40, 6, seed=3, depth=0.3)[0].tolil()
    X[rng.integers(0, 80, 20), rng.integers(0, 40, 20)] = 400.0  # counts far above their rates
    X = X.tocsr()
    W, H = initialize_factors(X, 6, "random", random_state=0)
    prior = GaussianPrior.of(torch.from_numpy(np.log(H)), torch.full((80, 6), 0.3).double(), natural=True)
    settings = GradientSettings(mode, "natural", 1, "Adam", 0.01, None, None, True, True, 25, 3, 0)
    loadings = ConstrainedParameter(torch.from_numpy(W), "multiplicative")
    stage = GradientStage(Counts(X), prior, loadings, RateScales(), settings, Constant(rate), 0, 150)
    first, bounds = stage.evaluate().elbo, []
    for t in range(150):
        stage.step(t)
        theta1, theta2 = prior.natural_parameters()
        assert torch.isfinite(theta1).all()
        assert (theta2 < 0).all()
        if t % 15 == 14:
            bounds.append(stage.evaluate().elbo)
    # one draw a step and a large rate: the end wanders by thousands of nats, on each processor its own way
    assert max(bounds) > first


# Optimisers, schedules, batches, draws -----------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_take_the_steps_of_torch(name):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((6, 3), generator=generator, dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    more = {"momentum": 0.9} if name == "SGD" else {}
    reference = getattr(torch.optim, name)([theirs], lr=0.03, **more)
    mine = Optimiser(name, {"p": ours})
    for _ in range(12):
        gradient = torch.randn((6, 3), generator=generator, dtype=torch.float64)
        theirs.grad = gradient.clone()
        reference.step()
        mine.step({"p": gradient}, 0.03)
    # NAdam's running product is kept in single precision there.
    tolerance = 1e-7 if name == "NAdam" else 1e-12
    torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rows_outside_the_batch_stay_and_those_inside_step_as_if_alone(name):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn((4, 2), generator=generator, dtype=torch.float64)
    lonely = whole[[1, 3]].clone()
    first, second = Optimiser(name, {"p": whole}), Optimiser(name, {"p": lonely})
    before = whole.clone()
    rows = torch.tensor([1, 3])
    for _ in range(4):
        gradient = torch.randn((2, 2), generator=generator, dtype=torch.float64)
        first.step({"p": gradient}, 0.05, rows={"p": rows})
        second.step({"p": gradient}, 0.05)
    assert torch.equal(whole[rows], lonely)
    assert torch.equal(whole[[0, 2]], before[[0, 2]])


def test_one_cycle_is_that_of_torch_but_takes_every_length():
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([parameter])
    reference = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=50, pct_start=0.3)
    ours = OneCycle(0.02, 50)
    for step in range(50):
        rate, momentum = ours.at(step)
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        assert momentum == pytest.approx(optimiser.param_groups[0]["betas"][0], rel=1e-9)
        optimiser.step()
        if step < 49:
            reference.step()
    for total, share in ((1, 1.0), (10, 0.1), (2, 0.5), (3, 0.0)):  # share * total == 1 fails in torch
        rates = [OneCycle(0.1, total, share).at(t)[0] for t in range(total)]
        assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)


def test_plateau_lowers_the_rate_only_without_progress():
    climbing, flat = (Plateau(0.1, patience=3, factor=0.5, min_lr=0.02) for _ in range(2))
    for t in range(60):
        climbing.observe(-1000.0 + 10 * t)
        flat.observe(-1000.0 + 1e-3 * t)
    assert climbing.rate == 0.1
    assert flat.rate == 0.02
    again = Plateau(0.1, 3, 0.5, 0.02)
    again.load_state(flat.state())
    assert vars(again) == vars(flat)


def test_a_pass_sees_every_item_once():
    passes = [[batch(10, 4, 3 * p + t, 7, shuffle=True, kind=1) for t in range(3)] for p in range(2)]
    for parts in passes:
        assert sorted(np.concatenate(parts).tolist()) == list(range(10))
        assert [len(part) for part in parts] == [4, 4, 2]
    assert not np.array_equal(passes[0][0], passes[1][0])
    assert batch(10, 4, 1, 0, shuffle=False, kind=1).tolist() == [4, 5, 6, 7]
    assert batch(10, None, 0, 0, shuffle=True, kind=1) is None
    assert batch(10, 12, 0, 0, shuffle=True, kind=1) is None


def test_draws_come_in_pairs():
    draws = [d.clone() for d in noise((50, 3), 5, 0, 1, dtype=torch.float64)]
    assert len(draws) == 5
    assert torch.equal(draws[0], -draws[1])
    assert torch.equal(draws[2], -draws[3])
    assert not torch.equal(draws[0], draws[2])
    again = next(noise((50, 3), 1, 0, 1, dtype=torch.float64))
    assert torch.equal(again, draws[0])


# Parameters and prior ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LOADINGS_MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_setting_a_parameter_gives_its_value(mode, dtype):
    w = torch.tensor([[0.0, 1e-4], [0.5, 90.0], [3.0, 500.0]], dtype=dtype)
    parameter = ConstrainedParameter(w, mode)
    assert torch.isfinite(parameter.raw).all()
    torch.testing.assert_close(parameter.data.detach(), w, rtol=1e-4, atol=2e-6)
    parameter.data = 2 * w
    torch.testing.assert_close(parameter[1].detach(), 2 * w[1], rtol=1e-4, atol=1e-6)
    if mode != "multiplicative":
        parameter.data.square().sum().backward()
        expected = parameter.raw_gradient(2 * parameter.data.detach())
        torch.testing.assert_close(parameter.raw.grad, expected)
        with pytest.raises(ValueError, match="multiplicative"):
            parameter.multiplicative_update(w, w)
        parameter.freeze()
        assert not parameter.requires_grad
        parameter.unfreeze()
        assert parameter.requires_grad
    else:
        parameter.multiplicative_update(torch.ones_like(w), torch.full_like(w, 2.0))
        torch.testing.assert_close(parameter.data, w.clamp(min=1e-8))


def test_a_projected_parameter_has_a_unit_and_a_floor():
    unit = torch.tensor([[1.0], [0.01]])
    parameter = ConstrainedParameter(torch.tensor([[0.5], [0.005]]), "projected", unit)
    torch.testing.assert_close(parameter.raw.detach(), torch.tensor([[0.5], [0.5]]))
    parameter.floor = 0.1
    with torch.no_grad():
        parameter.raw.sub_(1.0)
    parameter.project()
    torch.testing.assert_close(parameter.data.detach(), torch.tensor([[0.1], [0.001]]))
    with pytest.raises(InputError, match="mode"):
        ConstrainedParameter(unit, "relu")
    assert (PositiveParameter((4, 2), "projected").data >= 0).all()


def test_the_gaussian_prior():
    prior = GaussianPrior(torch.zeros(7, 5), L=2, scale_pf=0.5)
    qF, pF = prior()
    assert qF.mean.shape == pF.mean.shape == prior.mean.shape == prior.scale.shape == (2, 5)
    assert {name for name, _ in prior.named_parameters()} == {"mu", "raw_sigma"}
    expected = torch.distributions.kl_divergence(qF, pF).sum()
    torch.testing.assert_close(prior.divergence().float(), expected)
    rows = torch.tensor([0, 3])
    batched = prior.forward_batched(rows)[0]
    torch.testing.assert_close(batched.mean, qF.mean[:, rows])
    with pytest.raises(RuntimeError, match="natural_parameters"):
        prior.natural_parameters()
    on_mu, on_sigma = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0))
    ours = prior.gradients(on_mu, on_sigma, 2.5, rows)
    theirs = super(GaussianPrior, prior).gradients(on_mu, on_sigma, 2.5, rows)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name][rows])
        assert not theirs[name][[1, 2, 4]].any()
    natural = GaussianPrior(torch.zeros(7, 5), L=2, use_natural_gradients=True)
    assert (natural.scale == 1).all()
    assert not natural.mean.any()
    mu, sigma = torch.randn(5, 2), torch.rand(5, 2) + 0.1
    natural.set(mu, sigma)
    torch.testing.assert_close(natural.mean, mu.T)
    torch.testing.assert_close(natural.scale, sigma.T)
    draws = natural.sample(3000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(dim=0), mu, atol=0.1, rtol=0)
    torch.testing.assert_close(draws.std(dim=0), sigma, atol=0.05, rtol=0.1)


# Memory ------------------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Remember the largest storage that any torch operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "lower-bound", "exposure": "total"},
        {"mode": "expanded"},
        {"engine": "gradient", "mode": "simple"},
        {"training_mode": "natural", "init": "nndsvda"},
        {"batch_size": 100, "y_batch_size": 1000},
        {"loadings_mode": "softplus"},
        {"donor_strength": 1.0},
    ],
    ids=str,
)
def test_nothing_of_cells_by_genes_is_made(settings):
    n, d, k = 400, 2500, 2
    X = sp.random_array((n, d), density=0.01, rng=np.random.default_rng(0), format="csr")
    X.data = np.ceil(3 * X.data)
    kind = PNMFDonor if "donor_strength" in settings else PNMF
    model = kind(k, max_iter=2, random_state=0, **settings)
    donors = np.arange(n) % 3
    with LargestTensor():  # compiles and imports whatever is compiled or imported on first use
        model.fit(X, conditions=donors).transform(X)
    with LargestTensor() as watch:
        tracemalloc.start()
        model.fit(X, conditions=donors).transform(X)
        _, numpy_peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert watch.elements <= max(X.nnz, d * (k + 10)) + n  # the start's oversampled vectors
    assert numpy_peak < 0.5 * 8 * n * d / 2
