"""What is done to the cluster and to runs on it. Each scenario gives back what the tests look at."""

from __future__ import annotations

import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import CONFIG, SMALL, TOY, Run, ask, edited_profile, wait_until

WORKFLOW = ["--configfile", SMALL]
DATASET = Path(SMALL).stem
CPU = ["--config", "device=cpu"]
ONCE = ["--retries", "0"]


NEVER_ENDS = 100_000_000


def minibatch_fit(epochs: int, more: str = "") -> str:
    """Settings of a fit of so many epochs; its checkpoints suit any number of them."""
    fit = f"solver: minibatch, max_iter: {epochs}, batch_size: 16, patience: 1000000"
    return f"models={{ae_nmf: {{{fit}}}{more}}}"


def of_fit(folder: Path, model: str, name: str = "result.h5ad") -> Path:
    """A file of the only fit of a model."""
    return next((folder / "results" / DATASET / model).glob("rank-*/seed-*")) / name


def fit_target(model: str, name: str = "result.h5ad") -> str:
    return f"results/{DATASET}/{model}/rank-5/seed-42/{name}"


@dataclass
class Pair:
    """The same workflow, run twice."""

    call: list[str]
    dataset: str
    cluster: Run
    local: Run


def demo(folder: Path) -> Pair:
    """The whole workflow, begun through the profile of a site with accounting, and without a scheduler."""
    call = ["--configfile", CONFIG, *CPU]
    profile = edited_profile(
        folder / "accounting",
        [
            ("# slurm_account: mylab", "slurm_account: bench"),
            ("# slurm-efficiency-report", "slurm-efficiency-report"),
        ],
    )
    cluster = Run(folder / "demo", *call, profile=profile)
    local = Run(folder / "local", *call, local=True)
    return Pair(call, Path(CONFIG).stem, cluster, local)


# ---- the scenarios, side by side


def a_failing_job(folder: Path) -> Run:
    """One job exits 1, one waits for it, one has nothing to do with it."""
    return Run(folder, *TOY, *ONCE, "all").wait()


def a_failing_group(folder: Path) -> list[Run]:
    """A job that fails takes its group with it; the remedy is to call again with groups of one."""
    call = [*TOY, *ONCE, "--groups", "boom=pair", "fine=pair", "--group-components"]
    return [Run(folder, *call, f"pair={size}", "--", "boom.txt", "fine.txt").wait() for size in (2, 1)]


def fits_in_one_job(folder: Path) -> Run:
    """Three trainings of one GPU job, of which the first fails; each has a score."""
    scores = [f"score_{name}.txt" for name in "abc"]
    return Run(folder, *TOY, "--retries", "1", "--group-components", "fits=8", "--", *scores).wait()


def too_slow(folder: Path) -> Run:
    """Too little time at the first attempt."""
    return Run(folder, *TOY, "--retries", "1", "slow.txt").wait()


@dataclass
class Stopped:
    """A run that was stopped by a signal."""

    run: Run
    queue_after: list[str]
    seconds: float


def ctrl_c(folder: Path) -> Stopped:
    """Ctrl-C at the terminal while a job runs."""
    run = Run(folder, *TOY, "nap_300.txt")
    wait_until((folder / "logs" / "nap_300.log").exists, "its job", run)
    run.kill(signal.SIGINT)
    start = time.monotonic()
    run.wait(120)
    seconds = time.monotonic() - start
    wait_until(lambda: "CG" not in run.queue("%t"), "its end", timeout=40)
    return Stopped(run, run.queue(), seconds)


@dataclass
class Limits:
    """Trainings that SLURM killed, what the tables say of them, and one that was tried again with more."""

    killed: Run
    tables: Run
    again: Run


