"""Steps that are recorded once: what a recording of CUDA would do, done on the processor.

A tape takes down every call that a step makes of torch, with its arguments as they were, and plays them again
for each batch. What a step decides by the batch it was recorded with stays decided so, as in a CUDA graph.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from card_fits import FITS, fitted, numbers, put
from nmfbench.models.autoencoder import on_card
from nmfbench.models.autoencoder.card_layout import donor_gradients
from nmfbench.models.autoencoder.card_steps import CardSteps
from nmfbench.rows.dense import products_in


class Tape(TorchDispatchMode):
    """Every call of torch below it, kept with its arguments and results, to be made again."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result

    def play(self):
        """The same calls with the same numbers and the same memory; only what they made is made anew."""
        made = {}

        def present(value):
            return made.get(id(value), value)

        for function, args, kwargs, result in self.calls:
            again = function(*tree_map(present, args), **tree_map(present, kwargs))
            for before, now in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(before, torch.Tensor):
                    made[id(before)] = now


class Graph:
    """Stands in for a CUDA graph: what is recorded does not happen, until it is replayed."""

    made: ClassVar[list] = []

    def __init__(self):
        self.made.append(self)
        self.tape = Tape()

    def replay(self):
        self.tape.play()


@pytest.fixture
def recording(monkeypatch):
    """CUDA's calls of a recording, made on the processor; gives a function that turns recording on."""
    present = []

    @contextmanager
    def graph(recorded, capture_error_mode):
        steps = present[-1]
        changed = (*steps.objective.changing(), steps._at)
        kept = [tensor.clone() for tensor in changed]
        with recorded.tape:
            yield
        for tensor, before in zip(changed, kept, strict=True):
            tensor.copy_(before)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu"}))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda of: nullcontext())
    plain = CardSteps.__init__

    def recorded(self, *given, **more):
        plain(self, *given, **more | {"record": True})
        present.append(self)

    Graph.made.clear()
    return lambda: monkeypatch.setattr(CardSteps, "__init__", recorded)


@pytest.mark.parametrize("where", ["resident", "windows"])
@pytest.mark.parametrize("name", FITS)
def test_a_recorded_step_is_the_step_and_is_recorded_anew_where_it_must(name, where, recording, monkeypatch):
    put(where, monkeypatch)
    plain = fitted(name, "cpu")
    recording()
    found = fitted(name, "cpu")
    assert found.minibatches_["recorded"]
    assert numbers(found.history_) == numbers(plain.history_)
    assert np.array_equal(found.components_, plain.components_)
    terms = 1 + name.startswith("cae_nmf1")  # the warm-up ends
    assert terms <= len(Graph.made) <= 2 * terms, "once, and again for other terms or larger batches"


def test_a_recording_that_depends_on_its_batch_is_found_out(recording, monkeypatch):
    """The tape holds a step to its promise: one that reads a number of its batch on the host breaks it."""
    put("resident", monkeypatch)
    plain = fitted("ae_nmf", "cpu")
    present = CardSteps.present

    def careless(self):
        X, batch, numbers = present(self)
        numbers[3] = float(numbers[3])  # the root of Adam's second moment, read back from the device
        return X, batch, numbers

    monkeypatch.setattr(CardSteps, "present", careless)
    assert numbers(fitted("ae_nmf", "cpu").history_) == numbers(plain.history_)
    recording()
    assert numbers(fitted("ae_nmf", "cpu").history_) != numbers(plain.history_)


def test_a_step_that_cannot_be_recorded_is_taken_all_the_same(recording, monkeypatch, caplog):
    plain = fitted("cae_nmf1, adam", "cpu")
    recording()

    def refuse(recorded, capture_error_mode):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    found = fitted("cae_nmf1, adam", "cpu")
    assert "could not be recorded (operation not permitted)" in caplog.text
    assert not found.minibatches_["recorded"]
    assert numbers(found.history_) == numbers(plain.history_)
    assert np.array_equal(found.components_, plain.components_)


class Precisions(TorchDispatchMode):
    """The precision in which each kind of product was made."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found.setdefault(function.overloadpacket.__name__, set()).add(
            torch.get_float32_matmul_precision()
        )
        return function(*args, **(kwargs or {}))


def test_sums_over_tiles_are_made_in_full_where_products_are_not():
    X, W, U, out = (torch.rand(*shape) for shape in ((6, 5), (5, 3), (2, 5, 3), (5, 3)))
    with products_in("tf32"), Precisions() as precisions:
        donor_gradients(X, torch.tensor([0, 1, 1]), W, U, torch.empty_like(U), out)
    assert precisions.found["bmm"] == precisions.found["baddbmm"] == {"high"}
    assert precisions.found["addmm_"] == {"highest", "high"}, "the tiles' sum, and the gradient of W"


# On torch's device of shapes without numbers ----------------------------------------------------------------


class OnOneDevice(TorchDispatchMode):
    """Nothing is made from, copied to or read into the memory of the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.is_meta, f"{function}: on {value.device}"
        return result


def without_numbers(thing, seen):
    """The same objects with tensors of the device `meta`, whose numbers nothing can depend on."""
    if id(thing) in seen:
        return seen[id(thing)]
    if isinstance(thing, torch.Tensor):
        made = torch.empty_strided(thing.size(), thing.stride(), dtype=thing.dtype, device="meta")
        seen[id(thing)] = made
        return made
    if isinstance(thing, dict):
        return {key: without_numbers(value, seen) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(without_numbers(value, seen) for value in thing)
    if type(thing).__module__.startswith("nmfbench") and hasattr(thing, "__dict__"):
        seen[id(thing)] = thing
        vars(thing).update({key: without_numbers(value, seen) for key, value in vars(thing).items()})
    return thing


@pytest.fixture
def caught(monkeypatch):
    """The steps of the last fit, ready for a step."""
    present = []
    plain = CardSteps.begin

    def begin(self, *given):
        plain(self, *given)
        present.append(self)

    monkeypatch.setattr(on_card, "CARDS", frozenset({"cpu"}))
    monkeypatch.setattr(CardSteps, "begin", begin)
    return present


@pytest.mark.parametrize("name", FITS)
def test_a_step_reads_nothing_back_and_sends_nothing(name, caught):
    """No size, branch or number of a step comes from the numbers on the device, and all of it is there."""
    fitted(name, "cpu", n_epochs=4)  # the steps of the last epoch, after the warm-up
    steps = caught[-1]
    without_numbers(steps, {})
    assert steps.objective.W.is_meta
    with OnOneDevice():
        steps._step()


@pytest.mark.parametrize(
    "careless",
    [
        lambda steps: float(steps._at),
        lambda steps: steps._at.tolist(),
        lambda steps: steps.objective.codes.nonzero(),
        lambda steps: steps.objective.W[steps.objective.W > 0],
        lambda steps: torch.bincount(steps.objective.codes[:, 0]),
        lambda steps: torch.unique(steps.objective.codes),
        lambda steps: steps.objective.W.cpu(),
        lambda steps: steps.objective.W.add_(torch.ones(4)),
        lambda steps: torch.from_numpy(np.ones(3)).to(steps.objective.W.device),
        lambda steps: torch.ones(3, device=steps.objective.W.device) * torch.tensor(2.0),
    ],
)  # fmt: skip
def test_a_step_that_reads_back_or_sends_is_found_out(careless, caught):
    fitted("cae_nmf1", "cpu", n_epochs=1)
    steps = caught[-1]
    without_numbers(steps, {})
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)), OnOneDevice():
        careless(steps)
