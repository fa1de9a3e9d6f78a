"""Keys of before mean what they meant, in config and constructor, and a person is told once what to write."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from nmfbench.config import load_config
from nmfbench.config.files import main as check_files
from nmfbench.errors import InputError
from nmfbench.models import get_model
from nmfbench.perturbation.predictors import predictor_of, settings_of

# of each model: keys as they were, the same as they are, and what decides a fit beside them
CASES = {
    "ae_nmf, minibatches": (
        "ae_nmf",
        {"max_epochs": 3, "tol": 1e-4, "learning_rate_W": 2e-3, "max_sweeps": 7, "solver_tol": 1e-3},
        {"max_iter": {"minibatch": 3}, "tol": {"minibatch": 1e-4}, "learning_rate": 2e-3},
        {"solver": "minibatch", "batch_size": 32},
    ),
    "ae_nmf, sweeps": (
        "ae_nmf",
        {"max_epochs": 3, "tol": 10.0, "max_sweeps": 7, "solver_tol": 1e-9},
        {"max_iter": {"statistics": 7}, "tol": {"statistics": 1e-9}},
        {"solver": "statistics"},
    ),
    "cae_nmf1": ("cae_nmf1", {"max_sweeps": 3}, {"max_iter": 3}, {"solver": "statistics"}),
    "cae_nmf2": ("cae_nmf2", {"max_sweeps": 3}, {"max_iter": 3}, {"solver": "statistics"}),
    "pyro_gamma_nb, cavi": (
        "pyro_gamma_nb",
        {"max_epochs": 4, "num_steps": 50, "lr": 9.0},
        {"max_iter": 4},
        {"marker_draws": 2},
    ),
    "pyro_exponential, svi": (
        "pyro_exponential",
        {"max_epochs": 1, "num_steps": 20, "lr": 0.05},
        {"max_iter": 20, "learning_rate": 0.05},
        {"inference": "svi", "marker_draws": 2},
    ),
    "nb_hierarchical, elbo": (
        "nb_hierarchical",
        {"max_steps": 30, "tol": 1e-2, "tolerance": 1e6},
        {"max_iter": 30, "tol": {"elbo": 1e-2}},
        {"draws": 2},
    ),
    "nb_hierarchical, parameters": (
        "nb_hierarchical",
        {"max_steps": 60, "tol": 1e6, "tolerance": 5.0},
        {"max_iter": 60, "tol": {"parameters": 5.0}},
        {"draws": 2, "stop": "parameters"},
    ),
}
SMALLEST = {"datasets": {"atlas": {"simulate": {}}}, "ranks": [2]}


def counts():
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(1.0, 1.0, (60, 3)) @ rng.gamma(0.5, 1.0, (3, 25))).astype(float)


def fitted(kind, **keys):
    labels = {"conditions": np.arange(60) % 3} if kind.startswith("cae") else {}
    return get_model(kind)(2, random_state=0, device="cpu", **keys).fit(counts(), progress=False, **labels)


@pytest.mark.parametrize("case", CASES)
def test_a_fit_of_old_keys_has_the_digits_of_one_of_new_keys(case):
    kind, old, new, beside = CASES[case]
    with pytest.warns(FutureWarning):
        one = fitted(kind, **old, **beside)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        other = fitted(kind, **new, **beside)
    assert (one.n_iter_, one.stop_reason_) == (other.n_iter_, other.stop_reason_)
    np.testing.assert_array_equal(one.components_, other.components_)
    np.testing.assert_array_equal(one.embedding_, other.embedding_)


@pytest.mark.parametrize("case", CASES)
def test_the_config_gives_an_estimator_what_its_constructor_gives_it(case):
    kind, old, _, beside = CASES[case]
    said = []
    config = load_config({**SMALLEST, "models": {kind: old | beside}}, say=said.append)
    from_config = get_model(kind)(2, **config.models[kind].parameters())
    with pytest.warns(FutureWarning):
        assert from_config.get_params() == get_model(kind)(2, **old, **beside).get_params()
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        again = load_config({**SMALLEST, "models": {kind: config.models[kind].parameters()}}, say=said.append)
    assert again.models[kind] == config.models[kind], "what is kept are the keys of now"
    assert len(said) == 1


def test_the_message_names_file_path_and_what_to_write(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "datasets: {atlas: {simulate: {}}}\nranks: [2]\n"
        "models: {ae_nmf: {max_epochs: 4, max_sweeps: 9, tol: 1e-4},\n"
        "         pyro_gamma_nb: {num_steps: 5, lr: 0.2}}\n"
        "predictors: {slow: {kind: nb_glm, epochs: 7}}\n"
    )
    assert check_files([str(file)]) == 0
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"{file}: keys have new names; the old ones still work and mean what they meant",
        "    - models.ae_nmf.max_sweeps, max_epochs: now max_iter; "
        "write max_iter: {statistics: 9, minibatch: 4}",
        "    - models.ae_nmf.tol: a number is for minibatch, as before; write tol: {minibatch: 1e-4}",
        "    - models.pyro_gamma_nb.num_steps: now max_iter; write max_iter: {svi: 5}",
        "    - models.pyro_gamma_nb.lr: now learning_rate; write learning_rate: 0.2",
        "    - predictors.slow.epochs: now max_iter; write max_iter: 7",
    ]


def test_a_number_for_tol_needs_no_word_where_it_can_mean_one_thing():
    said = []
    models = {
        "ae_nmf": {"solver": "minibatch", "tol": 1e-4},
        "nb_hierarchical": {"tol": 1e-4},
        "published": {"kind": "ae_nmf", "training": "published", "max_iter": 3},
    }
    config = load_config({**SMALLEST, "models": models}, say=said.append)
    assert said == []
    assert config.models["ae_nmf"].tol == config.models["nb_hierarchical"].tol == 1e-4
    assert config.models["published"].solver == "minibatch"


@pytest.mark.parametrize(
    ("kind", "keys", "named"),
    [
        ("ae_nmf", {"max_epochs": 3, "max_iter": 3}, "max_epochs is what max_iter was called before"),
        ("pyro_gamma_nb", {"lr": 0.1, "learning_rate": 0.1}, "lr is what learning_rate was called before"),
        (
            "nb_hierarchical",
            {"tolerance": 0.1, "tol": {"elbo": 1}},
            "tolerance is what tol was called before",
        ),
    ],
)
def test_both_names_of_one_key_are_refused(kind, keys, named):
    with pytest.raises(InputError, match=f"models.{kind}: {named}"):
        load_config({**SMALLEST, "models": {kind: keys}})
    with pytest.raises(TypeError, match=named):
        get_model(kind)(2, **keys)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"max_iter": 0}, "models.ae_nmf.max_iter: a whole number of at least 1, or one for each solver"),
        ({"max_iter": {"newton": 3}}, "models.ae_nmf.max_iter: .*got {'newton': 3}"),
        ({"max_sweeps": 0}, "models.ae_nmf.max_iter: .*got {'statistics': 0}"),
        ({"max_iter": True}, "max_iter: a number, not True"),
        ({"tol": {"minibatch": -1}}, "models.ae_nmf.tol: "),
    ],
)
def test_values_out_of_bounds_are_refused_in_one_line(keys, named):
    with pytest.raises(InputError, match=named) as refused:
        load_config({**SMALLEST, "models": {"ae_nmf": keys}})
    assert "1 mistake " in str(refused.value)


def test_parameters_are_set_under_either_name():
    model = get_model("ae_nmf")(2, max_iter={"statistics": 9})
    with pytest.warns(FutureWarning, match="max_epochs: now max_iter"):
        model.set_params(max_epochs=4, penalty_W=0.5)
    assert (model.max_iter, model.penalty_W) == ({"statistics": 9, "minibatch": 4}, 0.5)


@pytest.mark.parametrize(
    ("kind", "beside"),
    [("ae_nmf", {"solver": "statistics"}), ("nb_hierarchical", {"stop": "parameters", "draws": 2})],
)
def test_a_number_set_afterwards_is_for_what_it_was(kind, beside):
    """Of minibatches and of `stop: elbo`: neither decides these fits."""
    plain = get_model(kind)(2, random_state=0, device="cpu", max_iter=30, **beside)
    other = get_model(kind)(2, random_state=0, device="cpu", max_iter=30, **beside).set_params(tol=1e6)
    plain.fit(counts(), progress=False)
    other.fit(counts(), progress=False)
    np.testing.assert_array_equal(plain.embedding_, other.embedding_)
    assert plain.n_iter_ == other.n_iter_ > 2


def test_a_predictor_takes_them_too_and_a_preset_gives_way():
    keys = {"preset": "published", "epochs": 3, "lr": 0.1, "lr_schedule": "constant", "min_lr": 0.01}
    section = settings_of("nb_glm")(**keys)
    found = (
        section.max_iter,
        section.learning_rate,
        section.learning_rate_schedule,
        section.min_learning_rate,
    )
    assert found == (3, 0.1, "constant", 0.01)
    assert settings_of("nb_glm")(preset="published").max_iter == 50
    with pytest.warns(FutureWarning, match="NB-GLM: epochs: now max_iter; write max_iter: 3"):
        assert predictor_of("nb_glm")({"epochs": 3}).settings == {"max_iter": 3}