def beyond_limits(folder: Path) -> Limits:
    """One training without enough memory, one without enough time and without a signal ahead of its end."""
    for model in ("base_nmf", "ae_nmf"):
        shutil.rmtree(folder / "results" / DATASET / model)
    profile = edited_profile(folder / "profile", [("--signal=USR1@300", "--nice=1")])
    little = ["--set-resources", "train_base_nmf:mem_mb=350", "train_ae_nmf:runtime=1"]
    targets = [fit_target("base_nmf"), fit_target("ae_nmf")]
    since = ["--rerun-triggers", "mtime"]
    endless = minibatch_fit(NEVER_ENDS, f", base_nmf: {{max_iter: {NEVER_ENDS}, tol: 0}}")
    killed = Run(
        folder, *WORKFLOW, *CPU, endless, *since, *ONCE, *little, "--", *targets, profile=profile
    ).wait()
    tables = Run(folder, *WORKFLOW, *CPU, "--", "partial_tables", local=True).wait()
    shutil.rmtree(
        folder / "results" / DATASET / "base_nmf", ignore_errors=True
    )  # an endless fit's checkpoint
    # not even enough for Snakemake; the next attempt asks for what the rule says
    more = ["--set-resources", "train_base_nmf:mem_mb=100 if attempt == 1 else 3000", "--retries", "1"]
    again = Run(folder, *WORKFLOW, *CPU, *since, *more, "--", targets[0], profile=profile).wait()
    return Limits(killed, tables, again)


def wide(folder: Path) -> Run:
    """Statistics in shards, a rank selection from them, and fits at other ranks and seeds."""
    shutil.rmtree(folder / "results" / DATASET / "ae_nmf")
    changes = [
        "ranks=[4, 5]",
        "seeds=[42, 43]",
        "statistics={shards: 3}",
        f"datasets={{{DATASET}: {{shared_statistics: true}}}}",
        "rank_selection={models: [ae_nmf], ranks: [2, 4], seeds: [0, 1]}",
    ]
    fits = [f"results/{DATASET}/ae_nmf/{name}/result.h5ad" for name in ("rank-4/seed-42", "rank-5/seed-43")]
    table = f"results/{DATASET}/tables/rank_selection.tsv"
    return Run(folder, *WORKFLOW, *CPU, *changes, "--rerun-triggers", "mtime", "--", *fits, table).wait()


@dataclass
class GpuRuns:
    """Runs whose training asks for a GPU, and what the tables then say."""

    by_gpus: Run
    by_gres: Run
    wrong_partition: Run
    coverage: Run
    again: Run


def gpus(folder: Path) -> GpuRuns:
    """`device: auto` where GPUs are granted that torch cannot see; then the same call with `device: cpu`."""
    for model in ("ae_nmf", "base_nmf"):
        shutil.rmtree(folder / "results" / DATASET / model)
    shutil.rmtree(folder / "results" / "logs" / "train" / DATASET / "ae_nmf")
    sources = folder / "results" / DATASET / "filtered.h5ad"
    auto = ["--config", "device=auto", "--rerun-triggers", "mtime"]
    targets = [fit_target("ae_nmf", "clustering.tsv"), fit_target("base_nmf", "clustering.tsv")]
    figures = [f"results/{DATASET}/figures/{model}/umap-rank-5.png" for model in ("ae_nmf", "base_nmf")]
    for figure in figures:
        (folder / figure).unlink()
    by_gpus = Run(folder, *WORKFLOW, *auto, *ONCE, "--", *targets, *figures)
    others = {}
    for name, change in {
        "gres": ("gpu_request: gpus", "gpu_request: gres"),
        "wrong_partition": ("gpu_partition: gpu", "gpu_partition: cpu"),
    }.items():
        elsewhere = folder.with_name(f"{folder.name}_{name}")
        (elsewhere / sources.relative_to(folder).parent).mkdir(parents=True)
        shutil.copy2(sources, elsewhere / sources.relative_to(folder))
        profile = edited_profile(elsewhere / "profile", [change])
        others[name] = Run(
            elsewhere, *WORKFLOW, *auto, *ONCE, "--allowed-rules", "train_ae_nmf", "--",
            fit_target("ae_nmf"), profile=profile,
        )  # fmt: skip
    by_gpus.wait()
    for run in others.values():
        run.wait()
    coverage = Run(folder, *WORKFLOW, *auto, "--", "partial_tables", local=True).wait()
    cpu = [*CPU, "--rerun-triggers", "mtime"]
    again = Run(folder, *WORKFLOW, *cpu, "--", *targets).wait()
    return GpuRuns(by_gpus, others["gres"], others["wrong_partition"], coverage, again)


