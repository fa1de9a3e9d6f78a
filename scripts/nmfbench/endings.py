"""How a job may end: the exit codes, what the table of gaps calls them, and a stop at a safe point."""

from __future__ import annotations

EXIT_CRASH = 1
EXIT_BAD_INPUT = 2
EXIT_NO_DEVICE = 3
EXIT_MEMORY = 4
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: run it again, it resumes
ENDINGS = {
    EXIT_CRASH: "crash",
    EXIT_BAD_INPUT: "bad input",
    EXIT_NO_DEVICE: "gpu missing",
    EXIT_MEMORY: "memory",
    EXIT_INTERRUPTED: "interrupted",
}
"""What an exit code means: the classes of failure that a job can tell itself."""


class Interrupted(Exception):
    """The work stopped at a safe point after a signal; running it again resumes it."""
