"""Jobs that no single fit owns: source, filter, statistics, shuffled store, sweeps over ranks.

Such a job is a plain mapping with

``dataset, step, part, model``
    whose it is; its rule; which of the rule's jobs it is (a shard, say), empty where it is the only one; the
    model that it belongs to, or None;
``file, needs``
    the file it leaves, and those of other jobs that it begins from;
``log, benchmark, wildcards``
    where it writes, and the name that the scheduler's logs have for it.

A fit's cell may say in ``needs`` which of these files it begins from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmfbench.tables.failures import NOT_RUN, Evidence, Failure
from nmfbench.tables.runs import Cell, run_folder

SharedJob = Mapping[str, Any]


class SharedJobs:
    """What is there of the shared jobs of a dataset, and why the rest is not.

    Parameters
    ----------
    jobs : sequence of mapping
        As the module describes them.
    grid : sequence of mapping
        The fits of the dataset (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.
    evidence : Evidence, optional
        What the scheduler knows.
    """

    def __init__(
        self,
        jobs: Sequence[SharedJob],
        grid: Sequence[Cell],
        directory: str | Path,
        evidence: Evidence | None = None,
    ) -> None:
        self._jobs = {job["file"]: job for job in jobs}
        self._evidence = evidence or Evidence()
        self._users: dict[str, list[str]] = {}
        for user, needs in [
            *((job["file"], job["needs"]) for job in jobs),
            *((str(run_folder(cell, directory) / "result.h5ad"), cell.get("needs", ())) for cell in grid),
        ]:
            for file in needs:
                self._users.setdefault(file, []).append(user)

    def groups(self) -> Iterator[tuple[str, str | None, list[SharedJob]]]:
        """The jobs of each step and model."""
        jobs = list(self._jobs.values())
        for step, model in dict.fromkeys((job["step"], job["model"]) for job in jobs):
            yield step, model, [job for job in jobs if (job["step"], job["model"]) == (step, model)]

    def present(self, file: str) -> bool:
        """Whether a file is there, or was: all that begin from it are there, as from a merged shard."""
        users = self._users.get(file, [])
        return Path(file).is_file() or (bool(users) and all(map(self.present, users)))

    def failure_of(self, job: SharedJob) -> Failure:
        """Why a job left no result."""
        culprit, failure = self._cause(job)
        return failure if culprit is job else _waiting_for(culprit)

    def failure(self, needs: Sequence[str], own: Failure) -> Failure:
        """Why there is no result of what begins from the files `needs`, when its own log tells `own`."""
        cause = self._missing(needs)
        return own if cause is None or not _goes_before(cause[1], own) else _waiting_for(cause[0])

    def _cause(self, job: SharedJob) -> tuple[SharedJob, Failure]:
        """The job whose failure this one's comes from: itself, or one that it waits for."""
        own = self._evidence.failure(job["log"], job["step"], job["wildcards"])
        before = self._missing(job["needs"])
        return before if before is not None and _goes_before(before[1], own) else (job, own)

    def _missing(self, needs: Sequence[str]) -> tuple[SharedJob, Failure] | None:
        found = [
            self._cause(self._jobs[file]) for file in needs if file in self._jobs and not self.present(file)
        ]
        return min(found, key=lambda cause: cause[1].kind == NOT_RUN, default=None)


def _goes_before(earlier: Failure, own: Failure) -> bool:
    """Whether what a job waits for explains its gap better than its own log, maybe of an earlier try."""
    return earlier.kind != NOT_RUN or own.kind == NOT_RUN


def _waiting_for(job: SharedJob) -> Failure:
    return Failure(NOT_RUN, f"not run: {name_of(job)} has no result")


def name_of(job: SharedJob) -> str:
    """What a job is called in a line of text: ``gather_statistics 2-of-4``."""
    return " ".join(part for part in (job["step"], job["model"], job["part"]) if part)
