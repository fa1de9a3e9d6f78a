"""Why a step left no result: the class of its failure and a line that says more.

The evidence, the first that speaks wins: the exit code that the job wrote at the end of its log, the
scheduler's log of the job, the state of the job in accounting. A training that was told in time of its limit
ends by itself, as one that is stopped by hand does; the signal or the scheduler then tells which it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nmfbench.endings import ENDINGS, EXIT_INTERRUPTED
from nmfbench.tables.files import last_lines, reason_from_log
from nmfbench.tables.scheduler import Accounted, job_of, log_of_job

#: Classes that are not written by the job itself (those are in :data:`nmfbench.endings.ENDINGS`).
TIME, MEMORY, KILLED, CRASH, NOT_RUN, UNFINISHED, NOT_APPLICABLE = (
    "time",
    "memory",
    "killed",
    "crash",
    "not run",
    "unfinished",
    "not applicable",
)

_END = re.compile(r" ends with exit code (\d+): ")
# the profile has this signal sent ahead of the time limit, and for nothing else
_WARNED = re.compile(r" stopped after .*\bSIGUSR1\b")
_OF_STATE = {
    "TIMEOUT": TIME,
    "DEADLINE": TIME,
    "OUT_OF_MEMORY": MEMORY,
    "CANCELLED": KILLED,
    "PREEMPTED": KILLED,
    "NODE_FAIL": KILLED,
    "BOOT_FAIL": KILLED,
    "RUNNING": UNFINISHED,
    "PENDING": UNFINISHED,
    "SUSPENDED": UNFINISHED,
}
# slurmstepd's words, with and without control groups
_OF_WORDS = {
    MEMORY: r"oom[-_ ]kill|out of memory|exceeded (job|step) memory limit",
    TIME: r"DUE TO TIME LIMIT",
    KILLED: r"\*\*\* (JOB|STEP) \S+ ON .* CANCELLED|DUE TO (PREEMPTION|NODE FAILURE)",
}


@dataclass(frozen=True)
class Failure:
    """What is known of a missing result.

    Attributes
    ----------
    kind : str
        ``memory``, ``time``, ``gpu missing``, ``bad input``, ``interrupted``, ``crash``, ``killed``,
        ``unfinished``, ``not run`` or ``not applicable``.
    reason : str
        One line.
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class Evidence:
    """Where failures are looked up.

    Attributes
    ----------
    accounted : mapping
        Job number to what accounting knows (:func:`~nmfbench.tables.scheduler.accounting`).
    scheduler_logs : path or None
        The profile's ``slurm-logdir``.
    """

    accounted: Mapping[str, Accounted] = field(default_factory=dict)
    scheduler_logs: str | Path | None = None

    def failure(self, log: str | Path | None, rule: str = "", wildcards: str = "") -> Failure:
        """Say why the job of `rule` with these wildcards, which writes `log`, left no result."""
        lines = last_lines(log)
        job = job_of(log)
        later = self._later_attempt(log, job, rule, wildcards)
        if later is not None:
            return later
        theirs = log_of_job(self.scheduler_logs, job, rule, wildcards)
        killed = self._killed(job, theirs)
        ending = next((found for line in reversed(lines) if (found := _END.search(line))), None)
        if ending:
            kind = ENDINGS.get(int(ending.group(1)), CRASH)
            reason = reason_from_log(log)
            if kind == ENDINGS[EXIT_INTERRUPTED] and (
                _WARNED.search(reason) or (killed is not None and killed.kind == TIME)
            ):
                kind = TIME
            return Failure(kind, reason)
        if killed is not None:
            return killed
        if any(line.startswith("Traceback (most recent call last)") for line in lines):
            return Failure(CRASH, reason_from_log(log))
        if lines and " done in " in lines[-1]:
            return Failure(
                NOT_RUN, "it ended well and its result was removed, as when a job of its group fails"
            )
        if lines:
            return Failure(
                KILLED, f"its log ends without a word, as after a kill from outside: {lines[-1].strip()}"
            )
        if theirs is not None:
            return Failure(
                CRASH, f"it ended before its script began, see {theirs}: {reason_from_log(theirs)}"
            )
        return Failure(NOT_RUN, reason_from_log(log))

    def _later_attempt(
        self, log: str | Path | None, job: str | None, rule: str, wildcards: str
    ) -> Failure | None:
        """Why an attempt was killed that never came to write the rule's log, which tells of one before it."""
        if log is None or not Path(log).is_file():
            return None
        newest = log_of_job(self.scheduler_logs, None, rule, wildcards)
        if newest is None or newest.stem == job or newest.stat().st_mtime <= Path(log).stat().st_mtime:
            return None
        return self._killed(newest.stem, newest)

    def _killed(self, job: str | None, theirs: Path | None) -> Failure | None:
        """What the scheduler says of the end of a job, in its log and in accounting."""
        lines = last_lines(theirs)
        for kind, words in _OF_WORDS.items():
            for line in reversed(lines):
                if re.search(words, line, re.IGNORECASE):
                    return Failure(kind, " ".join(line.split()))
        known = self.accounted.get(job or "")
        if known is not None and known.state in _OF_STATE:
            return Failure(_OF_STATE[known.state], f"SLURM job {job}: {known.state}")
        return None
