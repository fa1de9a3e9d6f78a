"""Checkpoints: whole at every moment, refused when they are of something else; resumed equals unbroken."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import reference_models as dense
from nmfbench.errors import InputError
from nmfbench.fitting import checkpoint as module
from nmfbench.fitting.checkpoint import Checkpoint
from nmfbench.models import AENMF, CAENMF1, CAENMF2, BaseNMF

MINIBATCH = {"solver": "minibatch", "max_iter": 9, "batch_size": 70, "random_state": 1}
CASES = {
    "base_nmf": lambda **more: BaseNMF(4, **{"max_iter": 9, "tol": 0.0, "random_state": 1} | more),
    "ae_nmf": lambda **more: AENMF(4, **MINIBATCH | more),
    "cae_nmf1": lambda **more: CAENMF1(4, **MINIBATCH | {"update_U": "adam"} | more),
    "cae_nmf2": lambda **more: CAENMF2(4, **MINIBATCH | more),
}
NOT_COMPARED = {"seconds", "cells_per_s", "peak_mb"}


@pytest.fixture(scope="module")
def cells():
    X, _, donor, kind = dense.planted(n=200, p=60)
    return X, {"conditions": donor, "strata": kind, "progress": False}


@pytest.fixture(autouse=True)
def every_state(monkeypatch):
    """Write after every epoch, however short."""
    monkeypatch.setattr(module, "LARGEST_SHARE", float("inf"))


def same(one, other):
    assert np.array_equal(one.components_, other.components_)
    assert np.array_equal(one.embedding_, other.embedding_)
    for key, value in one.embeddings().items():
        assert np.array_equal(value, other.embeddings()[key])
    assert (one.n_iter_, one.stop_reason_) == (other.n_iter_, other.stop_reason_)
    assert (one.objective_, one.best_epoch_) == (other.objective_, other.best_epoch_)
    for row, row_of_other in zip(one.history_, other.history_, strict=True):
        assert {k: v for k, v in row.items() if k not in NOT_COMPARED} == {
            k: v for k, v in row_of_other.items() if k not in NOT_COMPARED
        }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("after", [1, 4, 8])
def test_stopped_after_any_step_and_resumed_equals_unbroken(name, after, cells, tmp_path):
    X, labels = cells
    unbroken = CASES[name]().fit(X, **labels)
    asked = iter(range(1000))
    stopped = CASES[name]().fit(
        X, **labels, checkpoint=tmp_path / "c", should_stop=lambda: next(asked) + 1 >= after
    )
    assert stopped.stop_reason_ == "interrupted"
    assert not stopped.converged_
    same(CASES[name]().fit(X, **labels, checkpoint=tmp_path / "c"), unbroken)


@pytest.mark.parametrize("name", CASES)
def test_more_epochs_later_equal_all_at_once(name, cells, tmp_path):
    X, labels = cells
    length = "max_iter"
    first = CASES[name](**{length: 4}).fit(X, **labels, checkpoint=tmp_path)
    assert (first.n_iter_, first.stop_reason_) == (4, length)
    same(CASES[name]().fit(X, **labels, checkpoint=tmp_path), CASES[name]().fit(X, **labels))


@pytest.mark.parametrize("name", CASES)
def test_a_finished_fit_is_not_trained_again(name, cells, tmp_path):
    X, labels = cells
    once = CASES[name]().fit(X, **labels, checkpoint=tmp_path)
    same(CASES[name]().fit(X, **labels, checkpoint=tmp_path), once)


def test_killed_and_rerun_equals_unbroken(cells, tmp_path):
    """SIGKILL, which leaves no time to write anything."""
    X, labels = cells
    script = textwrap.dedent(
        f"""
        import sys, time
        sys.path[:0] = {[str(Path(module.__file__).parents[2]), str(Path(__file__).parent)]!r}
        from nmfbench.models import CAENMF2
        from nmfbench.fitting import checkpoint
        import reference_models as dense
        checkpoint.LARGEST_SHARE = float("inf")
        X, _, donor, kind = dense.planted(n=200, p=60)
        slow = lambda: time.sleep(0.05)
        CAENMF2(4, **{MINIBATCH!r}).fit(
            X, conditions=donor, strata=kind, progress=False, checkpoint={str(tmp_path)!r}, should_stop=slow)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "previous.npz").exists():
            assert child.poll() is None, "the child ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
    assert child.wait() == -signal.SIGKILL
    resumed = CASES["cae_nmf2"]()
    same(resumed.fit(X, **labels, checkpoint=tmp_path), CASES["cae_nmf2"]().fit(X, **labels))


KILLED_AT = """
import os, random, signal, sys
sys.path[:0] = {paths!r}
import numpy as np
from nmfbench.fitting import checkpoint
from test_training_checkpoint import CASES, dense
checkpoint.LARGEST_SHARE = float("inf")
X, _, donor, kind = dense.planted(n=200, p=60)
left = {after}

def die_at_last(function):
    def wrapper(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapper

np.savez, os.fsync, os.replace = map(die_at_last, (np.savez, os.fsync, os.replace))
for after in range(2):  # a second life goes on from what the first left
    CASES[{name!r}]().fit(X, conditions=donor, strata=kind, progress=False, checkpoint={folder!r})
"""


