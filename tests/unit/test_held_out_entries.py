"""Entries left out of a fit: against dense sums over what is left; nothing of them reaches the fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pydantic import ValidationError
from scipy.stats import nbinom, poisson

from nmfbench.errors import InputError
from nmfbench.models import get_card, get_model
from nmfbench.models.bayesian.build import build_engine, build_problem
from nmfbench.models.bayesian.cavi import load_of_cells
from nmfbench.models.bayesian.counts import Weights
from nmfbench.models.bayesian.device_counts import DeviceCounts, place_counts
from nmfbench.models.bayesian.patterns import gather
from nmfbench.models.bayesian.terms import (
    NegativeBinomialDensity,
    Probability,
    constant,
    log_likelihood,
    relative_error,
)
from nmfbench.models.held_out_entries import HeldOutEntries
from nmfbench.models.hidden import HiddenEntries
from nmfbench.models.pnmf.coordinate import LatentState, lower_bound, sweep
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.likelihood import log_likelihood as poisson_terms
from nmfbench.models.pnmf.likelihood import relative_error as poisson_error
from nmfbench.models.pnmf.masked import MaskedScales, PoissonDensity
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.tables.held_out import collect_held_out

N, P, K = 40, 17, 3
CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
Y = RNG.poisson(RNG.gamma(0.6, 2.0, (N, K)) @ RNG.gamma(0.5, 1.5, (K, P))).astype(np.float64)
HELD = HeldOutEntries.of(sp.csr_matrix(Y), 0.15, 3, None, None)
SEEN = 1.0 - HELD.mask.toarray().astype(np.float64)
DONORS = np.arange(N) % 3


def drawn(*shape):
    return torch.from_numpy(RNG.gamma(2.0, 0.4, shape))


def test_products_with_the_hidden_entries_are_those_of_a_dense_mask():
    hidden = HiddenEntries(HELD.mask, CPU)
    M, A, B = torch.from_numpy(1 - SEEN), drawn(P, K), drawn(N, K)
    torch.testing.assert_close(hidden.of_cells(A), M @ A)
    torch.testing.assert_close(hidden.of_genes(B), M.T @ B)
    torch.testing.assert_close(hidden.rates(B, A).sum(), (M * (B @ A.T)).sum())
    torch.testing.assert_close(hidden.rows(np.array([5, 2])).of_cells(A), M[[5, 2]] @ A)
    B, A = B.requires_grad_(), A.requires_grad_()
    assert torch.autograd.gradcheck(lambda b, a: hidden.inner(b, a), (B, A))


# Poisson factorisation --------------------------------------------------------------------------------


def scales_of(kind):
    counts = Counts(HELD.train)
    exposure = drawn(N).numpy() if kind != "plain" else None
    scales = RateScales.of(counts, exposure, DONORS if kind == "donors" else None, 5.0)
    if kind == "donors":
        scales.multipliers = drawn(3, P)
    return counts, MaskedScales(scales, HiddenEntries(HELD.mask, CPU))


def dense_rates(H, W, scales):
    R = H @ W.T
    R = R if scales.exposure is None else R * scales.exposure[:, None]
    return R if scales.multipliers is None else R * scales.multipliers[scales.donors]


@pytest.mark.parametrize("kind", ["plain", "exposure", "donors"])
@pytest.mark.parametrize("mode", ["simple", "expanded", "lower-bound"])
def test_poisson_objectives_without_entries_are_the_dense_sums_over_the_others(kind, mode):
    counts, scales = scales_of(kind)
    mu, sigma, W = torch.randn(N, K, dtype=torch.float64), drawn(N, K) / 3, drawn(P, K)
    for x in (mu, sigma, W):
        x.requires_grad_()
    draws = [torch.randn(N, K, dtype=torch.float64) for _ in range(2)]
    seen, y, value = torch.from_numpy(SEEN), torch.from_numpy(Y), 0.0
    A = torch.exp(mu + sigma**2 / 2)
    for draw in draws if mode != "lower-bound" else [0.0]:
        H = torch.exp(mu + sigma * draw)
        rates = dense_rates(H if mode == "simple" else A, W, scales)
        value = value + (seen * (y * dense_rates(H, W, scales).log() - rates)).sum()
    value = value / (2 if mode != "lower-bound" else 1) - (seen * torch.lgamma(y + 1)).sum()
    if kind == "donors":  # the prior of the multipliers is part of it
        gamma = scales.multipliers
        value = value + scales.strength * (gamma.log() - gamma + 1).sum()
    value.backward()
    given = counts, mu.detach(), sigma.detach(), W.detach(), mode
    found = poisson_terms(*given, draws=draws, scales=scales, latent=True, loadings="gradient")
    assert found.value == pytest.approx(float(value.detach()), rel=1e-12)
    for ours, theirs in ((found.mu, mu), (found.sigma, sigma), (found.W, W)):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-9, atol=1e-9)
    M = A.detach()
    R = dense_rates(M, W.detach(), scales)
    error = (seen * (y - R) ** 2).sum() / (seen * y**2).sum()
    assert poisson_error(counts, M, W.detach(), scales) == pytest.approx(float(error.detach()), rel=1e-10)


@pytest.mark.parametrize("kind", ["plain", "donors"])
def test_sweeps_never_lower_the_bound_of_what_is_left(kind):
    counts, scales = scales_of(kind)
    mu = torch.zeros(N, K, dtype=torch.float64)
    state = LatentState(mu, torch.full_like(mu, 0.1), drawn(P, K), torch.ones(K, dtype=mu.dtype), scales)
    bounds = []
    for _ in range(15):
        parts = sweep(counts, state)
        bounds.append(parts[0] - parts[1])
    value, divergence = lower_bound(counts, state)
    assert (np.diff([*bounds, value - divergence]) > -1e-9).all()
    if kind == "donors":  # and the multipliers are where the bound has no slope
        scales.update(scales.sums(state.mean_factors()), state.W)
        expected = torch.from_numpy(SEEN) * dense_rates(state.mean_factors(), state.W, scales)
        expected = expected / scales.multipliers[scales.donors]
        for b in range(3):
            mine = b == DONORS
            gamma = (5.0 + (SEEN * Y)[mine].sum(0)) / (5.0 + expected.numpy()[mine].sum(0))
            np.testing.assert_allclose(scales.multipliers[b].numpy(), gamma, rtol=1e-9)


def test_what_a_fit_expects_of_an_entry_is_poisson_with_its_rate():
    _, scales = scales_of("donors")
    mu = torch.randn(N, K, dtype=torch.float64)
    state = LatentState(mu, torch.full_like(mu, 0.2), drawn(P, K), torch.ones(K), scales)
    rows, genes = np.nonzero(1 - SEEN)
    rates = dense_rates(state.mean_factors(), state.W, scales).numpy()[rows, genes]
    found = PoissonDensity(state).log_density(Y[rows, genes], rows, genes)
    np.testing.assert_allclose(found, poisson.logpmf(Y[rows, genes], rates), rtol=1e-10)


# Negative binomial factorisation ----------------------------------------------------------------------


@pytest.mark.parametrize("weights", [Weights(), Weights(1.0, 10.0), Weights(1.0, 10.0, 1.0)])
@pytest.mark.parametrize("placed", [place_counts, DeviceCounts.from_csr])
@pytest.mark.parametrize("by", ["all", "gene", "donor"])
def test_nb_likelihood_without_entries_is_the_dense_sum_over_the_others(weights, placed, by):
    counts = placed(HELD.train, CPU, HiddenEntries(HELD.mask, CPU))
    p = torch.full((1,), 0.5) if weights.poisson else drawn({"all": 1, "gene": P, "donor": 3}[by]) / 9
    probability = Probability(by, p.double().expand({"all": 1, "gene": P, "donor": 3}[by]).clamp(max=0.9))
    probability.donors = torch.from_numpy(DONORS)
    by_entry = {
        "all": lambda: probability.p.expand(N, P),
        "gene": lambda: probability.p.expand(N, P),
        "donor": lambda: probability.p[probability.donors][:, None].expand(N, P),
    }[by]()
    A, B = drawn(P, K).requires_grad_(), drawn(N, K).requires_grad_()
    theta, y, seen = B @ A.T, torch.from_numpy(Y), torch.from_numpy(SEEN)
    value = torch.lgamma(y + theta) - torch.lgamma(theta) - torch.lgamma(y + 1)
    value = value + y * by_entry.log() + theta * torch.log1p(-by_entry)
    value = value + weights.poisson * (y * theta.log() - theta - torch.lgamma(y + 1))
    value = value - weights.chi_squared * (theta - y) ** 2 / torch.clamp(0.1 * y, min=0.3) ** 2
    value = (seen * value).sum()
    gradients = torch.autograd.grad(value, (B, A))
    found = log_likelihood(B, A, counts, weights, probability)
    assert float(found.detach()) + constant(counts, weights, probability) == pytest.approx(
        float(value.detach()), rel=1e-11
    )
    for ours, theirs in zip(torch.autograd.grad(found, (B, A)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    error = (seen * (y - theta) ** 2).sum() / (seen * y**2).sum()
    assert relative_error(B.detach(), A.detach(), counts) == pytest.approx(float(error.detach()), rel=1e-10)
    rows, genes = np.nonzero(1 - SEEN)
    density = NegativeBinomialDensity(B.detach(), A.detach(), probability)
    size, p = (part.detach().numpy()[rows, genes] for part in (theta, by_entry))
    expected = nbinom.logpmf(Y[rows, genes], size, 1 - p)
    np.testing.assert_allclose(density.log_density(Y[rows, genes], rows, genes), expected, rtol=1e-9)
    probability.update(counts, B.detach(), A.detach())
    sums = []
    for part in (SEEN * Y, SEEN * theta.detach().numpy()):
        whole = {"all": part.sum(keepdims=True)[0], "gene": part.sum(0)}
        sums.append(whole[by] if by in whole else np.bincount(DONORS, weights=part.sum(1)))
    np.testing.assert_allclose(probability.p.numpy(), sums[0] / (sums[0] + sums[1]), rtol=1e-9)


def test_a_sweep_takes_the_dense_optimum_and_never_lowers_the_elbo():
    model = get_model("pyro_gamma_nb")(K, random_state=0, learn_probs="gene", exposure="total")
    model.seed_, model.sizes_ = 0, HELD.totals() / HELD.totals().mean()
    given = gather(model, N, None, None, None)
    problem = build_problem(model, HELD.train, given, CPU, HELD.mask)
    engine = build_engine(model, problem, HELD.train, given, CPU)
    losses = [sum(engine.advance().values()) for _ in range(10)]
    assert (np.diff(losses) < 1e-9).all()
    genes_cost = problem.costs()[1] * engine.genes.mean
    engine.cells.update(engine._statistics, problem.costs()[0], load_of_cells(problem.counts, genes_cost))
    own = engine.cells.prior.rate / torch.from_numpy(model.sizes_)[:, None]
    torch.testing.assert_close(engine.cells.rate, own + torch.from_numpy(SEEN) @ genes_cost)


# Fits -------------------------------------------------------------------------------------------------

FITS = [
    ("pnmf", {"max_iter": 6}),
    ("pnmf", {"max_iter": 6, "engine": "gradient", "exposure": "total"}),
    ("pnmf_donor", {"max_iter": 6, "exposure": "total", "init": "several"}),
    ("pnmf_spatial", {"max_iter": 3, "num_inducing": 8}),
    ("pyro_gamma_nb", {"max_iter": 6, "exposure": "total", "post_full_P_steps": 3}),
    ("pyro_gamma_nb", {"max_iter": 3, "batch_size": 15, "learn_probs": "donor"}),
    ("pyro_exponential", {"max_iter": 20, "inference": "svi", "batch_size": 15}),
    ("pyro_exponential", {"max_iter": 5, "inference": "map", "learn_rates": "fixed"}),
]


@pytest.mark.parametrize(("kind", "settings"), FITS)
def test_nothing_of_the_entries_reaches_the_fit(kind, settings):
    """Other counts where entries are held out: the same fit to the last bit, and another score."""
    names = [f"c{k}" for k in range(N)], [f"g{k}" for k in range(P)]
    mask = HeldOutEntries.of(sp.csr_matrix(Y), 0.15, 0, *names).mask.toarray() > 0
    other = np.where(mask, RNG.permutation(Y.ravel()).reshape(Y.shape) + 7, Y)
    found = []
    for counts in (Y, other):
        model = get_model(kind)(K, random_state=0, mask_fraction=0.15, **settings)
        beside = {"cell_names": names[0], "gene_names": names[1]}
        if "coordinates" in get_card(kind).needs:
            beside["coordinates"] = np.random.default_rng(1).uniform(0, 5, (N, 2))
        beside |= {"conditions": DONORS.astype(str), "progress": False}
        found.append(model.fit(sp.csr_matrix(counts), **beside))
    for name in ("components_", "embedding_"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    objectives = [[row["objective"] for row in model.history_] for model in found]
    assert objectives[0] == objectives[1]
    rows = [{row["stratum"]: row for row in model.held_out_entries_} for model in found]
    assert rows[0]["all"]["n_entries"] == mask.sum()
    assert rows[0]["all"]["value"] > rows[1]["all"]["value"]
    assert json.dumps(found[0].outcome(), allow_nan=False)


def test_models_of_counts_are_scored_on_the_same_entries():
    """Also where a gene has lost every count: it is not scored by any."""
    counts = Y.copy()
    counts[:, 4] = 0
    gone = HeldOutEntries.of(sp.csr_matrix(Y), 0.15, 0, None, None).mask.toarray()[:, 4] > 0
    counts[np.flatnonzero(gone)[0], 4] = 2  # its only count is held out
    csr = sp.csr_matrix(counts)
    reference = get_model("nb_hierarchical")(2, mask_fraction=0.15, random_state=0, draws=0).fit(csr)
    table = reference.held_out_.query("split == 'entries' and source == 'nb_hierarchical'")
    expected = table.set_index("stratum")["n_entries"]
    for kind, settings in (FITS[0], FITS[4]):
        model = get_model(kind)(K, random_state=0, mask_fraction=0.15, **settings).fit(csr)
        assert {row["stratum"]: row["n_entries"] for row in model.held_out_entries_} == expected.to_dict()


def test_scores_without_entries_stand_beside_the_nulls(tmp_path):
    rows = [{"split": "entries", "stratum": "all", "n_entries": 9, "value": -0.5, "se": 0.1}]
    asked = []
    for model, record in (("a", {"held_out_entries": rows}), ("b", {}), ("c", {})):
        file = tmp_path / f"{model}.json"
        file.write_text(json.dumps({"held_out_log_likelihood": None, **record}))
        asked.append({"dataset": "d", "model": model, "rank": 2, "seed": 0, "file": file, "no_mask": ""})
    asked[2]["no_mask"] = "it has no weights"
    table = collect_held_out([], asked).set_index("model")
    assert table.loc["a", ["source", "split", "value", "status"]].tolist() == ["a", "entries", -0.5, "ok"]
    assert table.loc["b", ["split", "status"]].tolist() == ["entries", "not asked"]
    assert table.loc["c", ["status", "reason"]].tolist() == ["not applicable", "it has no weights"]
    assert table.loc[["b", "c"], "value"].isna().all()
    asked[0]["file"].write_text(json.dumps({"held_out_log_likelihood": None}))
    assert collect_held_out([], asked).empty  # nobody was asked


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("pnmf", {"batch_size": 5}, "all cells and genes in each step"),
        ("pyro_gamma_nb", {"held_out_fraction": 0.1}, "exclude each other"),
        ("pnmf", {"mask_fraction": 1.0}, "less than 1"),
    ],
)
def test_what_does_not_go_together_is_refused(kind, given, said):
    with pytest.raises(ValidationError, match=said):
        get_card(kind).section(kind=kind, **{"mask_fraction": 0.1} | given)
    with pytest.raises(InputError):
        get_model(kind)(2, random_state=0, **{"mask_fraction": 0.1} | given).fit(sp.csr_matrix(Y))


def test_a_fit_without_a_mask_has_the_parameters_of_before():
    for kind in ("pnmf", "pyro_gamma_nb"):
        section = get_card(kind).section
        assert "mask_fraction" not in section(kind=kind).parameters()
        assert section(kind=kind, mask_fraction=0.1).parameters()["mask_fraction"] == 0.1
