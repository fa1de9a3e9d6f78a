"""Jobs that fail, that run out of something, that lack a GPU, that are interrupted: what is left and said."""

from __future__ import annotations

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest

import scenarios
from cluster import minutes
from scenarios import DATASET, of_fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

KILLED_FOR_MEMORY = ("FAILED", "OUT_OF_MEMORY")  # the latter where control groups watch


def test_a_failed_job_is_reported_with_its_log_and_the_rest_finishes(result_of):
    run = result_of(scenarios.a_failing_job)
    assert run.code != 0
    assert re.search(r"log: logs/boom.log, \S+/results/logs/slurm/rule_boom/\d+\.log", run.text)
    assert "no such luck" in run.text
    assert (run.folder / "fine.txt").exists()
    assert not (run.folder / "boom.txt").exists(), "half-written outputs are removed"
    assert not [job for job in run.jobs() if "after_boom" in job["Comment"]]


def test_a_group_fails_together_and_groups_of_one_do_not(result_of):
    together, apart = result_of(scenarios.a_failing_group)
    assert len(together.jobs()) == 1
    assert together.code != 0
    assert [job["State"] for job in apart.jobs()].count("COMPLETED") == 1
    assert (apart.folder / "fine.txt").exists()


def test_too_little_memory_is_tried_again_with_more(result_of):
    run = result_of(scenarios.beyond_limits).again
    assert run.code == 0, run.text[-4000:]
    tries = [(job["ReqMem"], job["State"]) for job in run.jobs()]
    assert [memory for memory, _ in tries] == ["100M", "3000M"]
    assert tries[0][1] in KILLED_FOR_MEMORY
    assert tries[1][1] == "COMPLETED"


def test_too_little_time_is_tried_again_with_more(result_of):
    run = result_of(scenarios.too_slow)
    assert run.code == 0, run.text[-4000:]
    tries = [(job["Timelimit"], job["State"]) for job in run.jobs()]
    assert tries == [("00:01:00", "TIMEOUT"), ("00:05:00", "COMPLETED")]


def test_trainings_killed_for_memory_and_time_are_gaps_of_these_classes(result_of):
    limits = result_of(scenarios.beyond_limits)
    assert limits.killed.code != 0
    states = {job["Comment"].split("_wildcards")[0]: job["State"] for job in limits.killed.jobs()}
    assert states["rule_train_base_nmf"] in KILLED_FOR_MEMORY
    assert states["rule_train_ae_nmf"] == "TIMEOUT"
    assert re.search(r"base_nmf/rank-5/seed-42 \(memory: .*memory limit", limits.killed.text)
    assert re.search(r"ae_nmf/rank-5/seed-42 \(time: ", limits.killed.text)
    assert limits.tables.code == 0, limits.tables.text[-3000:]
    folder = limits.tables.folder / "results" / DATASET / "partial_tables"
    coverage = pd.read_csv(folder / "coverage.tsv", sep="\t", keep_default_na=False)
    trained = coverage.query("step == 'train'").set_index("model")
    assert dict(trained["failure"]) == {"base_nmf": "memory", "ae_nmf": "time", "cae_nmf2": ""}
    overview = pd.read_csv(folder / "overview.tsv", sep="\t").set_index("model")
    assert overview.loc["base_nmf", "failures"] == "train: memory"
    assert overview.loc["ae_nmf", "failures"] == "train: time"


def test_ctrl_c_cancels_what_was_submitted(result_of):
    stopped = result_of(scenarios.ctrl_c)
    assert stopped.run.code != 0
    assert stopped.queue_after == []
    assert [job["State"].split()[0] for job in stopped.run.jobs()] == ["CANCELLED"]
    assert not (stopped.run.folder / "nap_300.txt").exists()


# ---- GPUs


def test_short_fits_share_a_gpu_job_and_one_that_fails_takes_nothing_with_it(result_of):
    run = result_of(scenarios.fits_in_one_job)
    assert run.code == 0, run.text[-4000:]
    trainings = [job for job in run.jobs() if job["Partition"] == "gpu"]
    shared, alone = trainings
    assert shared["Comment"] == "rule_fits_train_toy"
    assert "gres/gpu=1," in shared["AllocTRES"], "one card, whatever the number of fits"
    assert [shared[name] for name in ("ReqMem", "Timelimit")] == ["600M", "00:06:00"], (
        "one at a time: the sum"
    )
    assert alone["Comment"].startswith("rule_train_toy_wildcards_")
    assert [alone[name] for name in ("ReqMem", "Timelimit")] == ["1200M", "00:04:00"], "the second attempt"
    assert "cpu=2," in shared["AllocTRES"]
    turns = [line.split() for line in (run.folder / "turns.txt").read_text().splitlines()]
    ends = [(name, job) for name, what, job in turns if what == "ends"]
    assert [what for _, what, _ in turns] == ["begins", "ends"] * 4, "in turns"
    assert [job for _, job in ends] == [shared["JobIDRaw"]] * 3 + [alone["JobIDRaw"]]
    assert ends[0][0] == ends[3][0], "the one that failed, and no other, was tried again"
    comments = [job["Comment"] for job in run.jobs()]
    assert sum("score_toy" in comment for comment in comments) == 3


