"""The split likelihood, the ELBO of all engines, residuals, scores and checks, against dense twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import reference_nb_hierarchical as dense
from nmfbench import totals
from nmfbench.data.by_name import keys_of, mask_entries, without
from nmfbench.models.held_out_entries import score_entries, values_at
from nmfbench.models.nb_hierarchical.checks import cell_checks, gene_checks
from nmfbench.models.nb_hierarchical.entries_engine import EntriesEngine, family_arguments
from nmfbench.models.nb_hierarchical.entries_kernel import entry_gradient
from nmfbench.models.nb_hierarchical.exact import ExactEngine, Problem
from nmfbench.models.nb_hierarchical.family import AXES, PUBLISHED_PRIORS, Family, Priors
from nmfbench.models.nb_hierarchical.likelihood import SplitLikelihood, count_histogram
from nmfbench.models.nb_hierarchical.means import Means, density
from nmfbench.models.nb_hierarchical.pareto import LARGEST_GOOD_K, pareto_k
from nmfbench.models.nb_hierarchical.plates import PlatesEngine
from nmfbench.models.nb_hierarchical.residuals import PearsonResiduals, truncated_svd
from nmfbench.models.nb_hierarchical.scores import score_molecules
from nmfbench.models.nb_hierarchical.smooth import n_nodes, smooth_sums, softplus
from nmfbench.models.nb_hierarchical.start import moments, newton_start

FORMS = {"centred": True, "non-centred": False}


def counts_and_point(n=300, p=100, seed=0, groups=1, shared=False):
    Y, a, b, log_alpha = dense.simulate(n, p, seed)
    rng = np.random.default_rng(seed + 1)
    group = rng.integers(0, groups, n)
    log_alpha = log_alpha[:1] if shared else log_alpha
    c = a + rng.normal(0, 0.3, (groups, p)) - log_alpha
    mask = rng.random((n, p)) < 0.1
    return Y, b, c, log_alpha, group, mask


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_split_likelihood_and_gradients_are_the_dense_ones(shared, groups, masked):
    Y, t, c, log_alpha, group, mask = counts_and_point(groups=groups, shared=shared)
    if not shared:
        log_alpha[:3] = 9.0  # nearly Poisson: far to the left, where differences of lgamma lose digits
        c[:, :3] -= 9.0
    given = [torch.tensor(x, requires_grad=True) for x in (t, c, log_alpha)]
    expected = dense.log_density(Y.toarray(), *given, group, mask if masked else None)
    expected.backward()
    held = sp.csr_matrix(mask.astype(np.float32)) if masked else None
    split = SplitLikelihood(
        without(Y, held) if masked else Y, shared=shared, group=group, n_groups=groups, mask=held
    )
    found = split.evaluate(t, c, log_alpha, bend=True)
    assert found.value == pytest.approx(float(expected.detach()), rel=1e-12)
    for mine, tensor in zip((found.t, found.c, found.log_alpha), given, strict=True):
        scale = np.abs(tensor.grad.numpy()).max()
        np.testing.assert_allclose(mine, tensor.grad.numpy(), rtol=1e-10, atol=1e-10 * scale)
    step = 1e-5
    for index, bend in enumerate((found.t_bend, found.c_bend, found.log_alpha_bend)):
        ends = []
        for sign in (1, -1):
            moved = [x.copy() for x in (t, c, log_alpha)]
            moved[index].ravel()[7 % moved[index].size] += sign * step
            gradient = split.evaluate(*moved, value=False)
            ends.append((gradient.t, gradient.c, gradient.log_alpha)[index].ravel()[7 % moved[index].size])
        assert bend.ravel()[7 % bend.size] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_large_counts_and_dispersions_keep_their_digits():
    Y, t, c, log_alpha, group, _ = counts_and_point(40, 12)
    values = Y.toarray()
    values[3, 2], values[5, 6], values[0, 0] = 5000, 17, 90
    Y = sp.csr_matrix(values)
    split = SplitLikelihood(Y)
    for shift in (-5.0, 0.0, 5.0, 10.0):
        la = log_alpha + shift
        expected = dense.log_density(values, torch.tensor(t), torch.tensor(c), torch.tensor(la), group)
        assert split.evaluate(t, c, la).value == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("width", [1, 5, 12, 20, 30])
def test_the_dense_block_is_interpolated_to_all_digits(width):
    rng = np.random.default_rng(width)
    c = torch.from_numpy(np.r_[rng.uniform(-0.7 * width, 0.3 * width, 60), -0.7 * width, 0.3 * width, 0.1])
    t = torch.from_numpy(rng.normal(0, 1, 400))
    weights = torch.exp(torch.from_numpy(rng.normal(0, 1, len(c))))
    eta = t[:, None] + c
    found = smooth_sums(t, c, weights, bend=True)
    F, sigma = softplus(eta).sum(0), torch.sigmoid(eta)
    assert float((found.value - F).abs().max() / F.max()) < 1e-12
    assert float(((found.value - F) / F).abs().max()) < 1e-10, "relative to each gene's own, too"
    torch.testing.assert_close(found.slope, sigma.sum(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.row_slope, sigma @ weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.bend, (sigma * (1 - sigma)).sum(0), rtol=1e-8, atol=0)
    torch.testing.assert_close(found.row_bend, (sigma * (1 - sigma)) @ weights, rtol=1e-8, atol=0)
    assert n_nodes(width) < 32 + 2.5 * width + 1


def test_the_histogram_counts_every_entry():
    Y, *_ = dense.simulate(50, 20)
    values = Y.toarray()
    values[4, 7] = 300
    genes, counts, numbers = count_histogram(sp.csr_matrix(values))
    for g in range(20):
        expected = np.unique(values[:, g][values[:, g] > 0], return_counts=True)
        np.testing.assert_array_equal(counts[genes == g], expected[0])
        np.testing.assert_array_equal(numbers[genes == g], expected[1])


def test_totals_beyond_single_precision_are_exact(monkeypatch):
    """SciPy's own sum of float32 values stands still at 2^24, or drifts."""
    values = np.random.default_rng(0).integers(0, 60_000, (600, 7)).astype(np.float32)
    values[:, 0] = 50_001
    Y = sp.csr_matrix(values)
    exact = values.astype(np.int64)
    assert exact[:, 0].sum() > 2**24
    monkeypatch.setattr(totals, "_ENTRIES_AT_ONCE", 100)  # many blocks
    np.testing.assert_array_equal(totals.gene_totals(Y), exact.sum(0))
    np.testing.assert_array_equal(totals.gene_totals(Y, power=2), (exact**2).sum(0))
    np.testing.assert_array_equal(totals.cell_totals(Y), exact.sum(1))
    np.testing.assert_array_equal(totals.gene_nonzeros(Y), (exact > 0).sum(0))
    factor = np.arange(600.0)
    np.testing.assert_array_equal(totals.gene_totals(Y, factor), factor @ exact)
    np.testing.assert_array_equal(SplitLikelihood(Y).gene_totals[0], exact.sum(0))
    assert totals.cell_totals(sp.csr_matrix((3, 4), dtype=np.float32)).tolist() == [0, 0, 0]


