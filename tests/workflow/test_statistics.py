"""The shared statistics and the rank selection through the workflow: equal bits, lost and damaged shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml

from snake import REPOSITORY, snakemake
from test_dag import planned

pytestmark = pytest.mark.slow

ALL = "results/micro/statistics/all.h5"
FIT = "results/micro/cae_nmf2/rank-5/seed-42/result.h5ad"
SHARDS = [f"results/micro/statistics/shards/{number}-of-2.h5" for number in (1, 2)]


def config(folder: Path, **changes) -> list:
    """The micro config with statistics shared by all fits."""
    values = yaml.safe_load((REPOSITORY / "tests/configs/micro.yaml").read_text())
    values["datasets"]["micro"]["shared_statistics"] = True
    values["device"] = "cpu"
    values["statistics"] = {"shards": 2}
    ranks = {"models": ["ae_nmf"], "ranks": [2, 4], "seeds": [0, 1], "penalties": [{}, {"penalty_W": 0.1}]}
    values["rank_selection"] = ranks
    (folder / "micro.yaml").write_text(yaml.safe_dump({**values, **changes}))
    return ["--configfile", folder / "micro.yaml"]


def same_content(one: Path, other: Path) -> None:
    with h5py.File(one) as a, h5py.File(other) as b:
        assert a.attrs["header_checksum"] == b.attrs["header_checksum"]
        for name in a:
            if name != "layout":
                np.testing.assert_array_equal(a[name][()], b[name][()])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a fit and the rank selection; the shards are kept."""
    folder = tmp_path_factory.mktemp("shared")
    call = snakemake(
        FIT, "results/micro/figures/rank_selection.png", *config(folder), "--notemp", directory=folder
    )
    assert call.code == 0, call.text
    return folder


def test_the_fit_is_from_the_shared_statistics(finished):
    record = json.loads((finished / FIT).with_name("run.json").read_text())
    assert record["solver"]["reason"] == "from statistics gathered before"
    assert record["relative_error"] < 0.15
    assert record["converged"]


def test_the_table_and_figure_of_the_ranks(finished):
    tables = finished / "results" / "micro" / "tables"
    summary = pd.read_csv(tables / "rank_selection.tsv", sep="\t")
    assert summary[["model", "penalties", "rank"]].to_numpy().tolist() == [
        ["ae_nmf", penalties, rank] for penalties in ("as set", "penalty_W=0.1") for rank in (2, 4)
    ]
    assert summary.groupby("penalties")["supported"].sum().tolist() == [1, 1]
    assert len(pd.read_csv(tables / "rank_selection_fits.tsv", sep="\t")) == 8
    assert (finished / "results/micro/figures/rank_selection.pdf").read_bytes().startswith(b"%PDF")


def test_the_report_shows_the_ranks(finished):
    targets = [FIT, "results/micro/figures/rank_selection.png"]
    call = snakemake(*targets, *config(finished), "--report", "results/report.html", directory=finished)
    assert call.code == 0, call.text
    report = (finished / "results" / "report.html").read_text()
    assert "which rank the data support" in report
    assert "objective, stability, held-out errors by rank" in report


def test_the_manifest_says_whether_fits_share(finished):
    decided = json.loads((finished / "results" / "manifest.json").read_text())["shared_statistics"]
    assert decided["micro"]["shared"] is decided["micro"]["setting"] is True


def test_one_core_or_two_and_a_shard_again_give_the_same_bits(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    for file in (SHARDS[1], ALL):
        (folder / file).unlink()
    call = snakemake(ALL, *config(folder), "--notemp", "--cores", "1", directory=folder)
    assert call.code == 0, call.text
    jobs = planned(call.text)
    assert (jobs["gather_statistics"], jobs["merge_statistics"]) == (1, 1), "only the lost shard is gathered"
    same_content(folder / SHARDS[1], finished / SHARDS[1])
    same_content(folder / ALL, finished / ALL)


def test_a_truncated_shard_is_refused_by_the_merge(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    whole = (folder / SHARDS[1]).read_bytes()
    (folder / SHARDS[1]).write_bytes(whole[: len(whole) // 2])
    (folder / ALL).unlink()
    call = snakemake(ALL, *config(folder), "--notemp", "--rerun-triggers", "mtime", directory=folder)
    assert call.code != 0
    assert "2-of-2.h5" in call.text
    assert "what to do:" in call.text
    assert not (folder / ALL).exists()


def test_shards_of_other_settings_are_refused_by_name(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    for file in (SHARDS[1], ALL):
        (folder / file).unlink()
    other = config(folder, normalisation={"target_sum": 1000})
    # looking at file times alone, Snakemake would take the other shard as it is
    call = snakemake(ALL, *other, "--notemp", "--rerun-triggers", "mtime", directory=folder)
    assert call.code != 0
    assert "normalisation of shard 1" in call.text
    call = snakemake(ALL, *other, "--notemp", "-n", directory=folder)
    assert "rule gather_statistics" in call.text, "left to itself, it gathers that one again too"


def test_a_gram_matrix_that_would_not_fit_is_refused_with_numbers(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    for file in (*SHARDS, ALL):
        (folder / file).unlink()
    small = {"shards": 2, "memory_mb": 0.05, "passes": 2}
    call = snakemake(SHARDS[0], *config(folder, statistics=small), directory=folder)
    assert call.code != 0
    assert "passes of" in call.text
    assert "set statistics.memory_mb to" in call.text
    assert "failed: gather_statistics 1-of-2 (bad input: " in call.text
    assert "missing: results/micro/ae_nmf/rank-5/seed-42 (not run: gather_statistics 1-of-2" in call.text
    assert not (folder / SHARDS[0]).exists()
    call = snakemake("partial_tables", *config(folder, statistics=small), directory=folder)
    assert call.code == 0, call.text
    tables = folder / "results" / "micro" / "partial_tables"
    coverage = pd.read_csv(tables / "coverage.tsv", sep="\t").set_index(["step", "model"])
    gathered = coverage.loc["gather_statistics"].iloc[0]
    assert gathered[["expected", "present"]].tolist() == [2, 0]
    assert gathered["failure"].startswith("bad input")
    assert gathered["reason"].startswith("1-of-2: Gram matrix of 200 genes")
    fit = coverage.query("step == 'train' and model == 'ae_nmf'").iloc[0]
    assert fit["reason"] == "not run: gather_statistics 1-of-2 has no result"
    resources = pd.read_csv(tables / "resources.tsv", sep="\t").query("step == 'merge_statistics'")
    assert set(resources["part"]) == {"all", "fitted", "held_out"}, "of the jobs that ran before"
