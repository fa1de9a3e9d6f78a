"""The Bayesian estimators as estimators: conventions, input, constant patterns, held-out counts, results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import reference_bayesian as dense
from nmfbench.data.held_out import thin_counts
from nmfbench.errors import InputError
from nmfbench.figures.factors import factor_table, factors_figure
from nmfbench.models import get_model
from nmfbench.models.bayesian.pyro_exponential import PyroExponential
from nmfbench.models.bayesian.pyro_gamma_nb import PyroGammaNB
from nmfbench.models.bayesian.terms import Probability, held_out_log_likelihood
from nmfbench.results import read_result, write_result
from test_models_memory import LargestTensor

X, TRUE_P, TRUE_A = dense.planted(n=160, g=90, k=3)
N, G = X.shape
DONORS = np.array(["a", "b", "c"])[np.arange(N) % 3]
CELLS, GENES = [f"cell{i}" for i in range(N)], [f"gene{i}" for i in range(G)]
KINDS = ["pyro_gamma_nb", "pyro_exponential"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, k=3, **parameters):
    return get_model(kind)(k, **{"random_state": 0, "max_iter": 40, "marker_draws": 5} | parameters)


# Conventions -------------------------------------------------------------------------------------------


class Rounded(PyroExponential):
    """Takes whole parts, because scikit-learn's checks do not know counts."""

    def _check_input(self, X, *, reset):
        X = super()._check_input(X, reset=reset).copy()
        X.data = np.rint(X.data)
        return X


# a p for each gene and its loadings near their optimum together, in more sweeps than so many checks can have
@parametrize_with_checks([Rounded(1, max_iter=60, marker_draws=0, random_state=0, learn_probs="fixed")])
def test_scikit_learn_conventions(estimator, check):
    """No check is left out, as for the other models."""
    check(estimator)


@every_kind
def test_shapes_and_attributes(kind):
    model = make(kind).fit(X)
    assert model.components_.shape == (3, G)
    assert model.embedding_.shape == (N, 3)
    assert (model.components_ >= 0).all()
    np.testing.assert_allclose(model.components_.sum(axis=1), 1)  # a cell's factors are then counts
    np.testing.assert_allclose(model.embedding_.sum(1), np.asarray(X.sum(1)).ravel(), rtol=0.3, atol=5)
    assert not model.uses_labels_
    assert not model.uses_conditions_
    assert model.held_out_log_likelihood_ is None
    assert model.relative_error_ < 0.7
    errors = [row["relative_error"] for row in model.history_]
    assert errors[-1] == pytest.approx(model.relative_error_)
    assert errors[-1] < errors[0]
    assert model.expected_chi_squared_ > model.chi_squared_
    again = clone(model).fit(X)
    assert np.array_equal(again.embedding_, model.embedding_)
    assert not np.array_equal(clone(model).set_params(random_state=1).fit(X).embedding_, model.embedding_)


@every_kind
def test_new_cells_get_the_factors_that_training_gave(kind):
    model = make(kind, max_iter=400, tol=1e-9).fit(X)
    found = model.transform(X)
    assert np.abs(found - model.embedding_).max() < 0.02 * model.embedding_.max()
    np.testing.assert_array_equal(model.transform(X[[5, 2]]), found[[5, 2]])


# Input -------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(
    ("value", "message"), [(1.5, "not whole"), (-1.0, "Negative"), (np.nan, "NaN"), (np.inf, "infinity")]
)
def test_what_is_not_a_count_is_refused(kind, value, message):
    wrong = X.copy()
    wrong.data[5] = value
    with pytest.raises(ValueError, match=message):
        make(kind).fit(wrong)


