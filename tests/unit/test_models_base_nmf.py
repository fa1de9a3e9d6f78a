"""Base NMF is scikit-learn's NMF, digit by digit."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from sklearn.decomposition import NMF

import reference_models as dense
from nmfbench.models import BaseNMF

pytestmark = pytest.mark.filterwarnings(
    "ignore:Maximum number of iterations:sklearn.exceptions.ConvergenceWarning"
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init", ["nndsvda", "nndsvd", "nndsvdar", "random"])
@pytest.mark.parametrize(("max_iter", "tol"), [(12, 0.0), (200, 1e-2)], ids=["sweeps", "tolerance"])
def test_the_numbers_are_those_of_scikit_learn(dtype, init, max_iter, tol):
    X = dense.planted()[0].astype(dtype)
    settings = {"init": init, "max_iter": max_iter, "tol": tol, "random_state": 5}
    theirs = NMF(6, solver="cd", beta_loss="frobenius", **settings)
    H = theirs.fit_transform(X)
    ours = BaseNMF(6, **settings).fit(X, progress=False)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == (theirs.n_iter_ < max_iter)
    if platform.machine() in ("x86_64", "AMD64"):
        same = np.testing.assert_array_equal
    else:  # elsewhere SciPy may be compiled with fused multiply-add

        def same(one, other):
            np.testing.assert_allclose(one, other, rtol=1e-3 if dtype == np.float32 else 1e-8, atol=1e-6)

    same(ours.components_, theirs.components_)
    same(ours.embedding_, H)
    same(ours.reconstruction_err_, theirs.reconstruction_err_)
    same(ours.transform(X), theirs.transform(X))


def test_the_history_tells_the_error_of_each_sweep():
    X = dense.planted()[0]
    model = BaseNMF(4, max_iter=8, tol=0, random_state=0).fit(X, progress=False)
    error = ((X.toarray() - model.embedding_ @ model.components_) ** 2).sum()
    last = model.history_[-1]
    assert last["objective"] == pytest.approx(error / X.shape[0], rel=1e-9)
    assert last["relative_error"] == pytest.approx(error / (X.toarray() ** 2).sum(), rel=1e-9)
    assert [row["epoch"] for row in model.history_] == list(range(1, 9))
    assert (np.diff([row["objective"] for row in model.history_]) < 0).all()
