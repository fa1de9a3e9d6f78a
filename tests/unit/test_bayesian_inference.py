"""Both ways of inference: monotone bounds, posteriors, minibatches, resumption, what Pyro leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_bayesian as dense
from nmfbench.models import get_model
from nmfbench.models.bayesian.prior import GammaPrior, Sums, inverse_digamma

X, TRUE_P, TRUE_A = dense.planted()
SMALL = X[:120, :80]
DONORS = np.arange(300) % 3
GAMMA, EXPONENTIAL = "pyro_gamma_nb", "pyro_exponential"


def fit(kind, k=5, data=X, fitting=None, **parameters):
    return get_model(kind)(k, **{"random_state": 0, "marker_draws": 0} | parameters).fit(
        data, progress=False, **fitting or {}
    )


def objective(model):
    return np.array([row["objective"] for row in model.history_])


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (EXPONENTIAL, {}),
        (EXPONENTIAL, {"learn_rates": "pattern"}),
        (EXPONENTIAL, {"learn_rates": "fixed", "prior_rate": 2.0, "nb_probs": 0.3}),
        (EXPONENTIAL, {"use_pois": True, "learn_probs": "fixed"}),
        (EXPONENTIAL, {"inference": "map", "learn_rates": "fixed", "learn_probs": "gene"}),
        (
            GAMMA,
            {"inference": "map", "learn_rates": "fixed", "learn_shapes": "fixed"}
            | {"prior_shape_P": 1.5, "prior_shape_A": 1.2, "fixed_samples": "donors"},
        ),
        (GAMMA, {"learn_shapes": "pattern", "learn_rates": "pattern"}),
        (GAMMA, {"learn_shapes": "fixed", "learn_probs": "all"}),
        (GAMMA, {"learn_probs": "gene"}),
        (EXPONENTIAL, {"exposure": "total", "init": "nndsvd"}),
        (GAMMA, {"exposure": "total", "fixed_samples": "donors", "learn_rates": "pattern"}),
        (GAMMA, {"learn_probs": "donor", "fixed_samples": "donors"}),
    ],
    ids=str,
)
def test_the_bound_never_falls(kind, parameters):
    model = fit(kind, 4, SMALL, {"conditions": DONORS[:120]}, max_iter=60, tol=0, **parameters)
    values = objective(model)
    assert len(values) == 60
    assert np.diff(values).max() <= 1e-9 * values[0]
    assert values[-1] < 0.99 * values[0]


def test_most_probable_factors_are_where_the_dense_density_is_flat():
    """Value and slopes of the log-density, by torch: slopes are 0, or downwards at factors of 0."""
    settings = {"inference": "map", "learn_rates": "fixed", "prior_rate": 2.0, "learn_probs": "fixed"}
    data = SMALL[:60, :50]
    model = fit(EXPONENTIAL, 3, data, max_iter=3000, tol=1e-8, **settings)
    assert model.converged_
    D = torch.from_numpy(data.toarray())
    scale = 2.0 / model.rates_P_  # of the patterns, whose genes sum to 1 now
    P = (torch.from_numpy(model.embedding_) / scale).requires_grad_()
    A = (torch.from_numpy(model.components_.T) * scale).requires_grad_()
    prior = torch.distributions.Exponential(torch.tensor(2.0, dtype=torch.float64))
    density = dense.negative_binomial(D, P @ A.T + 1e-12, 0.5)
    density = density + prior.log_prob(P).sum() + prior.log_prob(A).sum()
    assert model.objective_ == pytest.approx(-density.item() / len(D), rel=1e-7)
    for factor, slope in zip((P.detach(), A.detach()), torch.autograd.grad(density, (P, A)), strict=True):
        present = factor > 0.05
        assert present.any()
        assert float((slope * factor)[present].abs().max()) < 0.02 * float(factor.max())
        # a factor that came near 0 leaves it slowly: not every one of them is at its end
        assert float((slope[factor < 1e-9] < 0).double().mean()) > 0.9
    assert float(model.embeddings()["sd_P"].max()) == 0
    assert np.abs(model.transform(data) - model.embedding_).max() < 0.05 * model.embedding_.max()


def test_the_bound_is_below_what_draws_of_the_posterior_give():
    """E ln p(counts | theta) under q, from draws, against the bound's own likelihood; nearly tight."""
    model = fit(EXPONENTIAL, 3, SMALL, max_iter=80, learn_probs="fixed")
    rng, D = np.random.default_rng(0), torch.from_numpy(SMALL.toarray())
    posterior = model.posterior_
    values = []
    for _ in range(200):
        P, A = (torch.from_numpy(side.draw(rng)) for side in (posterior.cells, posterior.genes))
        values.append(dense.negative_binomial(D, (P @ A.T).clamp(min=1e-12), 0.5).item())
    bound = -model.history_[-1]["likelihood"] * len(D)
    assert bound < np.mean(values)
    assert bound == pytest.approx(np.mean(values), rel=0.05)