REFUSED = [
    ({"nb_probs": 0.3, "use_pois": True}, "use_pois with nb_probs=0.3"),
    ({"learn_probs": "gene", "use_pois": True}, "use_pois .*learn_probs='gene'"),
    ({"nb_probs": 0.3, "use_chisq": True, "inference": "svi"}, "use_chisq with nb_probs=0.3"),
    ({"use_chisq": True, "learn_probs": "fixed"}, "use_chisq with inference='cavi'"),
    ({"inference": "map"}, "inference='map' with priors that are learnt"),
    ({"inference": "map", "learn_rates": "fixed", "batch_size": 9}, "inference='map' with batch_size=9"),
    ({"n_components": 0}, "n_components=0"),
    ({"n_components": 91}, "n_components=91"),
    ({"fixed_genes": pd.DataFrame(), "learn_probs": "gene"}, "fixed_genes with learn_probs='gene'"),
    ({"use_pois": True}, "use_pois .*learn_probs='gene'"),  # its default
    ({"keep_on_cpu": True}, "keep_on_cpu without batch_size"),
    ({"fixed_samples": "donors"}, "conditions=None"),
    ({"learn_probs": "donor"}, "conditions=None"),
    ({"fixed_genes": pd.DataFrame({"a": [1.0]}, index=["gene0"]), "learn_probs": "all"}, "no names"),
    ({"nb_probs": 1.0}, "parameter nb_probs"),
    ({"held_out_fraction": 1.0}, "parameter held_out_fraction"),
    ({"batch_size": 0}, "parameter batch_size"),
    ({"clip_norm": 0.0}, "parameter clip_norm"),
    ({"inference": "mcmc"}, "parameter inference"),
    ({"learn_rates": "entry"}, "parameter learn_rates"),
    ({"device": "gpu"}, "parameter device"),
    ({"random_state": -1}, "parameter random_state"),
]


