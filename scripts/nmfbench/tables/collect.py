"""All tables of one dataset, whatever of it is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nmfbench.paths import path_name
from nmfbench.tables.cautions import cautions
from nmfbench.tables.coverage import coverage, overview
from nmfbench.tables.differences import differences, sentence_of_differences
from nmfbench.tables.failures import Evidence
from nmfbench.tables.files import read_table, write_table
from nmfbench.tables.inapplicable import mark_inapplicable, sentences
from nmfbench.tables.leaderboard import headline, leaderboard
from nmfbench.tables.page import write_page
from nmfbench.tables.pages import pages
from nmfbench.tables.published import classification_csv, clustering_csv
from nmfbench.tables.resources import collect_resources, step_jobs
from nmfbench.tables.runs import Cell, try_read
from nmfbench.tables.scaled import scaled_scores
from nmfbench.tables.scheduler import Accounted, accounting, job_of
from nmfbench.tables.scores import (
    collect_clusterings,
    collect_folds,
    collect_scores,
    seed_spread,
)
from nmfbench.tables.shared import SharedJob

logger = logging.getLogger(__name__)

#: Significant digits of the published CSVs; the tidy tables have all of them.
CSV_DIGITS = 6


def collect_dataset(
    dataset: str,
    grid: Sequence[Cell],
    directory: str | Path,
    out_dir: str | Path,
    *,
    log_patterns: Mapping[str, str] | None = None,
    benchmark_patterns: Mapping[str, str] | None = None,
    scheduler_logs: str | Path | None = None,
    jobs: Sequence[SharedJob] = (),
) -> dict[str, Path]:
    """Write every table of one dataset.

    Parameters
    ----------
    dataset : str
        Dataset; runs of others in `grid` are passed over.
    grid : sequence of mapping
        Expected runs in the order of the config (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets, ``results`` in the workflow.
    out_dir : path
        Folder of the tables.
    log_patterns, benchmark_patterns : mapping of str to str, optional
        Log and benchmark file of each step, see :func:`~nmfbench.tables.coverage.coverage` and
        :func:`~nmfbench.tables.resources.collect_resources`.
    scheduler_logs : path, optional
        ``slurm-logdir`` of the profile.
    jobs : sequence of mapping, optional
        Jobs of the dataset that runs share (:mod:`nmfbench.tables.shared`).

    Returns
    -------
    dict
        Path of each table written, by its name; pages (``.html``) of those that a person reads stand beside
        them, and ``leaderboard.txt`` says what the leaderboard means in a sentence. Missing results are
        gaps in the tables and rows of ``coverage.tsv``, never an error. ``seeds.tsv`` is written for several
        training seeds only.
    """
    grid = [cell for cell in grid if cell["dataset"] == dataset]
    clusterings = collect_clusterings(grid, directory)
    folds = collect_folds(grid, directory)
    scores = collect_scores(grid, directory, clusterings, folds)
    accounted = _accounted(grid, log_patterns or {}, jobs)
    covered = coverage(grid, directory, log_patterns, Evidence(accounted, scheduler_logs), jobs)
    scores = mark_inapplicable(scores, covered)
    resources = collect_resources(grid, directory, benchmark_patterns, log_patterns, accounted, jobs)
    scaled = scaled_scores(scores, grid)
    tables = {
        "folds.tsv": folds,
        "scores.tsv": scores,
        "resources.tsv": resources,
        "coverage.tsv": covered,
        "overview.tsv": overview(covered),
        "scaled_scores.tsv": scaled,
        "leaderboard.tsv": leaderboard(scores, folds, covered, resources, grid, scaled),
    }
    spread = seed_spread(scores)
    if spread is None:
        # left by an earlier config with more seeds, it would speak of runs that are no longer asked for
        Path(out_dir, "seeds.tsv").unlink(missing_ok=True)
    else:
        tables["seeds.tsv"] = spread
    for label, rank in dict.fromkeys((label, cell["rank"]) for cell in grid for label in cell["labels"]):
        clustering = clustering_csv(scores, grid, label=label, rank=rank)
        classification = classification_csv(scores, folds, grid, label=label, rank=rank)
        tables[f"clustering_metrics_by_{path_name(label)}_k{rank}.csv"] = clustering
        tables[f"classification_summary_by_{path_name(label)}_k{rank}.csv"] = classification

    board = tables["leaderboard.tsv"]
    controls = {cell["model"] for cell in grid if cell.get("role") == "control"}
    names = {cell["model"]: cell["display_name"] for cell in grid}
    said = [
        headline(board if board.empty else board[~board["model"].isin(controls)]),
        sentence_of_differences(differences(scores, folds, grid), names),
        *sentences(covered),
        *cautions(grid, directory),
    ]
    sentence = " ".join(filter(None, said))
    donors, _ = try_read(
        Path(directory, dataset, "donors.tsv"), partial(read_table, text=("donor", "reason"))
    )
    for name, page in pages(dataset, tables | {"donors.tsv": donors}, sentence).items():
        write_page(Path(out_dir, name), page)
    write_page(Path(out_dir, "leaderboard.txt"), sentence + "\n")
    gaps = covered[covered["status"] != "ok"]
    logger.info("%s: %d of %d results complete", dataset, len(covered) - len(gaps), len(covered))
    for row in gaps.itertuples():
        logger.warning("%s %s rank %s seed %s: %s", row.status, row.step, row.rank, row.seed, row.reason)
    return {
        name: write_table(table, Path(out_dir, name), digits=CSV_DIGITS if name.endswith(".csv") else None)
        for name, table in tables.items()
    }


def _accounted(
    grid: Sequence[Cell], log_patterns: Mapping[str, str], jobs: Sequence[SharedJob]
) -> dict[str, Accounted]:
    """What the scheduler's accounting knows of the jobs that wrote the logs."""
    logs = {
        path for cell in grid for pattern in log_patterns.values() for _, path in step_jobs(pattern, cell)
    } | {Path(job["log"]) for job in jobs}
    return accounting(number for path in logs if (number := job_of(path)) is not None)
