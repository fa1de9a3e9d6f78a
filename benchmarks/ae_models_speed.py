"""Seconds and memory of the autoencoding models against a dense reference of the same update.

Run from the repository root, on a machine with nothing else to do::

    python benchmarks/ae_models_speed.py            # 5k, 20k and 60k genes: about ten minutes on 2 cores
    python benchmarks/ae_models_speed.py --quick    # 5k genes: under a minute

Every row is one model: first the package, then the dense, readable twin of ``tests/unit/reference_models.py``
(the batch as a dense cells x genes array, E formed, gradients written out, torch's Adam). Both see the same
simulated cells in the same order from the same start, each in a process of its own, so that the memory is its
own. The tests show that the updates are equal. Rows marked with * are our default, another schedule than the
dense one beside it (see docs/models.md): they train until they are as low. Memory is what training adds to
the process, the optimiser included.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "unit")]

DONORS, TYPES = 8, 12
# Row of the table: model, what is set beside the defaults, what the dense twin does.
CASES = {
    "ae_nmf": ("ae_nmf", {}, "ae_nmf"),
    "cae_nmf1, U by Adam": ("cae_nmf1", {"update_U": "adam"}, "cae_nmf1"),
    "cae_nmf1 *": ("cae_nmf1", {}, "cae_nmf1"),
    "cae_nmf2, mixed batches": ("cae_nmf2", {"batches": "proportional"}, "cae_nmf2"),
    "cae_nmf2 *": ("cae_nmf2", {}, "cae_nmf2"),
}


def simulate(cells: int, genes: int, nonzeros: int, seed: int = 0):
    """Cells with `nonzeros` genes each, drawn by the popularity of a gene and its cell type.

    Returns
    -------
    X : csr_matrix of float32, shape (cells, genes)
    donor, kind : ndarray of int of shape (cells,)
    """
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    popularity = rng.gamma(0.4, 1.0, genes)
    markers = rng.gamma(0.2, 5.0, (TYPES, genes))
    kind, donor = rng.integers(TYPES, size=cells), rng.integers(DONORS, size=cells)
    columns, values = [], []
    for t in kind:
        weight = popularity + markers[t]
        key = np.log(np.maximum(weight, 1e-12)) + rng.gumbel(size=genes)
        chosen = np.sort(np.argpartition(-key, nonzeros)[:nonzeros])
        columns.append(chosen)
        values.append(np.log1p(rng.gamma(2.0, 1.0, nonzeros) * (1 + weight[chosen])))
    indptr = np.arange(0, cells * nonzeros + 1, nonzeros)
    data = np.concatenate(values).astype(np.float32)
    return (
        sp.csr_matrix((data, np.concatenate(columns).astype(np.int32), indptr), (cells, genes)),
        donor,
        kind,
    )


def problem_of(case: str, genes: int, options: argparse.Namespace):
    """The cells, and the model's problem and batches at its start."""
    import torch

    from nmfbench.models import get_model
    from nmfbench.models.labels import FitData, encode_conditions, encode_strata
    from nmfbench.models.start import start_loadings
    from nmfbench.rows.memory import InMemoryRows

    torch.set_num_threads(options.threads)
    name, settings, _ = CASES[case]
    X, donor, kind = simulate(options.cells, genes, options.nonzeros)
    model = get_model(name)(options.rank, batch_size=options.batch, device="cpu", random_state=0, **settings)
    if name == "cae_nmf1":
        model.set_params(warmup_epochs=0)  # so that every step has every term
    before = peak_mb()
    data = FitData(InMemoryRows(X), encode_conditions(donor, len(donor)), encode_strata(kind, len(kind)))
    model.seed_ = 0
    W = start_loadings(data.source, options.rank, "random", 0, unit_rows=False, device=torch.device("cpu"))
    return X, data, model, model._batch_objective(data, W), model._sampler(data, 0), before


def run_ours(case: str, genes: int, options: argparse.Namespace, target: float | None) -> dict:
    """Train; with a `target`, until the objective is that low."""
    _, _, _, problem, sampler, before = problem_of(case, genes, options)
    warm_up = sampler.epoch(0)[0]
    kept = {key: value.copy() for key, value in problem.weights().items()}
    moments = {key: value.copy() for key, value in problem.moments().items()}
    problem.step(warm_up, 0, 1.0)  # compiles
    problem.set_weights(kept)
    problem.set_moments(moments)
    problem.evaluate()
    steps, started = [], time.perf_counter()
    epoch, reached = 0, np.inf
    while epoch < options.epochs if target is None else (reached > target and epoch < 10 * options.epochs):
        for batch in sampler.epoch(epoch):
            at = time.perf_counter()
            problem.step(batch, epoch, 1.0)
            steps.append(time.perf_counter() - at)
        epoch += 1
        reached = problem.evaluate().objective
    total = time.perf_counter() - started
    return summary(steps, total, epoch, reached, before)


