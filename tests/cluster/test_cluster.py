"""The profile on a real SLURM: what is asked for, what comes out, and what each kind of failure leads to."""

from __future__ import annotations

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest

import scenarios
from cluster import PROFILE, Run
from scenarios import DATASET, of_fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: partition, GB of memory, minutes (both a little more, with the input), CPUs
REQUESTS = {
    "rule_simulate_dataset": ("cpu", 2, 60, 1),
    "rule_filter_donors": ("cpu", 2, 20, 1),
    "rule_train_base_nmf": ("cpu", 3, 60, 8),
    "rule_train_ae_nmf": ("cpu", 9, 60, 8),
    "rule_train_cae_nmf2": ("cpu", 9, 60, 8),
    # of a group's members only those count whose inputs are there when it is submitted: the clustering
    "rule_clusters": ("cpu", 2, 60, 4),
    "rule_classify_embedding": ("cpu", 2, 60, 1),
    "rule_compute_umap": ("cpu", 2, 60, 1),
}


def minutes(text: str) -> int:
    """SLURM's [days-]hours:minutes:seconds."""
    days, _, clock = text.rpartition("-")
    hours, mins, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + mins


def csvs(folder, dataset=DATASET):
    return {path.name: path.read_text() for path in (folder / "results" / dataset / "tables").glob("*.csv")}


# ---- the whole workflow


def test_the_demo_runs_through_the_profile(demo):
    assert demo.cluster.code == 0, demo.cluster.text[-6000:]
    assert demo.local.code == 0, demo.local.text[-6000:]


def test_its_csvs_equal_those_of_the_local_run(demo):
    assert csvs(demo.cluster.folder, demo.dataset)
    assert csvs(demo.cluster.folder, demo.dataset) == csvs(demo.local.folder, demo.dataset)


def test_every_job_got_what_was_asked_for(demo):
    seen = set()
    for job in demo.cluster.jobs():
        rule = next((rule for rule in REQUESTS if job["Comment"].startswith(rule)), None)
        granted = dict(part.split("=") for part in job["AllocTRES"].split(","))
        assert job["State"] == "COMPLETED"
        if rule is None:  # figures, and what other configs have
            continue
        seen.add(rule)
        partition, gigabytes, mins, cpus = REQUESTS[rule]
        assert job["Partition"] == partition, job
        assert 1000 * gigabytes <= float(job["ReqMem"].rstrip("M")) < 1000 * gigabytes + 900, job
        assert mins <= minutes(job["Timelimit"]) < mins + 10, job
        assert int(granted["cpu"]) == cpus, job
    assert seen == set(REQUESTS)


def test_on_the_cpu_nothing_holds_a_gpu(demo):
    assert not [job for job in demo.cluster.jobs() if "gres/gpu" in job["AllocTRES"]]


def test_short_jobs_travel_together_and_collecting_is_local(demo):
    comments = [job["Comment"] for job in demo.cluster.jobs()]
    fits = len(list((demo.cluster.folder / "results" / demo.dataset).rglob("clusters.tsv.gz")))
    assert sum(comment.startswith("rule_clusters") for comment in comments) == fits
    figures = len(list((demo.cluster.folder / "results" / demo.dataset / "figures").rglob("*.png")))
    assert sum(comment.startswith("rule_figures") for comment in comments) <= figures / 4
    assert not [comment for comment in comments if "collect_tables" in comment]
    assert "localrule collect_tables:" in demo.cluster.text


def test_classifications_are_jobs_of_their_own(demo):
    own = [job["Comment"] for job in demo.cluster.jobs() if "classify_embedding" in job["Comment"]]
    files = list((demo.cluster.folder / "results" / demo.dataset).rglob("classification/*/cv-seed-*.tsv"))
    assert len(own) == len(files) == len(set(own))


def test_a_second_call_has_nothing_to_do(demo):
    again = Run(demo.cluster.folder, *demo.call).succeeded()
    assert "Nothing to be done" in again.text


def test_resources_tell_the_job_its_efficiency_and_its_wait(demo):
    path = demo.cluster.folder / "results" / demo.dataset / "tables" / "resources.tsv"
    table = pd.read_csv(path, sep="\t", dtype={"job": str})
    numbers = {job["JobIDRaw"] for job in demo.cluster.jobs()}
    assert set(table["job"]) <= numbers
    assert (table["queue_seconds"] >= 0).all()
    assert table["cpu_efficiency"].between(0, 1.2).mean() > 0.8
    assert table.loc[table["step"] == "train", "cpu_efficiency"].notna().all()


def test_the_efficiency_report_of_the_plugin_is_there(demo):
    reports = list((demo.cluster.folder / "results" / "logs" / "slurm_efficiency").rglob("*.csv"))
    assert len(reports) == 1
    assert len(pd.read_csv(reports[0])) >= len(demo.cluster.jobs())