def test_closed_form_priors_are_stationary():
    rng = np.random.default_rng(0)
    logs = torch.from_numpy(rng.normal(-1, 1, (50, 3)))
    sums = Sums(50, logs.exp().sum(0), logs.sum(0), 0.0)
    for by in ("pattern", "matrix"):
        prior = GammaPrior(3, 1.0, 1.0, by, by)
        for _ in range(500):
            prior.update(sums)
        best = prior.divergence(sums)
        for name in ("shape", "rate"):
            for change in (0.99, 1.01):
                other = GammaPrior(3, 1.0, 1.0, by, by)
                other.shape, other.rate = prior.shape.clone(), prior.rate.clone()
                setattr(other, name, getattr(other, name) * change)
                assert other.divergence(sums) > best
    x = torch.tensor([1e-3, 0.5, 3.0, 1e4], dtype=torch.float64)
    torch.testing.assert_close(inverse_digamma(torch.digamma(x)), x, rtol=1e-8, atol=0)


CASES = {
    "cavi": {},
    "cavi, minibatches": {"batch_size": 60, "max_iter": 60},
    "svi": {"inference": "svi", "max_iter": 300, "learning_rate": 0.1},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [EXPONENTIAL, GAMMA])
def test_planted_factors_are_recovered(kind, case):
    model = fit(kind, **CASES[case])
    assert dense.matched_correlation(TRUE_P, model.embedding_) > 0.9
    assert dense.matched_correlation(TRUE_A, model.components_.T) > 0.9


def test_rates_by_pattern_switch_off_what_the_data_do_not_support():
    """Automatic relevance determination: five patterns were planted, eight are offered."""

    def shares(rates):
        model = fit(EXPONENTIAL, 8, learn_rates=rates)
        return np.sort(model.embedding_.sum(0) / model.embedding_.sum())[::-1]

    by_pattern, by_matrix = shares("pattern"), shares("matrix")
    assert by_pattern[4] > 0.1
    assert by_pattern[5:].max() < 2e-4
    assert by_matrix[5:].max() > 10 * by_pattern[5:].max()


def test_the_posterior_s_spread_is_the_same_in_minibatches():
    """A likelihood that weighed more or less than N / B would shrink or widen it, as sqrt of the factor."""
    data, svi = X[:200, :100], {"inference": "svi", "learning_rate": 0.1}
    whole = fit(EXPONENTIAL, 3, data, max_iter=150, **svi)
    parts = fit(EXPONENTIAL, 3, data, max_iter=500, batch_size=50, **svi)
    closed = fit(EXPONENTIAL, 3, data)
    stochastic = fit(EXPONENTIAL, 3, data, batch_size=50, max_iter=60)

    def spread(model):
        mean, sd = model.posterior_.cells.mean().numpy(), model.posterior_.cells.sd().numpy()
        large = mean > np.median(mean)
        return np.median(sd[large] / np.sqrt(mean[large]))  # of a Poisson-like count, about constant

    assert spread(parts) == pytest.approx(spread(whole), rel=0.1)
    assert spread(stochastic) == pytest.approx(spread(closed), rel=0.1)
    # Ascent takes the clusters of a count for known: its posterior is the narrower one (docs/bayesian.md).
    assert 0.5 < spread(closed) / spread(whole) < 1


def test_both_guides_are_the_same_family():
    written, automatic = (
        fit(EXPONENTIAL, 3, SMALL, inference="svi", max_iter=150, learning_rate=0.1, param_P=param_P)
        for param_P in (True, False)
    )
    assert objective(automatic)[-1] == pytest.approx(objective(written)[-1], rel=5e-3)
    ours, theirs = (m.posterior_.cells for m in (written, automatic))
    assert float(theirs.sd().median()) == pytest.approx(float(ours.sd().median()), rel=0.15)


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_iter": 12, "held_out_fraction": 0.1},
        {"batch_size": 25, "max_iter": 5, "learn_probs": "donor"},
        {"inference": "svi", "max_iter": 60, "batch_size": 50, "held_out_fraction": 0.1},
        {"inference": "svi", "max_iter": 40, "clip_norm": 5.0},
        {"inference": "svi", "max_iter": 40, "param_P": False},
    ],
    ids=str,
)
def test_interrupted_and_resumed_equals_unbroken(parameters, tmp_path):
    fitting = {"conditions": DONORS[:120]}
    unbroken = fit(GAMMA, 3, SMALL, fitting, **parameters)
    for calls in (1, 0):
        left = iter(range(calls))
        stopped = fit(
            GAMMA,
            3,
            SMALL,
            fitting | {"checkpoint": tmp_path, "should_stop": lambda left=left: next(left, None) is None},
            **parameters,
        )
        assert stopped.stop_reason_ == "interrupted"
    resumed = fit(GAMMA, 3, SMALL, fitting | {"checkpoint": tmp_path}, **parameters)
    assert np.array_equal(resumed.embedding_, unbroken.embedding_)
    assert np.array_equal(resumed.components_, unbroken.components_)
    assert np.array_equal(objective(resumed), objective(unbroken))
    assert resumed.best_epoch_ == unbroken.best_epoch_