@dataclass
class Fits:
    """A fit that was stopped three times, and one that was not."""

    cancelled: Run
    checkpoint_after_cancel: bool
    limited: Run
    resumed: Run
    unbroken: Run


def stopped_fits(folder: Path) -> Fits:
    """A training is cancelled; its rerun is told of the limit by SLURM; the next is told and tried again."""
    profile = edited_profile(folder / "profile", [("--signal=USR1@300", "--signal=USR1@40")])
    shutil.rmtree(folder / "results" / DATASET / "ae_nmf")
    elsewhere = folder.with_name(f"{folder.name}_unbroken")
    shutil.copytree(folder, elsewhere)
    target = fit_target("ae_nmf")
    fit = folder / Path(target).parent
    log = folder / "results" / "logs" / "train" / f"{Path(target).parent.relative_to('results')}.log"

    def call(epochs: int) -> list[str]:
        return [*WORKFLOW, *CPU, minibatch_fit(epochs), "--rerun-triggers", "mtime"]

    run = Run(folder, *call(NEVER_ENDS), *ONCE, "--", target, profile=profile)
    job = run.job_of("train_ae_nmf")
    wait_until(lambda: (fit / "checkpoint" / "previous.npz").exists(), "two checkpoints", run)
    ask("scancel", job)
    run.wait()
    kept = (fit / "checkpoint" / "newest.npz").exists() and not (folder / target).exists()

    short = ["--set-resources", "train_ae_nmf:runtime=2"]
    limited = Run(folder, *call(NEVER_ENDS), *ONCE, *short, "--", target, profile=profile).wait()
    reached = re.search(r"stopped after \w+: epoch (\d+)", limited.text)
    assert reached is not None, limited.text[-4000:]

    # so long that the next signal comes before the end, whatever the machine's speed
    enough = int(reached.group(1)) + 1500
    unbroken = Run(elsewhere, *call(enough), "--", target, local=True)
    resumed = Run(folder, *call(enough), "--retries", "1", "--", target, profile=profile)
    job = resumed.job_of("train_ae_nmf")
    began = re.compile(rf"SLURM job {job} .*going on from", re.DOTALL)
    wait_until(
        lambda: log.exists() and began.search(log.read_text()), "the training from its checkpoint", resumed
    )
    ask("scancel", "--signal=USR1", job)
    return Fits(run, kept, limited, resumed.wait(), unbroken.wait())


@dataclass
class Killed:
    """A run whose Snakemake was killed, and the runs after it."""

    killed: Run
    locked: Run
    again: Run


def kill_minus_nine(folder: Path) -> Killed:
    """Snakemake itself killed while a training runs; then, once its orphan has ended, the same call again."""
    shutil.rmtree(folder / "results" / DATASET / "base_nmf")
    shutil.rmtree(folder / "results" / DATASET / "tables")
    call = [*WORKFLOW, *CPU, "--rerun-triggers", "mtime", "--", f"results/{DATASET}/tables/scores.tsv"]
    run = Run(folder, *call)
    run.job_of("train_base_nmf")
    run.kill(signal.SIGKILL)
    locked = Run(folder, *call).wait()
    wait_until(lambda: not run.queue(), "the end of the orphan")
    unlock = Run(folder, *WORKFLOW, *CPU, "--unlock", local=True).wait()
    assert unlock.code == 0, unlock.text
    return Killed(run, locked, Run(folder, *call).wait())


ON_NOTHING = (too_slow, fits_in_one_job, ctrl_c, a_failing_group, a_failing_job)
ON_A_FINISHED_RUN = (stopped_fits, beyond_limits, gpus, kill_minus_nine, wide)