# The ELBO --------------------------------------------------------------------------------------------------


def problem_of(Y, *, shared=False, forms="centred", priors=None, mask=None, seed=0):
    n, p = Y.shape
    family = Family(n, p, shared, priors or Priors(), forms=dict.fromkeys(AXES, FORMS[forms]))
    rng = np.random.default_rng(seed + 5)
    size, length = rng.normal(0, 0.3, n), rng.normal(0, 0.2, p)
    split = SplitLikelihood(Y if mask is None else without(Y, mask), shared=shared, mask=mask)
    return (
        Problem(family, split, size, length, seed),
        rng.normal(0, 0.3, family.size),
        rng.normal(-2, 0.2, family.size),
    )


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("priors", [Priors(), PUBLISHED_PRIORS])
def test_elbo_and_gradients_are_those_of_the_textbook_form(forms, shared, priors):
    Y, *_ = dense.simulate(60, 25)
    problem, loc, log_sd = problem_of(Y, shared=shared, forms=forms, priors=priors)
    noise = problem.noise(0, 1)
    gradients = []
    for dense_way in (False, True):
        place, spread = (torch.from_numpy(x.copy()).requires_grad_() for x in (loc, log_sd))
        if dense_way:
            value = dense.elbo_draw(
                problem.family, place, spread, noise, Y.toarray(), problem.size, problem.length
            )
        else:
            value = sum(
                problem.family.elbo(place, spread, noise, problem.likelihood, problem.size, problem.length)
            )
        value.backward()
        gradients.append((float(value.detach()), place.grad.numpy(), spread.grad.numpy()))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-9)
    for mine, theirs in zip(gradients[0][1:], gradients[1][1:], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_pass_over_all_entries_is_the_gradient_of_the_elbo(forms, shared):
    Y, *_ = dense.simulate(60, 25)
    mask = mask_entries(keys_of(None, 60, 0, "c"), keys_of(None, 25, 0, "g"), 0.1)
    problem, loc, log_sd = problem_of(Y, shared=shared, forms=forms, priors=PUBLISHED_PRIORS, mask=mask)
    noise = problem.noise(0, 1)
    place, spread = (torch.from_numpy(x.copy()).requires_grad_() for x in (loc, log_sd))
    sum(
        problem.family.elbo(place, spread, noise, problem.likelihood, problem.size, problem.length)
    ).backward()
    rows, genes = np.nonzero(mask.toarray() == 0)
    found = np.zeros((2, len(loc)))
    arguments = Y.indptr, Y.indices, Y.data, problem.size.numpy(), problem.length.numpy()
    entry_gradient(
        rows, genes, loc, log_sd, noise.numpy(), *arguments, 1.0, *family_arguments(problem.family), *found
    )
    for mine, theirs in zip(found, (place.grad.numpy(), spread.grad.numpy()), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    # a wrong index is seen: counts of another gene's place
    entry_gradient(
        rows, np.roll(genes, 1), loc, log_sd, noise.numpy(), *arguments, 1.0,
        *family_arguments(problem.family), *found,
    )  # fmt: skip
    assert np.abs(found[0] - place.grad.numpy()).max() > 1.0


@pytest.mark.parametrize("guide", ["normal", "list"])
def test_plates_estimate_the_exact_elbo(guide):
    Y, *_ = dense.simulate(60, 24)
    problem, loc, log_sd = problem_of(Y, shared=False, forms="centred")
    shared = slice(0, len(problem.family.globals))
    log_sd[shared] = np.log(0.05)  # as the list's covariance starts
    fit, rest, error = problem.elbo(loc, log_sd, 200)
    engine = PlatesEngine(
        problem, Y, None, loc.copy(), log_sd.copy(), batch_cells=20, batch_genes=12, guide=guide,
        learning_rate=0.02, max_iter=100,
    )  # fmt: skip
    draws = -np.array([engine.loss(k) for k in range(250)])
    spread = np.hypot(draws.std() / np.sqrt(len(draws)), error)
    assert abs(draws.mean() - fit - rest) < 3.5 * spread
    assert spread < 0.02 * abs(fit + rest), "tight enough to see a factor of N / n"


def test_plates_take_their_counts_by_their_own_indices(monkeypatch):
    from nmfbench.models.nb_hierarchical import plates_model as plates

    Y, *_ = dense.simulate(60, 24)
    problem, *_ = problem_of(Y)
    offsets = problem.size.numpy(), problem.length.numpy()
    loc, log_sd, _ = newton_start(problem.family, problem.likelihood, *offsets, *moments(Y, offsets[0]))
    fit, rest, _ = problem.elbo(loc, log_sd, 50)
    right = plates.block_of
    monkeypatch.setattr(plates, "block_of", lambda Y, rows, columns: right(Y, rows, np.roll(columns, 1)))
    engine = PlatesEngine(
        problem, Y, None, loc.copy(), log_sd.copy(), batch_cells=20, batch_genes=12, guide="normal",
        learning_rate=0.02, max_iter=100,
    )  # fmt: skip
    draws = -np.array([engine.loss(k) for k in range(150)])
    assert abs(draws.mean() - fit - rest) > 6 * draws.std() / np.sqrt(len(draws)), "misaligned: seen"


def test_entries_draw_uniformly_and_scale_to_all():
    Y, *_ = dense.simulate(60, 24)
    mask = mask_entries(keys_of(None, 60, 0, "c"), keys_of(None, 24, 0, "g"), 0.2)
    problem, loc, log_sd = problem_of(Y, forms="centred", mask=mask)
    engine = EntriesEngine(
        problem, Y, mask, loc.copy(), log_sd.copy(), batch_size=16, optimizer="adam", learning_rate=1e-9
    )
    assert engine.scale == (60 * 24 - mask.nnz) / 16
    # Adam's first moment after many steps of almost no length is the mean gradient, weighted
    total = np.zeros_like(loc)
    for _ in range(300):
        engine.advance(50)
        total += engine._moments[0, 0]
    place, spread = problem.gradient(loc, log_sd, 1)[0] * 0, None
    for step in range(60):
        gradients = problem.gradient(loc, log_sd, step)
        place, spread = place + gradients[0] / 60, gradients[1]
    assert spread is not None
    correlation = np.corrcoef(total / 300, place)[0, 1]
    slope = (total / 300) @ place / (place @ place)
    assert correlation > 0.95
    assert slope == pytest.approx(1.0, abs=0.1)


# What is made of a fit -------------------------------------------------------------------------------------


def fitted_means(groups=1):
    Y, t, c, log_alpha, group, mask = counts_and_point(120, 40, groups=groups)
    means = Means(t, c, log_alpha, group)
    mu = np.exp(t[:, None] + c[group] + log_alpha)
    return Y, means, mu, np.exp(log_alpha), mask


@pytest.mark.parametrize("groups", [1, 2])
def test_residuals_are_the_dense_ones(groups):
    Y, means, mu, alpha, _ = fitted_means(groups)
    clip = np.sqrt(Y.shape[0])
    R = PearsonResiduals(Y, means.t, means.c, means.alpha, means.group, clip)
    expected = dense.pearson(Y.toarray(), mu, alpha, clip)
    np.testing.assert_allclose(R.times(np.eye(40)), expected, atol=3e-6)
    np.testing.assert_allclose(R.transposed_times(np.eye(120)), expected.T, atol=3e-6)


def test_truncated_svd_finds_the_leading_directions():
    Y, means, _, _, _ = fitted_means()
    values = Y.toarray()
    values[:60, :8] += np.random.default_rng(0).poisson(6, (60, 8))  # one direction that stands out
    R = PearsonResiduals(sp.csr_matrix(values), means.t, means.c, means.alpha, means.group, 20.0)
    found, V = truncated_svd(R, 3, 0)
    _, s, Vt = np.linalg.svd(R.times(np.eye(40)))
    np.testing.assert_allclose(found, s[:3], rtol=2e-3)
    assert abs(V[:, 0] @ Vt[0]) > 0.999
    np.testing.assert_allclose(V.T @ V, np.eye(3), atol=1e-10)


def test_densities_by_gene_and_cell_are_the_dense_ones():
    Y, means, mu, alpha, _ = fitted_means(2)
    y = Y.toarray()
    value = dense.log_pmf(y, mu, alpha)
    found = density(means, Y)
    np.testing.assert_allclose(found.gene_zero, np.where(y == 0, value, 0).sum(0), rtol=1e-9)
    np.testing.assert_allclose(found.gene_nonzero, np.where(y > 0, value, 0).sum(0), rtol=1e-9)
    np.testing.assert_allclose(found.cell, value.sum(1), rtol=1e-9)


def test_scores_of_entries_are_the_dense_ones():
    Y, means, mu, alpha, mask = fitted_means()
    held = sp.csr_matrix(mask.astype(np.float32))
    draws = [Means(means.t + shift, means.c, means.log_alpha, means.group) for shift in (-0.2, 0.1)]
    rows, cells = score_entries({"ours": means}, Y, held, draws, "ours")
    value = dense.log_pmf(Y.toarray(), mu, alpha)
    table = {row["stratum"]: row for row in rows}
    assert table["all"]["value"] == pytest.approx(value[mask].mean())
    assert table["zeros"]["value"] == pytest.approx(value[mask & (Y.toarray() == 0)].mean())
    parts = [dense.log_pmf(Y.toarray(), mu * np.exp(shift), alpha)[mask] for shift in (-0.2, 0.1)]
    assert table["all"]["predictive"] == pytest.approx((np.logaddexp(*parts) - np.log(2)).mean())
    assert sum(table[f"decile_{k + 1}"]["n_entries"] for k in range(10)) == mask.sum()
    np.testing.assert_allclose(cells[5], value[5][mask[5]].mean())
    _, _, y = values_at(Y, held)
    np.testing.assert_array_equal(y, Y.toarray()[mask])


def test_scores_of_molecules_are_the_dense_ones():
    Y, means, mu, alpha, _ = fitted_means()
    rng = np.random.default_rng(3)
    f, whole = 0.3, Y.toarray().astype(int)
    test = rng.binomial(whole, f)
    train = whole - test
    rows, _ = score_molecules(
        {"ours": means},
        sp.csr_matrix(train.astype(np.float32)),
        sp.csr_matrix(test.astype(np.float32)),
        f,
        "ours",
    )
    table = {row["stratum"]: row for row in rows}
    assert table["all"]["value"] == pytest.approx(dense.log_pmf(test, mu * f / (1 - f), alpha).mean())
    exact = dense.conditional_log_pmf(test, train, mu / (1 - f), alpha, f).mean()
    assert table["all"]["conditional"] == pytest.approx(exact)
    assert table["all"]["conditional"] > table["all"]["value"] - 0.05


def test_predictive_checks_are_the_dense_ones():
    Y, means, mu, alpha, _ = fitted_means(2)
    zero = (1 + mu / alpha) ** -alpha
    genes, cells = gene_checks(means, Y, 0), cell_checks(means, Y)
    np.testing.assert_allclose(genes["zeros_predicted"], zero.mean(0), rtol=1e-8)
    expected = ((Y.toarray() == 0).sum(0) - zero.sum(0)) / np.sqrt((zero * (1 - zero)).sum(0))
    np.testing.assert_allclose(genes["zeros_z"], expected, rtol=1e-6, atol=1e-6)
    variance = (mu + mu**2 / alpha).mean(0) + mu.var(0)
    np.testing.assert_allclose(genes["variance_ratio_predicted"], variance / mu.mean(0), rtol=1e-9)
    np.testing.assert_allclose(cells["detected_predicted"], (1 - zero).sum(1), rtol=1e-8)
    np.testing.assert_allclose(cells["total_predicted"], mu.sum(1), rtol=1e-9)
    np.testing.assert_array_equal(
        genes["q99_observed"], np.quantile(Y.toarray(), 0.99, axis=0, method="inverted_cdf")
    )
    assert np.corrcoef(genes["q99_observed"], genes["q99_predicted"])[0, 1] > 0.9


def test_importance_weights_tell_a_posterior_that_is_too_narrow():
    Y, *_ = dense.simulate(200, 60)
    problem, *_ = problem_of(Y)
    offsets = problem.size.numpy(), problem.length.numpy()
    loc, log_sd, _ = newton_start(problem.family, problem.likelihood, *offsets, *moments(Y, offsets[0]))
    assert pareto_k(problem.family, loc, log_sd, 0) < LARGEST_GOOD_K
    narrow, moved = log_sd.copy(), loc.copy()
    narrow[: len(problem.family.globals)] -= 1.5
    assert pareto_k(problem.family, loc, narrow, 0) > LARGEST_GOOD_K
    moved[0] += 6 * np.exp(log_sd[0])
    assert pareto_k(problem.family, moved, log_sd, 0) > LARGEST_GOOD_K
    forms = dict.fromkeys(AXES, False)
    assert np.isnan(pareto_k(replace(problem.family, forms=forms), loc, log_sd, 0))


def test_masks_go_by_names_and_hold_out_the_share_they_are_told():
    names = [f"cell-{k}" for k in range(200)]
    genes = [f"gene-{k}" for k in range(90)]
    order = np.random.default_rng(0).permutation(200)
    mask = mask_entries(keys_of(names, 200, 1, "mask"), keys_of(genes, 90, 1, "mask"), 0.1).toarray()
    moved = mask_entries(
        keys_of([names[k] for k in order], 200, 1, "mask"), keys_of(genes, 90, 1, "mask"), 0.1
    )
    np.testing.assert_array_equal(moved.toarray(), mask[order])
    assert abs(mask.mean() - 0.1) < 4 * np.sqrt(0.09 / mask.size)
    assert mask.mean(0).max() < 0.25


def test_an_exact_step_raises_the_elbo():
    Y, *_ = dense.simulate(60, 25)
    problem, loc, log_sd = problem_of(Y)
    before = sum(problem.elbo(loc, log_sd, 8)[:2])
    engine = ExactEngine(problem, loc, log_sd, 0.05)
    engine.advance(20)
    assert sum(problem.elbo(engine.loc, engine.log_sd, 8)[:2]) > before + 10


@pytest.mark.parametrize(("shared", "priors"), [(False, Priors()), (True, PUBLISHED_PRIORS)])
def test_nuts_samples_the_same_density(shared, priors):
    """The dense density of NUTS and the exact ELBO's integrand differ by the same number everywhere."""
    from nmfbench.models import NBHierarchical
    from nmfbench.models.nb_hierarchical.potential import Potential
    from nmfbench.models.nb_hierarchical.preparation import prepare
    from nmfbench.models.nb_hierarchical.settings import resolved

    Y, *_ = dense.simulate(40, 12)
    ready = prepare(Y, resolved(NBHierarchical(2, mask_fraction=0.1)), 0)
    split = SplitLikelihood(ready.train, shared=shared, mask=ready.mask)
    for centred in (True, False):
        family = Family(40, 12, shared, priors, forms=dict.fromkeys(AXES, centred))
        potential, differences = Potential(family, ready), []
        for seed in range(3):
            x = np.random.default_rng(seed).normal(0, 0.3, family.size)
            point = torch.from_numpy(x)
            a, b, log_alpha, effects = family.unfolded(x)
            c = family.gene_sides(a, log_alpha, effects, ready.length)
            value = split.evaluate(b + ready.size, c, log_alpha).value
            none = torch.full((family.size,), -40.0, dtype=torch.float64)  # no spread: the prior at a point
            value += float(family.log_prior(point, none, point))
            moved = x.copy()
            if centred:
                moved[family.places["gene"]] += b.mean()
            differences.append(value + float(potential(torch.from_numpy(moved))))
            # the gradient by hand is that of the value, in every direction
            for k in (*range(len(family.globals)), *(place.start + 1 for place in family.places.values())):
                step = np.zeros_like(moved)
                step[k] = 1e-5
                change = (potential.evaluate(moved + step)[0] - potential.evaluate(moved - step)[0]) / 2e-5
                assert potential.evaluate(moved)[1][k] == pytest.approx(change, rel=1e-5, abs=1e-5)
        assert np.ptp(differences) < 1e-8
