"""Seconds per step and peak memory of the Bayesian models, against the same model written densely in Pyro.

Run: python benchmarks/bayesian_speed.py [--size small|large] [--steps 5] [--rank 20] [--dense-cells N]
     python benchmarks/bayesian_speed.py --beside-pnmf [--size small] [--rank 80] [--device cpu|cuda|stand-in]

Both make one step of stochastic gradients on all cells in single precision: the same priors, the same
log-normal posterior, Adam; the dense one as Pyro's documentation would write it, with a NegativeBinomial
site of cells x genes. The counts are simulated: 4,000 x 2,000 with about 10 % of nonzeros, and 12,000 x
13,000 with about 5 %. Seconds are CPU seconds of one thread: on a busy machine a clock on the wall measures
the others. The dense model of the large size needs about 6 GB; --dense-cells takes that many cells for it
and multiplies seconds and memory by the cells it left out.

Each measurement is a process of its own. Its memory is VmHWM less what it held before the first step: imports
and the counts (ours in both orders), whose size stands beside it.

--beside-pnmf: an epoch of coordinate ascent and a step of gradients beside a sweep of the Poisson
factorisation over the same counts, in turns in one process; on the CPU in CPU seconds of one thread, on a GPU
in seconds between two waits for it. `stand-in` is the code of a GPU on the CPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

SIZES = {"small": (4_000, 2_000, 0.10), "large": (12_000, 13_000, 0.05)}
WAYS = ("dense", "svi", "cavi")


def simulate(n_cells: int, n_genes: int, density: float, seed: int = 0) -> sp.csr_matrix:
    """Counts of a low-rank Poisson model, block by block, thinned to about `density`."""
    rng = np.random.default_rng(seed)
    P = rng.gamma(0.5, 1.0, (n_cells, 8)).astype(np.float32)
    A = (rng.gamma(0.3, 1.0, (8, n_genes)) * rng.lognormal(0, 1.5, n_genes)).astype(np.float32)
    sample = P[:200] @ A
    low, high = 1e-6, 1e6  # bisection for the scale that gives the density
    for _ in range(60):
        scale = np.sqrt(low * high)
        low, high = (scale, high) if (1 - np.exp(-scale * sample)).mean() < density else (low, scale)
    blocks = [
        sp.csr_matrix(rng.poisson(scale * (P[start : start + 500] @ A)).astype(np.float32))
        for start in range(0, n_cells, 500)
    ]
    return sp.vstack(blocks, format="csr")


def dense_steps(counts: sp.csr_matrix, rank: int, steps: int) -> tuple[list[float], float]:
    """The plain model: theta is cells x genes, and so is the NegativeBinomial."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Trace_ELBO
    from torch.distributions import constraints

    D = torch.from_numpy(counts.toarray())
    n, g = D.shape

    def model():
        A = pyro.sample("A", dist.Exponential(1.0).expand([rank, g]).to_event(2))
        P = pyro.sample("P", dist.Exponential(1.0).expand([n, rank]).to_event(2))
        pyro.sample("D", dist.NegativeBinomial(P @ A, probs=torch.tensor(0.5)).to_event(2), obs=D)

    def guide():
        for name, shape in (("A", (rank, g)), ("P", (n, rank))):
            loc = pyro.param(f"loc_{name}", torch.full(shape, -2.0))
            scale = pyro.param(f"scale_{name}", torch.full(shape, 0.1), constraint=constraints.positive)
            pyro.sample(name, dist.LogNormal(loc, scale).to_event(2))

    pyro.enable_validation(False)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    held = resident_mb()
    return [timed(svi.step) for _ in range(steps + 1)][1:], held


