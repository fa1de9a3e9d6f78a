"""Input and parameters that every model refuses or takes, from one table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import reference_models as dense
from nmfbench.errors import InputError
from nmfbench.models import get_model

SHORT = {
    "base_nmf": {"max_iter": 30},
    "ae_nmf": {"solver": "minibatch", "max_iter": 25, "batch_size": 64},
    "cae_nmf1": {"solver": "minibatch", "max_iter": 25, "batch_size": 64},
    "cae_nmf2": {"solver": "minibatch", "max_iter": 25, "batch_size": 64},
}
every_model = pytest.mark.parametrize("name", SHORT)
every_autoencoder = pytest.mark.parametrize("name", ["ae_nmf", "cae_nmf1", "cae_nmf2"])


def make(name, k=4, **more):
    return get_model(name)(k, **{"random_state": 0} | SHORT[name] | more)


@pytest.fixture(scope="module")
def cells():
    X, W, donor, kind = dense.planted()
    return X, W, {"conditions": donor, "strata": kind, "progress": False}


@every_model
def test_a_rank_beyond_the_data_is_refused(name, cells):
    X, _, labels = cells
    with pytest.raises(InputError, match="n_components=91"):
        make(name, 91).fit(X, **labels)


@every_model
@pytest.mark.parametrize(("value", "message"), [(-1.0, "Negative"), (np.nan, "NaN"), (np.inf, "infinity")])
def test_values_that_are_not_counts_are_refused(name, value, message, cells):
    X = cells[0].copy()
    X.data[3] = value
    with pytest.raises(ValueError, match=message):
        make(name).fit(X, **cells[2])


INVALID = {
    "n_components": [0, 2.5, "4", True, None],
    "solver": ["newton", None],
    "max_iter": [0, 1.5, -1],
    "gram_memory_mb": [-1, None, "automatic"],
    "batch_size": [0, None],
    "learning_rate": [0, -1.0, np.nan, "fast"],
    "learning_rate_U": [0, np.inf],
    "learning_rate_schedule": ["linear"],
    "precision": ["float16", "bfloat16", None],
    "penalty_W": [-1e-3, np.nan],
    "penalty_U": [-1, None],
    "penalty_invariance": [-1],
    "penalty_hsic": [-1],
    "warmup_epochs": [-1, 0.5],
    "centred_invariance": ["yes", 1],
    "update_U": ["newton"],
    "row_norm": ["no", 0],
    "init": ["svd", None],
    "batches": ["sorted"],
    "patience": [0],
    "tol": [-1e-6, "small"],
    "random_state": [-1, 2**32, "seed", 1.5],
    "device": ["gpu", 0],
    "save_u": ["all"],
    "verbose": [-1, "loud"],
}


@every_model
def test_every_invalid_parameter_is_refused_by_name(name, cells):
    X, _, labels = cells
    parameters = make(name).get_params()
    assert parameters.keys() <= INVALID.keys()
    for parameter in parameters:
        for value in INVALID[parameter]:
            with pytest.raises(InputError, match=f"parameter {parameter}\n"):
                make(name).set_params(**{parameter: value}).fit(X, **labels)


def test_by_condition_is_for_model_2_only(cells):
    with pytest.raises(InputError, match="batches"):
        make("ae_nmf", batches="by_condition").fit(cells[0])


@pytest.mark.parametrize("name", ["cae_nmf1", "cae_nmf2"])
def test_a_single_donor_is_refused_but_no_conditions_are_one(name, cells):
    X, _, _ = cells
    with pytest.raises(InputError, match="one category"):
        make(name).fit(X, conditions=["d1"] * X.shape[0])
    plain = make(name, max_iter=2).fit(X, progress=False)
    assert plain.conditions_.size == 1


@pytest.mark.parametrize("name", ["cae_nmf1", "cae_nmf2"])
def test_labels_that_do_not_fit_are_refused(name, cells):
    X, _, labels = cells
    donor = labels["conditions"].astype(object)
    with pytest.raises(InputError, match="240 cells"):
        make(name).fit(X, conditions=donor[:-1])
    donor[7] = None
    with pytest.raises(InputError, match="row 7"):
        make(name).fit(X, conditions=donor)
    with pytest.raises(InputError, match="strata"):
        make(name).fit(X, conditions=labels["conditions"], strata=labels["strata"][:5])


def test_model_2_takes_one_column(cells):
    X, _, labels = cells
    with pytest.raises(InputError, match="one column"):
        make("cae_nmf2").fit(X, conditions=np.stack([labels["conditions"], labels["strata"]], axis=1))


@every_autoencoder
def test_a_fit_that_diverges_says_what_to_do(name, cells):
    X, _, labels = cells
    with pytest.raises(FloatingPointError, match="learning_rate"):
        make(name, learning_rate=1e30).fit((X * 1e18).astype(np.float32), **labels)


@every_model
def test_empty_cells_and_genes_are_taken(name, cells):
    X, _, labels = cells
    X = X.toarray()
    X[4] = 0
    X[:, 8] = 0
    model = make(name).fit(X, **labels)
    assert np.isfinite(model.components_).all()
    assert not model.transform(X)[4].any()


@every_autoencoder
def test_numeric_and_unused_categories(name, cells):
    X, _, labels = cells
    donor = pd.Series(pd.Categorical(np.arange(X.shape[0]) % 3, categories=[0, 1, 2, 99]), name="donor_id")
    model = make(name, max_iter=2).fit(X, conditions=donor, strata=labels["strata"])
    if name != "ae_nmf":
        assert list(model.conditions_.categories[0]) == ["0", "1", "2"]
