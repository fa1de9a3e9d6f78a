"""PNMF against a plain dense evaluation of its objective: seconds and memory of a step, ELBO at equal time.

    python benchmarks/pnmf_speed.py              # 2,000 x 1,000: 2 minutes
    python benchmarks/pnmf_speed.py --large      # 12,000 x 13,000: needs 7 GB

Counts are Poisson draws of planted factors, their depth chosen such that 5 % are not zero (as of 13,487
genes in the PBMC of Kang et al. 2018). Everything in single precision.

Table 1: one step (objective and all gradients) of each mode, in a process of its own; memory is the peak over
the process before the counts were made, X included.

Table 2: a fit with the defaults against the dense loop, Adam on W, mu and softplus sigma from the same start,
and against scikit-learn's NMF on the Kullback-Leibler divergence, each given as long as the longer of our two
fits took. The dense loop takes its last step to the end, and one step at the least.

Seconds are those of the processor (``time.process_time``), so that with one thread other work on the machine
matters less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from nmfbench.models import PNMF
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.draws import noise
from nmfbench.models.pnmf.likelihood import MODES, log_likelihood, poisson_deviance
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.stages import evaluate
from nmfbench.models.pnmf.start import start_factors

DENSITY = 0.05
DRAWS = 3
RATES = (0.01, 0.03, 0.1)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(measure(options)))
        return
    load = os.getloadavg()[0]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.threads} thread(s), "
        f"load average {load:.1f}, torch {torch.__version__}"
    )
    print(f"{options.cells} cells x {options.genes} genes, k = {options.k}\n")
    if "steps" in options.tables:
        steps_table(options)
    if "fits" in options.tables:
        fits_table(options)


def steps_table(options: argparse.Namespace) -> None:
    """Table 1."""
    print("| mode | way | seconds a step | peak MB |")
    print("|---|---|---|---|")
    for mode in MODES:
        found = {}
        for way in ("sparse", "dense"):
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", way, "--mode", mode]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout)
            print(f"| {mode} | {way} | {found[way]['seconds']:.4f} | {found[way]['mb']:.0f} |", flush=True)
        times = found["dense"]["seconds"] / found["sparse"]["seconds"]
        less = found["dense"]["mb"] / found["sparse"]["mb"]
        print(f"| {mode} | dense / sparse | {times:.1f} | {less:.1f} |", flush=True)
    print()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Best seconds of a step, and the peak of memory above the imports."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    X = simulate(options.cells, options.genes, options.k)
    # Simulation and imports peak low: it works row by row.
    generator = torch.Generator().manual_seed(1)
    mu = 0.5 * torch.randn((options.cells, options.k), generator=generator)
    sigma = torch.full_like(mu, 0.3)
    W = torch.rand((options.genes, options.k), generator=generator) * X.mean()
    eps = list(noise_like(mu))
    if options.worker == "sparse":
        counts = Counts(X)

        def step() -> None:
            log_likelihood(counts, mu, sigma, W, options.mode, draws=eps, latent=True, loadings="gradient")
    else:
        dense = torch.from_numpy(X.toarray())
        leaves = [t.requires_grad_() for t in (mu, sigma, W)]

        def step() -> None:
            for leaf in leaves:
                leaf.grad = None
            dense_log_likelihood(dense, mu, sigma, W, options.mode, eps).backward()

    seconds = []
    for _ in range(options.steps):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds), "mb": (peak - before) / 1024}


def dense_log_likelihood(X, mu, sigma, W, mode: str, eps) -> torch.Tensor:
    """The objective as it is written on paper, every rate formed."""
    constant = torch.lgamma(X + 1).sum()
    mean_rate = (torch.exp(mu + sigma**2 / 2) @ W.T).sum()
    if mode == "lower-bound":
        return (X * (torch.exp(mu) @ W.T).clamp(min=1e-8).log()).sum() - mean_rate - constant
    total = 0.0
    for e in eps:
        rate = torch.exp(mu + sigma * e) @ W.T
        total = total + (X * rate.clamp(min=1e-8).log()).sum()
        if mode == "simple":
            total = total - rate.sum()
    total = total / len(eps)
    return total - constant - (mean_rate if mode == "expanded" else 0.0)


def fits_table(options: argparse.Namespace) -> None:
    """Table 2."""
    X = simulate(options.cells, options.genes, options.k)
    counts = Counts(X)
    print("| fit | seconds | steps | ELBO | Poisson deviance |")
    print("|---|---|---|---|---|")

    def row(name: str, seconds: float, steps: int, state: LatentState) -> None:
        elbo = evaluate(counts, state, 0).elbo
        deviance = poisson_deviance(counts, state.mean_factors(), state.W)
        print(f"| {name} | {seconds:.1f} | {steps} | {elbo:.0f} | {deviance:.0f} |", flush=True)

    longest = options.seconds
    for mode in ("lower-bound", "expanded"):
        start = time.process_time()
        model = PNMF(options.k, mode=mode, max_iter=options.max_iter, random_state=0, device="cpu").fit(X)
        longest = max(longest, time.process_time() - start)
        sigma = torch.from_numpy(model.factor_scale_)
        W = torch.from_numpy(np.ascontiguousarray(model.components_.T))
        ones = torch.ones(options.k)
        state = LatentState(torch.from_numpy(model.log_factors_), sigma**2, W, ones, RateScales())
        row(f"PNMF, {mode}", time.process_time() - start, model.n_iter_, state)
    sklearn_row(X, counts, options.k, longest)
    for rate in options.rates:
        seconds, steps, state = dense_fit(X, counts, options.k, rate, longest)
        row(f"dense Adam, {rate}", seconds, steps, state)


def dense_fit(X, counts: Counts, k: int, rate: float, seconds: float) -> tuple[float, int, LatentState]:
    """The dense loop for a given time, from the start of PNMF."""
    dense = torch.from_numpy(X.toarray())
    W, H = start_factors(counts, k, "random", 0)
    mu, raw = torch.log(H).requires_grad_(), torch.full_like(H, -2.2).requires_grad_()
    W = W.requires_grad_()
    optimiser = torch.optim.Adam([W, mu, raw], lr=rate)
    start, steps = time.process_time(), 0
    while steps == 0 or time.process_time() - start < seconds:
        optimiser.zero_grad()
        sigma = torch.nn.functional.softplus(raw)
        divergence = (-sigma.log() + (sigma**2 + mu**2) / 2 - 0.5).sum()
        eps = [torch.randn_like(mu) for _ in range(DRAWS)]
        (divergence - dense_log_likelihood(dense, mu, sigma, W, "expanded", eps)).backward()
        optimiser.step()
        with torch.no_grad():
            W.clamp_(min=0)
        steps += 1
    elapsed = time.process_time() - start
    sigma = torch.nn.functional.softplus(raw).detach()
    state = LatentState(mu.detach(), sigma**2, W.detach(), torch.ones(k), RateScales())
    return elapsed, steps, state


def sklearn_row(X, counts: Counts, k: int, seconds: float) -> None:
    """scikit-learn's NMF by multiplicative updates on the Kullback-Leibler divergence, in parts of ten."""
    import warnings

    from sklearn.decomposition import NMF

    start, steps, last = time.process_time(), 0, np.inf
    H = W = None
    while time.process_time() - start < seconds:
        begin = {"init": "nndsvda"} if H is None else {"init": "custom"}
        model = NMF(k, beta_loss="kullback-leibler", solver="mu", max_iter=10, tol=0, random_state=0, **begin)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that ten steps are few
            H = model.fit_transform(X, **({} if H is None else {"W": H, "H": W}))
        W, steps = model.components_, steps + 10
        if last - model.reconstruction_err_ < 1e-4 * last:  # its own rule, on ten steps
            break
        last = model.reconstruction_err_
    used = time.process_time() - start
    deviance = poisson_deviance(counts, torch.from_numpy(H), torch.from_numpy(np.ascontiguousarray(W.T)))
    print(f"| scikit-learn, KL | {used:.1f} | {steps} | - | {deviance:.0f} |", flush=True)


