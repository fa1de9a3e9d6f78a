"""What a person sees of a run: a line for each finished job, errors whole, of a dry run what it asks for."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from nmfbench.asked import Asked
from nmfbench.expected import ExpectedSizes
from nmfbench.terminal import BriefHandler, be_brief, duration

JOB = {"rule_name": "train_ae_nmf", "jobid": 3, "threads": 8, "output": ["results/demo/filtered.h5ad"],
       "wildcards": {"dataset": "demo", "model": "ae_nmf", "rank": "12"},
       "resources": {"mem_mb": 4000, "runtime": 90, "gpu": 1}}  # fmt: skip


def record(message="", level=logging.INFO, **told):
    made = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    vars(made).update(told)
    return made


@pytest.fixture
def handler():
    formatter = logging.Formatter("formatted: %(message)s")
    return BriefHandler(formatter, io.StringIO())


def shown(handler) -> list[str]:
    return handler.stream.getvalue().splitlines()


def test_a_finished_job_is_a_line_with_the_time_left(handler):
    handler.emit(record("Job stats", event="run_info", stats={"total": 4}))
    handler.emit(record(event="job_info", **JOB))
    handler.emit(record(event="job_finished", job_id=3))
    handler.started -= 60
    handler.emit(record(event="progress", done=1, total=4))
    first, second = shown(handler)
    assert first == "4 jobs to do"
    assert second.startswith("[1/4] 1:00, about 3:00 left: train_ae_nmf demo ae_nmf 12 (0 s)")


def test_chatter_is_left_out_and_the_rest_is_not(handler):
    for message in (
        "Select jobs to execute...",
        "Execute 1 jobs...",
        "Adding a.png (3 kB).",
        "",
        "Report created.",
    ):
        handler.emit(record(message))
    assert shown(handler) == ["Report created."]


def test_errors_and_warnings_are_whole(handler):
    handler.emit(record("it failed", logging.ERROR, event="job_error"))
    handler.emit(record("mind this", logging.WARNING))
    assert shown(handler) == ["formatted: it failed", "formatted: mind this"]


def test_many_jobs_take_at_most_a_hundred_lines(handler):
    for done in range(1, 1001):
        handler.emit(record(event="progress", done=done, total=1000))
    assert len(shown(handler)) <= 101
    assert "1000/1000" in shown(handler)[-1]


def test_a_dry_run_says_what_is_asked_for():
    handler = BriefHandler(None, io.StringIO(), dry_run=True)
    handler.emit(record(event="job_info", **JOB))
    handler.emit(
        record(
            event="job_info", **{**JOB, "resources": {"mem_mb": 8000, "runtime": 30, "gres": "gpu:a100:2"}}
        )
    )
    handler.emit(record("This was a dry-run (flag -n). The order of jobs does not ..."))
    lines = shown(handler)
    assert lines[0].split() == [
        "rule",
        "jobs",
        "cores",
        "memory",
        "time",
        "CPU",
        "hours",
        "GPU",
        "hours",
        "disk",
    ]
    assert lines[1].split() == ["train_ae_nmf", "2", "8", "8.0", "GB", "1:30", "16.0", "2.5"]
    assert "2 jobs ask for at most 16 CPU hours and 2 GPU hours; the largest memory is 8.0 GB" in lines[3]


def test_only_a_quiet_call_is_made_brief():
    for quiet, expected in (
        ({"rules"}, "BriefHandler"),
        (set(), "ColorizingTextHandler"),
        ({"all"}, "ColorizingTextHandler"),
    ):
        logger = logging.Logger("test")
        kind = type("ColorizingTextHandler", (logging.StreamHandler,), {})
        there = kind(io.StringIO())
        there.addFilter(SimpleNamespace(quiet=quiet, filter=lambda record: True))
        logger.addHandler(there)
        be_brief(logger, dry_run=False)
        assert [type(handler).__name__ for handler in logger.handlers] == [expected]


@pytest.mark.parametrize(("seconds", "said"), [(3.4, "3 s"), (185, "3:05"), (7260, "2:01:00")])
def test_durations(seconds, said):
    assert duration(seconds) == said


def dataset(**given):
    matrix = SimpleNamespace(source="auto")
    return SimpleNamespace(
        **{"path": None, "size": None, "simulate": None, "simulate_screen": None, "matrix": matrix, **given}
    )


def test_files_that_are_there_are_measured(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 2**20)
    sizes = ExpectedSizes({})
    assert sizes.megabytes([tmp_path / "a", tmp_path / "gone"]) == 1


def test_files_to_come_follow_from_the_source():
    simulated = SimpleNamespace(n_cells=1000, n_genes=500, mean_counts=100.0)
    sizes = ExpectedSizes({"d": dataset(simulate=simulated), "atlas": dataset(size=19_773_999_714)})
    filtered = sizes.megabytes("results/d/filtered.h5ad")
    assert filtered == pytest.approx((2.5 * 100_000 + 100 * 1000) / 2**20)
    small, large = (sizes.megabytes(f"results/d/m/rank-{k}/seed-1/result.h5ad") for k in (10, 80))
    assert large == 8 * small == pytest.approx(6 * 80 * 1500 / 2**20)
    # the published atlas has 592,317 cells
    assert 0.5 < sizes.of_dataset("atlas").n_cells / 592_317 < 2


def test_loadings_of_each_donor_are_asked_for(tmp_path):
    """As many donors as have enough cells, or as the file names: those that a fit may hold."""
    simulated = SimpleNamespace(n_cells=1000, n_genes=500, mean_counts=100.0, n_donors=7)
    columns = {"condition_columns": ["donor_id"], "donor_column": "patient", "min_cells_per_donor": 5000}
    obs = pd.DataFrame({"patient": pd.Categorical(list("aabb")), "text": list("wxyz")}, index=list("klmn"))
    path = str(tmp_path / "source.h5ad")
    anndata.AnnData(sp.csr_matrix(np.ones((4, 3), np.float32)), obs=obs).write_h5ad(path)
    in_file = columns | {"path": path, "min_cells_per_donor": 1}
    sizes = ExpectedSizes(
        {
            "simulated": dataset(simulate=simulated),
            "atlas": dataset(size=19_773_999_714, **columns),
            "file": dataset(**in_file),
            "by text": dataset(**in_file | {"condition_columns": ["text"], "min_cells_per_donor": 2}),
            "by another": dataset(**in_file | {"condition_columns": ["nothing"]}),
        }
    )
    assert sizes.donors("simulated") == 7
    assert 60 < sizes.donors("atlas") < 240, "592,317 cells, 5,000 of a donor at least"
    assert sizes.donors("file") == 2
    assert sizes.donors("by text") == 2, "no more than have two cells each"
    assert sizes.donors("by another") == 4
    assert sizes.megabytes_of_loadings("simulated", 10) == 32 * 10 * 500 * 7 / 2**20
    assert sizes.megabytes_of_loadings("file", 2) == 32 * 2 * 3 * 2 / 2**20


def test_the_disk_of_a_plan_is_that_of_its_outputs(tmp_path):
    simulated = SimpleNamespace(n_cells=1000, n_genes=500, mean_counts=100.0)
    sizes = ExpectedSizes({"demo": dataset(simulate=simulated)})
    of_one = sizes.megabytes_of_factors("demo", 1)
    size = sizes.of_dataset("demo")
    assert of_one == 32 * (size.n_cells + size.n_genes) / 2**20
    assert sizes.megabytes_of_factors("demo", 80) == 80 * of_one
    asked = Asked(sizes)
    asked.add(JOB)
    assert asked.rules["train_ae_nmf"]["megabytes"] == sizes.megabytes("results/demo/filtered.h5ad")
    assert "files will take about" in asked.sentence()