def run_dense(case: str, genes: int, options: argparse.Namespace, target: float | None) -> dict:
    """The dense twin over the same batches; its objective comes from our (tested) exact form, untimed."""
    import torch

    import reference_models

    # Donors stand in mixed batches in the published schedule.
    name = {"cae_nmf2 *": "cae_nmf2, mixed batches", "cae_nmf1 *": "cae_nmf1, U by Adam"}.get(case, case)
    X, data, model, problem, sampler, before = problem_of(name, genes, options)
    codes = data.conditions.codes[:, 0]
    weights = {"W": problem.W.T.contiguous().clone()}
    if hasattr(problem, "U"):
        weights["U"] = (problem.U if problem.U.ndim == 2 else problem.U.mT).contiguous().clone()
    dense = reference_models.DenseStep(
        CASES[case][2],
        weights,
        {"W": model.learning_rate, "U": getattr(model, "learning_rate_U", 0)},
        {"W": model.penalty_W, "U": getattr(model, "penalty_U", 0)},
        gamma=getattr(model, "penalty_invariance", 0),
        eta=getattr(model, "penalty_hsic", 0),
    )
    del problem
    steps = []
    for epoch in range(options.epochs):
        for batch in sampler.epoch(epoch):
            at = time.perf_counter()
            rows = torch.from_numpy(X[batch.rows].toarray())
            dense.step(rows, codes[batch.rows], DONORS, data.strata[batch.rows])
            steps.append(time.perf_counter() - at)
    result = summary(steps, sum(steps), options.epochs, np.nan, before)
    _, _, _, problem, _, _ = problem_of(name, genes, options)
    problem.W.copy_(weights["W"].T)
    if "U" in weights:
        problem.U.copy_(weights["U"] if problem.U.ndim == 2 else weights["U"].mT)
    return {**result, "objective": problem.evaluate().objective}


def summary(steps: list[float], total: float, epochs: int, objective: float, before: float) -> dict:
    """One side of a row of the table."""
    return {
        "step_ms": 1e3 * float(np.median(steps)),
        "epoch_s": total / epochs,
        "seconds": total,
        "objective": objective,
        "mb": peak_mb() - before,
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def apart(pool_context, function, *arguments) -> dict:
    """Call in a fresh process."""
    with pool_context.Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--genes", type=int, nargs="+", default=[5_000, 20_000, 60_000])
    parser.add_argument("--cells", type=int, default=2048)
    parser.add_argument("--nonzeros", type=int, default=2000, help="genes with counts in a cell")
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--quick", action="store_true", help="5,000 genes, two epochs")
    options = parser.parse_args()
    if options.quick:
        options.genes, options.epochs = [5_000], 2
    logging.getLogger().setLevel(logging.ERROR)
    print(describe_machine(options))
    context = multiprocessing.get_context("spawn")
    columns = "ms/step | dense | faster | s/epoch | dense | s to objective | dense | faster | MB | dense"
    print(f"| genes | model | {columns} |")
    print("|" + "---|" * (2 + columns.count("|") + 1))
    for genes in options.genes:
        for case in options.models:
            dense = apart(context, run_dense, case, genes, options, None)
            target = dense["objective"] * (1 + 1e-4) if case.endswith("*") else None
            ours = apart(context, run_ours, case, genes, options, target)
            if not case.endswith("*") and abs(ours["objective"] / dense["objective"] - 1) > 1e-3:
                raise RuntimeError(f"{case}: {ours['objective']} is not the dense {dense['objective']}")
            print(row(genes, case, ours, dense), flush=True)


def row(genes: int, case: str, ours: dict, dense: dict) -> str:
    """A row of the table."""
    cells = [f"{genes:,}", case]
    cells += [
        f"{ours['step_ms']:.0f}",
        f"{dense['step_ms']:.0f}",
        f"{dense['step_ms'] / ours['step_ms']:.1f}x",
    ]
    cells += [f"{ours['epoch_s']:.2f}", f"{dense['epoch_s']:.2f}"]
    cells += [f"{ours['seconds']:.2f}", f"{dense['seconds']:.2f}"]
    cells += [f"{dense['seconds'] / ours['seconds']:.1f}x", f"{ours['mb']:.0f}", f"{dense['mb']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def describe_machine(options: argparse.Namespace) -> str:
    """Versions, processor and sizes, so that the table can be read later."""
    import numba
    import scipy
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].split(":")[1].strip() if names else platform.processor()
    return (
        f"{cpu}, {options.threads} threads; Python {platform.python_version()}, torch {torch.__version__}, "
        f"numba {numba.__version__}, scipy {scipy.__version__}, numpy {np.__version__}\n"
        f"{options.cells:,} cells, {options.nonzeros:,} nonzeros each, {DONORS} donors, k = {options.rank}, "
        f"batches of {options.batch}, {options.epochs} epochs; our seconds include the objective over all "
        "cells after each epoch, the dense ones do not\n"
    )


if __name__ == "__main__":
    main()