def test_pyro_and_torch_are_left_as_they_were():
    import pyro

    pyro.clear_param_store()
    pyro.param("mine", torch.ones(2))
    state, validation = torch.get_rng_state(), torch.distributions.Distribution._validate_args
    try:
        first = fit(EXPONENTIAL, 3, SMALL, inference="svi", max_iter=20)
        torch.rand(3)
        second = fit(EXPONENTIAL, 3, SMALL, inference="svi", max_iter=20)
        assert list(pyro.get_param_store()) == ["mine"]
        assert torch.distributions.Distribution._validate_args == validation
        assert np.array_equal(first.embedding_, second.embedding_)
        torch.set_rng_state(state)
        fit(EXPONENTIAL, 3, SMALL, inference="svi", max_iter=20)
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        pyro.clear_param_store()


class Watcher:
    state_every = 2

    def __init__(self):
        self.steps, self.states, self.ends = [], [], []

    def step(self, step, values):
        self.steps.append((step, dict(values)))

    def state(self, step, state):
        self.states.append((step, dict(state)))

    def end(self, step, state):
        self.ends.append((step, dict(state)))


@pytest.mark.parametrize("parameters", [{"max_iter": 5}, {"inference": "svi", "max_iter": 50}], ids=str)
def test_a_fit_is_the_same_when_it_is_watched(parameters):
    watcher = Watcher()
    watched = fit(EXPONENTIAL, 3, SMALL, {"observer": watcher}, **parameters)
    alone = fit(EXPONENTIAL, 3, SMALL, **parameters)
    assert np.array_equal(watched.embedding_, alone.embedding_)
    steps = [step for step, _ in watcher.steps]
    assert steps == [row["step"] for row in alone.history_]
    assert [step for step, _ in watcher.states] == steps[1::2]
    assert [values["loss"] for _, values in watcher.steps] == list(objective(alone))
    (last, state), *_ = watcher.ends
    assert last == steps[-1]
    np.testing.assert_array_equal(state["cell_factors"], alone.last_.cells.mean())
    theta = state["cell_factors"] @ state["gene_factors"]
    np.testing.assert_allclose(state["gene_mean"], theta.mean(0))
    np.testing.assert_allclose(state["gene_variance"], theta.var(0))


def test_single_precision_is_near_double():
    exact = fit(EXPONENTIAL, 3, SMALL, max_iter=30)
    near = fit(EXPONENTIAL, 3, SMALL.astype(np.float32), max_iter=30)
    assert near.embedding_.dtype == near.components_.dtype == np.float32
    assert near.objective_ == pytest.approx(exact.objective_, rel=1e-4)


def test_ascent_in_torch_equals_the_compiled_one(monkeypatch):
    """What a GPU would run, on the CPU."""
    from nmfbench.models.bayesian import build, device_counts

    compiled = fit(GAMMA, 3, SMALL, max_iter=8)
    monkeypatch.setattr(build, "place_counts", device_counts.DeviceCounts.from_csr)
    for batch_size in (None, 120):
        in_torch = fit(GAMMA, 3, SMALL, max_iter=8, batch_size=batch_size)
        np.testing.assert_allclose(in_torch.embedding_, compiled.embedding_, rtol=1e-6)


@pytest.mark.parametrize("param_P", [True, False])
def test_a_large_step_does_not_send_the_scales_to_infinity(param_P, monkeypatch):
    """Without the bound of the log-normal scale one entry's mean is infinite within 200 such steps."""
    from nmfbench.fitting.loop import DivergedError
    from nmfbench.models.bayesian import svi

    settings = {"inference": "svi", "max_iter": 200, "learning_rate": 0.3, "param_P": param_P}
    model = fit(EXPONENTIAL, 6, SMALL, **settings)
    assert np.isfinite(objective(model)).all()
    assert objective(model)[-1] < 0.9 * objective(model)[0]
    assert (
        max(float(side.second.max()) for side in (model.last_.cells, model.last_.genes)) <= svi.LARGEST_SCALE
    )
    unbounded = torch.distributions.constraints.positive
    monkeypatch.setattr(svi, "SCALES", unbounded)
    monkeypatch.setattr(svi._BoundedAutoNormal, "scale_constraint", unbounded)
    with pytest.raises(DivergedError):
        fit(EXPONENTIAL, 6, SMALL, **settings)


