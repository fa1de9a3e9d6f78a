"""Patterns in use: their reliability, and embeddings without the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import reference_bayesian as dense
from nmfbench.errors import InputError
from nmfbench.models import get_card, get_model
from nmfbench.models.bayesian.in_use import patterns_in_use, reliability
from nmfbench.models.bayesian.posterior import Marginals

X, TRUE_P, _ = dense.planted(n=160, g=90, k=3)
DONORS = np.array(["a", "b", "c"])[np.arange(len(TRUE_P)) % 3]
K = 12
every_kind = pytest.mark.parametrize("kind", ["pyro_gamma_nb", "pyro_exponential"])


def make(kind="pyro_gamma_nb", k=K, **settings):
    return get_model(kind)(k, **{"random_state": 0, "max_iter": 40, "marker_draws": 0} | settings)


def slow_reliability(mean, sd):
    """One pattern, one cell after the other."""
    found = []
    for k in range(mean.shape[1]):
        centre = sum(float(mean[i, k]) for i in range(len(mean))) / len(mean)
        between = sum((float(mean[i, k]) - centre) ** 2 for i in range(len(mean))) / len(mean)
        within = sum(float(sd[i, k]) ** 2 for i in range(len(mean))) / len(mean)
        found.append(between / (between + within))
    return np.array(found)


@pytest.mark.parametrize("family", ["gamma", "lognormal"])
def test_reliability_is_the_share_of_variance_between_cells(family):
    rng = np.random.default_rng(0)
    first = torch.from_numpy(rng.gamma(2.0, 1.0, (50, 3)))
    second = torch.from_numpy(rng.uniform(0.3, 0.7, (50, 3)))
    fixed = torch.from_numpy(rng.gamma(1.0, 1.0, (50, 2)))
    cells = Marginals(family, first, second, fixed)
    found = reliability(cells)
    np.testing.assert_allclose(
        found[2:], slow_reliability(cells.mean()[:, 2:], cells.sd()[:, 2:]), rtol=1e-12
    )
    np.testing.assert_array_equal(found[:2], 1)  # what is given is known
    # of draws for random cells, the variance that is left out once the cell is known
    draws = np.stack([cells.draw(rng) for _ in range(4000)])[..., 2:]
    explained = draws.mean(axis=0).var(axis=0) / draws.var(axis=(0, 1))
    np.testing.assert_allclose(found[2:], explained, rtol=0.03)


def test_a_pattern_that_does_not_vary_has_none():
    same = Marginals("point", torch.ones((5, 2)), torch.ones((5, 2)))
    np.testing.assert_array_equal(reliability(same), 0)


def test_both_bounds_are_asked_for():
    counts = np.array([1000.0, 1000.0, 1.0, 3.0])
    found = patterns_in_use(np.array([0.5, 0.49, 0.9, 0.9]), counts)
    np.testing.assert_array_equal(found, [True, False, False, True])


@every_kind
@pytest.mark.parametrize("form", ["raw", "shares", "sqrt_shares"])
def test_scored_are_the_patterns_in_use(kind, form):
    every, some = (
        make(kind, embedding=form, scored_patterns=which, init="nndsvd", max_iter=150).fit(X)
        for which in ("all", "in_use")
    )
    kept = some.in_use_
    assert kept.sum() == 3, "three were planted"
    suffix = "" if form == "raw" else f"_{form}"
    assert every.embedding_key_ == f"best_P{suffix}"
    assert some.embedding_key_ == f"best_P{suffix}_in_use"
    P, units = every.embeddings()["best_P"].astype(np.float64), every.components_.sum(axis=1)
    np.testing.assert_array_equal(some.embeddings()["best_P"], every.embeddings()["best_P"])
    np.testing.assert_array_equal(some.embeddings()[some.embedding_key_], some.embedding_)
    expected = P[:, kept]
    if form != "raw":
        counts = expected * units[kept]
        expected = counts / counts.sum(axis=1, keepdims=True)
        expected = np.sqrt(expected) if form == "sqrt_shares" else expected
    np.testing.assert_allclose(some.embedding_[:, kept], expected, rtol=1e-5)
    np.testing.assert_array_equal(some.embedding_[:, ~kept], 0)
    # each of them follows a planted one, and no other does
    with np.errstate(invalid="ignore"):  # of a constant
        alike = np.nan_to_num(np.abs(np.corrcoef(P.T, TRUE_P.T)[:K, K:]))
    assert alike[kept].max(axis=0).min() > 0.85
    assert alike[~kept].max() < 0.5
    # new cells too, and by a restored estimator
    new = some.transform(X[:40])
    np.testing.assert_array_equal(new[:, ~kept], 0)
    assert (new[:, kept] > 0).all()
    again = make(kind, embedding=form, scored_patterns="in_use")
    again.restore(some.components_, some.transform_state(), some.seed_)
    np.testing.assert_array_equal(again.transform(X[:40]), new)


def test_profiles_of_donors_are_no_patterns_of_the_cells():
    model = make(k=4, fixed_samples="donors", scored_patterns="in_use", embedding="shares")
    model.fit(X, conditions=DONORS)
    assert model.reliability_.shape == model.in_use_.shape == (4,)
    assert model.embedding_.shape == (len(TRUE_P), 4)
    np.testing.assert_allclose(model.embedding_.sum(axis=1), 1)


def test_updates_at_the_end_are_scored_without_the_others():
    model = make(init="nndsvd", max_iter=150, post_full_P_steps=3, scored_patterns="in_use").fit(X)
    assert model.embedding_key_ == "post_best_P_in_use"
    np.testing.assert_array_equal(model.embedding_[:, ~model.in_use_], 0)
    kept = model.in_use_
    np.testing.assert_array_equal(model.embedding_[:, kept], model.embeddings()["post_best_P"][:, kept])


def test_where_nothing_is_in_use_it_is_said(caplog):
    import scipy.sparse as sp

    same = sp.csr_matrix(np.full((30, 20), 2.0))
    model = make("pyro_exponential", 1, exposure="total", scored_patterns="in_use").fit(same)
    np.testing.assert_array_equal(model.embedding_, 0)
    assert "no pattern tells cells apart" in caplog.text


def test_the_most_probable_values_have_no_reliability():
    kept = {"inference": "map", "learn_rates": "fixed", "scored_patterns": "in_use"}
    with pytest.raises(InputError, match="scored_patterns='in_use' with inference='map'"):
        make("pyro_exponential", **kept).fit(X)
    with pytest.raises(ValidationError, match="in_use needs a posterior"):
        get_card("pyro_exponential").section.model_validate(kept)


@every_kind
def test_fits_from_before_there_was_a_choice_are_not_run_again(kind):
    section = get_card(kind).section
    assert "scored_patterns" not in section.model_validate({}).parameters()
    assert section.model_validate({"scored_patterns": "in_use"}).parameters()["scored_patterns"] == "in_use"
