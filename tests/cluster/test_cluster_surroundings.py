"""What happens around a run; the last test takes accounting away, which those of the other files need."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

import disturbances
import scenarios
from cluster import csvs
from scenarios import DATASET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def test_snakemake_killed_and_run_again_gives_the_same_csvs(base, result_of):
    killed = result_of(scenarios.kill_minus_nine)
    assert killed.locked.code != 0
    assert "--unlock" in killed.locked.text
    assert killed.again.code == 0, killed.again.text[-4000:]
    assert csvs(killed.again.folder) == csvs(base)


def test_the_controller_may_go_away_for_a_while(played, workplace):
    run = disturbances.controller_away(workplace / "controller")
    assert run.code == 0, run.text[-4000:]
    assert [job["State"] for job in run.jobs()] == ["COMPLETED"]


def test_a_job_waits_for_a_drained_node(played, workplace):
    drained = disturbances.drained_node(workplace / "drained")
    assert len(drained.states) == 1
    assert drained.states[0].startswith("PD")
    assert drained.run.code == 0, drained.run.text[-4000:]


def test_a_cluster_without_accounting_lacks_nothing_but_the_wait(played, base, workplace):
    folder = shutil.copytree(base, workplace / "unaccounted")
    runs = disturbances.without_accounting(folder, workplace / "unaccounted_failing")
    assert runs.run.code == 0, runs.run.text[-4000:]
    assert csvs(folder) == csvs(base)
    tables = folder / "results" / DATASET / "tables"
    resources = pd.read_csv(tables / "resources.tsv", sep="\t", dtype={"job": str})
    assert resources["queue_seconds"].isna().all()
    ran = resources[resources["job"].notna()].set_index("step")
    assert set(ran.index) == {"cluster_embedding", "score_clusters"}
    assert ran.loc["cluster_embedding", "cpu_efficiency"] > 0
    # a failure is seen, and does not leave the run waiting
    assert runs.failing.code != 0
    assert "no such luck" in runs.failing.text
    assert (runs.failing.folder / "fine.txt").exists()
