"""Compilation is timed apart from the fit, for every model, and changes nothing of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from scipy import sparse

from nmfbench.models import AENMF, CAENMF1, CAENMF2, MODELS, get_card
from nmfbench.rows.memory import InMemoryRows
from nmfbench.warm_up import warm_up
from test_models_contract import SMALL, data_for, small

FITTED = [kind for kind in MODELS if get_card(kind).role == "model"]


def signatures() -> set[tuple[str, str]]:
    """Every loop that is compiled by now, with what it is compiled for."""
    found = set()
    for name, module in list(sys.modules.items()):
        if name.startswith("nmfbench."):
            loops = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
            found |= {(str(loop.py_func), str(signature)) for loop in loops for signature in loop.signatures}
    return found


@pytest.mark.parametrize("kind", FITTED)
def test_a_warm_up_leaves_the_model_and_its_fit_as_they_are(kind, caplog):
    X, given = data_for(get_card(kind))
    del given["progress"]
    model = small(kind)
    before = model.get_params()
    with caplog.at_level(logging.DEBUG, logger="nmfbench"):
        assert warm_up(model, InMemoryRows(X), given) > 0
    assert "not warmed up" not in caplog.text
    assert model.get_params() == before
    assert not hasattr(model, "components_")
    compiled = signatures()
    warm = model.fit(X, **given, progress=False)
    assert signatures() == compiled, "the fit compiled what the warm-up had not"
    cold = small(kind).fit(X, **given, progress=False)
    for key, value in cold.embeddings().items():
        np.testing.assert_array_equal(warm.embeddings()[key], value)
    np.testing.assert_array_equal(warm.components_, cold.components_)


@pytest.mark.parametrize("kind", [AENMF, CAENMF1, CAENMF2])
@pytest.mark.parametrize("solver", ["statistics", "minibatch"])
@pytest.mark.parametrize("gathered", [False, True])
def test_the_copy_takes_the_solver_of_the_whole_fit(kind, solver, gathered, monkeypatch):
    if gathered and solver == "minibatch":
        pytest.skip("statistics are not gathered for minibatches")
    X, given = data_for(get_card("cae_nmf1"))
    model = kind(n_components=4, random_state=0, solver=solver, device="cpu")
    taken = []
    monkeypatch.setattr(kind, "fit", lambda self, *args, **kwargs: taken.append(self._solver_taken))
    warm_up(model, InMemoryRows(X), {"conditions": given["conditions"]}, gathered=gathered)
    assert [choice.solver for choice in taken] == [solver]
    assert not gathered or taken[0].route == "gram"
    assert model._solver_taken is None


def test_a_fit_that_a_few_cells_do_not_carry_goes_on_cold(caplog):
    rows = InMemoryRows(sparse.csr_matrix(np.ones((40, 1), dtype=np.float32)))  # one gene
    with caplog.at_level(logging.DEBUG, logger="nmfbench"):
        assert warm_up(small("pyro_gamma_nb"), rows, {}) > 0
    assert "not warmed up" in caplog.text


def test_what_nothing_here_compiles_is_not_warmed_up():
    assert warm_up(small("control_depth"), None, {}) == 0
    assert set(SMALL) == set(MODELS)


def test_importing_the_package_lets_waiting_threads_sleep(repository):
    code = "import nmfbench, os, sys; print(os.environ['OPENBLAS_THREAD_TIMEOUT'], 'numpy' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_THREAD_TIMEOUT"}
    environment["PYTHONPATH"] = str(repository / "scripts")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["16", "False"]
