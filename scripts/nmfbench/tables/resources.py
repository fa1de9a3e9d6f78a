"""What every step took: seconds, memory, device."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from nmfbench.inapplicable import reason_in
from nmfbench.paths import path_name
from nmfbench.tables.runs import (
    RUN_COLUMNS,
    Cell,
    classification_path,
    donor_cv_path,
    fold_jobs,
    identity,
    read_run_record,
    run_folder,
    try_read,
)
from nmfbench.tables.scheduler import job_of
from nmfbench.tables.shared import SharedJob

if TYPE_CHECKING:
    import pandas as pd

    from nmfbench.tables.scheduler import Accounted

RESOURCE_COLUMNS = (
    *(*RUN_COLUMNS, "step"),
    *("seconds", "peak_mb", "gpu_peak_mb", "cpu_seconds", "threads", "device", "label", "cv_seed", "part"),
    *("cpu_efficiency", "queue_seconds", "job", "compile_seconds", "training", "gpu_share"),
)

#: Seconds below which Snakemake's benchmark has hardly sampled a job.
SHORTEST_SAMPLED = 1.0

#: Step whose seconds and peaks the run measured itself.
TRAIN = "train"


def step_jobs(pattern: str, cell: Cell) -> Iterator[tuple[dict[str, Any], Path]]:
    """Jobs of one step of a run, each with its file.

    Parameters
    ----------
    pattern : str
        Path with fields of the cell in braces and, for a step that is repeated, ``{label}`` and
        ``{cv_seed}``.
    cell : mapping
        Run.

    Yields
    ------
    repeat : dict
        ``label`` and ``cv_seed`` of the job, empty for a step that is not repeated.
    path : Path
    """
    if "label" in (fields := _fields(pattern)) and "cv_seed" not in fields:
        for label in cell.get("donor_labels", ()):
            yield {"label": label}, Path(pattern.format(**cell, label=path_name(label)))
    elif fields & {"label", "cv_seed"}:
        for label, cv_seed in fold_jobs(cell):
            repeat = {"label": label, "cv_seed": cv_seed}
            yield repeat, Path(pattern.format(**cell, **repeat | {"label": path_name(label)}))
    else:
        yield {}, Path(pattern.format(**cell))


def _fields(pattern: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(pattern) if name}


def read_benchmark(path: Path) -> dict[str, float]:
    """Read a Snakemake benchmark file: one header, one row; a dash or NA is a missing number."""
    import pandas as pd

    table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
    if table.empty or "s" not in table.columns:
        raise ValueError("not a benchmark file")
    return pd.to_numeric(table.iloc[-1], errors="coerce").to_dict()


def collect_resources(
    grid: Sequence[Cell],
    directory: str | Path,
    benchmark_patterns: Mapping[str, str] | None = None,
    log_patterns: Mapping[str, str] | None = None,
    accounted: Mapping[str, Accounted] | None = None,
    jobs: Sequence[SharedJob] = (),
) -> pd.DataFrame:
    """Gather time and memory of every step.

    Parameters
    ----------
    grid : sequence of mapping
        Expected runs (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.
    benchmark_patterns : mapping of str to str, optional
        Benchmark file of each step, as in :func:`step_jobs`.
    log_patterns : mapping of str to str, optional
        Log of each step, which tells the threads and the scheduler's job.
    accounted : mapping, optional
        What the scheduler's accounting knows of jobs, by their number.
    jobs : sequence of mapping, optional
        Jobs that runs share (:mod:`nmfbench.tables.shared`); rank and seed are missing in their rows.

    Returns
    -------
    DataFrame
        Columns :data:`RESOURCE_COLUMNS`; ``part`` tells the jobs of a shared step apart. Training takes
        its seconds, peaks and device from run.json where there is one. A step of several jobs has a row for
        each; a job that found that it is not applicable has none. ``cpu_efficiency`` is the CPU time of the
        whole job over its time on all its threads; ``queue_seconds`` the time it waited in the queue;
        ``compile_seconds`` what a training compiled before its seconds were counted; ``training`` what an
        autoencoder's estimated (``exact``, ``minibatch`` or ``published``); ``gpu_share`` in how much of its
        time the card of a training worked, or of another job that asked a scheduler for one.
    """
    import pandas as pd

    patterns, logs = dict(benchmark_patterns or {}), log_patterns or {}
    accounted = accounted or {}
    rows: list[dict[str, Any]] = []
    for job in jobs:
        which = {key: job[key] or None for key in ("dataset", "model", "step", "part")}
        rows.append(which | _measured(Path(job["benchmark"]), _scheduled(Path(job["log"]), accounted)))
    for cell in grid:
        if reason_in(run_folder(cell, directory) / "run.json") is not None:
            continue  # its jobs only passed a reason on
        run = identity(cell)
        if TRAIN not in patterns:
            rows.append(run | {"step": TRAIN} | _measured_by_run(cell, directory))
        for step, pattern in patterns.items():
            for repeat, path in step_jobs(pattern, cell):
                if _only_said_why_not(cell, directory, repeat):
                    continue
                own = _measured_by_run(cell, directory) if step == TRAIN else {}
                named = repeat | ({"label": path_name(repeat["label"])} if "label" in repeat else {})
                log = Path(logs[step].format(**cell, **named)) if step in logs else None
                measured = _measured(path, _scheduled(log, accounted))
                rows.append(run | {"step": step} | repeat | measured | own)
    rows = [row for row in rows if "seconds" in row]
    table = pd.DataFrame(rows, columns=list(RESOURCE_COLUMNS))
    # whole numbers stay whole beside rows that have none
    return table.astype(dict.fromkeys(("rank", "seed", "threads", "cv_seed"), "Int64"))


def _only_said_why_not(cell: Cell, directory: str | Path, repeat: Mapping[str, Any]) -> bool:
    """Whether a classification has no meaning for the data, so that its job took no time to speak of."""
    if "cv_seed" in repeat:
        path = classification_path(cell, directory, **repeat)
    elif repeat:
        path = donor_cv_path(cell, directory, **repeat)
    else:
        return False
    return reason_in(path) is not None


def _measured_by_run(cell: Cell, directory: str | Path) -> dict[str, Any]:
    record, _ = try_read(run_folder(cell, directory) / "run.json", read_run_record)
    names = ("seconds", "peak_mb", "gpu_peak_mb", "gpu_share", "threads", "device", "training")
    found = {name: record[name] for name in names if record and record.get(name) is not None}
    if record and "seconds_to_compile" in record:
        found["compile_seconds"] = record["seconds_to_compile"]
    return found


def _scheduled(path: Path | None, accounted: Mapping[str, Accounted]) -> dict[str, Any]:
    """What the log of a job tells about how it was run, and accounting about how it waited."""
    job = job_of(path)
    found = {"threads": threads_of(path), "job": job, "device": gpu_of(path), "gpu_share": share_of(path)}
    if job in accounted:
        found["queue_seconds"] = accounted[job].queue_seconds
    return found


def threads_of(log: Path | None) -> int | None:
    """Threads that the job which wrote this log was granted."""
    found = _in_head(log, r" starts on \S+ with (\d+) threads")
    return int(found) if found else None


def gpu_of(log: Path | None) -> str | None:
    """``cuda`` where the job that wrote this log says that its products are made there."""
    return _in_head(log, r" products on (cuda)")


def share_of(log: Path | None) -> float | None:
    """In how much of the time of the job that wrote this log its card worked, as it says at its end."""
    if log is None or not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 4096, 0))
        found = re.search(rb"the card worked in ([\d.]+) of the time", file.read())
    return float(found.group(1)) if found else None


def _in_head(log: Path | None, pattern: str) -> str | None:
    if log is None or not log.is_file():
        return None
    with log.open(encoding="utf-8", errors="replace") as file:
        found = re.search(pattern, file.read(4096))
    return found.group(1) if found else None


def _measured(path: Path, scheduled: Mapping[str, Any]) -> dict[str, Any]:
    row, _ = try_read(path, read_benchmark)
    if row is None:
        return {}
    names = {"seconds": "s", "peak_mb": "max_rss", "cpu_seconds": "cpu_time", "threads": "threads"}
    found = {name: row.get(column) for name, column in names.items()} | {"device": "cpu"}
    found |= {key: value for key, value in scheduled.items() if value is not None}
    seconds, used, threads = (found.get(name) for name in ("seconds", "cpu_seconds", "threads"))
    # a job shorter than the benchmark's sampling has no CPU time to speak of
    if seconds and used and threads and seconds >= SHORTEST_SAMPLED:
        found["cpu_efficiency"] = round(used / (seconds * threads), 3)
    return found