@pytest.mark.parametrize("how", ["by_gpus", "by_gres"])
def test_a_training_asks_for_a_gpu_in_either_spelling(result_of, how):
    run = getattr(result_of(scenarios.gpus), how)
    job = next(job for job in run.jobs() if job["Comment"] == f"rule_fits_{DATASET}_cells_train_ae_nmf")
    assert job["Partition"] == "gpu"
    assert "gres/gpu=1" in job["AllocTRES"]
    others = [other for other in run.jobs() if "train_ae_nmf" not in other["Comment"]]
    assert not [other for other in others if other["Partition"] == "gpu" or "gpu" in other["AllocTRES"]]


@pytest.mark.parametrize("how", ["by_gpus", "by_gres"])
def test_a_gpu_that_torch_cannot_see_is_an_error_at_once(result_of, how):
    run = getattr(result_of(scenarios.gpus), how)
    assert run.code != 0
    # the output of a call holds the logs of its failed jobs
    assert "a GPU was asked of the scheduler and torch sees none" in run.text
    assert re.search(r"partition gpu\), CUDA_VISIBLE_DEVICES '[01]'; torch \d", run.text)
    assert "driver" in run.text
    assert "ends with exit code 3: gpu missing" in run.text
    assert "loaded in" not in run.text, "it stops before it reads anything"


def test_a_partition_without_gpus_gets_a_clear_message(result_of):
    run = result_of(scenarios.gpus).wrong_partition
    assert run.code != 0
    assert "site rule: partition cpu has no GPUs" in run.text
    assert "--gpus=1" in run.text
    assert not run.jobs()


def test_a_failed_training_is_a_gap_with_its_class(result_of):
    runs = result_of(scenarios.gpus)
    assert of_fit(runs.by_gpus.folder, "base_nmf", "clustering.tsv").exists(), "the rest went on"
    figures = runs.by_gpus.folder / "results" / DATASET / "figures"
    drawn = {path.parent.name for path in figures.rglob("umap-rank-5.png")}
    assert drawn == {"base_nmf", "cae_nmf2"}, "one failed fit costs no figure of another"
    assert runs.coverage.code == 0, runs.coverage.text[-3000:]
    folder = runs.by_gpus.folder / "results" / DATASET / "partial_tables"
    assert "gpu missing" in runs.by_gpus.text, "also said at the end of the run"
    coverage = pd.read_csv(folder / "coverage.tsv", sep="\t", keep_default_na=False)
    rows = coverage.query("model == 'ae_nmf'").set_index("step")
    assert rows.loc["train", "failure"] == "gpu missing"
    assert rows.loc["cluster_embedding", "failure"] == "not run"
    assert (coverage.query("model == 'cae_nmf2'")["status"] == "ok").all()
    overview = pd.read_csv(folder / "overview.tsv", sep="\t").set_index("model")
    assert overview.loc["ae_nmf", "failures"] == "train: gpu missing"
    assert overview.loc["cae_nmf2", "failures"] == "none"


def test_a_second_call_runs_just_what_is_missing(result_of):
    again = result_of(scenarios.gpus).again
    assert again.code == 0, again.text[-4000:]
    comments = [job["Comment"] for job in again.jobs()]
    assert len(comments) == 3
    missing = ("train_ae_nmf", "find_neighbours", "clusters")
    assert all(any(rule in comment for rule in missing) for comment in comments)


# ---- interrupted trainings


def test_a_cancelled_training_leaves_a_checkpoint(result_of):
    fits = result_of(scenarios.stopped_fits)
    assert fits.cancelled.code != 0
    assert fits.checkpoint_after_cancel
    assert "ends with exit code 75: interrupted" in fits.cancelled.text
    assert "(interrupted: " in fits.cancelled.text


def test_the_signal_ahead_of_the_limit_leads_to_a_checkpoint(result_of):
    limited = result_of(scenarios.stopped_fits).limited
    # the output of a call holds the logs of its failed jobs
    assert "going on from epoch" in limited.text, "the rerun resumes"
    assert "stopped after SIGUSR1: epoch" in limited.text
    assert "(time: " in limited.text
    assert [(job["Timelimit"], job["State"]) for job in limited.jobs()] == [("00:02:00", "FAILED")]


def test_a_training_that_was_told_to_stop_is_tried_again_and_resumes(result_of):
    resumed = result_of(scenarios.stopped_fits).resumed
    assert resumed.code == 0, resumed.text[-4000:]
    assert "ends with exit code 75: interrupted" in resumed.text
    assert [job["State"] for job in resumed.jobs()] == ["FAILED", "COMPLETED"]
    limits = [minutes(job["Timelimit"]) for job in resumed.jobs()]
    assert limits[1] == 2 * limits[0]
    log = resumed.folder / "results" / "logs" / "train" / DATASET / "ae_nmf" / "rank-5" / "seed-42.log"
    assert "going on from epoch" in log.read_text()


def test_a_fit_that_was_stopped_three_times_equals_one_that_was_not(result_of):
    fits = result_of(scenarios.stopped_fits)
    assert fits.unbroken.code == 0, fits.unbroken.text[-4000:]
    one, other = (anndata.read_h5ad(of_fit(run.folder, "ae_nmf")) for run in (fits.resumed, fits.unbroken))
    for kind in ("obsm", "varm"):
        arrays, others = getattr(one, kind), getattr(other, kind)
        assert set(arrays) == set(others)
        for key in arrays:
            np.testing.assert_array_equal(arrays[key], others[key])
    records = [
        json.loads(of_fit(run.folder, "ae_nmf", "run.json").read_text())
        for run in (fits.resumed, fits.unbroken)
    ]
    assert records[0]["objective"] == records[1]["objective"]
    assert not of_fit(fits.resumed.folder, "ae_nmf", "checkpoint").exists()
