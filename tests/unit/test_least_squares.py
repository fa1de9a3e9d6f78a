"""The denoising models' embedding by least squares: against SciPy cell by cell, in files, for new cells."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import nnls

from nmfbench.config import load_config
from nmfbench.data import load_normalised, normalise_block
from nmfbench.errors import InputError
from nmfbench.factors.project import project
from nmfbench.factors.restore import restore
from nmfbench.factors.stored import StoredFit
from nmfbench.job import Job
from nmfbench.least_squares import _descend, non_negative_least_squares
from nmfbench.models import MODELS, get_card, get_model
from nmfbench.models.denoising.card import Denoising
from nmfbench.rows.memory import InMemoryRows
from nmfbench.train import train
from planted import Planted

KINDS = [kind for kind in MODELS if issubclass(get_card(kind).section, Denoising)]
N, P, K = 70, 25, 4


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(0.6, 2.0, (N, K)) @ rng.gamma(0.4, 2.0, (K, P))).astype(np.float64)
    X[:, 0] += 1
    return sp.csr_matrix(X)


def fitted(kind, counts, **change):
    """A fit of few sweeps, what it was given, and the values that W is of."""
    card, values = get_card(kind), normalise_block(counts)
    X = counts if card.input == "counts" else values
    given = {"conditions": np.array(["a", "b"])[np.arange(N) % 2]} if card.conditional else {}
    model = get_model(kind)(K, max_iter=5, device="cpu", random_state=0, **change)
    return model.fit(X, progress=False, **given), X, values.toarray()


def cell_by_cell(X, W):
    """SciPy's active set, one cell after the other."""
    return np.array([nnls(W.T.astype(np.float64), x.astype(np.float64))[0] for x in X])


# The solver --------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_active_set_and_fulfil_the_conditions():
    rng = np.random.default_rng(1)
    W, X = rng.gamma(0.5, 1.0, (12, 40)), rng.gamma(0.5, 1.0, (30, 40))
    W[3] = 0  # a factor that is nothing
    gram, products = W @ W.T, X @ W.T
    H = non_negative_least_squares(gram, products)
    np.testing.assert_allclose(H, cell_by_cell(X, W), atol=1e-8)
    assert (H[:, 3] == 0).all()
    assert 0.1 < (H == 0).mean() < 0.9, "some are at their bound, some are not"
    slopes = H @ gram - products
    assert np.abs(slopes[H > 0]).max() < 1e-8 * products.max()
    assert slopes[H == 0].min() > -1e-8 * products.max()
    assert not non_negative_least_squares(gram, 0 * products).any()
    # a row knows nothing of the others
    np.testing.assert_array_equal(non_negative_least_squares(gram, products[7:9]), H[7:9])


def test_factors_that_nearly_coincide_are_solved_all_the_same():
    """Coordinate descent takes thousands of sweeps; what is left after few goes to the active set."""
    rng = np.random.default_rng(2)
    W = rng.gamma(0.5, 1.0, (6, 30))
    W[1] = W[0] + 0.1 * rng.uniform(0, 1, 30)
    X = rng.gamma(2.0, 1.0, (20, 6)) @ W + 0.1 * rng.uniform(0, 1, (20, 30))
    scale = np.sqrt(np.square(W).sum(axis=1))
    unit, targets = (W @ W.T) / np.outer(scale, scale), X @ W.T / scale
    descended, reached = _descend(unit, targets, 10**5, 1e-10)
    assert reached.all()
    assert not _descend(unit, targets, 50, 1e-10)[1].all()
    H = non_negative_least_squares(W @ W.T, X @ W.T, max_sweeps=50)
    np.testing.assert_allclose(H, descended / scale, atol=1e-6)
    np.testing.assert_allclose(H, cell_by_cell(X, W), atol=1e-8)
    # exactly the same: many usages are best, and one of these is found
    W[1] = W[0]
    H = non_negative_least_squares(W @ W.T, X @ W.T, max_sweeps=50)
    np.testing.assert_allclose(H @ W, cell_by_cell(X, W) @ W, atol=1e-8)


# The models --------------------------------------------------------------------------------------------


def test_the_denoising_models_have_the_choice():
    assert {"ae_nmf_common", "ae_nmf_split", "ae_nmf_blind"} <= set(KINDS)
    assert {"cae_nmf1_common", "cae_nmf2_common"} <= set(KINDS), "told the donors, by W alone"


