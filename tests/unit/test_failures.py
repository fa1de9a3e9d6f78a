"""The class of a failure, from what a job and its scheduler left behind."""

from __future__ import annotations

import os
import stat

import pytest

from nmfbench.tables.failures import Evidence
from nmfbench.tables.scheduler import Accounted, accounting, job_of

START = "06:56:18 train_x (model=x) starts on node7 with 2 threads, SLURM job 41 in partition cpu\n"
EPOCH = "06:57:00 AENMF: epoch 3 of 9, objective 5\n"
INPUT_ERROR = (
    "06:56:19 train_x cannot use its input.\nf.h5ad: X\n  expected:   counts\n  got:        NaN\n"
    "  what to do: mend it\n"
)
TRACEBACK = "Traceback (most recent call last):\n  File x, line 1\nValueError: no\n"


@pytest.fixture
def failure(tmp_path):
    """The class and the reason, from a rule's log, the scheduler's log of job 41, and its state."""

    def ask(log=None, scheduler=None, state=None, name="41.log"):
        path = tmp_path / "rule.log"
        if log is not None:
            path.write_text(log)
            os.utime(path, (0, 0))  # the scheduler has the last word
        folder = tmp_path / "slurm" / "rule_train_x" / "demo_x_8_0"
        folder.mkdir(parents=True)
        if scheduler is not None:
            (folder / name).write_text(scheduler)
        accounted = {"41": Accounted(state, 3.0)} if state else {}
        found = Evidence(accounted, tmp_path / "slurm").failure(path, "train_x", "demo_x_8_0")
        return found.kind, found.reason

    return ask


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            START + INPUT_ERROR + "06:56:19 train_x ends with exit code 2: bad input\n",
            ("bad input", "f.h5ad: X; expected: counts; got: NaN"),
        ),
        (
            START + INPUT_ERROR + "06:56:19 train_x ends with exit code 3: gpu missing\n",
            ("gpu missing", "f.h5ad: X; expected: counts; got: NaN"),
        ),
        (START + TRACEBACK + "x ends with exit code 4: memory\n", ("memory", "ValueError: no")),
        (START + TRACEBACK + "x ends with exit code 1: crash\n", ("crash", "ValueError: no")),
        (
            START + EPOCH + "x stopped after SIGTERM: epoch 3\nx ends with exit code 75: interrupted\n",
            ("interrupted", "x stopped after SIGTERM: epoch 3"),
        ),
    ],
)
def test_a_job_that_ended_by_itself_says_why(failure, log, expected):
    # whatever the scheduler says of the job that had to end with it
    assert failure(log, "slurmstepd: error: *** STEP 41.0 ON c1 CANCELLED AT x ***", "FAILED") == expected


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("slurmstepd: error: Exceeded job memory limit", "memory"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=41.0", "memory"),
        ("slurmstepd: error: *** JOB 41 ON c1 CANCELLED AT 2026-11-21 DUE TO TIME LIMIT ***", "time"),
        ("slurmstepd: error: *** JOB 41 ON c1 CANCELLED AT 2026-11-21T07:00:00 ***", "killed"),
        ("slurmstepd: error: *** STEP 41.0 ON c1 CANCELLED AT x DUE TO PREEMPTION ***", "killed"),
    ],
)
def test_the_schedulers_log_tells_what_a_killed_job_cannot(failure, words, kind):
    found, reason = failure(START + EPOCH, f"Building DAG of jobs...\n{words}\n")
    assert found == kind
    assert reason == words


@pytest.mark.parametrize(
    ("state", "kind"),
    [("OUT_OF_MEMORY", "memory"), ("TIMEOUT", "time"), ("NODE_FAIL", "killed"), ("RUNNING", "unfinished")],
)
def test_accounting_tells_it_too(failure, state, kind):
    assert failure(START + EPOCH, "nothing of note", state) == (kind, f"SLURM job 41: {state}")


@pytest.mark.parametrize(
    ("signals", "scheduler", "state", "kind"),
    [
        ("SIGUSR1", "", "FAILED", "time"),  # ahead of the limit, by the profile's request
        ("SIGUSR1, SIGTERM", "", "TIMEOUT", "time"),
        ("SIGTERM", "*** JOB 41 ON c1 CANCELLED AT x DUE TO TIME LIMIT ***", None, "time"),
        ("SIGTERM", "", "TIMEOUT", "time"),
        ("SIGTERM", "*** JOB 41 ON c1 CANCELLED AT x ***", "CANCELLED", "interrupted"),
    ],
)
def test_a_training_that_ran_out_of_time_says_so(failure, signals, scheduler, state, kind):
    log = (
        START
        + EPOCH
        + f"06:58 train_x stopped after {signals}: epoch 3\nx ends with exit code 75: interrupted\n"
    )
    assert failure(log, scheduler, state) == (kind, f"06:58 train_x stopped after {signals}: epoch 3")


def test_an_attempt_killed_before_its_script_began_outdoes_the_log_of_the_one_before(failure):
    log = START + "train_x ends with exit code 75: interrupted\n"
    words = "slurmstepd: error: Exceeded job memory limit"
    assert failure(log, words, name="42.log") == ("memory", words)


def test_a_later_attempt_that_says_nothing_leaves_the_log_its_word(failure):
    assert failure(START + TRACEBACK, "Building DAG of jobs...", name="42.log")[0] == "crash"


def test_an_interpreter_that_failed_before_the_job_began(failure):
    assert failure(TRACEBACK) == ("crash", "ValueError: no")


def test_killed_without_a_scheduler(failure):
    kind, reason = failure(START.replace(", SLURM job 41 in partition cpu", "") + EPOCH)
    assert kind == "killed"
    assert "epoch 3 of 9" in reason


def test_killed_before_its_script_began(failure):
    kind, reason = failure(None, "slurmstepd: error: Exceeded job memory limit", name="12.log")
    assert (kind, reason) == ("memory", "slurmstepd: error: Exceeded job memory limit")
    assert Evidence().failure(None).kind == "not run"


def test_a_result_that_was_removed_is_no_crash(failure):
    assert failure(START + "train_x done in 3.0 s, peak memory 100 MB\n")[0] == "not run"


def test_the_number_of_the_job_stands_in_the_log(tmp_path):
    (tmp_path / "a.log").write_text(START)
    (tmp_path / "b.log").write_text(START.split(",")[0])
    assert job_of(tmp_path / "a.log") == "41"
    assert job_of(tmp_path / "b.log") is None
    assert job_of(tmp_path / "none.log") is None


def test_accounting_is_read_from_sacct(tmp_path, monkeypatch):
    program = tmp_path / "sacct"
    program.write_text("#!/bin/sh\necho '41|CANCELLED by 1000|100|130'\necho '42|PENDING|100|Unknown'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert accounting(["41", "42"]) == {
        "41": Accounted("CANCELLED", 30.0),
        "42": Accounted("PENDING", None),
    }


@pytest.mark.parametrize(
    "script", [None, "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2; exit 1\n"]
)
def test_no_accounting_is_no_knowledge(tmp_path, monkeypatch, script):
    if script:
        (tmp_path / "sacct").write_text(script)
        (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + (":/bin" if script else ""))
    assert accounting(["41"]) == {}
