"""The plan of every config we ship, without running it; lint; bad configs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from nmfbench.models import MODELS, cards
from snake import REPOSITORY, snakemake

EVERY_RULE = {
    "filter_donors",
    "train_base_nmf",
    "train_ae_nmf",
    "train_cae_nmf1",
    "train_cae_nmf2",
    "train_pyro_gamma_nb",
    "train_pyro_exponential",
    "train_pnmf",
    "find_neighbours",
    "make_reference",
    "estimate_uncertainty",
    "score_integration",
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
    "describe_factors",
    "render_factor_page",
    "collect_factors",
    "plot_factor_statistics",
    "plot_orthogonality",
    "plot_resources",
}


DEMO_MODELS = 7
DEMO_SHUFFLES = 1


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
    assert jobs["classify_embedding"] == DEMO_MODELS * 2 * DEMO_SHUFFLES
    assert "gather_statistics" not in jobs, "a pass of its own would not pay"


def test_the_published_benchmark_is_the_default(tmp_path):
    call = snakemake("-n", directory=tmp_path)
    assert call.code == 0, call.text
    assert EVERY_RULE | {"fetch_dataset"} <= set(planned(call.text))
    assert "rank-80" in call.text


def test_a_dry_run_is_short_and_says_what_is_asked_for(tmp_path):
    call = snakemake("-n", directory=tmp_path, brief=True)
    assert call.code == 0, call.text
    assert len(call.text.splitlines()) < 60
    assert "never awaited" not in call.text
    assert "TBD" not in call.text
    rows = {line.split()[0]: line.split() for line in call.text.splitlines() if line.strip()}
    assert rows["classify_embedding"][1] == "80"
    assert float(rows["train_ae_nmf"][-2 - 2].replace(",", "")) > 0, "GPU hours"
    assert "CPU hours and" in call.text
    every = snakemake("-n", directory=tmp_path)
    assert "TBD" not in every.text


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
    assert jobs["plot_umap"] == DEMO_MODELS * 2, "one for each model and rank, of the first seed"


def test_fits_of_a_large_atlas_share_one_pass(tmp_path):
    atlas = "datasets={demo: {simulate: {n_cells: 592000, n_genes: 20000, mean_counts: 1000}}}"
    change = ["--config", atlas, "seeds=[1,2]", "statistics={shards: 6}"]
    call = snakemake("-n", "--configfile", "config/demo.yaml", *change, directory=tmp_path)
    assert call.code == 0, call.text
    jobs = planned(call.text)
    assert (jobs["gather_statistics"], jobs["merge_statistics"], jobs["train_cae_nmf1"]) == (6, 1, 2)


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
        "find_neighbours",
        "cluster_embedding",
        "score_clusters",
        "total",
    }


def requests(text: str) -> dict[str, dict[str, str]]:
    """Resources of each rule's first job, from the jobs that a dry run prints."""
    found: dict[str, dict[str, str]] = {}
    for job in re.split(r"^(?=rule |localrule |group job |Group job | +rule )", text, flags=re.MULTILINE):
        rule = re.match(r" *\w+ (\w+):", job)
        line = re.search(r"^ +resources: (.*)$", job, re.MULTILINE)
        if rule and line:
            found.setdefault(rule[1], dict(part.split("=", 1) for part in line[1].split(", ")))
    return found


def profile_with(tmp_path, old, new):
    """The cluster profile with a line edited, as a site edits it."""
    text = (REPOSITORY / "profiles" / "slurm" / "profile.yaml").read_text()
    assert old in text
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "profile.yaml").write_text(text.replace(old, new))
    return tmp_path / "site"


CAN_USE_A_GPU = {f"train_{kind}" for kind, card in cards().items() if card.gpu}


