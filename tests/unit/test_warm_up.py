"""Compilation is timed apart from the fit, and changes nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from nmfbench.models import AENMF, CAENMF1, CAENMF2, BaseNMF
from nmfbench.rows.memory import InMemoryRows
from nmfbench.warm_up import warm_up


@pytest.fixture(scope="module")
def rows():
    X = sparse.random(90, 30, density=0.3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    return InMemoryRows(X)


@pytest.mark.parametrize("kind", [AENMF, CAENMF1, CAENMF2])
def test_a_warm_up_leaves_the_model_and_its_fit_as_they_are(kind, rows):
    donors = np.array(["a", "b", "c"])[np.arange(90) % 3]
    model = kind(n_components=4, random_state=0, max_sweeps=5, device="cpu")
    before = model.get_params()
    assert warm_up(model, rows, donors, donors) > 0
    assert model.get_params() == before
    assert not hasattr(model, "components_")
    cold = kind(**before).fit(rows.csr, conditions=donors, strata=donors)
    warm = model.fit(rows.csr, conditions=donors, strata=donors)
    assert (cold.components_ == warm.components_).all()
    assert warm.history_[0]["seconds"] < 30


def test_what_is_not_compiled_is_not_warmed_up(rows):
    assert warm_up(AENMF(n_components=4, solver="minibatch"), rows) == 0
    assert warm_up(BaseNMF(n_components=4), rows) == 0


def test_importing_the_package_lets_waiting_threads_sleep(repository):
    code = "import nmfbench, os, sys; print(os.environ['OPENBLAS_THREAD_TIMEOUT'], 'numpy' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_THREAD_TIMEOUT"}
    environment["PYTHONPATH"] = str(repository / "scripts")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["16", "False"]
