"""The path of Apple GPUs, rehearsed on the CPU: its products, and that its steps need no double or sparse."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nmfbench.models.autoencoder.minibatch
import reference_models as dense
from nmfbench.errors import InputError
from nmfbench.linalg import SparseRows, double_device, moved
from nmfbench.models import CAENMF1, get_model
from nmfbench.rows.batches import Batch


class MetalRows(SparseRows):
    """Rows that take the products of Metal, with tensors that stay on the CPU."""

    def __init__(self, csr, device="cpu"):
        super().__init__(csr, "cpu")
        self.device = torch.device("mps")

    def subset(self, rows):
        return MetalRows(self.csr[rows])

    def _put(self, tensor):
        return tensor


class OnlyWhatMetalHas(TorchDispatchMode):
    """Refuses every operation that makes a double-precision or sparse tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                assert tensor.dtype != torch.float64, function
                assert tensor.layout == torch.strided, function
        return result


def sparse(shape=(40, 30), seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.random(shape) * (rng.random(shape) < 0.3)).astype(np.float32)
    X[3] = X[-1] = 0  # cells and genes without a nonzero, also at the end
    X[:, 5] = X[:, -1] = 0
    return sp.csr_matrix(X)


def test_products_are_those_of_the_dense_matrix():
    X, rng = sparse(), np.random.default_rng(1)
    rows = MetalRows(X)
    D = torch.from_numpy(rng.random((30, 4), dtype=np.float32))
    H = torch.from_numpy(rng.random((40, 4), dtype=np.float32))
    np.testing.assert_allclose(rows.times(D), X.toarray() @ D.numpy(), rtol=1e-5)
    expected = X.toarray().T @ H.numpy()
    np.testing.assert_allclose(rows.transposed_times(H), expected, rtol=1e-5)
    out = torch.ones(30, 4)
    np.testing.assert_allclose(rows.transposed_times(H, out=out, accumulate=True), 1 + expected, rtol=1e-5)
    np.testing.assert_allclose(rows.transposed_times(H, out=out), expected, rtol=1e-5)
    assert out[5].abs().sum() == 0


def test_sums_are_kept_where_there_is_double_precision():
    assert double_device("mps") == torch.device("cpu")
    assert double_device("cuda:1") == torch.device("cuda:1")
    single = moved(torch.ones(2, dtype=torch.float64), torch.device("cpu"), torch.float32)
    assert single.dtype == torch.float32


@pytest.mark.parametrize("name", ["ae_nmf", "cae_nmf1", "cae_nmf2"])
def test_a_fit_agrees_with_the_cpu(name, monkeypatch):
    X, _, donor, kind = dense.planted()
    X = sp.csr_matrix(X, dtype=np.float32)

    def fit():
        model = get_model(name)(4, solver="minibatch", max_iter=6, batch_size=64, random_state=0)
        return model.fit(X, conditions=donor, strata=kind, progress=False)

    expected = fit()
    monkeypatch.setattr(nmfbench.models.autoencoder.minibatch, "SparseRows", MetalRows)
    found = fit()
    assert found.objective_ == pytest.approx(expected.objective_, rel=1e-4)
    np.testing.assert_allclose(found.components_, expected.components_, atol=2e-3)


@pytest.mark.parametrize("name", ["ae_nmf", "cae_nmf1", "cae_nmf2"])
def test_a_step_asks_for_nothing_that_metal_lacks(name, monkeypatch):
    X, _, donor, kind = dense.planted()
    X = sp.csr_matrix(X, dtype=np.float32)
    monkeypatch.setattr(nmfbench.models.autoencoder.minibatch, "SparseRows", MetalRows)
    # The two penalties of model 1 keep small sums in double precision, on the CPU where Metal is the device.
    off = {"penalty_invariance": 0, "penalty_hsic": 0} if get_model(name) is CAENMF1 else {}
    model = get_model(name)(4, solver="minibatch", batch_size=64, random_state=0, max_iter=1, **off)
    problems = []
    build = type(model)._batch_objective
    monkeypatch.setattr(
        type(model),
        "_batch_objective",
        lambda self, *given: problems.append(build(self, *given)) or problems[-1],
    )
    # The problem takes the rows of its batches and of its passes over all cells from the patched class.
    model.fit(X, conditions=donor, strata=kind, progress=False)
    with OnlyWhatMetalHas():
        for gradient in problems[0].gradients(problems[0].rows(np.arange(50)), Batch(np.arange(50)), 0):
            assert gradient.tensor.dtype == torch.float32


def test_double_precision_data_are_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    X, *_ = dense.planted()
    model = get_model("ae_nmf")(3, solver="minibatch", device="mps", random_state=0)
    with pytest.raises(InputError, match="float32"):
        model.fit(sp.csr_matrix(X, dtype=np.float64), progress=False)
