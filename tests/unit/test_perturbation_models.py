"""Predictors and the NB-GLM: likelihoods against torch, fits against slow twins, checkpoints, sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln

from nmfbench.config.perturbation import SimulatedScreen
from nmfbench.errors import InputError
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.job import Interrupted
from nmfbench.perturbation.background import Background
from nmfbench.perturbation.control import control_statistics, published_control_statistics
from nmfbench.perturbation.embeddings import Embedding
from nmfbench.perturbation.expected import ProfileTable, depths, expected_log1p
from nmfbench.perturbation.fold import Fold
from nmfbench.perturbation.models import read_model, save_checkpoint, save_predictions
from nmfbench.perturbation.nb_glm import losses
from nmfbench.perturbation.nb_glm.bilinear import Problem
from nmfbench.perturbation.nb_glm.descent import learning_rate
from nmfbench.perturbation.nb_glm.network import LowRankNB
from nmfbench.perturbation.nb_glm.rows import concise_rows
from nmfbench.perturbation.predictors import PREDICTORS, predictor_of, settings_of
from nmfbench.perturbation.predictors.nb_glm import is_bilinear
from nmfbench.perturbation.sampling import draw_cells
from perturbation_screen import fold_of, sums_of


@pytest.fixture(scope="module")
def simulated():
    design = SimulatedScreen(n_genes=60, n_targets=16, n_cells=900, width=4, covariation=0.0, seed=5)
    return sums_of(design.model_dump(), n_held_out=4)


@pytest.fixture(scope="module")
def fold(simulated) -> Fold:
    return fold_of(simulated)


def settings(kind="nb_glm", **keys):
    return settings_of(kind)(**keys).model_dump()


def fitted(fold, **keys):
    predictor = predictor_of("nb_glm")(settings(**keys))
    return predictor, predictor.predict(fold)


# ---- the likelihood


@pytest.mark.parametrize("theta", [0.3, 4.0, 900.0])
def test_the_likelihood_is_that_of_torch_in_both_parametrisations(theta):
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.poisson(5, 40).astype(float))
    log_mu = torch.tensor(rng.normal(1, 1, 40))
    size = torch.full_like(y, theta)
    found = losses.log_likelihood(log_mu, y, size)
    by_logits = torch.distributions.NegativeBinomial(size, logits=log_mu - np.log(theta))
    mu = log_mu.exp()
    by_probs = torch.distributions.NegativeBinomial(size, probs=mu / (mu + theta))
    torch.testing.assert_close(found, by_logits.log_prob(y), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, by_probs.log_prob(y), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(by_logits.mean, mu)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_losses_are_their_formulas(name):
    rng = np.random.default_rng(1)
    y, theta = rng.poisson(3, 30).astype(float), rng.uniform(0.5, 9, 30)
    mu = np.exp(rng.normal(0.5, 1, 30))
    ylog = np.where(y > 0, y * np.log(np.maximum(y, 1) / mu), 0)
    likelihood = stats.nbinom.logpmf(y, theta, theta / (theta + mu))
    saturated = np.where(y > 0, stats.nbinom.logpmf(y, theta, theta / (theta + np.maximum(y, 1e-300))), 0)
    constant = gammaln(y + theta) - gammaln(theta) - gammaln(y + 1)
    expected = {
        "mse": (mu - y) ** 2,
        "mse_log1p": (np.log1p(mu) - np.log1p(y)) ** 2,
        "mse_ans": (2 * np.sqrt(mu + 3 / 8) - 2 * np.sqrt(y + 3 / 8)) ** 2,
        "pois": mu - y * np.log(mu + 1e-8),
        "pois_dev": 2 * (ylog - (y - mu)),
        "nb": constant - likelihood,
        "nb_sums": constant - likelihood,
        "nb_dev": 2 * (saturated - likelihood),
    }[name]
    found = losses.LOSSES[name](*(torch.tensor(part) for part in (np.log(mu), y, theta)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_a_sum_of_negative_binomials_has_the_moments_of_its_match():
    rng = np.random.default_rng(2)
    s, mu, theta = rng.lognormal(0, 0.5, 40), 1.7, 2.5
    cells = rng.poisson(s * mu * rng.standard_gamma(theta, (40_000, 40)) / theta).sum(axis=1)
    S, size = s.sum(), theta * s.sum() ** 2 / np.sum(s**2)
    assert cells.mean() == pytest.approx(S * mu, rel=0.01)
    assert cells.var() == pytest.approx(S * mu + (S * mu) ** 2 / size, rel=0.03)
    matched = stats.nbinom(size, size / (size + S * mu))
    np.testing.assert_allclose(np.quantile(cells, [0.05, 0.95]), matched.ppf([0.05, 0.95]), rtol=0.03)


# ---- control


def test_the_corrected_dispersion_finds_theta_and_the_published_one_does_not():
    keys = {"n_genes": 150, "n_targets": 3, "n_cells": 6000, "mean_counts": 1000, "covariation": 0.0}
    design = SimulatedScreen(library_spread=0.6, theta=5.0, **keys)
    sums = sums_of(design.model_dump(), n_held_out=1, control_share=0.98)
    often = control_statistics(sums).mean > 0.5
    ours = np.median(control_statistics(sums).theta[often])
    published = np.median(published_control_statistics(sums).theta[often])
    assert ours == pytest.approx(5.0, rel=0.1)
    assert published < 2.5


def test_a_gene_without_a_control_count_keeps_a_finite_rate(simulated):
    mean = control_statistics(simulated).mean
    assert (mean >= 0.5 / simulated.control_sizes.sum() - 1e-12).all()


# ---- expected profiles


def test_expected_profiles_are_those_of_drawn_cells():
    rng = np.random.default_rng(3)
    s = depths(rng.lognormal(0, 0.5, 500))
    log_rate, theta = np.log(np.array([[0.02, 0.5, 4.0, 90.0]])), np.array([0.8, 3.0, 8.0, 20.0])
    rate = s[:, None] * np.exp(log_rate)
    y = rng.poisson(rate[:, None] * rng.standard_gamma(theta, (len(s), 40_000, 4)) / theta)
    simulated = np.log1p(y * 1.3 / s[:, None, None]).mean(axis=(0, 1))
    np.testing.assert_allclose(expected_log1p(log_rate, theta, s, 1.3)[0], simulated, rtol=0.01)


def test_the_table_of_profiles_goes_there_and_back():
    s = depths(np.random.default_rng(0).lognormal(0, 0.4, 300))
    log_mean, theta = np.log(np.array([0.05, 1.0, 20.0])), np.array([1.0, 5.0, 50.0])
    table = ProfileTable(log_mean, theta, s, 1.0)
    change = np.random.default_rng(1).normal(0, 1.5, (6, 3))
    exact = expected_log1p(log_mean + change, theta, s, 1.0) - expected_log1p(log_mean[None], theta, s, 1.0)
    found = table.change_of_profile(change)
    np.testing.assert_allclose(found, exact, atol=2e-4)
    np.testing.assert_allclose(table.log_fold_change(found), change, atol=1e-6)
    assert (table.log_fold_change(np.zeros((2, 3))) == 0).all()


# ---- the convex fit


def test_the_gradient_is_that_of_autograd(fold):
    problem = _problem(fold)
    rng = np.random.default_rng(0)
    scales = problem.scales(3.0)
    x = rng.normal(size=sum(int(np.prod(shape)) for shape in problem.shapes)) * 0.3
    value, gradient = problem(x, scales, 3.0)
    for place in rng.choice(len(x), 12, replace=False):
        step = np.zeros(len(x))
        step[place] = 1e-5
        numeric = (problem(x + step, scales, 3.0)[0] - problem(x - step, scales, 3.0)[0]) / 2e-5
        assert gradient[place] == pytest.approx(numeric, rel=1e-4, abs=1e-4)
    assert np.isfinite(value)


def _problem(fold):
    genes, trained, _, missing, _ = fold.vectors()
    log_control = np.log(fold.control.mean)
    own = fold.gene_of(fold.trained_names)
    rows = concise_rows(fold, True)
    return Problem(rows, genes, trained, missing, own, log_control, fold.control.theta, True)


def test_the_fit_is_the_minimum_of_the_plain_objective(fold):
    """The slow twin: the same objective in torch, float64, without rotations and scales."""
    penalty = 5.0
    problem = _problem(fold)
    found, _ = problem.fit(penalty, tol=1e-12)
    genes, trained, _, _, _ = (torch.tensor(part) for part in fold.vectors())
    rows = concise_rows(fold, True)
    own = fold.gene_of(fold.trained_names)

    def objective(bias, K, on_target, cycle):
        eta = torch.tensor(np.log(fold.control.mean) + rows.log_size[:, None]) + bias
        eta = eta + ((trained - torch.tensor(found.centre)) @ K.T @ genes.T)[torch.tensor(rows.target)]
        mask = torch.zeros_like(eta)
        for row, target in enumerate(rows.target):
            mask[row, own[target]] = 1.0
        eta = eta + on_target * mask
        eta = eta + torch.cat([torch.zeros_like(cycle[:1]), cycle])[torch.tensor(rows.phase)]
        theta = torch.tensor(fold.control.theta * rows.multiple[:, None])
        value = losses.negative_binomial(eta, torch.tensor(rows.counts), theta).sum()
        ridge = (bias**2).sum() + on_target**2 + (cycle**2).sum()
        return value + 0.5 * penalty * (K**2).sum() + 0.5 * ridge

    parts = [torch.tensor(part, requires_grad=True) for part in
             (found.bias, found.K, np.float64(found.on_target), found.cycle)]  # fmt: skip
    objective(*parts).backward()
    curvature = float(problem.gene_weight.mean())
    assert all(float(part.grad.abs().max()) < 1e-2 * curvature for part in parts)


def test_an_infinite_penalty_leaves_the_shared_response(fold):
    _, prediction = fitted(fold, penalty_K=1e30, shrinkage=1, on_target=False)
    assert np.ptp(prediction.log_rate, axis=0).max() < 1e-6
    problem = _problem(fold)
    found, _ = problem.fit(np.inf)
    assert not found.K.any()


def test_the_glm_beats_ridge_and_mean_on_a_bilinear_truth(fold):
    truth = fold.sums.by_target(fold.sums.held_out(0)).profiles

    def error(kind, **keys):
        predictor = predictor_of(kind)(settings(kind, **keys))
        return np.abs(predictor.predict(fold).profile - truth).mean()

    glm, ridge, mean = error("nb_glm"), error("bilinear_ridge"), error("perturbed_mean")
    assert glm < 0.9 * ridge
    assert glm < 0.9 * mean


def test_a_target_without_a_vector_has_the_shared_response_and_is_flagged(simulated):
    fold = fold_of(simulated)
    lost = fold.asked[1]
    vectors = {name: vector for name, vector in fold.embedding.vectors.items() if name != lost}
    embedding = Embedding(fold.embedding.genes, vectors)
    one = Fold(fold.sums, fold.background, embedding, 0, fold.asked)
    shared_only = {"penalty_K": 1, "shrinkage": 1, "on_target": False}
    for kind, keys in (("nb_glm", shared_only), ("nearest_target", {}), ("bilinear_ridge", {})):
        found = predictor_of(kind)(settings(kind, **keys)).predict(one)
        fell_back = ["shared" in flag for flag in found.flags]
        assert fell_back == [name == lost for name in one.asked]
    shared = predictor_of("perturbed_mean")(settings("perturbed_mean")).predict(one)
    np.testing.assert_allclose(found.profile[1], shared.profile[1], atol=1e-9)


def test_a_target_that_is_no_measured_gene_has_no_term_of_its_own(fold):
    assert fold.gene_of(["GENE1", "elsewhere", "GENE1+GENE2"]) == [[1], [], [1, 2]]


def test_doubles_add_up(simulated):
    fold = fold_of(simulated)
    one, other = fold.trained_names[:2]
    asked = Fold(fold.sums, fold.background, None, 0, [f"{one}+{other}", one])
    found = predictor_of("additive")(settings("additive")).predict(asked)
    change = fold.trained.profiles[:2] - fold.control.profile
    np.testing.assert_allclose(found.profile[0] - fold.control.profile, change.sum(axis=0), atol=1e-9)
    assert found.flags[1]


# ---- the general model


@pytest.mark.parametrize(
    "keys",
    [
        {"preset": "published", "max_iter": 30},
        {"preset": "published", "max_iter": 30, "fit_mode": "concise", "loss": "NB", "use_cycle": True},
        {"g_mlp_hidden": "16, 8", "p_mlp_hidden": 12, "p_out_dim": 5, "gp_norm": "batchnorm", "max_iter": 20},
        {
            "residual": 0.2,
            "g_out_dim": 3,
            "gp_activation": "tanh",
            "max_iter": 20,
            "l1": 1e-4,
            "raw_l2": 1e-3,
        },
        {"optimiser": "adamw", "link": "tanh", "max_iter": 20},
    ],
)
def test_every_shape_of_the_network_trains_and_predicts(fold, keys):
    predictor, prediction = fitted(fold, **keys)
    objective = [row["objective"] for row in predictor.history]
    assert objective[-1] < objective[0]
    assert prediction.log_rate.shape == (4, 60)
    assert np.isfinite(prediction.profile).all()
    if keys.get("preset") == "published":
        change = prediction.log_rate - np.log(fold.control.mean)
        assert np.abs(change).max() <= 2.6


@pytest.mark.parametrize(("loss", "is_stuck"), [("mse", True), ("pois", False)])
def test_a_fit_that_ends_at_the_bound_of_tanh_says_so(fold, loss, is_stuck):
    said = []
    model = {"preset": "published", "loss": loss, "max_iter": 3, "gp_dropout": 0}
    # a start from which tanh cannot move: wide stacks; without any, the changes stay near zero
    wide = {} if is_stuck else {"g_mlp_hidden": [], "p_mlp_hidden": [], "g_out_dim": None, "p_out_dim": None}
    predictor = predictor_of("nb_glm")(settings(**model, **wide))
    predictor.predict(fold, said.append)
    assert any("bound of tanh" in text for text in said) == is_stuck
    assert (predictor.folds[0]["at_bound"] > 0.5) == is_stuck


def test_the_schedule_warms_up_and_ends_at_the_least_rate():
    keys = {
        **{"learning_rate": 1.0, "learning_rate_schedule": "cosine", "max_iter": 100},
        **{"warmup_pct": 0.05, "min_learning_rate": 0.1},
    }
    rates = [learning_rate(epoch, keys) for epoch in range(100)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == pytest.approx(1.0)
    assert 0.1 < rates[-1] < 0.11
    assert learning_rate(7, {**keys, "learning_rate_schedule": "constant"}) == 1.0


def test_a_resumed_training_is_an_unbroken_one(fold, tmp_path):
    keys = settings(preset="published", max_iter=12, validation_fraction=0.2)

    def run(stop):
        checkpoint = Checkpoint(tmp_path / "checkpoint", keys, "same")
        return predictor_of("nb_glm")(keys, seed=3, checkpoint=lambda _: checkpoint, stop=stop)

    asked = iter(range(100))
    with pytest.raises(Interrupted, match="5 of 12"):
        run(lambda: next(asked) == 4).predict(fold)
    resumed = run(lambda: False)
    second = resumed.predict(fold)
    whole = predictor_of("nb_glm")(keys, seed=3)
    assert np.array_equal(second.log_rate, whole.predict(fold).log_rate)
    assert [row["objective"] for row in resumed.history] == [row["objective"] for row in whole.history]


def test_whole_and_concise_agree_on_poisson_cells_of_equal_depth(fold):
    """A Poisson likelihood knows nothing but sums: cells one by one lead where their sums lead."""
    from scipy import sparse

    from nmfbench.perturbation.nb_glm.batches import TrainingCells

    trained = fold.trained
    rng = np.random.default_rng(0)
    n = 40
    target = np.repeat(np.arange(len(trained.target)), n)
    counts = rng.poisson((trained.counts / trained.size[:, None])[target])
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    cells = TrainingCells(matrix, target, np.zeros_like(target), np.ones(len(target)))
    sums = np.zeros_like(trained.counts)
    np.add.at(sums, target, counts)
    keys = {
        **{"preset": "published", "loss": "pois", "learning_rate": 5e-3, "use_sf": False},
        **{"learning_rate_schedule": "constant", "gp_dropout": 0.0, "weight_decay": 0.0},
        **{"batch_size": 100_000, "max_iter": 25},
    }
    from dataclasses import replace

    mask = fold.mask
    counts_of_groups = fold.sums.counts.copy()
    n_of_groups = fold.sums.n.copy()
    first = {}
    for group in np.flatnonzero(mask):
        row = int(np.searchsorted(trained.target, fold.sums.target[group]))
        counts_of_groups[group] = 0 if row in first else sums[row]
        n_of_groups[group] = 1e-9 if row in first else n
        first.setdefault(row, group)
    equal = replace(fold.sums, counts=counts_of_groups, n=n_of_groups, size=n_of_groups)
    concise = predictor_of("nb_glm")(settings(**keys), seed=1)
    whole = predictor_of("nb_glm")(settings(**keys, fit_mode="whole"), seed=1, cells=lambda _: cells)
    one = concise.predict(Fold(equal, fold.background, fold.embedding, 0, fold.asked))
    two = whole.predict(Fold(equal, fold.background, fold.embedding, 0, fold.asked))
    np.testing.assert_allclose(one.log_rate, two.log_rate, atol=5e-3)


def test_a_phase_without_cells_is_no_row(simulated):
    fold = fold_of(simulated)
    assert set(concise_rows(fold, True).phase) == {0, 1}  # the screen has no G2M cell
    _, prediction = fitted(fold, use_cycle=True, penalty_K=1, shrinkage=1)
    assert np.isfinite(prediction.cycle).all()
    assert not prediction.cycle[1].any()


def test_parameters_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="lbfgs"):
        settings(optimiser="lbfgs", link="tanh")
    assert is_bilinear(settings())
    assert not is_bilinear(settings(preset="published"))
    model = LowRankNB(torch.zeros(5, 3), torch.zeros(5), 2, settings(g_out_dim=4, p_out_dim=6))
    assert model.K.shape == (4, 6)


# ---- files and cells


@pytest.mark.parametrize(
    "keys", [{"penalty_K": 1, "shrinkage": 1, "use_cycle": True}, {"preset": "published", "max_iter": 3}]
)
def test_cells_from_a_checkpoint_are_those_of_the_process(fold, tmp_path, keys):
    predictor, prediction = fitted(fold, **keys)
    path = tmp_path / "model.pt"
    save_checkpoint(path, fold.background, predictor, [prediction], "data")
    background, again = read_model(path, list(fold.sums.genes), fold.asked)
    assert np.array_equal(again.log_rate, prediction.log_rate)

    def drawn(background, prediction):
        return [
            counts.toarray()
            for _, counts, _ in draw_cells(background, prediction, [9] * 4, [300] * 4, seed=7)
        ]

    for one, two in zip(drawn(fold.background, prediction), drawn(background, again), strict=True):
        assert np.array_equal(one, two)
    stored = torch.load(path, weights_only=True)
    published = {
        "state_dict",
        "G",
        "P",
        "mu_control",
        "theta_vec",
        "use_cycle",
        "gene_names",
        "pert_names",
        "cfg",
    }
    assert published <= set(stored)


@pytest.mark.parametrize("keys", [{"penalty_K": 1, "shrinkage": 1}, {"preset": "published", "max_iter": 2}])
def test_a_fit_of_no_target_with_a_vector_survives_its_checkpoint(fold, tmp_path, keys):
    alone = Fold(fold.sums, fold.background, Embedding(fold.embedding.genes), 0, fold.asked)
    predictor, prediction = fitted(alone, **keys)
    assert all(flag.startswith("no vector") for flag in prediction.flags)
    save_checkpoint(tmp_path / "model.pt", fold.background, predictor, [prediction], "data")
    _, again = read_model(tmp_path / "model.pt", list(fold.sums.genes), fold.asked)
    assert np.array_equal(again.log_rate, prediction.log_rate)


def test_a_model_of_other_genes_or_of_another_program_is_refused(fold, tmp_path):
    prediction = predictor_of("control_mean")(settings("control_mean")).predict(fold)
    save_predictions(tmp_path / "model.npz", fold.background, [fold], [prediction])
    with pytest.raises(InputError, match="another order"):
        read_model(tmp_path / "model.npz", list(fold.sums.genes)[::-1], fold.asked)
    with pytest.raises(InputError, match="none of mars"):
        read_model(tmp_path / "model.npz", list(fold.sums.genes), ["mars"])
    torch.save({"state_dict": {}}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="another program"):
        read_model(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_text("nothing")
    with pytest.raises(InputError, match="no file of torch"):
        read_model(tmp_path / "model.pt")


@pytest.mark.parametrize("numbers", [torch.ones(3), np.ones(3)])
def test_a_checkpoint_of_the_published_code_is_known_and_told_what_to_do_with(tmp_path, numbers):
    keys = ("G", "P", "mu_control", "theta_vec")  # as arrays of numpy it cannot be read without running code
    names = {"gene_names": ["A", "B", "C"], "pert_names": ["non-targeting", "A"], "use_cycle": False}
    stored = {**dict.fromkeys(keys, numbers), **names, "state_dict": {"K": torch.ones(2, 2)}, "cfg": {}}
    torch.save(stored, tmp_path / "theirs.pt")
    with pytest.raises(InputError) as refused:
        read_model(tmp_path / "theirs.pt")
    is_read = isinstance(numbers, torch.Tensor)
    what = "of the published code, of 3 genes and 2 perturbations" if is_read else "with pickled objects"
    assert what in refused.value.got
    assert "predictions_file" in refused.value.remedy
    assert "preset: published" in refused.value.remedy


@pytest.mark.parametrize("sampler", ["nb", "gp_mixture", "poisson"])
def test_drawn_cells_have_the_rates_depths_and_variance_they_should(fold, sampler):
    _, prediction = fitted(fold, penalty_K=1, shrinkage=1)
    one = prediction.of(prediction.names[:1])
    parts = list(draw_cells(fold.background, one, [6000], [0], seed=1, sampler=sampler))
    counts = np.concatenate([part.toarray() for _, part, _ in parts])
    rate, s = np.exp(one.log_rate[0]), fold.sums.control_sizes
    np.testing.assert_allclose(counts.mean(axis=0), rate * s.mean(), rtol=0.1, atol=0.03)
    expected = rate * s.mean() + rate**2 * (
        np.var(s) + (sampler != "poisson") * np.mean(s**2) / fold.control.theta
    )
    often = rate > 1
    np.testing.assert_allclose(counts.var(axis=0)[often], expected[often], rtol=0.25)


def test_cells_of_a_target_do_not_depend_on_the_others(fold):
    _, prediction = fitted(fold, penalty_K=1, shrinkage=1)
    both = list(draw_cells(fold.background, prediction, [5] * 4, [200] * 4, seed=2))
    alone = list(draw_cells(fold.background, prediction.of([prediction.names[2]]), [5], [200], seed=2))
    assert np.array_equal(both[2][1].toarray(), alone[0][1].toarray())
    other = list(draw_cells(fold.background, prediction, [5] * 4, [200] * 4, seed=3))
    assert not np.array_equal(both[2][1].toarray(), other[2][1].toarray())


def test_phases_follow_the_strategy(fold):
    _, prediction = fitted(fold, penalty_K=1, shrinkage=1, use_cycle=True)
    name = fold.trained_names[0]
    one = type(prediction)([name], prediction.log_rate[:1], prediction.profile[:1], [""], prediction.cycle)

    def phases(strategy, **keys):
        return next(draw_cells(fold.background, one, [400], [0], seed=1, phase_strategy=strategy, **keys))[2]

    assert set(phases("fixed_S")) == {1}
    assert set(phases("ignore")) == {0}
    assert 0.2 < (phases("global") == 1).mean() < 0.6
    assert len(phases("own", gamma_heterogeneity=50.0)) == 400


@pytest.mark.parametrize("kind", [kind for kind in PREDICTORS if kind not in ("predictions_file", "nb_glm")])
def test_every_baseline_predicts_what_is_asked(fold, kind):
    prediction = predictor_of(kind)(settings(kind)).predict(fold)
    assert prediction.names == fold.asked
    assert prediction.log_rate.shape == prediction.profile.shape == (4, 60)
    assert np.isfinite(prediction.log_rate).all()
    # the rates stand for the profile
    background: Background = fold.background
    change = background.table.change_of_profile(prediction.log_rate - np.log(background.control.mean))
    wanted = prediction.profile - background.control.profile
    possible = prediction.profile > 0.3  # a ridge may ask for less than no counts
    np.testing.assert_allclose(change[possible], wanted[possible], atol=0.02)