@pytest.mark.parametrize(("parameters", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_does_not_go_together_is_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        make("pyro_exponential").set_params(**parameters).fit(X)


def test_shapes_of_the_gamma_prior_are_checked():
    kept = {"inference": "map", "learn_rates": "fixed", "learn_shapes": "fixed"}
    with pytest.raises(InputError, match="a shape below 1"):
        PyroGammaNB(2, **kept).fit(X)  # prior_shape_A = 0.3
    with pytest.raises(InputError, match="prior_shape_A"):
        PyroGammaNB(2, prior_shape_A=0).fit(X)


# Constant patterns -------------------------------------------------------------------------------------


def patterns(names, columns=("first", "second"), seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.gamma(0.5, 1, (len(names), len(columns))), index=names, columns=list(columns))


@pytest.mark.parametrize("inference", ["cavi", "svi"])
@pytest.mark.parametrize("batch_size", [None, 40])
def test_constant_genes_are_aligned_by_name(inference, batch_size, tmp_path):
    given = patterns(GENES)
    settings = {"inference": inference, "batch_size": batch_size, "max_iter": {"cavi": 10, "svi": 30}}
    settings |= {"learn_probs": "fixed"}
    ordered = make("pyro_exponential", fixed_genes=given, **settings).fit(X, gene_names=GENES)
    shuffled = pd.concat([given.sample(frac=1, random_state=0), patterns(["not measured"])])
    shuffled.to_csv(tmp_path / "given.csv")
    read = make("pyro_exponential", fixed_genes=str(tmp_path / "given.csv"), **settings)
    assert np.allclose(read.fit(X, gene_names=GENES).embedding_, ordered.embedding_)
    assert ordered.embedding_.shape == (N, 5)
    keys = ordered.loadings()
    assert keys["best_A"].shape == (G, 3)
    assert keys["best_A_total"].shape == (G, 5)
    np.testing.assert_array_equal(keys["fixed_A"], given)
    np.testing.assert_array_equal(keys["best_A_total"][:, :2], given)
    assert list(ordered.unstructured()["fixed_patterns"]) == ["first", "second"]


def test_names_of_a_frame_are_used():
    given = patterns(GENES)
    frame = pd.DataFrame(X.toarray(), index=CELLS, columns=GENES)
    by_frame = make("pyro_gamma_nb", fixed_genes=given.iloc[::-1]).fit(frame)
    by_name = make("pyro_gamma_nb", fixed_genes=given).fit(X, gene_names=GENES)
    np.testing.assert_array_equal(by_frame.embedding_, by_name.embedding_)


@pytest.mark.parametrize("inference", ["cavi", "svi"])
def test_no_learnt_pattern_at_all(inference):
    """`num_patterns = 0`: the cells of given patterns. From the true genes, the true cells come back."""
    given = pd.DataFrame(TRUE_A, index=GENES)
    settings = {"inference": inference, "max_iter": {"cavi": 100, "svi": 200}, "learning_rate": 0.1}
    settings |= {"learn_probs": "fixed"}
    model = make("pyro_exponential", 0, fixed_genes=given, **settings).fit(X, gene_names=GENES)
    assert model.embedding_.shape == (N, 3)
    np.testing.assert_array_equal(model.components_, TRUE_A.T)
    for truth, found in zip(TRUE_P.T, model.embedding_.T, strict=True):
        assert np.corrcoef(truth, found)[0, 1] > 0.9
    assert "best_A" not in model.loadings()


@pytest.mark.parametrize("inference", ["cavi", "svi"])
@pytest.mark.parametrize("batch_size", [None, 40])
def test_donors_as_constant_cells_have_an_additive_profile(inference, batch_size):
    rng = np.random.default_rng(0)
    own = rng.gamma(0.2, 8, (3, G))
    codes = np.arange(N) % 3
    counts = sp.csr_matrix((X + rng.poisson(own[codes])).astype(float))
    settings = {"inference": inference, "batch_size": batch_size, "max_iter": 200, "learning_rate": 0.1}
    model = make("pyro_exponential", fixed_samples="donors", **settings).fit(counts, conditions=DONORS)
    assert model.uses_conditions_
    assert model.embedding_.shape == (N, 3)
    np.testing.assert_array_equal(model.embeddings()["fixed_P"], np.eye(3)[codes])
    assert model.embeddings()["best_P_total"].shape == (N, 6)
    profiles = model.components_[:3]
    assert all(np.corrcoef(own[d], profiles[d])[0, 1] > 0.9 for d in range(3))
    with pytest.raises(InputError, match="transform"):
        model.transform(counts)


def test_constant_cells_are_aligned_by_name():
    given = patterns(CELLS)
    fits = [
        make("pyro_gamma_nb", fixed_samples=table).fit(X, cell_names=CELLS)
        for table in (given, given.iloc[::-1])
    ]
    np.testing.assert_array_equal(fits[0].components_, fits[1].components_)
    assert fits[0].components_.shape == (5, G)


MISALIGNED = [
    (patterns(GENES[1:]), "1 of the 90 genes of the data have no row"),
    (patterns([*GENES[1:], GENES[1]]), "names a gene twice"),
    (patterns(GENES) * -1, "90 that are not|180 that are not"),
    (patterns(GENES).replace({patterns(GENES).iloc[3, 0]: np.nan}), "1 that are not"),
    (patterns(GENES).astype(str) + "x", "numbers"),
    (patterns(GENES).iloc[:, :0], "at least one pattern"),
    ("no_such_file.csv", "cannot be read"),
    (np.ones((G, 2)), "a DataFrame or the path"),
]


@pytest.mark.parametrize(("given", "message"), MISALIGNED, ids=[m for _, m in MISALIGNED])
def test_patterns_that_do_not_fit_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        make("pyro_exponential", fixed_genes=given, learn_probs="fixed").fit(X, gene_names=GENES)


# Terms, devices and memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [{"use_pois": True}, {"use_chisq": True}], ids=str)
def test_further_terms_draw_the_fit_towards_them(terms):
    D = torch.from_numpy(X.toarray())

    def term(model):
        theta = torch.from_numpy(model.embedding_ @ model.components_).clamp(min=1e-8)
        return dense.poisson(D, theta) if "use_pois" in terms else -dense.chi_squared(D, theta)

    settings = {"inference": "svi", "max_iter": 100, "learning_rate": 0.1}
    plain = make("pyro_gamma_nb", **settings).fit(X)
    model = make("pyro_gamma_nb", **settings, **terms).fit(X)
    assert term(model) > term(plain)
    assert model.chi_squared_ == pytest.approx(
        dense.chi_squared(D, torch.from_numpy(model.embedding_ @ model.components_)).item(), rel=1e-9
    )


@pytest.mark.parametrize("inference", ["cavi", "svi"])
def test_where_things_lie_changes_nothing(inference):
    settings = {"inference": inference, "batch_size": 40, "max_iter": {"cavi": 5, "svi": 30}}
    plain = make("pyro_exponential", **settings).fit(X)
    for place in ({"storage_device": "compute"}, {"keep_on_cpu": True}, {"storage_device": "cpu"}):
        other = make("pyro_exponential", **settings, **place).fit(X)
        np.testing.assert_array_equal(other.embedding_, plain.embedding_)


def test_post_hoc_cells_are_the_optimum_given_the_genes():
    settings = {"inference": "svi", "batch_size": 40, "max_iter": 60}
    model = make("pyro_exponential", post_full_P_steps=150, **settings).fit(X)
    assert model.embedding_key_ == "post_best_P"
    np.testing.assert_allclose(model.embeddings()["post_best_P"], model.transform(X), rtol=0.05, atol=0.1)
    plain = make("pyro_exponential", **settings).fit(X)
    np.testing.assert_array_equal(model.embeddings()["best_P"], plain.embedding_)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_iter": 2},
        {"max_iter": 2, "batch_size": 300},
        {"inference": "svi", "max_iter": 3, "use_chisq": True, "use_pois": True},
        {"inference": "svi", "max_iter": 3, "batch_size": 300, "param_P": False},
    ],
    ids=str,
)
def test_no_tensor_of_cells_times_genes(settings):
    n, g = 600, 4000
    counts = sp.random_array((n, g), density=0.01, rng=np.random.default_rng(0), format="csr")
    counts.data[:] = 1
    with LargestTensor() as largest:
        make("pyro_gamma_nb", **settings, held_out_fraction=0.1).fit(counts)
    assert 0 < largest.elements < 300 * g / 4