def noise_like(mu: torch.Tensor):
    for draw in noise(tuple(mu.shape), DRAWS, 0, 0, dtype=mu.dtype):
        yield draw.clone()


def simulate(n: int, d: int, k: int) -> sp.csr_matrix:
    """Poisson counts of planted factors, about 5 % of them not zero, made 200 cells at a time."""
    rng = np.random.default_rng(0)
    H = np.exp(rng.normal(0, 1, (n, k)))
    W = rng.gamma(0.3, 1.0, (d, k)) * rng.lognormal(0, 1.5, (d, 1))
    sample = H[:200] @ W.T
    low, high = 1e-9, 1e3
    for _ in range(60):  # the depth that leaves this share of zeros
        depth = np.sqrt(low * high)
        low, high = (depth, high) if np.mean(-np.expm1(-depth * sample)) < DENSITY else (low, depth)
    blocks = [sp.csr_matrix(rng.poisson(depth * (H[i : i + 200] @ W.T))) for i in range(0, n, 200)]
    return sp.vstack(blocks, format="csr").astype(np.float32)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10, help="steps of table 1; the best counts")
    parser.add_argument("--max-iter", type=int, default=200, help="of the fits of table 2")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each rival, at the least")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of the dense loop's Adam")
    parser.add_argument("--tables", nargs="+", choices=("steps", "fits"), default=("steps", "fits"))
    parser.add_argument("--large", action="store_true", help="12,000 x 13,000, one rate, at most 100 sweeps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", choices=("sparse", "dense"), help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large:
        options.cells, options.genes, options.steps = 12_000, 13_000, min(options.steps, 3)
        options.max_iter, options.rates = min(options.max_iter, 100), RATES[:1]
    return options


if __name__ == "__main__":
    main()
