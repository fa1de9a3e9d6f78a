"""Fits that share one GPU job, one after the other: which do, and what becomes of them when one fails.

A fit of a minute is shorter than the wait for its GPU. Snakemake's groups put several into one job of the
scheduler, each on the card alone (their resource `gpu_turn`, of which the profile has one in a job). But a
group fails as a whole: the outputs of its finished members are removed and all are trained again. Here a
group of trainings falls apart instead: what is finished stays and goes on to its scores, what is not is tried
again as a job of its own, with more memory and time, from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SHORT_FIT = 300.0
"""Seconds of a fit above which it has a job of its own."""

BEFORE_A_FIT = 60.0
"""Seconds for imports, compiling and reading."""

PRODUCTS_A_SECOND = 6e9
"""Nonzeros x factors of one pass that the slowest of the models gets through in a second on an H200."""

PASSES = 200
"""Passes over the cells of a model that does not say how many it takes at most."""

INTERNALS = ("_handle_error", "get_executor", "_free_resources")
"""What of Snakemake's scheduler is used here that it does not promise to keep."""


def expected_seconds(nonzeros: float, rank: int, max_iter: Any) -> float:
    """About how long a fit takes on a GPU: what is known before any job runs, taken with room.

    Parameters
    ----------
    nonzeros : float
        Of the counts.
    rank : int
    max_iter : int, mapping of str to int, or None
        Passes at most, maybe by solver; the largest counts, :data:`PASSES` where nothing is said.
    """
    numbers = list(max_iter.values()) if isinstance(max_iter, Mapping) else [max_iter]
    passes = max((number for number in numbers if number is not None), default=PASSES)
    return BEFORE_A_FIT + passes * nonzeros * rank / PRODUCTS_A_SECOND


def minutes_of(seconds: float) -> float:
    """Minutes that a job asks for each of its fits: three times the expected, and ten."""
    return 10 + 3 * seconds / 60


def groups_fall_apart() -> bool:
    """Let failed groups of trainings fall apart; False, with a line in the log, if this Snakemake cannot."""
    from snakemake.logging import logger

    try:
        from snakemake.jobs import GroupJob
        from snakemake.scheduling.job_scheduler import JobScheduler
    except ImportError:
        known = False
    else:
        known = let_groups_fall_apart(JobScheduler, lambda job: job.rule.name.startswith("train_"))
        say_why_groups_fail(GroupJob, logger.error)
    if not known:
        logger.warning(
            "fits_per_gpu_job of the profile: this version of Snakemake is not known to keep the results of "
            "a shared job in which one fit fails, so each fit has its own job. Under 9.27.1 they share."
        )
    return known


def say_why_groups_fail(group: Any, say: Callable[[str], None]) -> None:
    """Let a group of Snakemake's say the reason that it is given and drops, a refusal by sbatch included.

    Parameters
    ----------
    group : type
        ``snakemake.jobs.GroupJob`` (9.27).
    say : callable
        Where the reason goes.
    """
    if getattr(group, "_nmfbench_says", False):
        return
    log_error = group.log_error

    def log_with_reason(self: Any, msg: str | None = None, *args: Any, **more: Any) -> None:
        if msg:
            say(msg)
        log_error(self, msg, *args, **more)

    group.log_error, group._nmfbench_says = log_with_reason, True


def let_groups_fall_apart(scheduler: Any, holds: Callable[[Any], bool]) -> bool:
    """Let Snakemake's scheduler keep what is finished of a failed group, and try the rest again one by one.

    Parameters
    ----------
    scheduler : type
        ``snakemake.scheduling.job_scheduler.JobScheduler`` (9.27).
    holds : callable
        From a job to whether it may be a member of such a group.

    Returns
    -------
    bool
        Whether this Snakemake's scheduler has what that needs. If not, nothing is changed, and fits must not
        share jobs: one that fails would take the others' results with it.
    """
    if getattr(scheduler, "_nmfbench_knows", False):
        return True
    if not all(hasattr(scheduler, name) for name in INTERNALS):
        return False
    handle = scheduler._handle_error

    def handle_error(self: Any, job: Any, postprocess_job: bool = True) -> None:
        training = all(map(holds, job)) if job.is_group() else holds(job)
        if training and self.workflow.remote_exec:
            self.keepgoing = True  # within the job: those that have not begun yet
        if training and job.is_group() and postprocess_job and not self.workflow.dryrun:
            _fall_apart(self, job)
        else:
            handle(self, job, postprocess_job)

    scheduler._handle_error, scheduler._nmfbench_knows = handle_error, True
    return True


def _fall_apart(scheduler: Any, group: Any) -> None:
    workflow, members = scheduler.workflow, list(group)
    dag = workflow.dag
    scheduler.get_executor(group).handle_job_error(group)
    scheduler.running.remove(group)
    scheduler._free_resources(group)
    dag._running.discard(group)
    finished = [job for job in members if workflow.async_run(_is_whole(job))]
    for job in finished:
        workflow.async_run(job.postprocess(check_output_mtime=False))
        dag._running.add(job)
        scheduler.finished_jobs += 1
        workflow.async_run(dag.finish(job))
    for job in members:
        if job in finished:
            continue
        workflow.async_run(job.postprocess(error=True))
        job.group, dag._group[job] = None, None
        if job.restart_times > job.attempt - 1:
            job.attempt += 1
            dag._ready_jobs.add(job)
        else:
            scheduler._errors = True
            scheduler.failed.add(job)


async def _is_whole(job: Any) -> bool:
    """Whether a job has ended well: all of its files are there, and none is marked as begun."""
    for file in job.output:
        if not await file.exists():
            return False
    return not await job.dag.workflow.persistence.incomplete(job)
