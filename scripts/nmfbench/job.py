"""What surrounds the work of a rule: log, threads, signals, errors, ``run.json``.

A script of the workflow is ``with job(snakemake) as run: ...``. Inside, everything that
is printed (also by C libraries and child processes) lands in the rule's log
file, the thread count that Snakemake granted holds for every numerical
library, a stop signal is told to work that looks (:attr:`Job.stop_requested`) and
ends other work, a GPU that a scheduler was asked for is there, and an
:class:`~nmfbench.errors.InputError` ends the job with its message alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from nmfbench.atomic import whole_file
from nmfbench.caches import settle
from nmfbench.checkout import check_package
from nmfbench.cluster import gpu_asked
from nmfbench.endings import (
    ENDINGS,
    EXIT_BAD_INPUT,
    EXIT_CRASH,
    EXIT_INTERRUPTED,
    EXIT_MEMORY,
    EXIT_NO_DEVICE,
    Interrupted,
)
from nmfbench.errors import DeviceError, InputError, NotApplicable
from nmfbench.gpu_use import GpuUse
from nmfbench.inapplicable import reason_among, write_stub
from nmfbench.memory import peak_mb
from nmfbench.threads import let_waiting_threads_sleep

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
VERSIONED = (
    *("anndata", "igraph", "leidenalg", "numpy", "pandas", "pyro-ppl"),
    *("scanpy", "scikit-learn", "scipy", "torch"),
)

log = logging.getLogger("nmfbench")


@dataclass
class Job:
    """A running job, as a script sees it.

    Attributes
    ----------
    threads : int
        Threads granted by Snakemake.
    terminal : TextIO or None
        The person's terminal where there is one, for progress bars; else None.
    started : float
        ``time.monotonic()`` at the start.
    signals : list of str
        Names of the stop signals received.
    listens : bool
        Whether the work looks at them, and ends by itself at a safe point.
    card : GpuUse or None
        How much the GPU works that the scheduler granted; None where it was asked for none.
    """

    threads: int
    terminal: TextIO | None = None
    started: float = field(default_factory=time.monotonic)
    signals: list[str] = field(default_factory=list)
    listens: bool = False
    card: GpuUse | None = None

    @property
    def stop_requested(self) -> Callable[[], bool]:
        """A function that says whether this job was asked to end.

        Who takes it promises to look; other work is broken off where it is.
        """
        self.listens = True
        return lambda: bool(self.signals)

    def receive(self, number: int, _: Any = None) -> None:
        """Note a signal; break off work that does not look at it, or is told a second time by hand.

        SIGUSR1 only announces the time limit: work without a safe point may still be done in time.
        """
        name = signal.Signals(number).name
        again = name in self.signals
        self.signals.append(name)
        if number != signal.SIGUSR1 and (not self.listens or (again and number == signal.SIGINT)):
            raise BrokenOff(name)


class BrokenOff(BaseException):
    """The work was broken off by a signal: nothing that catches exceptions goes on."""


@contextlib.contextmanager
def job(smk: Any) -> Iterator[Job]:
    """Run the body of a script as a job of the workflow.

    Parameters
    ----------
    smk : snakemake.script.Snakemake
        The object that Snakemake gives to a script.

    Yields
    ------
    Job
    """
    terminal = _terminal()
    if smk.log:
        _redirect_output(Path(smk.log[0]))
    for stream in (sys.stdout, sys.stderr):  # names of cells have letters that the locale may lack
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    style = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True, **style)
    if terminal is not None:
        logging.getLogger().addHandler(_terminal_handler(terminal, smk.rule))
    logging.captureWarnings(True)
    settle()
    os.environ["MPLBACKEND"] = (
        "agg"  # figures are files; a notebook's kernel names a backend that is not here
    )
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(smk.threads)
    let_waiting_threads_sleep()
    run = Job(threads=smk.threads, terminal=terminal)
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signal_number, run.receive)
    wildcards = ", ".join(f"{key}={value}" for key, value in smk.wildcards.items())
    start = "%s (%s) starts on %s with %d threads%s"
    log.info(start, smk.rule, wildcards, platform.node(), smk.threads, _scheduled_as())
    code = 0
    _pass_on(smk)
    try:
        check_package(getattr(smk, "scriptdir", None))
        if gpu_asked(getattr(smk, "resources", {})):
            from nmfbench.device import check_granted

            check_granted()
            run.card = GpuUse.of("cuda")
        yield run
    except NotApplicable as error:
        log.warning("%s is not applicable.\n%s", smk.rule, error)
        _leave_stubs(smk, error.reason)
    except InputError as error:
        log.error("%s cannot use its input.\n%s", smk.rule, error)
        code = EXIT_NO_DEVICE if isinstance(error, DeviceError) else EXIT_BAD_INPUT
    except Interrupted as stop:
        log.error("%s stopped after %s: %s", smk.rule, ", ".join(run.signals) or "a request", stop)
        code = EXIT_INTERRUPTED
    except BrokenOff as stop:
        log.error("%s was stopped by %s; nothing half-written is left", smk.rule, stop)
        code = EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            log.error("%s", disk_error(error, smk.output[0] if smk.output else "the output"))
            code = EXIT_BAD_INPUT
        else:
            # the traceback belongs into the log, before the interpreter says it again with shifted lines
            log.exception("%s failed", smk.rule)
            code = EXIT_MEMORY if _is_about_memory(error) else EXIT_CRASH
    if code:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_IGN)  # it ends already
        # the table of gaps reads this line
        log.error("%s ends with exit code %d: %s", smk.rule, code, ENDINGS[code])
        raise SystemExit(code)
    if run.card is not None:
        run.card.stop()
        if run.card.share is not None:  # the table of resources reads this
            log.info("the card worked in %.4f of the time", run.card.share)
    log.info("%s done in %.1f s, peak memory %.0f MB", smk.rule, time.monotonic() - run.started, peak_mb())


def _pass_on(smk: Any) -> None:
    """End a job of one fit well, where an input of it says that it is not applicable.

    Tables and figures of many fits have no model among their wildcards; they show the gaps.
    """
    if "model" not in dict(smk.wildcards.items()):
        return
    reason = reason_among(str(path) for path in getattr(smk, "input", ()))
    if reason is not None:
        _leave_stubs(smk, reason)
        raise SystemExit(0)


def _leave_stubs(smk: Any, reason: str) -> None:
    for path in smk.output:
        write_stub(path, reason)
    log.warning("%s: not applicable: %s", smk.rule, reason)


def _scheduled_as() -> str:
    """Which job of a scheduler this is, for those who look for its log or its accounting."""
    number = os.environ.get("SLURM_JOB_ID")
    return f", SLURM job {number} in partition {os.environ.get('SLURM_JOB_PARTITION')}" if number else ""


def _is_about_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's and numpy's, or torch's on the GPU or the CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


_DISK_ERRORS = {28: "the disk is full", 122: "the disk quota is used up", 27: "a file size limit is hit"}


def disk_error(error: OSError, path: str) -> InputError:
    """Say what a failed write means for the reader."""
    return InputError(
        thing=f"{path}: {_DISK_ERRORS.get(error.errno or 0, 'it cannot be written')}",
        expected="room for the output",
        got=str(error),
        remedy="free space, or run in a folder on a larger disk (snakemake --directory); "
        "nothing half-written was left, so the same command goes on from here",
    )


def _terminal() -> TextIO | None:
    """Give a handle on the person's terminal that survives the redirection of stderr."""
    if not os.isatty(2):
        return None
    return os.fdopen(os.dup(2), "w", encoding="utf-8")


def _terminal_handler(terminal: TextIO, rule: str) -> logging.Handler:
    """Show the lines of the log to a person who is watching, with the rule in front."""
    handler = logging.StreamHandler(terminal)
    handler.setFormatter(logging.Formatter(f"[{rule}] %(message)s"))
    return handler


def _redirect_output(path: Path) -> None:
    """Send the stdout and stderr descriptors, and so child processes too, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def versions() -> dict[str, str]:
    """Versions of Python, nmfbench and of the numerical libraries that are installed."""
    from nmfbench import __version__

    found = {"python": platform.python_version(), "nmfbench": __version__}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit(folder: Path | None = None) -> str | None:
    """Commit of the checkout that holds this package, with ``+`` when files differ from it."""
    import subprocess

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder or Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+" if changes else head


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one step: it is there whole, or not at all."""
    text = json.dumps(content, indent=2, default=_plain) + "\n"
    with whole_file(path) as stream:
        stream.write(text.encode())


def _plain(value: Any) -> Any:
    """Turn numpy scalars and arrays into what JSON knows."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written to JSON")