@pytest.fixture
def without_slurm(monkeypatch, tmp_path):
    """A path that leads to a shell and `which`, and to no program of SLURM."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "sh", "which"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(programs))


@pytest.mark.usefixtures("without_slurm")
@pytest.mark.parametrize(
    ("device", "old", "new", "key", "value"),
    [
        ("auto", "", "", "gpu", "1"),
        ("auto", "gpu_request: gpus", "gpu_request: gres", "gres", "gpu:1"),
        ("cpu", "", "", None, None),
        ("auto", "gpu_request: gpus", "gpu_request: none", None, None),
    ],
)
def test_the_profile_plans_without_slurm_who_holds_a_gpu(tmp_path, device, old, new, key, value):
    profile = profile_with(tmp_path, old, new) if old else "profiles/slurm"
    models = ", ".join(f"{kind}: {{}}" for kind in MODELS)
    change = ["--config", f"device={device}", f"scoring_device={device}", f"models={{{models}}}"]
    call = snakemake(
        "-n", "--profile", profile, *change, "--configfile", "config/demo.yaml", directory=tmp_path
    )
    assert call.code == 0, call.text
    asked = requests(call.text)
    assert {rule for rule in asked if rule.startswith("train_")} == {f"train_{kind}" for kind in MODELS}
    holding = {rule for rule, found in asked.items() if found.get("gpu", "0") != "0" or "gres" in found}
    # a classification would grow its forest beside the card
    assert holding == (CAN_USE_A_GPU | {"find_neighbours"} if key else set())
    together = re.findall(r"Group job (fits_\w+)", call.text)
    assert set(together) == ({"fits_demo_cells"} if key else set()), "short fits share a job"
    for rule, found in asked.items():
        assert found["slurm_partition"] == ("gpu" if rule in holding else "cpu"), rule
    for rule in holding:
        assert asked[rule][key] == value
        assert (asked[rule]["gpu"] == "0") == (key == "gres")


@pytest.mark.usefixtures("without_slurm")
def test_the_dag_needs_no_slurm_and_the_profile_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shutil.copytree(REPOSITORY / "profiles" / "slurm", tmp_path / "config" / "snakemake" / "slurm")
    snakefile = REPOSITORY / "workflow" / "Snakefile"
    (tmp_path / "work").mkdir()
    call = snakemake("--dag", "--profile", "slurm", "--snakefile", snakefile, cwd=tmp_path / "work")
    assert call.code == 0, call.text
    assert "digraph snakemake_dag" in call.text


def test_poisson_factorisation_is_planned_as_a_gpu_job(tmp_path):
    models = "models={pnmf: {exposure: total}, pnmf_donor: {}, natural: {kind: pnmf, training_mode: natural}"
    models += ", pnmf_spatial: {lengthscale: 2.0}}"
    call = snakemake("-n", "--profile", "profiles/slurm", "--config", models, directory=tmp_path)
    assert call.code == 0, call.text
    trained = [job for job in re.split(r"\n(?=\[\w{3} )", call.text) if "rule train_pnmf" in job]
    assert len(trained) == 4, call.text
    assert all("gpu=1" in job for job in trained)


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
        "import sys; sys.path.insert(0, 'scripts'); from nmfbench import manifest, config, sharing; "
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


@pytest.mark.parametrize(
    ("change", "stores"),
    [
        (["out_of_core=auto"], 0),
        # one spread by cell type, one that uses no label
        (["in_memory_mb=0.1", "models={ae_nmf: {solver: minibatch}, cae_nmf2: {solver: minibatch}}"], 2),
        (["out_of_core=true", "models={ae_nmf: {training: published}}"], 1),
        (["out_of_core=true"], 0),
    ],
)
def test_the_shuffled_store_is_written_where_minibatches_may_need_it(tmp_path, change, stores):
    files = [
        f"results/demo/{model}/rank-12/seed-42/result.h5ad" for model in ("ae_nmf", "cae_nmf1", "cae_nmf2")
    ]
    settings = ["--configfile", "config/demo.yaml", "--config", *change]
    call = snakemake("-n", *files, *settings, directory=tmp_path)
    assert call.code == 0, call.text
    assert planned(call.text).get("shuffle_cells", 0) == stores
