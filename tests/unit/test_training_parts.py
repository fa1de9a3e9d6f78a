"""Adam, device and row source."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from nmfbench.device import check_granted, resolve_device
from nmfbench.errors import DeviceError, InputError
from nmfbench.models.autoencoder.adam import Adam
from nmfbench.rows.memory import InMemoryRows, RowSource


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_equals_torch(dtype):
    torch_rng = torch.Generator().manual_seed(0)
    start = torch.rand((300, 70), generator=torch_rng, dtype=dtype)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    adam, reference = Adam(ours), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(20):
        gradient = torch.randn(start.shape, generator=torch_rng, dtype=dtype)
        theirs.grad = 3 * gradient + 0.2 * theirs.detach()
        reference.step()
        with torch.no_grad():
            theirs.clamp_(min=0)
        adam.step(gradient, 0.01, scale=3, decay=0.2)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)
    assert (ours == 0).any()


def test_adam_does_not_depend_on_the_threads():
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        w = torch.linspace(0, 1, 100_003)
        adam = Adam(w)
        adam.step(torch.sin(17 * w), 0.1)
        results.append(w)
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_adam_steps_a_part_on_its_own():
    stack = torch.ones((3, 4, 5))
    adam, alone = Adam(stack, stacked=True), torch.ones((4, 5))
    single = Adam(alone)
    for _ in range(3):
        adam.step(torch.full((4, 5), 2.0), 0.1, part=1)
        single.step(torch.full((4, 5), 2.0), 0.1)
    assert torch.equal(stack[1], alone)
    assert torch.equal(stack[0], torch.ones((4, 5)))
    assert adam.steps.tolist() == [0, 3, 0]


def test_adam_comes_back_from_its_state():
    w = torch.ones(6)
    adam = Adam(w)
    adam.step(torch.arange(6.0), 0.1)
    other = Adam(w.clone())
    other.load_state("W", {key: np.array(value) for key, value in adam.state("W").items()})
    for a in (adam, other):
        a.step(torch.arange(6.0), 0.1)
    assert torch.equal(adam.weights, other.weights)


def test_cpu_and_auto_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_with_the_reason():
    with pytest.raises(InputError) as error:
        resolve_device("cuda")
    text = str(error.value)
    assert torch.__version__ in text
    assert "driver" in text
    assert "device: auto" in text


def test_metal_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="Apple silicon"):
        resolve_device("mps")


def test_rows_in_memory():
    X = sp.csr_array(np.arange(20.0).reshape(5, 4))
    source = InMemoryRows(X)
    assert isinstance(source, RowSource)
    assert (source.n_rows, source.n_columns, source.dtype) == (5, 4, np.float64)
    assert np.array_equal(source.rows(np.array([3, 1])).toarray(), X.toarray()[[3, 1]])
    starts, blocks = zip(*source.blocks(2), strict=True)
    assert starts == (0, 2, 4)
    assert np.array_equal(np.vstack([b.toarray() for b in blocks]), X.toarray())


def test_fingerprint_follows_the_content():
    X = sp.csr_array(np.arange(20.0).reshape(5, 4))
    other = X.copy()
    other.data[3] += 1
    assert InMemoryRows(X).fingerprint() == InMemoryRows(X.copy()).fingerprint()
    assert InMemoryRows(X).fingerprint() != InMemoryRows(other).fingerprint()
    assert InMemoryRows(X).fingerprint() != InMemoryRows(X.astype(np.float32)).fingerprint()
    assert InMemoryRows(X, "given").fingerprint() == "given"


def test_a_gpu_that_was_granted_and_cannot_be_seen_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_PARTITION": "fast", "CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(DeviceError) as error:
        check_granted(job)
    assert "job 7 on " in error.value.got
    assert "(partition fast), CUDA_VISIBLE_DEVICES '1'; torch " in error.value.got
    assert "driver" in error.value.got
    assert "device: cpu" in error.value.remedy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_granted(job)
