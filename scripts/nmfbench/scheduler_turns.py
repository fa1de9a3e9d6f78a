"""Snakemake's scheduler, woken by one timer and not by one for each job that has ended.

Each turn of its loop sets a timer of a second, after which the limit of submissions might let more jobs
begin; the timer's turn sets the next. A job that ends wakes it as well, and so begins a chain of timers of
its own, which never ends: after 130 jobs there are 130 threads and about as many turns a second, a sixth of a
core on the machine that people share to submit from (snakemake issue 3804: until no thread can be started).
Here there is one chain.
"""

from __future__ import annotations

import threading
from typing import Any

INTERNAL = "_schedule_reevalutation"
"""What sets a timer in Snakemake's scheduler (9.27); it does not promise to keep it."""


def one_chain_of_timers() -> bool:
    """Let Snakemake's scheduler have one chain of timers; False where it has none that is known."""
    try:
        from snakemake.scheduling.job_scheduler import JobScheduler
    except ImportError:
        return False
    return set_one_timer(JobScheduler)


def set_one_timer(scheduler: Any) -> bool:
    """Let a scheduler set a timer only where none is running.

    Parameters
    ----------
    scheduler : type
        ``snakemake.scheduling.job_scheduler.JobScheduler``.

    Returns
    -------
    bool
        Whether this Snakemake's scheduler has such timers. If not, nothing is changed.
    """
    if getattr(scheduler, "_nmfbench_turns", False):
        return True
    if not hasattr(scheduler, INTERNAL):
        return False

    def set_timer(self: Any, delay: float) -> None:
        if getattr(self, "_nmfbench_timer_runs", False):
            return
        self._nmfbench_timer_runs = True

        def wake() -> None:
            self._nmfbench_timer_runs = False  # before the turn, which sets the next
            self._open_jobs.release()

        timer = threading.Timer(delay, wake)
        timer.daemon = True  # nobody waits for it at the end
        timer.start()

    setattr(scheduler, INTERNAL, set_timer)
    scheduler._nmfbench_turns = True
    return True
