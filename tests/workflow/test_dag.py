"""The plan of every config we ship, without running it; lint; bad configs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from snake import REPOSITORY, snakemake

EVERY_RULE = {
    "filter_donors",
    "train_base_nmf",
    "train_ae_nmf",
    "train_cae_nmf1",
    "train_cae_nmf2",
    "cluster_embedding",
    "score_clusters",
    "classify_embedding",
    "compute_umap",
    "collect_tables",
    "plot_scores",
    "plot_tradeoff",
    "plot_training",
    "plot_umap",
    "plot_factors",
    "plot_resources",
}


def planned(text: str) -> dict[str, int]:
    """Rules and their number of jobs, from the job table of a dry run."""
    lines = text[text.index("Job stats:") :].splitlines()[3:]
    table = {}
    for line in lines:
        if not line.strip():
            break
        rule, count = line.split()
        table[rule] = int(count)
    return table


def test_demo(tmp_path):
    call = snakemake("-n", "--configfile", "config/demo.yaml", directory=tmp_path)
    assert call.code == 0, call.text
    jobs = planned(call.text)
    assert EVERY_RULE | {"simulate_dataset"} <= set(jobs)
    assert jobs["classify_embedding"] == 4 * 2 * 2


def test_the_published_benchmark_is_the_default(tmp_path):
    call = snakemake("-n", directory=tmp_path)
    assert call.code == 0, call.text
    assert EVERY_RULE | {"fetch_dataset"} <= set(planned(call.text))
    assert "rank-80" in call.text


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mydata.h5ad").touch()
    call = snakemake("-n", "--configfile", "config/example.yaml", directory=tmp_path)
    assert call.code == 0, call.text
    assert not {"simulate_dataset", "fetch_dataset"} & set(planned(call.text))


def test_datasets_ranks_and_seeds_make_a_grid(tmp_path):
    grid = ["--config", "ranks=[3,4]", "seeds=[1,2,3]"]
    call = snakemake("-n", "--configfile", "config/demo.yaml", *grid, directory=tmp_path)
    assert call.code == 0, call.text
    jobs = planned(call.text)
    assert jobs["train_ae_nmf"] == 2 * 3
    assert jobs["plot_umap"] == 4 * 2, "one for each model and rank, of the first seed"


def test_fits_are_compared_when_the_config_asks_for_it(tmp_path):
    pair = "{first: {model: ae_nmf, rank: 12}, second: {model: base_nmf, rank: 5}}"
    asked = ["--config", "ranks=[5,12]", "seeds=[42,43]", f"comparisons=[{{seeds_of: ae_nmf}}, {pair}]"]
    call = snakemake("-n", "--configfile", "config/demo.yaml", *asked, directory=tmp_path)
    assert call.code == 0, call.text
    assert planned(call.text)["compare_fits"] == planned(call.text)["plot_comparison"] == 3
    assert "comparisons/ae_nmf-rank-12-seed-42-with-base_nmf-rank-5-seed-42.png" in call.text


def test_one_file_at_a_time(tmp_path):
    target = "results/demo/cae_nmf1/rank-12/seed-42/clustering.tsv"
    call = snakemake(target, "-n", "--configfile", "config/demo.yaml", directory=tmp_path)
    assert call.code == 0, call.text
    assert set(planned(call.text)) == {
        "simulate_dataset",
        "filter_donors",
        "train_cae_nmf1",
        "cluster_embedding",
        "score_clusters",
        "total",
    }


def test_the_slurm_profile_plans_without_slurm(tmp_path):
    call = snakemake("-n", "--profile", "profiles/slurm", directory=tmp_path)
    assert call.code == 0, call.text
    jobs = [job for job in call.text.split("\n\n") if "gpu=1" in job]
    gpu = {
        line.split()[1].rstrip(":") for job in jobs for line in job.splitlines() if line.startswith("rule ")
    }
    assert gpu == {"train_ae_nmf", "train_cae_nmf1", "train_cae_nmf2"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ranks=[0]", "ranks.0: Input should be greater than or equal to 1"),
        ("rank=[3]", "rank: unknown key; did you mean 'ranks'?"),
        ("labels=[celltype]", "labels: add ['celltype'] to datasets.demo.keep_obs"),
        ("device=gpu", "device: Input should be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
    ],
)
def test_a_bad_config_stops_before_anything_runs(tmp_path, change, expected):
    call = snakemake("--configfile", "config/demo.yaml", "--config", change, directory=tmp_path)
    assert call.code != 0
    assert expected in call.text
    assert "Traceback" not in call.text
    assert not (tmp_path / "results").exists()


def test_a_missing_file_of_ones_own_is_named(tmp_path):
    call = snakemake("-n", "--configfile", "config/example.yaml", directory=tmp_path)
    assert call.code != 0
    assert "mydata.h5ad" in call.text


def test_parsing_the_workflow_imports_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from nmfbench import manifest, config; "
        "assert not {'torch', 'pandas', 'numpy', 'sklearn', 'scanpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_lint_is_clean():
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "--configfile", "config/demo.yaml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_format_is_clean():
    subprocess.run([sys.executable, "-m", "snakefmt", "--check", "workflow"], cwd=REPOSITORY, check=True)
