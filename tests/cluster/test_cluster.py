"""The profile on a real SLURM: what is asked for, what comes out, and what each kind of failure leads to."""

from __future__ import annotations

import json
import re
from collections import Counter

import pandas as pd
import pytest

import scenarios
from cluster import PROFILE, Run, csvs, minutes
from scenarios import DATASET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

#: partition, GB of memory, minutes (both a little more, with the input), CPUs
REQUESTS = {
    "rule_simulate_dataset": ("cpu", 2, 60, 1),
    "rule_filter_donors": ("cpu", 2, 20, 1),
    "rule_train_base_nmf": ("cpu", 3, 60, 8),
    "rule_train_ae_nmf": ("cpu", 9, 60, 8),
    "rule_train_cae_nmf2": ("cpu", 9, 60, 8),
    # of a group's members only those count whose inputs are there when it is submitted: the clustering
    "rule_clusters": ("cpu", 2, 70, 1),
    "rule_find_neighbours": ("cpu", 1.5, 30, 8),
    "rule_classify_embedding": ("cpu", 2, 60, 8),
    "rule_umaps": ("cpu", 2, 80, 1),
}


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
    umaps = len(list((demo.cluster.folder / "results" / demo.dataset).rglob("umap.tsv.gz")))
    assert sum(comment.startswith("rule_umaps") for comment in comments) == umaps
    assert sum(comment.startswith("rule_figures") for comment in comments) == 1, "four figures of tables"
    assert not [comment for comment in comments if "collect_tables" in comment]
    assert re.search(r"\d\].*: collect_tables ", demo.cluster.text)


def test_classifications_are_jobs_of_their_own(demo):
    own = [job["Comment"] for job in demo.cluster.jobs() if "classify_embedding" in job["Comment"]]
    files = list((demo.cluster.folder / "results" / demo.dataset).rglob("classification/*/cv-seed-*.tsv"))
    assert len(own) == len(files) == len(set(own))


def test_ranks_seeds_and_shards_of_statistics_are_jobs_of_their_own(result_of):
    run = result_of(scenarios.wide)
    assert run.code == 0, run.text[-4000:]
    rules = [job["Comment"].removeprefix("rule_").partition("_wildcards_")[0] for job in run.jobs()]
    assert Counter(rules) == {
        "gather_statistics": 3,
        "merge_statistics": 3,  # all cells, those of the selection, those held out of it
        "select_ranks": 1,
        "train_ae_nmf": 2,
    }
    for fit in ("rank-4/seed-42", "rank-5/seed-43"):
        path = run.folder / "results" / DATASET / "ae_nmf" / fit / "run.json"
        record = json.loads(path.read_text())
        assert record["solver"]["reason"] == "from statistics gathered before"
    table = pd.read_csv(run.folder / "results" / DATASET / "tables" / "rank_selection.tsv", sep="\t")
    assert set(table["rank"]) == {2, 4}


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


def test_the_published_requests_are_the_upper_bound():
    text = (PROFILE / "profile.yaml").read_text()
    assert re.search(r"^  max_gb: 256 ", text, re.MULTILINE)
    assert re.search(r"^  max_hours: 72 ", text, re.MULTILINE)
    assert re.search(r"^  gpu_max_hours: 120 ", text, re.MULTILINE)