# Held-out counts ---------------------------------------------------------------------------------------


def test_thinned_counts_add_up():
    train, test = thin_counts(X, 0.2, 0)
    assert (train + test != X).nnz == 0
    assert test.sum() / X.sum() == pytest.approx(0.2, rel=0.05)
    assert train.data.all()
    assert test.data.all()
    assert (thin_counts(X, 0.2, 0)[1] != test).nnz == 0
    assert (thin_counts(X, 0.2, 1)[1] != test).nnz > 0


def test_the_held_out_score_is_the_dense_one_and_best_at_the_truth():
    fraction, donors = 0.3, torch.arange(N) % 3
    _, test = thin_counts(X, fraction, 0)
    P, A, D = torch.from_numpy(TRUE_P), torch.from_numpy(TRUE_A), torch.from_numpy(test.toarray())
    from nmfbench.models.bayesian.counts import CellCounts

    for probability in (
        Probability("all", torch.full((1,), 0.5 * 0.7 / (0.5 * 0.7 + 0.5), dtype=torch.float64)),
        Probability("donor", torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64), donors),
    ):
        found = held_out_log_likelihood(P, A, CellCounts(test), fraction, probability)
        odds = probability.odds() * fraction / (1 - fraction)
        p = odds / (1 + odds)
        p = p[donors][:, None] if probability.by == "donor" else p
        expected = dense.negative_binomial(D, (P @ A.T).clamp(min=1e-8), p) / D.numel()
        assert found == pytest.approx(expected.item(), rel=1e-4)
        if probability.by == "all":  # theirs is the chance that made the counts
            for change in (0.7, 1.4):
                assert held_out_log_likelihood(P * change, A, CellCounts(test), fraction, probability) < found


@every_kind
def test_held_out_counts_choose_the_best_state(kind):
    model = make(kind, 12, held_out_fraction=0.2, tol=0, max_iter=150).fit(X)  # far too many patterns
    scores = [row["held_out_log_likelihood"] for row in model.history_]
    assert model.held_out_log_likelihood_ == max(scores)
    assert model.best_epoch_ == 1 + int(np.argmax(scores))
    stopped = make(kind, 12, held_out_fraction=0.2, tol=0, max_iter=model.best_epoch_).fit(X)
    np.testing.assert_array_equal(stopped.rates_P_, model.rates_P_)  # the priors are of the best state, too
    np.testing.assert_array_equal(stopped.embedding_, model.embedding_)
    if model.best_epoch_ < 150:
        assert not np.array_equal(model.embeddings()["best_P"], model.embeddings()["last_P"])