def our_steps(counts: sp.csr_matrix, rank: int, steps: int, inference: str) -> tuple[list[float], float]:
    """Steps of the estimator's own engine."""
    engine = our_engine(counts, rank, inference)
    engine.problem.counts.by_gene  # noqa: B018 - the second order of the counts is data, too
    held = resident_mb()
    engine.advance()
    before = engine.clock[1]
    times = [timed(engine.advance) for _ in range(max(1, steps // 5) if inference == "svi" else steps)]
    return [sum(times) / (engine.clock[1] - before)], held


def beside_pnmf(counts: sp.csr_matrix, rank: int, steps: int, device: str) -> dict[str, float]:
    """Median seconds of a sweep of pnmf, an epoch of cavi and a step of svi, in turns on one device."""
    import torch

    place = torch.device("cuda" if device == "cuda" else "cpu")
    if place.type == "cpu":
        torch.set_num_threads(1)
    engines = {way: our_engine(counts, rank, way, device) for way in ("cavi", "svi")}
    actions = {"pnmf": pnmf_sweep(counts, rank, place)}
    actions |= {way: engine.advance for way, engine in engines.items()}

    def seconds(action) -> float:
        if place.type == "cpu":
            return timed(action)
        torch.cuda.synchronize()
        started = time.perf_counter()
        action()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    found: dict[str, list[float]] = {way: [] for way in actions}
    for turn in range(steps + 1):
        for way, action in actions.items():
            per = 10 if way == "svi" else 1  # a row of svi is ten steps
            if way != "svi" or turn < 3:
                found[way].append(seconds(action) / per)
    return {way: float(np.median(times[1:])) for way, times in found.items()}


def pnmf_sweep(counts: sp.csr_matrix, rank: int, device):
    """A sweep of the Poisson factorisation's coordinate ascent."""
    import torch

    from nmfbench.models.pnmf.coordinate import LatentState, sweep
    from nmfbench.models.pnmf.counts import Counts
    from nmfbench.models.pnmf.scales import RateScales

    (n, g), generator = counts.shape, torch.Generator().manual_seed(0)
    mu, W = 0.1 * torch.randn((n, rank), generator=generator), torch.rand((g, rank), generator=generator)
    parts = mu, torch.full((n, rank), 0.1), W * counts.mean(), torch.ones(rank)
    state = LatentState(*(part.to(device) for part in parts), RateScales())
    data = Counts(counts, device)
    return lambda: sweep(data, state)


def our_engine(counts: sp.csr_matrix, rank: int, inference: str, device: str = "cpu"):
    """The estimator's engine at its start, on a device."""
    import torch

    from nmfbench.models.bayesian import build
    from nmfbench.models.bayesian.device_counts import DeviceCounts
    from nmfbench.models.bayesian.patterns import Given
    from nmfbench.models.bayesian.pyro_exponential import PyroExponential

    place = torch.device("cuda" if device == "cuda" else "cpu")
    estimator = PyroExponential(
        rank, inference=inference, max_iter=10**6, random_state=0, learn_probs="fixed"
    )
    estimator.seed_, estimator.sizes_ = 0, None
    problem = build.build_problem(estimator, counts, Given(), place)
    if device == "stand-in":
        problem.counts = DeviceCounts.from_csr(counts, place)
    return build.build_engine(estimator, problem, counts, Given(), place)


def timed(action) -> float:
    """CPU seconds of a call."""
    started = time.process_time()
    action()
    return time.process_time() - started


def resident_mb(key: str = "VmRSS") -> float:
    """Memory of this process, now (VmRSS) or at its peak (VmHWM), in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{key}:\s+(\d+) kB", status).group(1)) * 1024 / 1e6


def measure(size: str, way: str, rank: int, steps: int, dense_cells: int) -> dict[str, float]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(1)
    counts = simulate(*SIZES[size])
    n, g = counts.shape
    if way == "dense":
        counts = counts[:dense_cells]
    times, held = dense_steps(counts, rank, steps) if way == "dense" else our_steps(counts, rank, steps, way)
    factor = n / counts.shape[0]
    data = 4 * n * g if way == "dense" else 2 * 8 * counts.nnz
    return {
        "seconds": factor * float(np.median(times)),
        "extra_mb": factor * (resident_mb("VmHWM") - held),
        "data_mb": data / 1e6,
        "density": counts.nnz / counts.shape[0] / g,
    }


def table_beside_pnmf(options: argparse.Namespace) -> None:
    """Print the seconds, and how many sweeps of pnmf each is."""
    print("| device | cells x genes | nonzeros | k | way | s | sweeps of pnmf |")
    print("|---|---|---|---|---|---|---|")
    for size in [options.size] if options.size else SIZES:
        counts = simulate(*SIZES[size])
        found = beside_pnmf(counts, options.rank, options.steps, options.device)
        shape = f"{counts.shape[0]} x {counts.shape[1]} | {counts.nnz:.3g} | {options.rank}"
        for way, seconds in found.items():
            print(f"| {options.device} | {shape} | {way} | {seconds:.3g} | {seconds / found['pnmf']:.2f} |")


def main() -> None:
    """Measure every way in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, help="one size only")
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dense-cells", type=int, default=10**9)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--beside-pnmf", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda", "stand-in"), default="cpu")
    options = parser.parse_args()
    if options.beside_pnmf:
        table_beside_pnmf(options)
        return
    if options.one:
        print(json.dumps(measure(*options.one, options.rank, options.steps, options.dense_cells)))
        return
    print("| cells x genes | nonzeros | way | s per step | times faster | MB of data | MB beside the data |")
    print("|---|---|---|---|---|---|---|")
    for size in [options.size] if options.size else SIZES:
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--one", size, way]
            for name in ("rank", "steps", "dense_cells"):
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            m = found[way] = json.loads(done.stdout.splitlines()[-1])
            n, g, _ = SIZES[size]
            faster = found["dense"]["seconds"] / m["seconds"]
            print(
                f"| {n} x {g} | {m['density']:.1%} | {way} | {m['seconds']:.3g} | {faster:.1f} "
                f"| {m['data_mb']:.0f} | {m['extra_mb']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
