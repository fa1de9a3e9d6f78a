"""The workflow from other places: another folder, through a link, as a module of another workflow."""

from __future__ import annotations

import os

import pytest
import yaml

from snake import REPOSITORY, snakemake
from test_dag import planned

SNAKEFILE = REPOSITORY / "workflow" / "Snakefile"
FILTERED = "results/demo/filtered.h5ad"
PARENT = """
configfile: "parent.yaml"

module nmfbench:
    snakefile: "{snakefile}"
    config: config["nmfbench"]
    {prefix}

use rule * from nmfbench as bench_*

rule own:
    input: "{prefix_path}results/demo/tables/scores.tsv"
    output: "own.txt"
    shell: "touch {{output}}"
"""


def demo(tmp_path):
    """The demo's config, smaller."""
    values = yaml.safe_load((REPOSITORY / "config" / "demo.yaml").read_text())
    values["datasets"]["demo"]["simulate"] |= {"n_cells": 420, "n_genes": 200, "n_donors": 3}
    values["datasets"]["demo"]["min_cells_per_donor"] = 40
    return values


def parent(tmp_path, prefix):
    line = f'prefix: "{prefix}"' if prefix else ""
    path = f"{prefix}/" if prefix else ""
    text = PARENT.format(snakefile=SNAKEFILE, prefix=line, prefix_path=path)
    (tmp_path / "Snakefile").write_text(text)
    (tmp_path / "parent.yaml").write_text(yaml.safe_dump({"nmfbench": demo(tmp_path)}))


def test_into_another_folder(tmp_path):
    """Called where the checkout lies, with results and Snakemake's own folder elsewhere."""
    before = set(os.listdir(REPOSITORY))
    (tmp_path / "elsewhere").mkdir()
    call = snakemake(
        *("-n", "--directory", tmp_path / "elsewhere", "--configfile", REPOSITORY / "config" / "demo.yaml"),
        cwd=REPOSITORY,
    )
    assert call.code == 0, call.text
    assert planned(call.text)["train_ae_nmf"] == 1
    assert (tmp_path / "elsewhere" / ".snakemake").is_dir()
    assert set(os.listdir(REPOSITORY)) - before <= {".snakemake"}
    assert not (REPOSITORY / "results" / "manifest.json").exists() or "results" in before


@pytest.mark.parametrize("through_a_link", [False, True])
def test_from_another_folder_and_through_a_link(tmp_path, through_a_link):
    checkout = REPOSITORY
    if through_a_link:
        checkout = tmp_path / "link"
        checkout.symlink_to(REPOSITORY)
    (tmp_path / "elsewhere").mkdir()
    call = snakemake(
        *("-n", "--snakefile", checkout / "workflow" / "Snakefile"),
        *("--configfile", checkout / "config" / "demo.yaml"),
        cwd=tmp_path / "elsewhere",
    )
    assert call.code == 0, call.text
    assert "workflow/profiles/default" in call.text, "the switches hold wherever it is called"
    assert planned(call.text)["train_ae_nmf"] == 1


@pytest.mark.parametrize("prefix", ["", "sub"])
def test_another_workflow_imports_it(tmp_path, prefix):
    parent(tmp_path, prefix)
    call = snakemake("own.txt", "-n", cwd=tmp_path)
    assert call.code == 0, call.text
    jobs = planned(call.text)
    assert jobs["bench_train_ae_nmf"] == jobs["bench_collect_tables"] == jobs["own"] == 1
    assert jobs["bench_filter_donors"] == 1


@pytest.mark.slow
def test_as_a_module_with_a_prefix_jobs_run_and_their_tables_find_them(tmp_path):
    parent(tmp_path, "sub")
    tables = "sub/results/demo/partial_tables"
    call = snakemake(f"sub/{FILTERED}", f"{tables}/coverage.tsv", cwd=tmp_path)
    assert call.code == 0, call.text
    assert (tmp_path / "sub" / FILTERED).exists()
    call = snakemake(f"{tables}/coverage.tsv", "--forcerun", "bench_collect_partial_tables", cwd=tmp_path)
    assert call.code == 0, call.text
    rows = [line.split("\t") for line in (tmp_path / tables / "coverage.tsv").read_text().splitlines()]
    filtered = next(row for row in rows if "filter_donors" in row)
    assert "ok" in filtered


@pytest.mark.slow
def test_inside_an_allocation_without_the_profile_jobs_run_here(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for command in ("sbatch", "srun", "scontrol", "squeue", "sacct"):
        script = tmp_path / "bin" / command
        script.write_text(f"#!/bin/sh\necho {command} >> {tmp_path}/called\nexit 1\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    # what salloc and sbatch set; and a folder of temporary files that the node does not have
    allocation = {"JOB_ID": 4711, "JOBID": 4711, "JOB_PARTITION": "gpu", "NTASKS": 1, "CPUS_PER_TASK": 1}
    allocation |= {"MEM_PER_CPU": 4000, "CPUS_ON_NODE": 1, "PROCID": 0, "GPUS": 1, "CPU_BIND": "quiet"}
    for name, value in allocation.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("TMPDIR", "/proc/nobody")
    values = demo(tmp_path) | {"device": "cpu", "models": {"base_nmf": {"max_iter": 2}}, "ranks": [3]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    target = "results/demo/base_nmf/rank-3/seed-42/run.json"
    call = snakemake(target, "--snakefile", SNAKEFILE, "--configfile", "mine.yaml", cwd=tmp_path)
    assert call.code == 0, call.text
    assert (tmp_path / target).exists()
    called = tmp_path / "called"
    asked = set(called.read_text().split()) if called.exists() else set()
    assert not asked & {"sbatch", "srun"}, "the others only ask"
    assert (tmp_path / ".snakemake" / "tmp").is_dir()