# Results -----------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("k", [1, 2, 3])
def test_published_keys_and_the_file(kind, k, tmp_path):
    model = make(kind, k, held_out_fraction=0.1, learn_probs="donor", learn_rates="pattern")
    model.fit(X.astype(np.float32), conditions=DONORS, progress=False)
    embeddings, loadings = model.embeddings(), model.loadings()
    assert list(embeddings) == ["best_P", "last_P", "sd_P", "markers_P"]
    assert list(loadings) == ["best_A", "last_A", "sd_A", "markers_A"]
    np.testing.assert_allclose(embeddings["markers_P"].sum(1), 1, rtol=1e-6)
    assert all(v.dtype == np.float32 for v in (*embeddings.values(), *loadings.values()))
    uns = model.unstructured(target_sum=None, libsize_log1p=False)
    assert uns["model_name"] == kind
    assert uns["scale_P"].shape == uns["scale_A"].shape == uns["loc_P"].shape == (k,)
    assert uns["NB_probs"].shape == (3,)
    assert uns["settings"].keys() >= {"nb_probs", "learn_probs", "seed", "inference", "held_out_fraction"}
    obs = pd.DataFrame({"cell_type": "t", "donor_id": DONORS}, index=CELLS)
    write_result(
        tmp_path / "result.h5ad",
        obs=obs,
        var=pd.DataFrame(index=GENES),
        obsm=embeddings,
        varm=loadings,
        uns=uns,
        record={"model": kind, "display_name": kind, "rank": k, "seed": 0}
        | {"embedding": model.embedding_key_, "uses_labels": "donor_id"},
    )
    stored = read_result(tmp_path / "result.h5ad")
    np.testing.assert_array_equal(stored.obsm["best_P"], model.embedding_)
    np.testing.assert_allclose(stored.uns["loss"]["objective"][-1], model.history_[-1]["objective"])
    figure = factors_figure(factor_table(model.embedding_, DONORS), kind)
    assert any(str(k) in text.get_text() for axes in figure.axes for text in axes.get_yticklabels())


@pytest.mark.parametrize(
    ("by", "settings"),
    [
        *((by, how) for by in ("all", "gene", "donor") for how in ("plain", "exposure", "fixed_samples")),
        ("all", "fixed_genes"),
        ("donor", "fixed_genes"),  # a p for each gene would bend them
    ],
)
def test_factors_are_in_expected_counts_whatever_p_is(by, settings):
    """Cells' factors say how many counts a pattern accounts for, and P A is the mean, not theta."""
    given = {
        "plain": {},
        "exposure": {"exposure": "total", "post_full_P_steps": 3},
        "fixed_genes": {"fixed_genes": patterns(GENES)},
        "fixed_samples": {"fixed_samples": "donors"},
    }[settings]
    model = make("pyro_exponential", learn_probs=by, nb_probs=0.2, max_iter=8, **given)
    model.fit(X, conditions=DONORS, gene_names=GENES)
    odds = model.probability_.odds().numpy()
    assert (np.abs(odds - 1) > 0.05).any()
    theta = model.posterior_
    theta = theta.cells.mean().numpy() @ theta.genes.mean().numpy().T
    expected = theta * (odds[np.arange(N) % 3][:, None] if by == "donor" else odds)
    P, A = model.embeddings(), model.loadings()
    total = P.get("best_P_total", P["best_P"]) @ A.get("best_A_total", A["best_A"]).T
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    size = 1.0 if model.sizes_ is None else model.sizes_[:, None]
    np.testing.assert_allclose(total * size, model.expected_values(X, slice(None)), rtol=1e-6)
    np.testing.assert_allclose(A["best_A"][:, -3:].sum(0), 1)
    np.testing.assert_array_equal(model.components_[-3:], A["best_A"].T[-3:])
    # the standard deviations are of the same unit
    raw = model.posterior_.cells
    relative = (raw.sd() / raw.mean()).numpy()[:, -3:]
    np.testing.assert_allclose((P["sd_P"] / P["best_P"])[:, -3:], relative, rtol=1e-6)
    if settings == "exposure":
        np.testing.assert_allclose(P["post_best_P"].sum(1), P["best_P"].sum(1), rtol=0.5)
        np.testing.assert_array_equal(P["post_best_P"], model.embedding_)
    if by != "donor" and settings == "plain":
        longer = make("pyro_exponential", learn_probs=by, max_iter=400, tol=1e-9).fit(X)
        new = longer.transform(X)
        assert np.abs(new - longer.embedding_).max() < 0.02 * longer.embedding_.max()


