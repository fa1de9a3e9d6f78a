"""Embeddings of models of counts as they are, as shares, and as square roots of shares."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from nmfbench.errors import InputError
from nmfbench.models import MODELS, get_card, get_model
from nmfbench.models.card import CountModelSection
from nmfbench.models.count_embedding import in_form

KINDS = [kind for kind in MODELS if issubclass(get_card(kind).section, CountModelSection)]
FACTORS = {"pyro_gamma_nb": "best_P", "pyro_exponential": "best_P"}  # else H_pnmf_k3
QUICK = {
    "pyro_gamma_nb": {"max_iter": 4, "marker_draws": 0},
    "pyro_exponential": {"max_iter": 4, "marker_draws": 0},
    "pnmf_spatial": {"num_inducing": 10, "lengthscale": 3.0},
}
N, G, K = 60, 25, 3


def fitted(kind, **settings):
    rng = np.random.default_rng(0)
    depth = rng.gamma(2.0, 1.0, (N, 1))
    X = rng.poisson(depth * (rng.gamma(0.5, 1.0, (N, K)) @ rng.gamma(0.5, 2.0, (K, G)))).astype(np.float32)
    X[:, 0] += 1
    card, settings = get_card(kind), QUICK.get(kind, {"max_iter": 4}) | settings
    if "mode" in card.section.model_fields:
        settings |= {"mode": "lower-bound", "max_iter": 4}
    given = {"conditions": np.array(["a", "b"])[np.arange(N) % 2]} if card.conditional else {}
    if "coordinates" in card.needs:
        given["coordinates"] = rng.uniform(0, 10, (N, 2))
    model = get_model(kind)(K, **settings, device="cpu", random_state=0)
    return model.fit(sp.csr_matrix(X), **given, progress=False), X, given


def key_of(kind, form):
    middle = "" if form == "raw" else f"_{form}"
    if kind in FACTORS:
        return FACTORS[kind] + middle
    return f"H_pnmf{'_marginal' if kind == 'pnmf_donor' else ''}{middle}_k{K}"


def slow_shares(factors, loadings, odds):
    """One cell, one factor, one gene after the other."""
    counts = np.zeros(factors.shape)
    for i in range(factors.shape[0]):
        for k in range(factors.shape[1]):
            for g in range(loadings.shape[1]):
                counts[i, k] += float(factors[i, k]) * float(loadings[k, g]) * float(odds[g])
    return counts / counts.sum(axis=1, keepdims=True)


def test_the_models_of_counts_have_the_choice():
    assert KINDS == ["pyro_gamma_nb", "pyro_exponential", "pnmf", "pnmf_donor", "pnmf_spatial"]


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_a_cells_expected_counts_by_factor(kind):
    raw, X, given = fitted(kind)
    assert raw.embedding_key_ == key_of(kind, "raw")
    np.testing.assert_array_equal(raw.embedding_, raw.embeddings()[raw.embedding_key_])
    published = {FACTORS.get(kind, f"H_pnmf_k{K}")}
    assert published <= set(raw.embeddings())
    expected = slow_shares(raw.embedding_, raw.components_, np.ones(G))
    for form, twin in (("shares", expected), ("sqrt_shares", np.sqrt(expected))):
        model, *_ = fitted(kind, embedding=form)
        scored = model.embeddings()[model.embedding_key_]
        assert model.embedding_key_ == key_of(kind, form)
        np.testing.assert_allclose(scored, twin, rtol=2e-5, atol=1e-7)
        np.testing.assert_array_equal(model.embedding_, scored)
        np.testing.assert_allclose((scored**2 if form != "shares" else scored).sum(axis=1), 1, rtol=1e-5)
        # what is published stays, under its key
        kept = set(model.embeddings()) - {model.embedding_key_}
        assert kept == set(raw.embeddings()) - {raw.embedding_key_} | published
        for name, values in raw.embeddings().items():
            if name not in kept:
                continue
            np.testing.assert_array_equal(values, model.embeddings()[name])
        # new cells are embedded as those of the fit are
        places = {"coordinates": given["coordinates"]} if "coordinates" in given else {}
        expected_new = in_form(raw.transform(X, **places), model._units(), form)
        np.testing.assert_allclose(model.transform(X, **places), expected_new, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            model.fit_transform(sp.csr_matrix(X), **given, progress=False), scored, rtol=1e-6
        )


def test_chances_by_gene_are_in_the_counts():
    model, *_ = fitted("pyro_exponential", learn_probs="gene", embedding="shares")
    odds = model.probability_.odds().numpy()
    assert np.ptp(odds) > 0
    theta = model.posterior_
    expected = slow_shares(theta.cells.mean().numpy(), theta.genes.mean().numpy().T, odds)
    np.testing.assert_allclose(model.embedding_, expected, rtol=2e-5, atol=1e-7)


def test_donors_profiles_are_no_shares_of_the_factors():
    model, *_ = fitted("pyro_exponential", fixed_samples="donors", embedding="shares")
    assert model.embedding_.shape == (N, K)
    np.testing.assert_allclose(model.embedding_.sum(axis=1), 1, rtol=1e-5)
    assert model.embeddings()["best_P_total"].shape == (N, K + 2)


def test_updates_at_the_end_are_scored_as_shares():
    model, *_ = fitted("pyro_exponential", post_full_P_steps=3, embedding="shares")
    assert model.embedding_key_ == "post_best_P_shares"
    keys = model.embeddings()
    twin = slow_shares(keys["post_best_P"], model.components_, np.ones(G))
    np.testing.assert_allclose(keys["post_best_P_shares"], twin, rtol=2e-5, atol=1e-7)


def test_a_cell_without_contributions_has_equal_shares():
    factors = np.array([[0.0, 0.0], [2.0, 6.0]], dtype=np.float32)
    units = np.array([3.0, 1.0])
    np.testing.assert_allclose(in_form(factors, units, "shares"), [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(in_form(10 * factors, units, "sqrt_shares")[1], np.sqrt([0.5, 0.5]), rtol=1e-6)
    assert in_form(factors, units, "shares").dtype == np.float32


def test_rates_are_not_made_from_shares():
    model, *_ = fitted("pnmf", embedding="shares")
    with pytest.raises(InputError, match="embedding='raw'"):
        model.inverse_transform(model.embedding_)