@pytest.mark.parametrize("kind", KINDS)
def test_least_squares_are_scored_and_the_projection_stays(kind, counts):
    plain, X, values = fitted(kind, counts)
    model, *_ = fitted(kind, counts, embedding="least_squares")
    np.testing.assert_array_equal(model.components_, plain.components_)
    key, published = f"H_shared_least_squares_k{K}", f"H_shared_k{K}"
    assert (plain.embedding_key_, model.embedding_key_) == (published, key)
    twin = cell_by_cell(values, model.components_)
    np.testing.assert_allclose(model.embedding_, twin, rtol=0, atol=1e-5 * twin.max())  # float32
    assert np.abs(twin - plain.embedding_).max() > 0.1, "another embedding"
    # what is published stays under its keys, to the last bit; the new one comes beside it
    before, keys = plain.embeddings(), model.embeddings()
    assert set(keys) == set(before) | {key}
    for name, array in before.items():
        np.testing.assert_array_equal(keys[name], array)
    np.testing.assert_array_equal(keys[key], model.embedding_)
    # new cells, of whatever donor, one by one, in blocks and at once
    np.testing.assert_array_equal(model.transform(X[3:5]), model.embedding_[3:5])
    blocks = dict(model.embedding_blocks(InMemoryRows(X), size=32))
    assert sorted(blocks) == [0, 32, 64]
    for name, array in keys.items():
        np.testing.assert_array_equal(np.concatenate([blocks[s][name] for s in sorted(blocks)]), array)
    scored = [part for _, part in model.scored_blocks(InMemoryRows(X), size=32)]
    np.testing.assert_array_equal(np.concatenate(scored), model.embedding_)
    # the objective and what it writes are of the projection, as they were
    assert model.objective_ == plain.objective_
    np.testing.assert_array_equal(
        model.expected_values(X, slice(5, 9)), plain.expected_values(X, slice(5, 9))
    )


def test_a_state_of_before_is_gone_on_with_and_no_fit_runs_again(counts, tmp_path):
    X = normalise_block(counts)
    options = {"max_iter": 6, "tol": 0.0, "random_state": 0}
    asked = iter([False] * 3)
    model = get_model("ae_nmf_common")
    stopped = model(K, **options).fit(X, checkpoint=tmp_path, should_stop=lambda: next(asked, True))
    assert stopped.stop_reason_ == "interrupted"
    other = model(K, embedding="least_squares", **options).fit(X, checkpoint=tmp_path)
    np.testing.assert_array_equal(other.components_, model(K, **options).fit(X).components_)
    # parameters of the rule: Snakemake plans what they differ in
    section = get_card("ae_nmf_common").section
    assert "embedding" not in section().parameters()
    assert section(embedding="least_squares").parameters()["embedding"] == "least_squares"


def test_another_word_is_refused_with_one_message(counts):
    config = {"datasets": {"d": {"simulate": {}}}, "models": {"ae_nmf_split": {"embedding": "shares"}}}
    with pytest.raises(InputError, match=r"embedding.*'projection' or 'least_squares'") as told:
        load_config(config)
    assert str(told.value).count("embedding") == 1
    with pytest.raises(InputError, match="embedding"):
        fitted("ae_nmf_common", counts, embedding="shares")


# Files and new cells -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cae_nmf2_common", "ae_nmf_split"])
def test_a_job_and_new_cells_have_it_in_the_scaled_genes(kind, tmp_path):
    planted = Planted.draw(n_cells=120)
    planted.filtered(tmp_path)
    files = {"result": "result.h5ad", "history": "history.tsv", "record": "run.json"}
    normalisation = {"target_sum": 1e4, "log1p": True}
    train(
        str(tmp_path / "filtered.h5ad"),
        **{key: str(tmp_path / name) for key, name in files.items()},
        **{"kind": kind, "name": kind, "display_name": kind, "rank": 4, "seed": 0, "device": "cpu"},
        **{"settings": {"max_iter": 5, "embedding": "least_squares"}, "normalisation": normalisation},
        **{"condition_columns": ["donor_id"], "gene_scaling": "unit_variance", "run": Job(threads=1)},
    )
    assert json.loads((tmp_path / "run.json").read_text())["embedding"] == "H_shared_least_squares_k4"
    fit = StoredFit(tmp_path / "result.h5ad")
    assert fit.embedding_key == "H_shared_least_squares_k4"
    factors = fit.uns["gene_scaling"]["factors"]
    X = load_normalised(tmp_path / "filtered.h5ad", **normalisation).toarray() * factors
    twin = cell_by_cell(X, fit.loadings.T * factors)
    np.testing.assert_allclose(fit.rows(0, 120), twin, rtol=1e-3, atol=1e-3 * twin.max())
    # the file of new cells has the fit's own, and no donor is asked for
    found = project(tmp_path / "source.h5ad", tmp_path / "result.h5ad")
    assert restore(tmp_path / "result.h5ad").model.embedding == "least_squares"
    assert found.key == fit.embedding_key
    np.testing.assert_allclose(found.embedding, fit.rows(0, 120), rtol=1e-4, atol=1e-5 * twin.max())