def test_a_fit_from_before_factors_were_in_counts_is_not_taken_for_one():
    """Where p is not 0.5 its embedding has another unit than new cells would get."""
    for probs, refused in (("fixed", False), ("gene", True)):
        model = make("pyro_exponential", learn_probs=probs, max_iter=3).fit(X)
        state = model.transform_state()
        make("pyro_exponential").restore(model.components_, state, 0)
        del state["in_counts"]
        if refused:
            with pytest.raises(KeyError, match="in_counts"):  # nmfbench project says to train it again
                make("pyro_exponential").restore(model.components_, state, 0)
        else:
            again = make("pyro_exponential").restore(model.components_, state, 0)
            np.testing.assert_array_equal(again.transform(X[:5]), model.transform(X[:5]))


def test_marker_votes_are_those_of_clear_cases():
    model = make("pyro_exponential", marker_draws=40).fit(X)
    votes, mean = model.embeddings()["markers_P"], model.embedding_
    scaled = mean / mean.mean(0)
    clear = np.sort(scaled, axis=1)[:, -1] > 10 * np.sort(scaled, axis=1)[:, -2]
    assert clear.any()
    assert (votes.argmax(1) == scaled.argmax(1))[clear].all()
    assert votes[clear].max(1).min() > 0.8


# GPU ---------------------------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 40},
        {"batch_size": 40, "keep_on_cpu": True},
        {"learn_probs": "gene"},
        {"learn_probs": "donor", "fixed_samples": "donors"},
        {"held_out_fraction": 0.1},
    ],
    ids=str,
)
def test_ascent_on_a_gpu_equals_the_cpu(settings):
    models = [
        make("pyro_gamma_nb", max_iter=10, device=device, **settings).fit(X, conditions=DONORS)
        for device in ("cpu", "cuda")
    ]
    assert models[1].device_ == "cuda"
    np.testing.assert_allclose(models[1].embedding_, models[0].embedding_, rtol=1e-6)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"param_P": False, "batch_size": 40},
        {"batch_size": 40, "keep_on_cpu": True, "use_pois": True, "use_chisq": True},
        {"batch_size": 40, "storage_device": "compute", "fixed_samples": "donors", "clip_norm": 10.0},
    ],
    ids=str,
)
def test_gradients_on_a_gpu_resume_and_agree_with_the_cpu(settings, tmp_path):
    settings = {"inference": "svi", "max_iter": 60, **settings}
    cpu, gpu = (
        make("pyro_exponential", device=device, **settings).fit(X, conditions=DONORS)
        for device in ("cpu", "cuda")
    )
    assert gpu.objective_ == pytest.approx(cpu.objective_, rel=0.02)  # other draws
    calls = iter(range(2))
    make("pyro_exponential", device="cuda", **settings).fit(
        X, conditions=DONORS, checkpoint=tmp_path, should_stop=lambda: next(calls, None) is None
    )
    resumed = make("pyro_exponential", device="cuda", **settings)
    resumed.fit(X, conditions=DONORS, checkpoint=tmp_path)
    np.testing.assert_allclose(resumed.embedding_, gpu.embedding_, rtol=1e-5)