@pytest.mark.slow
def test_killed_at_random_places_of_writing_and_rerun_equals_unbroken(cells, tmp_path):
    """Before or after a state is written, flushed or renamed: the same bits in the end, nothing left over."""
    X, labels = cells
    rng = np.random.default_rng(19)
    paths = [str(Path(module.__file__).parents[2]), str(Path(__file__).parent)]
    for number, name in enumerate(["ae_nmf", "cae_nmf2"]):
        folder = tmp_path / str(number)
        for after in rng.integers(1, 24, size=2):
            code = KILLED_AT.format(paths=paths, after=int(after), name=name, folder=str(folder))
            assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
        resumed = CASES[name]()
        same(resumed.fit(X, **labels, checkpoint=folder), CASES[name]().fit(X, **labels))
        assert not list(folder.glob("writing-*"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_newest_state_gives_way_to_the_previous(damage, cells, tmp_path, caplog):
    X, labels = cells
    CASES["ae_nmf"](max_iter=4).fit(X, **labels, checkpoint=tmp_path)
    newest = tmp_path / "newest.npz"
    content = newest.read_bytes()
    if damage == "cut":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        newest.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.unlink()  # killed between the two renames
    with caplog.at_level(logging.WARNING):
        resumed = CASES["ae_nmf"]().fit(X, **labels, checkpoint=tmp_path)
    assert ("damaged" in caplog.text) == (damage != "gone")
    same(resumed, CASES["ae_nmf"]().fit(X, **labels))


def test_two_damaged_states_begin_anew(cells, tmp_path):
    X, labels = cells
    CASES["ae_nmf"](max_iter=4).fit(X, **labels, checkpoint=tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(b"nothing of use")
    same(CASES["ae_nmf"]().fit(X, **labels, checkpoint=tmp_path), CASES["ae_nmf"]().fit(X, **labels))


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("ae_nmf", {"penalty_W": 0.5}, "penalty_W"),
        ("ae_nmf", {"random_state": 2}, "random_state"),
        ("ae_nmf", {"n_components": 3}, "n_components"),
        ("cae_nmf1", {"update_U": "closed_form", "batch_size": 71}, "batch_size, update_U"),
        ("base_nmf", {"tol": 0.1}, "tol"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(name, change, named, cells, tmp_path):
    X, labels = cells
    short = {"max_iter": 2}
    CASES[name](**short).fit(X, **labels, checkpoint=tmp_path)
    other = CASES[name](**short).set_params(**change)
    with pytest.raises(InputError, match=named):
        other.fit(X, **labels, checkpoint=tmp_path)


def test_the_end_of_a_cosine_is_a_setting(cells, tmp_path):
    X, labels = cells
    CASES["ae_nmf"](max_iter=2, learning_rate_schedule="cosine").fit(X, **labels, checkpoint=tmp_path)
    with pytest.raises(InputError, match="max_iter"):
        CASES["ae_nmf"](learning_rate_schedule="cosine").fit(X, **labels, checkpoint=tmp_path)


def test_a_state_of_another_model_is_refused(cells, tmp_path):
    X, labels = cells
    CASES["ae_nmf"](max_iter=2).fit(X, **labels, checkpoint=tmp_path)
    with pytest.raises(InputError, match="model"):
        CASES["cae_nmf2"](max_iter=2).fit(X, **labels, checkpoint=tmp_path)


def test_a_state_of_other_data_or_labels_is_refused(cells, tmp_path):
    X, labels = cells
    CASES["ae_nmf"](max_iter=2).fit(X, **labels, checkpoint=tmp_path)
    other = X.copy()
    other.data[0] += 1
    with pytest.raises(InputError, match="other data"):
        CASES["ae_nmf"](max_iter=2).fit(other, **labels, checkpoint=tmp_path)
    with pytest.raises(InputError, match="other data"):
        CASES["ae_nmf"](max_iter=2).fit(X, **labels | {"strata": labels["strata"][::-1]}, checkpoint=tmp_path)


def test_an_unseeded_fit_goes_on_with_its_own_seed(cells, tmp_path):
    X, labels = cells
    first = CASES["ae_nmf"](random_state=None, max_iter=3).fit(X, **labels, checkpoint=tmp_path)
    second = CASES["ae_nmf"](random_state=None).fit(X, **labels, checkpoint=tmp_path)
    assert first.seed_ == second.seed_
    same(second, CASES["ae_nmf"](random_state=first.seed_).fit(X, **labels))


def test_a_full_disk_costs_the_checkpoint_not_the_fit(cells, tmp_path, monkeypatch, caplog):
    X, labels = cells

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        fitted = CASES["ae_nmf"]().fit(X, **labels, checkpoint=tmp_path)
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []
    same(fitted, CASES["ae_nmf"]().fit(X, **labels))


def test_states_are_rare_when_writing_is_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_SHARE", 0.05)
    keeper = Checkpoint(tmp_path, {}, "x")
    keeper.save({"a": np.zeros(3)}, {})
    keeper._seconds_to_write = 1.0
    assert not keeper.is_due()
    keeper._written_at -= 21
    assert keeper.is_due()
    assert not keeper.is_due(wait=60)
