"""No array of batch x genes or cells x genes is ever made: every allocation is watched."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmfbench.models import AENMF, CAENMF1, CAENMF2, BaseNMF

N, P, K, B, M = 600, 4000, 3, 300, 3
MINIBATCH = {"solver": "minibatch", "max_iter": 2, "batch_size": B}


class LargestTensor(TorchDispatchMode):
    """Remember the largest storage that any torch operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                size = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.elements = max(self.elements, size)
        return result


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    X = sp.random_array((N, P), density=0.01, rng=rng, format="csr")
    return X, rng.integers(M, size=N).astype(str), rng.integers(4, size=N).astype(str)


@pytest.mark.parametrize(
    "model",
    [
        BaseNMF(K, max_iter=3, tol=0, random_state=0),
        AENMF(K, **MINIBATCH),
        AENMF(K, **MINIBATCH, init="random", row_norm=True),
        CAENMF1(K, **MINIBATCH, warmup_epochs=0),
        CAENMF1(
            K,
            solver="minibatch",
            max_iter=2,
            batch_size=B,
            warmup_epochs=0,
            update_U="adam",
            centred_invariance=True,
        ),
        CAENMF2(K, **MINIBATCH),
        CAENMF2(K, **MINIBATCH, batches="proportional"),
    ],
    ids=lambda m: f"{type(m).__name__}-{getattr(m, 'update_U', getattr(m, 'batches', ''))}",
)
def test_nothing_dense_of_the_size_of_a_batch(model, cells):
    X, donor, kind = cells
    with LargestTensor():  # compiles and imports whatever is compiled or imported on first use
        model.fit(X, conditions=donor, strata=kind, progress=False)
    with LargestTensor() as watch:
        tracemalloc.start()
        model.fit(X, conditions=donor, strata=kind, progress=False).transform(X)
        _, numpy_peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    weights = P * max(K + 10, M * K)  # the start's oversampled vectors; model 2's stack
    assert watch.elements <= weights
    assert watch.elements < B * P / 10
    # NumPy's allocations together, in double precision: well below one dense batch
    assert numpy_peak < 0.5 * 8 * B * P