def test_a_diverged_fit_raises(monkeypatch):
    from nmfbench.fitting.loop import DivergedError

    with pytest.raises(DivergedError, match="learning_rate"):
        fit(EXPONENTIAL, 3, sp.csr_matrix(SMALL * 1000), inference="svi", max_iter=200, learning_rate=1e4)


# Sizes of the cells ---------------------------------------------------------------------------------------


def deep_and_shallow(seed=0):
    """Planted counts whose cells differ in depth alone from what the model has: D, P."""
    rng = np.random.default_rng(seed)
    P, A = rng.gamma(0.5, 1.0, (150, 3)), rng.gamma(0.3, 0.8, (80, 3))
    theta = rng.lognormal(0, 1, (150, 1)) * (P / P.sum(1, keepdims=True)) @ A.T * 3
    D = rng.negative_binomial(np.maximum(theta, 1e-12), 0.5)
    D[:, 0] += 1
    return sp.csr_matrix(D.astype(np.float64)), P


@pytest.mark.parametrize("fixed", [None, "donors"])
def test_the_bound_with_sizes_is_that_of_a_model_with_sizes(fixed):
    """Its divergence by torch's own; its likelihood below that of draws, both with theta = s P A."""
    data, _ = deep_and_shallow()
    donors = np.array(["a", "b"])[np.arange(150) % 2]
    model = fit(GAMMA, 3, data, {"conditions": donors}, exposure="total", fixed_samples=fixed, max_iter=60)
    cells, gamma = model.posterior_.cells, torch.distributions.Gamma
    prior = gamma(model.shapes_P_, model.rates_P_)
    twin = torch.distributions.kl_divergence(gamma(cells.first, cells.second), prior).sum() / 150
    last = model.history_[-1]
    assert last["divergence_cells"] == pytest.approx(float(twin), rel=1e-9)
    sizes = data.sum(1) / data.sum(1).mean()
    rng, D, values = np.random.default_rng(0), torch.from_numpy(data.toarray()), []
    for _ in range(100):
        P, A = (torch.from_numpy(side.draw(rng)) for side in (cells, model.posterior_.genes))
        theta = torch.from_numpy(np.asarray(sizes)) * (P @ A.T)
        values.append(dense.negative_binomial(D, theta.clamp(min=1e-12), 0.5).item())
    assert -150 * last["likelihood"] < np.mean(values)
    assert -150 * last["likelihood"] == pytest.approx(np.mean(values), rel=0.05)


def test_most_probable_factors_with_sizes_are_those_of_the_dense_density():
    data, _ = deep_and_shallow()
    data = data[:60, :50]
    kept = {"inference": "map", "learn_rates": "fixed", "prior_rate": 2.0, "exposure": "total"}
    kept |= {"learn_probs": "fixed"}
    model = fit(EXPONENTIAL, 3, data, max_iter=50, **kept)
    scale = 2.0 / model.rates_P_
    P, A = torch.from_numpy(model.embedding_) / scale, torch.from_numpy(model.components_.T) * scale
    sizes = torch.from_numpy(np.asarray(data.sum(1) / data.sum(1).mean()))
    prior = torch.distributions.Exponential(torch.tensor(2.0, dtype=torch.float64))
    density = dense.negative_binomial(torch.from_numpy(data.toarray()), sizes * (P @ A.T) + 1e-12, 0.5)
    density = density + prior.log_prob(P).sum() + prior.log_prob(A).sum()
    assert model.objective_ == pytest.approx(-density.item() / 60, rel=1e-7)


@pytest.mark.parametrize("case", [*CASES, "autonormal"])
def test_with_sizes_factors_do_not_carry_the_depth(case):
    data, P = deep_and_shallow()
    settings = CASES.get(case, CASES["svi"] | {"param_P": False})
    depth = np.log(np.asarray(data.sum(1)).ravel())

    def carried(model):
        return abs(np.corrcoef(depth, np.log(model.embedding_.sum(1)))[0, 1])

    sized, plain = (fit(EXPONENTIAL, 3, data, exposure=how, **settings) for how in ("total", None))
    assert carried(plain) > 0.9
    assert carried(sized) < 0.5
    composition = P / P.sum(1, keepdims=True)
    assert dense.matched_correlation(composition, sized.embedding_) > 0.75
    again = sized.transform(data)
    assert np.corrcoef(again.ravel(), sized.embedding_.ravel())[0, 1] > 0.95
