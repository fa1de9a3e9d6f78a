"""What surrounds a rule: its log, threads, signals, and how each kind of failure ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from nmfbench.job import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_MEMORY, EXIT_NO_DEVICE, write_json

SCRIPT = """
import sys
from types import SimpleNamespace
from nmfbench.job import Interrupted, job
from nmfbench.errors import InputError
wildcards = {"dataset": "demo"}
snakemake = SimpleNamespace(log=[sys.argv[1]], threads=3, rule="train_x", wildcards=wildcards, output=["out"])
with job(snakemake) as run:
"""


def run_script(tmp_path, body, **popen):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + textwrap.indent(textwrap.dedent(body), "    "))
    log = tmp_path / "logs" / "rule.log"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(log)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, **popen)
    return process, log


def finish(tmp_path, body):
    process, log = run_script(tmp_path, body)
    process.communicate(timeout=60)
    return process.returncode, log.read_text()


def test_everything_printed_lands_in_the_log(tmp_path):
    code, text = finish(tmp_path, "import os; print('by python', flush=True); os.system('echo by a child')")
    assert code == 0
    assert "train_x (dataset=demo) starts" in text
    assert "by python" in text
    assert "by a child" in text
    assert "peak memory" in text


def test_granted_threads_hold(tmp_path):
    body = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    code, text = finish(tmp_path, body)
    assert code == 0
    assert "3 3" in text


def test_bad_input_is_one_message_without_a_traceback(tmp_path):
    code, text = finish(tmp_path, "raise InputError('cells.h5ad: obs', 'a donor', 'none', 'name it')")
    assert code == EXIT_BAD_INPUT
    assert "cells.h5ad: obs" in text
    assert "what to do: name it" in text
    assert "Traceback" not in text


def test_a_defect_shows_its_traceback_once(tmp_path):
    code, text = finish(tmp_path, "1 / 0")
    assert code == 1
    assert text.count("Traceback") == 1


@pytest.mark.parametrize("number", [28, 122, 27])
def test_a_full_disk_says_what_to_do(tmp_path, number):
    code, text = finish(tmp_path, f"raise OSError({number}, 'No space left on device')")
    assert code == EXIT_BAD_INPUT
    assert "free space" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_the_work_stop_at_a_safe_point(tmp_path, number):
    process, log = run_script(
        tmp_path,
        """
        import time
        print('ready', flush=True)
        for _ in range(600):
            if run.stop_requested():
                raise Interrupted('epoch 3 is saved')
            time.sleep(0.05)
        """,
    )
    deadline = time.monotonic() + 30
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert f"stopped after {signal.Signals(number).name}: epoch 3 is saved" in log.read_text()


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("body", "code", "name"),
    [
        ("raise MemoryError('no room')", EXIT_MEMORY, "memory"),
        ("import numpy; numpy.zeros(10**16)", EXIT_MEMORY, "memory"),
        ("import torch; torch.zeros(10**16)", EXIT_MEMORY, "memory"),
        (
            "from nmfbench.errors import DeviceError\nraise DeviceError('gpu', 'one', 'none', 'buy')",
            EXIT_NO_DEVICE,
            "gpu missing",
        ),
        ("1 / 0", 1, "crash"),
    ],
)
def test_the_last_line_names_the_class_of_failure(tmp_path, body, code, name):
    got, text = finish(tmp_path, body)
    assert got == code
    assert text.splitlines()[-1].endswith(f"train_x ends with exit code {code}: {name}")


def test_the_log_names_the_schedulers_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    monkeypatch.setenv("SLURM_JOB_PARTITION", "cpu")
    _, text = finish(tmp_path, "pass")
    assert "with 3 threads, SLURM job 41 in partition cpu" in text


@pytest.mark.parametrize(
    ("resources", "code"),
    [({"gpu": 1, "gpu_request": "gpus"}, EXIT_NO_DEVICE), ({"gpu": 1}, 0), ({}, 0)],
)
def test_a_gpu_that_was_asked_for_is_looked_for_before_the_work(tmp_path, monkeypatch, resources, code):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is a GPU
    body = "print('the work', flush=True)"
    script = SCRIPT.replace("SimpleNamespace(log", f"SimpleNamespace(resources={resources!r}, log")
    monkeypatch.setitem(globals(), "SCRIPT", script)
    got, text = finish(tmp_path, body)
    assert got == code
    assert ("the work" in text) == (code == 0)
    assert ("torch sees none" in text) == (code != 0)


def test_a_job_says_how_much_the_card_worked_that_it_was_granted(tmp_path, monkeypatch):
    granted = "SimpleNamespace(resources={'gpu': 1, 'gpu_request': 'gpus'}, log"
    before = """
import nmfbench.device
from nmfbench.gpu_use import GpuUse
nmfbench.device.check_granted = lambda: None
GpuUse.of = classmethod(lambda cls, device: cls(lambda: 0.5, every=0.01))
with job("""
    script = SCRIPT.replace("SimpleNamespace(log", granted).replace("\nwith job(", before)
    monkeypatch.setitem(globals(), "SCRIPT", script)
    code, text = finish(tmp_path, "import time; time.sleep(0.2)")
    assert code == 0
    assert "the card worked in 0.5000 of the time" in text
