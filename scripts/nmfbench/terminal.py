"""What a person sees of a run of Snakemake: a line for a finished job, the time left, every error in full.

Snakemake prints eight lines for each job, or with ``--quiet rules`` none, not even of a failed one. In place
of its handler on the terminal stands one that counts. The log file that Snakemake keeps stays complete.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from nmfbench.asked import Asked

if TYPE_CHECKING:
    from nmfbench.expected import ExpectedSizes

#: Of the messages that tell of Snakemake's own work, those that tell a person nothing.
_CHATTER = (
    *("Select jobs to execute", "Execute ", "Using shell:", "Provided cores:", "Rules claiming more threads"),
    *(
        "Conda environments:",
        "Singularity containers:",
        "Group jobs:",
        "host:",
        "Adding ",
        "Loading script code",
    ),
    *("Removing temporary output", "Provided remote nodes", "Provided resources", "Job stats:"),
    *("Building DAG of jobs", "Assuming unrestricted shared filesystem", "Reasons:", "Successfully archived"),
)
#: Wildcards that name a job, in this order.
_NAMING = ("dataset", "model", "rank", "seed", "label", "cv_seed", "part", "order", "scatteritem")
_MOST_LINES = 100


def be_brief(logger: logging.Logger, *, dry_run: bool, sizes: ExpectedSizes | None = None) -> None:
    """Put a brief handler in the place of Snakemake's own on the terminal, where the call is a quiet one.

    Parameters
    ----------
    logger : logging.Logger
        Snakemake's logger with its handlers.
    dry_run : bool
        Whether jobs are only listed.
    sizes : ExpectedSizes, optional
        For the disk that a dry run says will be needed.

    Notes
    -----
    Nothing is done where rules are to be printed (``--quiet none`` or none given), where nothing is to be
    (``--quiet all``), or where a logger plugin writes to the terminal.
    """
    for handler in list(logger.handlers):
        quiet = {str(word).lower() for filter_ in handler.filters for word in getattr(filter_, "quiet", ())}
        on_terminal = type(handler).__name__ == "ColorizingTextHandler"
        if on_terminal and "rules" in quiet and not quiet & {"all", "progress"}:
            logger.removeHandler(handler)
            logger.addHandler(BriefHandler(handler.formatter, handler.stream, dry_run=dry_run, sizes=sizes))


class BriefHandler(logging.Handler):
    """Prints finished jobs with the time left, errors and warnings; of a dry run what its jobs ask for.

    Parameters
    ----------
    formatter : logging.Formatter or None
        Of the handler that it replaces: errors look as Snakemake has them, with the log of the job.
    stream : TextIO, optional
    dry_run : bool
    sizes : ExpectedSizes, optional
    """

    def __init__(
        self,
        formatter: logging.Formatter | None,
        stream: TextIO | None = None,
        *,
        dry_run: bool = False,
        sizes: ExpectedSizes | None = None,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.stream = stream or sys.stderr
        self.dry_run = dry_run
        self.asked = Asked(sizes)
        self.started = time.monotonic()
        self.jobs: dict[int, tuple[str, float]] = {}
        self.done: list[str] = []
        self.counted = False
        self.printed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print what belongs on a terminal."""
        try:
            text = self._text(record)
            if text:
                self.stream.write(text.rstrip("\n") + "\n")
                self.stream.flush()
        except Exception:
            self.handleError(record)

    def _text(self, record: logging.LogRecord) -> str | None:
        event = str(getattr(record, "event", None) or "").rpartition(".")[2].lower()
        told = vars(record)
        if event == "job_info":
            self.jobs[told["jobid"]] = (_name(told), time.monotonic())
            self.asked.add(told)
            return None
        if event == "job_finished":
            self.done.append(self._finished(told))
            return None
        if event == "progress":
            return self._progress(told["done"], told["total"])
        if event == "run_info":
            first, self.counted = not self.counted, True
            return f"{told['stats']['total']} jobs to do" if first and not self.dry_run else None
        if event in ("job_error", "group_error", "error") or record.levelno >= logging.WARNING:
            return self.format(record)
        message = str(told.get("msg") or "")
        if event or not message.strip() or message.lstrip().startswith(_CHATTER):
            return None
        if self.dry_run and message.startswith("This was a dry-run"):
            return f"{self.asked}\n{message.split('.')[0]}; --quiet host lists every job."
        return message

    def _finished(self, told: Mapping[str, Any]) -> str:
        name, begun = self.jobs.get(told.get("job_id", told.get("jobid")), ("a job", self.started))
        return f"{name} ({duration(time.monotonic() - begun)})"

    def _progress(self, done: int, total: int) -> str | None:
        """A line at most for each hundredth of the jobs."""
        if done < total and done - self.printed < total / _MOST_LINES:
            return None
        self.printed = done
        elapsed = time.monotonic() - self.started
        left = f", about {duration(elapsed / done * (total - done))} left" if 0 < done < total else ""
        width = len(str(total))
        names, self.done = self.done, []
        finished = names[-1] if names else ""
        return f"[{done:{width}}/{total}] {duration(elapsed)}{left}: {finished}"


def _name(told: Mapping[str, Any]) -> str:
    """Rule and wildcards of a job, in a few words."""
    wildcards = told.get("wildcards") or {}
    get = wildcards.get if hasattr(wildcards, "get") else lambda key: getattr(wildcards, key, None)
    parts = [str(value) for key in _NAMING if (value := get(key)) is not None]
    return " ".join([str(told.get("rule_name")), *parts])


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4 s, 3:05, 2:01:00."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