def test_the_manifest_names_the_scheduler(demo):
    record = json.loads((demo.cluster.folder / "results" / "manifest.json").read_text())
    assert record["scheduler"]["executor"] == "slurm"
    assert record["scheduler"]["cluster"] == "testbed"
    assert re.match(r"slurm\S* \d+\.\d+", record["scheduler"]["version"])
    assert record["scheduler"]["site"]["max_gb"] == 256
    local = json.loads((demo.local.folder / "results" / "manifest.json").read_text())
    assert local["scheduler"] == {"executor": "local"}


# ---- failures


def test_a_failed_job_is_reported_with_its_log_and_the_rest_finishes(result_of):
    run = result_of(scenarios.a_failing_job)
    assert run.code != 0
    assert re.search(r"log: logs/boom.log, \S+/results/logs/slurm/rule_boom/\d+\.log", run.text)
    assert "no such luck" in run.text
    assert (run.folder / "fine.txt").exists()
    assert not (run.folder / "boom.txt").exists(), "half-written outputs are removed"
    assert not [job for job in run.jobs() if "after_boom" in job["Comment"]]


def test_too_little_memory_is_tried_again_with_more(result_of):
    run = result_of(scenarios.too_little)
    assert run.code == 0, run.text[-4000:]
    tries = [(job["ReqMem"], job["State"]) for job in run.jobs() if "hungry" in job["Comment"]]
    assert [memory for memory, _ in tries] == ["600M", "1200M"]
    assert tries[0][1] in ("FAILED", "OUT_OF_MEMORY")  # the latter where control groups watch
    assert tries[1][1] == "COMPLETED"


def test_too_little_time_is_tried_again_with_more(result_of):
    run = result_of(scenarios.too_little)
    assert run.code == 0, run.text[-4000:]
    tries = [(job["Timelimit"], job["State"]) for job in run.jobs() if "slow" in job["Comment"]]
    assert tries == [("00:01:00", "TIMEOUT"), ("00:05:00", "COMPLETED")]


def test_ctrl_c_cancels_what_was_submitted(result_of):
    stopped = result_of(scenarios.ctrl_c)
    assert stopped.run.code != 0
    assert stopped.queue_after == []
    assert [job["State"].split()[0] for job in stopped.run.jobs()] == ["CANCELLED"]
    assert not (stopped.run.folder / "nap_300.txt").exists()


# ---- GPUs


@pytest.mark.parametrize("how", ["by_gpus", "by_gres"])
def test_a_training_asks_for_a_gpu_in_either_spelling(result_of, how):
    run = getattr(result_of(scenarios.gpus), how)
    job = next(job for job in run.jobs() if "train_ae_nmf" in job["Comment"])
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
    assert len(comments) == 2
    assert all("train_ae_nmf" in comment or "clusters" in comment for comment in comments)


# ---- interrupted trainings


def test_a_cancelled_training_leaves_a_checkpoint(result_of):
    fits = result_of(scenarios.stopped_fits)
    assert fits.cancelled.code != 0
    assert fits.checkpoint_after_cancel
    assert "ends with exit code 75: interrupted" in fits.cancelled.text
    assert "(interrupted: " in fits.cancelled.text


def test_the_signal_ahead_of_the_limit_leads_to_a_checkpoint(result_of):
    fits = result_of(scenarios.stopped_fits)
    # the output of a call holds the logs of its failed jobs
    assert "going on from epoch" in fits.resumed.text, "the rerun resumes"
    assert "stopped after SIGUSR1: epoch" in fits.resumed.text
    states = [(job["Timelimit"], job["State"]) for job in fits.resumed.jobs()]
    assert states == [("00:02:00", "FAILED"), ("00:20:00", "COMPLETED")]
    assert fits.resumed.code == 0, fits.resumed.text[-4000:]


def test_a_fit_that_was_stopped_twice_equals_one_that_was_not(result_of):
    fits = result_of(scenarios.stopped_fits)
    assert fits.unbroken.code == 0, fits.unbroken.text[-4000:]
    assert "going on from epoch" in fits.last_log
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


# ---- what happens around a run


def test_snakemake_killed_and_run_again_gives_the_same_csvs(base, result_of):
    killed = result_of(scenarios.kill_minus_nine)
    assert killed.locked.code != 0
    assert "--unlock" in killed.locked.text
    assert killed.again.code == 0, killed.again.text[-4000:]
    assert csvs(killed.again.folder) == csvs(base)


def test_the_controller_may_go_away_for_a_while(played, workplace):
    run = scenarios.controller_away(workplace / "controller")
    assert run.code == 0, run.text[-4000:]
    assert [job["State"] for job in run.jobs()] == ["COMPLETED"]


def test_a_job_waits_for_a_drained_node(played, workplace):
    drained = scenarios.drained_node(workplace / "drained")
    assert len(drained.states) == 1
    assert drained.states[0].startswith("PD")
    assert drained.run.code == 0, drained.run.text[-4000:]


def test_the_published_requests_are_the_upper_bound():
    text = (PROFILE / "profile.yaml").read_text()
    assert re.search(r"^  max_gb: 256 ", text, re.MULTILINE)
    assert re.search(r"^  max_hours: 72 ", text, re.MULTILINE)
    assert re.search(r"^  gpu_max_hours: 120 ", text, re.MULTILINE)
