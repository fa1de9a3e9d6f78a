"""What is done to the cluster and to runs on it. Each scenario gives back what the tests look at."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from cluster import CONFIG, SMALL, TESTBED, TOY, Run, ask, edited_profile, wait_until

WORKFLOW = ["--configfile", SMALL]
DATASET = Path(SMALL).stem
CPU = ["--config", "device=cpu"]
ONCE = ["--retries", "0"]
# A fit long enough to be told to stop twice; minibatches, so that one more epoch is always possible.
LONG_FIT = "models={ae_nmf: {solver: minibatch, max_epochs: 6000, batch_size: 16, patience: 100000}}"


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
    early: dict[Callable, Future] = field(default_factory=dict)


def demo(folder: Path) -> Pair:
    """The whole workflow through the profile of a site with accounting, and without a scheduler."""
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
    return Pair(call, Path(CONFIG).stem, cluster.wait(1800), local.wait(1800))


# ---- the scenarios side by side


def a_failing_job(folder: Path) -> Run:
    """One job exits 1, one waits for it, one has nothing to do with it."""
    return Run(folder, *TOY, *ONCE, "all").wait()


def too_little(folder: Path) -> Run:
    """Too little memory and too little time at the first attempt."""
    return Run(folder, *TOY, "--retries", "1", "slow.txt", "hungry.txt").wait()


@dataclass
class Stopped:
    """A run that was stopped by a signal."""

    run: Run
    queue_after: list[str]
    seconds: float


def ctrl_c(folder: Path) -> Stopped:
    """Ctrl-C at the terminal while a job runs."""
    run = Run(folder, *TOY, "nap_300.txt")
    job = run.job_of("nap")
    wait_until(lambda: ask("squeue", "--noheader", f"--jobs={job}", "--format=%t") == ["R"], "it runs", run)
    run.kill(signal.SIGINT)
    start = time.monotonic()
    run.wait(120)
    seconds = time.monotonic() - start
    wait_until(lambda: "CG" not in run.queue("%t"), "its end", timeout=40)
    return Stopped(run, run.queue(), seconds)


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
    by_gpus = Run(folder, *WORKFLOW, *auto, *ONCE, "--", *targets)
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
    """A fit that was stopped twice, and one that was not."""

    cancelled: Run
    checkpoint_after_cancel: bool
    resumed: Run
    unbroken: Run
    last_log: str


def stopped_fits(folder: Path) -> Fits:
    """`scancel` of a training, then a rerun that is told by SIGUSR1 that its time is up, then a retry."""
    profile = edited_profile(folder / "profile", [("--signal=USR1@300", "--signal=USR1@60")])
    shutil.rmtree(folder / "results" / DATASET / "ae_nmf")
    elsewhere = folder.with_name(f"{folder.name}_unbroken")
    shutil.copytree(folder, elsewhere)
    long = [*WORKFLOW, *CPU, LONG_FIT, "--rerun-triggers", "mtime"]
    target = fit_target("ae_nmf")
    run = Run(folder, *long, *ONCE, "--", target, profile=profile)
    fit = folder / Path(target).parent
    log = folder / "results" / "logs" / "train" / f"{Path(target).parent.relative_to('results')}.log"
    job = run.job_of("train_ae_nmf")
    wait_until(lambda: (fit / "checkpoint" / "previous.npz").exists(), "two checkpoints", run)
    ask("scancel", job)
    run.wait()
    kept = (fit / "checkpoint" / "newest.npz").exists() and not (folder / target).exists()
    limits = ["--set-resources", "train_ae_nmf:runtime=2 if attempt == 1 else 20", "--retries", "1"]
    resumed = Run(folder, *long, *limits, "--", target, profile=profile)
    unbroken = Run(elsewhere, *long, "--", target, local=True)
    return Fits(run, kept, resumed.wait(), unbroken.wait(), log.read_text())


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


ON_NOTHING = (too_little, ctrl_c, a_failing_job)
ON_A_FINISHED_RUN = (stopped_fits, gpus, kill_minus_nine)


# ---- those that disturb the others


def controller_away(folder: Path) -> Run:
    """The controller is stopped and started while a job runs."""
    run = Run(folder, *TOY, *ONCE, "nap_25.txt")
    job = run.job_of("nap")
    wait_until(lambda: ask("squeue", "--noheader", f"--jobs={job}", "--format=%t") == ["R"], "it runs", run)
    ask(str(TESTBED), "stop")
    time.sleep(8)
    ask(str(TESTBED), "start")
    return run.wait()


@dataclass
class Drained:
    """A run whose node was drained, and how its job then stood in the queue."""

    run: Run
    states: list[str]


def drained_node(folder: Path) -> Drained:
    """Every CPU node is drained when a job is submitted, and resumed after a while."""
    ask("scontrol", "update", "nodename=c[1-2]", "state=drain", "reason=test")
    try:
        run = Run(folder, *TOY, *ONCE, "nap_1.txt")
        run.job_of("nap")
        time.sleep(6)
        states = run.queue("%t %r")
    finally:
        ask("scontrol", "update", "nodename=c[1-2]", "state=resume")
    return Drained(run.wait(), states)
