"""What every step took: seconds, memory, device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from nmfbench.tables.runs import RUN_COLUMNS, Cell, fold_jobs, identity, read_run_record, run_folder, try_read

if TYPE_CHECKING:
    import pandas as pd

RESOURCE_COLUMNS = (
    *(*RUN_COLUMNS, "step"),
    *("seconds", "peak_mb", "gpu_peak_mb", "cpu_seconds", "threads", "device", "label", "cv_seed"),
)

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
    if _fields(pattern) & {"label", "cv_seed"}:
        for label, cv_seed in fold_jobs(cell):
            repeat = {"label": label, "cv_seed": cv_seed}
            yield repeat, Path(pattern.format(**cell, **repeat))
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
    grid: Sequence[Cell], directory: str | Path, benchmark_patterns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Gather time and memory of every step.

    Parameters
    ----------
    grid : sequence of mapping
        Expected runs (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.
    benchmark_patterns : mapping of str to str, optional
        Benchmark file of each step, as in :func:`step_jobs`. A pattern with ``{dataset}`` alone is a
        step of the dataset; its model, rank and seed are missing.

    Returns
    -------
    DataFrame
        Columns :data:`RESOURCE_COLUMNS`. Training takes its seconds, peaks and device from run.json
        where there is one. A step of several jobs has a row for each.
    """
    import pandas as pd

    patterns = dict(benchmark_patterns or {})
    of_dataset = {step: pattern for step, pattern in patterns.items() if _fields(pattern) <= {"dataset"}}
    of_run = {step: pattern for step, pattern in patterns.items() if step not in of_dataset}
    rows: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in grid):
        for step, pattern in of_dataset.items():
            path = Path(pattern.format(dataset=dataset))
            rows.append({"dataset": dataset, "step": step} | _measured(path))
    for cell in grid:
        run = identity(cell)
        if TRAIN not in of_run:
            rows.append(run | {"step": TRAIN} | _measured_by_run(cell, directory))
        for step, pattern in of_run.items():
            for repeat, path in step_jobs(pattern, cell):
                own = _measured_by_run(cell, directory) if step == TRAIN else {}
                rows.append(run | {"step": step} | repeat | _measured(path) | own)
    rows = [row for row in rows if "seconds" in row]
    table = pd.DataFrame(rows, columns=list(RESOURCE_COLUMNS))
    # whole numbers stay whole beside rows that have none
    return table.astype(dict.fromkeys(("rank", "seed", "threads", "cv_seed"), "Int64"))


def _measured_by_run(cell: Cell, directory: str | Path) -> dict[str, Any]:
    record, _ = try_read(run_folder(cell, directory) / "run.json", read_run_record)
    names = ("seconds", "peak_mb", "gpu_peak_mb", "threads", "device")
    return {name: record[name] for name in names if record and record.get(name) is not None}


def _measured(path: Path) -> dict[str, Any]:
    row, _ = try_read(path, read_benchmark)
    if row is None:
        return {}
    names = {"seconds": "s", "peak_mb": "max_rss", "cpu_seconds": "cpu_time", "threads": "threads"}
    return {name: row.get(column) for name, column in names.items()} | {"device": "cpu"}
