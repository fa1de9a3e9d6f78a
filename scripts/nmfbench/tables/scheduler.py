"""What a cluster's scheduler knows of the jobs behind the results: from its accounting and from its logs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_JOB_IN_LOG = re.compile(rb" starts on .*, SLURM job (\d+)")
_IDS_PER_CALL = 500


@dataclass(frozen=True)
class Accounted:
    """One job as accounting has it.

    Attributes
    ----------
    state : str
        SLURM's word: COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, CANCELLED, NODE_FAIL, PREEMPTED, RUNNING ...
    queue_seconds : float or None
        From submission to start; None for a job that has not started.
    """

    state: str
    queue_seconds: float | None


def job_of(log: str | Path | None) -> str | None:
    """Number of the scheduler's job that wrote a rule's log; None where it ran without one."""
    if log is None or not Path(log).is_file():
        return None
    with open(log, "rb") as file:
        found = _JOB_IN_LOG.search(file.read(4096))
    return found.group(1).decode() if found else None


def accounting(jobs: Iterable[str]) -> dict[str, Accounted]:
    """Ask ``sacct`` about jobs.

    Parameters
    ----------
    jobs : iterable of str
        Job numbers.

    Returns
    -------
    dict
        Number to what is known; empty where there is no scheduler, or one without accounting.
    """
    jobs = sorted(set(jobs), key=int)
    known: dict[str, Accounted] = {}
    for start in range(0, len(jobs), _IDS_PER_CALL):
        some = ",".join(jobs[start : start + _IDS_PER_CALL])
        command = ["sacct", "-X", "-n", "-P", "-j", some, "-o", "JobIDRaw,State,Submit,Start"]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
                env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
            )
        except (OSError, subprocess.SubprocessError):
            return known
        for line in done.stdout.splitlines():
            job, state, submit, begin = (*line.split("|"), "", "", "")[:4]
            waited = float(begin) - float(submit) if submit.isdigit() and begin.isdigit() else None
            known[job] = Accounted(state.split(" ")[0], waited)  # "CANCELLED by 1000"
    return known


def log_of_job(folder: str | Path | None, job: str | None, rule: str, wildcards: str) -> Path | None:
    """The scheduler's own log of a job.

    Parameters
    ----------
    folder : path or None
        ``slurm-logdir`` of the profile: ``rule_<rule>/<wildcards>/<job>.log`` or ``group_<name>/<job>.log``.
    job : str or None
        Its number, where the rule's log tells it.
    rule, wildcards : str
        Where the newest log is looked for otherwise: a job that died before its script began.
    """
    if folder is None or not Path(folder).is_dir():
        return None
    if job is not None:
        return next(Path(folder).rglob(f"{job}.log"), None)
    logs = Path(folder, f"rule_{rule}", wildcards).glob("*.log")
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)
