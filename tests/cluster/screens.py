"""The second task on the cluster: what is done, and what the tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster import Run

SEEDS = (1, 2)
SCREEN = ["--configfile", "config/perturbation_demo.yaml", "--config", f"seeds={list(SEEDS)}"]
#: one that can use a GPU, and the convex one beside it that cannot
PREDICTORS = "predictors={published: {kind: nb_glm, preset: published, max_iter: 2}}"
SPLIT = "results/demo_screen/perturbation/unseen"


def fit_of(predictor: str, seed: int, name: str = "run.json") -> str:
    return f"{SPLIT}/coexpression/{predictor}/seed-{seed}/{name}"


@dataclass
class Seeds:
    """Trainings that ask for GPUs which torch cannot see, the tables then, and the same on CPUs."""

    by_gpus: Run
    tables: Run
    on_cpus: Run


def a_gpu_for_each_seed(folder: Path) -> Seeds:
    """`device: auto`: a job with a GPU for each seed, none for the convex fit; then `device: cpu`."""
    call = [*SCREEN, PREDICTORS]
    made = [f"{SPLIT}/sums.npz", f"{SPLIT}/truth/house/truth.npz", f"{SPLIT}/embeddings/coexpression.npz"]
    Run(folder, *call, "--", *made, local=True).succeeded()
    fits = [fit_of("published", seed) for seed in SEEDS]
    scored = fit_of("nb_glm", SEEDS[0], "scores.tsv")
    by_gpus = Run(folder, *call, "device=auto", "--retries", "0", "--", *fits, scored).wait()
    tables = Run(folder, *call, "device=auto", "--", "perturbation_partial_tables", local=True).wait()
    on_cpus = Run(folder, *call, "device=cpu", "--rerun-triggers", "mtime", "--", *fits).wait()
    return Seeds(by_gpus, tables, on_cpus)
