"""What was expected, what is there, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.inapplicable import MARK, reason_in
from nmfbench.metrics import CLASSIFICATION_METRICS, CLUSTERING_METRICS
from nmfbench.paths import path_name
from nmfbench.tables.failures import CRASH, NOT_APPLICABLE, NOT_RUN, Evidence, Failure
from nmfbench.tables.runs import (
    RUN_COLUMNS,
    Cell,
    classification_path,
    donor_cv_path,
    donor_transfer_path,
    expected_folds,
    expected_leiden,
    identity,
    read_scores,
    run_folder,
    try_read,
)
from nmfbench.tables.shared import SharedJob, SharedJobs

if TYPE_CHECKING:
    import pandas as pd

COVERAGE_COLUMNS = (*RUN_COLUMNS, "step", "label", "expected", "present", "status", "failure", "reason")

TRAIN, NEIGHBOURS, CLUSTER, SCORE, CLASSIFY, INTEGRATE, UMAP, DONOR_CV, TRANSFER, DEVIANCE = (
    "train",
    "find_neighbours",
    "cluster_embedding",
    "score_clusters",
    "classify_embedding",
    "score_integration",
    "compute_umap",
    "classify_held_out_donors",
    "transfer_to_donors",
    "score_held_out_counts",
)


def coverage(
    grid: Sequence[Cell],
    directory: str | Path,
    log_patterns: Mapping[str, str] | None = None,
    evidence: Evidence | None = None,
    jobs: Sequence[SharedJob] = (),
) -> pd.DataFrame:
    """Compare what every step should have left with what is there.

    Parameters
    ----------
    grid : sequence of mapping
        Expected runs (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.
    log_patterns : mapping of str to str, optional
        Log file of each step (``train``, ``find_neighbours``, ``cluster_embedding``, ``score_clusters``,
        ``classify_embedding``, ``score_integration``, ``compute_umap``, ``classify_held_out_donors``,
        ``transfer_to_donors``, ``score_held_out_counts``), with fields of the cell,
        ``{label}`` and ``{cv_seed}`` in braces.
    evidence : Evidence, optional
        What the scheduler knows; by default the logs alone tell.
    jobs : sequence of mapping, optional
        Jobs that several runs share (:mod:`nmfbench.tables.shared`). Their rows come first, one for each step
        and model, without rank and seed; a run that waits for one of them is ``not run``.

    Returns
    -------
    DataFrame
        Columns :data:`COVERAGE_COLUMNS`. ``expected`` and ``present`` count files, Leiden seeds, fold
        rows or shared jobs. ``status`` is ``ok``, ``partial`` or ``missing``; the last two have a class of
        ``failure`` (:class:`~nmfbench.tables.failures.Failure`) and a ``reason``.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    evidence = evidence or Evidence()
    for dataset in dict.fromkeys(cell["dataset"] for cell in grid):
        cells = [cell for cell in grid if cell["dataset"] == dataset]
        shared = SharedJobs([job for job in jobs if job["dataset"] == dataset], cells, directory, evidence)
        rows += _shared_rows(dataset, shared)
        for cell in cells:
            rows += _Run(cell, Path(directory), log_patterns or {}, evidence, shared).rows()
    table = pd.DataFrame(rows, columns=list(COVERAGE_COLUMNS))
    whole = {"rank": "Int64", "seed": "Int64"}  # whole beside rows that have none
    return table.astype(whole | {"expected": "int64", "present": "int64"})


def _shared_rows(dataset: str, shared: SharedJobs) -> list[dict[str, Any]]:
    """Coverage of the steps that runs share."""
    rows = []
    for step, model, jobs in shared.groups():
        gone = [(job, shared.failure_of(job)) for job in jobs if not shared.present(job["file"])]
        kinds = "; ".join(dict.fromkeys(failure.kind for _, failure in gone))
        reason = "; ".join(f"{job['part']}: {why.reason}" if job["part"] else why.reason for job, why in gone)
        run = {"dataset": dataset, "model": model, "rank": None, "seed": None}
        present = len(jobs) - len(gone)
        rows.append(run | _entry(step, None, len(jobs), present, Failure(kinds, reason)))
    return rows


def _entry(step: str, label: str | None, expected: int, present: int, failure: Failure) -> dict[str, Any]:
    status = "ok" if present >= expected else "partial" if present else "missing"
    return {
        "step": step,
        "label": label,
        "expected": expected,
        "present": present,
        "status": status,
        "failure": "" if status == "ok" else failure.kind,
        "reason": "" if status == "ok" else failure.reason,
    }


class _Run:
    """Coverage of one run."""

    def __init__(
        self,
        cell: Cell,
        directory: Path,
        log_patterns: Mapping[str, str],
        evidence: Evidence,
        shared: SharedJobs,
    ) -> None:
        self.cell = cell
        self.directory = directory
        self.folder = run_folder(cell, directory)
        self.log_patterns = log_patterns
        self.evidence = evidence
        self.shared = shared

    def rows(self) -> list[dict[str, Any]]:
        trained = self._there("result.h5ad")
        clustered = self._there("clusters.tsv.gz")
        waits = None if trained else Failure(NOT_RUN, "not run: the training has no result")
        if (reason := reason_in(self.folder / "result.h5ad")) is not None:
            waits = Failure(NOT_APPLICABLE, reason)
        searched = self._there("neighbours.npz")
        unsearched = None if searched else Failure(NOT_RUN, "not run: there are no neighbours")
        unclustered = None if clustered else Failure(NOT_RUN, "not run: there are no clusters")
        rows = [
            self._row(TRAIN, None, 1, trained, self._untrained() if reason is None else waits),
            self._row(NEIGHBOURS, None, 1, searched, waits or self._failure(NEIGHBOURS)),
            self._row(CLUSTER, None, 1, clustered, waits or unsearched or self._failure(CLUSTER)),
            *self._clustering(waits or unclustered),
            *(self._classification(label, waits or unsearched) for label in self.cell["labels"]),
        ]
        if wanted := self.cell.get("integration", ()):
            rows.append(self._integration(len(wanted), waits or unsearched))
        if self.cell.get("donor_cv", False):
            for label in self.cell["donor_labels"]:
                path = donor_cv_path(self.cell, self.directory, label)
                rows.append(self._donors(DONOR_CV, path, label, waits))
        if self.cell.get("donor_transfer", False):
            path = donor_transfer_path(self.cell, self.directory)
            rows.append(self._donors(TRANSFER, path, None, None))
        if self.cell.get("deviance", False):
            path = self.folder / "deviance_explained.tsv"
            reason = reason_in(path)
            failure = self._failure(DEVIANCE) if reason is None else Failure(NOT_APPLICABLE, reason)
            rows.append(self._row(DEVIANCE, None, 1, self._there(path.name), failure))
        if self.cell.get("umap", False):
            laid_out = self._there("umap.tsv.gz")
            rows.append(self._row(UMAP, None, 1, laid_out, waits or unsearched or self._failure(UMAP)))
        return rows

    def _there(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and reason_in(path) is None

    def _untrained(self) -> Failure:
        return self.shared.failure(self.cell.get("needs", ()), self._failure(TRAIN))

    def _clustering(self, waits: Failure | None) -> list[dict[str, Any]]:
        path = self.folder / "clustering.tsv"
        table, problem = try_read(path, partial(read_scores, columns=["label", *CLUSTERING_METRICS]))
        failure = _of_problem(problem) if problem else waits or self._failure(SCORE)
        rows = []
        for label in self.cell["labels"]:
            present = 0
            if table is not None:
                present = int(
                    table.loc[table["label"] == label, list(CLUSTERING_METRICS)].notna().all(axis=1).sum()
                )
                failure = _without_scores(path, table[table["label"] == label])
            rows.append(self._row(SCORE, label, expected_leiden(self.cell), present, failure))
        return rows

    def _classification(self, label: str, waits: Failure | None) -> dict[str, Any]:
        present, failures = 0, []
        read = partial(read_scores, columns=[*CLASSIFICATION_METRICS, "status", "message"])
        for cv_seed in self.cell["cv_seeds"]:
            path = classification_path(self.cell, self.directory, label, cv_seed)
            table, problem = try_read(path, read)
            if table is None:
                failed = _of_problem(problem) if problem else waits
                failures.append(failed or self._failure(CLASSIFY, label=label, cv_seed=cv_seed))
                continue
            bad = table[table["status"] != "ok"]
            present += len(table) - len(bad)
            failures += [Failure(CRASH, f"{row.classifier}: {row.message}") for row in bad.itertuples()]
        expected = expected_folds(self.cell) * len(self.cell["cv_seeds"])
        # the same reason many times over is said once, with how often
        counted = [
            f"{failure.reason} ({n} times)" if (n := failures.count(failure)) > 1 else failure.reason
            for failure in dict.fromkeys(failures)
        ]
        kinds = "; ".join(dict.fromkeys(failure.kind for failure in failures))
        reason = "; ".join(counted) or "fewer rows than expected"
        return self._row(CLASSIFY, label, expected, present, Failure(kinds or CRASH, reason))

    def _integration(self, expected: int, waits: Failure | None) -> dict[str, Any]:
        path = self.folder / "integration.tsv"
        table, problem = try_read(path, partial(read_scores, columns=["metric", "status", "message"]))
        if table is None:
            failure = _of_problem(problem) if problem else waits or self._failure(INTEGRATE)
            return self._row(INTEGRATE, None, expected, 0, failure)
        bad = table[table["status"] == "failed"]
        reason = "; ".join(f"{row.metric}: {row.message}" for row in bad.itertuples())
        present = len(table) - len(bad)
        return self._row(INTEGRATE, None, expected, present, Failure(CRASH, reason or "fewer than expected"))

    def _donors(self, step: str, path: Path, label: str | None, waits: Failure | None) -> dict[str, Any]:
        """Scores of held-out donors: rows of classifiers, as many as were tried."""
        table, problem = try_read(path, partial(read_scores, columns=["classifier", "status", "message"]))
        if table is None:
            fields = {} if label is None else {"label": label}
            failure = _of_problem(problem) if problem else waits or self._failure(step, **fields)
            return self._row(step, label, 1, 0, failure)
        bad = table[~table["status"].isin(["ok", NOT_APPLICABLE])]
        reasons = dict.fromkeys(f"{row.classifier}: {row.message}" for row in bad.itertuples())
        present = len(table) - len(bad)
        return self._row(step, label, len(table), present, Failure(CRASH, "; ".join(reasons)))

    def _failure(self, step: str, **fields: Any) -> Failure:
        pattern = self.log_patterns.get(step)
        rule = f"train_{self.cell.get('kind')}" if step == TRAIN else step
        wildcards = "_".join(map(str, [*identity(self.cell).values(), *fields.values()]))
        if "label" in fields:
            fields["label"] = path_name(fields["label"])
        return self.evidence.failure(pattern and pattern.format(**self.cell, **fields), rule, wildcards)

    def _row(
        self, step: str, label: str | None, expected: int, present: int, failure: Failure
    ) -> dict[str, Any]:
        return identity(self.cell) | _entry(step, label, expected, int(present), failure)


def _of_problem(problem: str) -> Failure:
    """Why a file gives nothing: it cannot be read, or says that there is nothing to give."""
    if problem.startswith(MARK):
        return Failure(NOT_APPLICABLE, problem.removeprefix(MARK))
    return Failure(CRASH, problem)


def _without_scores(path: Path, rows: pd.DataFrame) -> Failure:
    """Why a label has no clustering scores, for some seeds or any."""
    said = [str(message) for message in rows.get("message", ()) if isinstance(message, str) and message]
    if said:
        return Failure(NOT_APPLICABLE, said[0])
    return Failure(CRASH, f"{path.name} has no scores of this label for some seeds")


#: The line of the overview for the steps that runs share.
SHARED = "(shared)"


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Coverage for the eye: one row for each run, one column for each step.

    Returns
    -------
    DataFrame
        ``model``, ``rank``, ``seed``; for each step what is present of what is expected, as ``3 of 5``; and
        ``failures``, the classes of what failed by itself (what only waited for it is left out). Where
        something is missing of the steps that runs share, a first row says so for all of them.
    """
    import pandas as pd

    rows = []
    of_runs = table["seed"].notna()
    if (table.loc[~of_runs, "status"] != "ok").any():
        rows.append({"model": SHARED, "rank": None, "seed": None} | _line(table[~of_runs]))
    for run, steps in table[of_runs].groupby(list(RUN_COLUMNS), sort=False, dropna=False):
        rows.append(dict(zip(RUN_COLUMNS[1:], run[1:], strict=True)) | _line(steps))
    found = pd.DataFrame(rows).astype({"rank": "Int64", "seed": "Int64"})
    return found[[*found.columns.drop("failures"), "failures"]]


def _line(steps: pd.DataFrame) -> dict[str, str]:
    """What is there of each step, and what failed by itself."""
    counts = steps.groupby("step", sort=False)[["expected", "present"]].sum()
    shown = {step: f"{row.present} of {row.expected}" for step, row in counts.iterrows()}
    return shown | {"failures": failures_among(steps)}


def failures_among(steps: pd.DataFrame) -> str:
    """Classes of what failed by itself among rows of coverage, by step; what only waited is left out."""
    failed = steps.loc[steps["status"] != "ok"]
    named = [f"{row.step}: {row.failure}" for row in failed.itertuples() if row.failure != NOT_RUN]
    if not named and len(failed):
        named = [NOT_RUN]
    return "; ".join(dict.fromkeys(named)) or "none"
