"""Snakemake's scheduler is woken by one timer, however many jobs have ended."""

from __future__ import annotations

import threading
import time

from nmfbench.scheduler_turns import INTERNAL, one_chain_of_timers, set_one_timer


class Scheduler:
    """The loop of Snakemake's, as far as its timers go: each turn sets one."""

    def __init__(self):
        self._open_jobs, self.turns = threading.Semaphore(0), 0

    def _schedule_reevalutation(self, delay):
        threading.Timer(delay, self._open_jobs.release).start()

    def run(self, seconds, delay):
        until = time.monotonic() + seconds
        while self._open_jobs.acquire(timeout=max(0.0, until - time.monotonic())):
            self.turns += 1
            self._schedule_reevalutation(delay)


def turns_after(scheduler, n_ended, seconds=1.0, delay=0.1):
    for _ in range(n_ended):
        scheduler._open_jobs.release()
    scheduler.run(seconds, delay)
    return scheduler.turns - n_ended


def test_turns_do_not_grow_with_the_jobs_that_ended():
    plain, mended = type("Plain", (Scheduler,), {}), type("Mended", (Scheduler,), {})
    assert set_one_timer(mended)
    assert set_one_timer(mended), "again, it changes nothing"
    assert turns_after(plain(), 20) > 60, "the fault is not there any more: drop the remedy"
    before = threading.active_count()
    scheduler = mended()
    found = turns_after(scheduler, 20)
    assert 3 <= found <= 10, "one turn for each delay, and never none"
    assert threading.active_count() <= before + 1


def test_a_turn_comes_after_every_turn():
    mended = type("Mended", (Scheduler,), {})
    set_one_timer(mended)
    scheduler = mended()
    scheduler._open_jobs.release()
    scheduler.run(0.5, 0.01)
    assert scheduler.turns > 10
    another = mended()
    assert turns_after(another, 1, 0.5) >= 2, "each scheduler has a chain of its own"


def test_this_snakemake_is_one_that_is_known():
    from snakemake.scheduling.job_scheduler import JobScheduler

    assert one_chain_of_timers()
    assert getattr(JobScheduler, INTERNAL).__module__ == "nmfbench.scheduler_turns"


def test_another_scheduler_stays_as_it_is():
    assert not set_one_timer(type("Other", (), {}))
