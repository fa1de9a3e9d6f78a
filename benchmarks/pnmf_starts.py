"""Which start of PNMF finds planted factors: bound, correlation with the planted loadings, CPU seconds.

    python benchmarks/pnmf_starts.py                                  # 2,000 x 1,000, k = 20: 2 minutes
    python benchmarks/pnmf_starts.py --cells 800 --genes 250 --k 10   # 5 seconds

Counts are Poisson about exp(F) W with F of standard deviation 1 and sparse W. The last line begins from the
planted factors themselves: what is there to be had.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment

from nmfbench.models import PNMF
from nmfbench.models.pnmf.coordinate import LatentState
from nmfbench.models.pnmf.counts import Counts
from nmfbench.models.pnmf.scales import RateScales
from nmfbench.models.pnmf.several import FIRST_SIGMA
from nmfbench.models.pnmf.stages import CoordinateStage

STARTS = ("random", "prior", "nndsvd", "nndsvda", "nndsvdar", "k-means", "several")
DRAWN = ("random", "prior", "several")


def planted(
    n: int, d: int, k: int, mean: float, seed: int = 0
) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Counts (float32), factors of cells and loadings of genes."""
    rng = np.random.default_rng(seed)
    H, W = np.exp(rng.normal(0, 1, (n, k))), rng.gamma(0.3, 1.0, (d, k))
    W *= mean / (H @ W.T).mean()
    return sp.csr_matrix(rng.poisson(H @ W.T)).astype(np.float32), H, W


def recovery(W: np.ndarray, components: np.ndarray) -> tuple[float, float]:
    """Mean and smallest correlation of the planted loadings with their matches."""
    k = W.shape[1]
    correlation = np.corrcoef(W.T, components)[:k, k:]
    matched = correlation[linear_sum_assignment(-correlation)]
    return float(matched.mean()), float(matched.min())


def from_the_truth(
    X: sp.csr_matrix, H: np.ndarray, W: np.ndarray, sweeps: int
) -> tuple[float, np.ndarray, int]:
    """Bound, components and sweeps of a fit that begins at the planted factors."""
    counts, level = Counts(X), np.exp(np.log(H).mean(axis=0))
    mu = torch.from_numpy(np.log(H / level)).float()
    loadings = torch.from_numpy(W * level).float()
    state = LatentState(
        mu, torch.full_like(mu, FIRST_SIGMA**2), loadings, torch.ones_like(mu[0]), RateScales()
    )
    stage = CoordinateStage(counts, state, sweeps)
    for t in range(sweeps):
        stage.step(t)
    return stage.evaluate().elbo, stage.posterior().W.numpy().T, sweeps


def main() -> None:
    """Print the table."""
    options = arguments()
    torch.set_num_threads(1)
    X, H, W = planted(options.cells, options.genes, options.k, options.mean)
    density = X.nnz / np.prod(X.shape)
    print(f"{options.cells} x {options.genes}, k = {options.k}, {density:.0%} nonzeros\n")
    print("| init | seed | bound | mean r | smallest r | sweeps | CPU s |\n|---|---|---|---|---|---|---|")

    def row(name: str, seed: int | str, fit) -> None:
        began = time.process_time()
        elbo, components, sweeps = fit()
        mean, least = recovery(W, components)
        seconds = time.process_time() - began
        print(
            f"| {name} | {seed} | {elbo:,.0f} | {mean:.3f} | {least:.2f} | {sweeps} | {seconds:.1f} |",
            flush=True,
        )

    def fitted(init: str, seed: int):
        model = PNMF(
            options.k, mode="lower-bound", init=init, max_iter=options.sweeps, random_state=seed, device="cpu"
        ).fit(X)
        return model.elbo_, model.components_, model.n_iter_

    for init in options.only or STARTS:
        for seed in options.seeds if init in DRAWN else options.seeds[:1]:
            row(init, seed, lambda init=init, seed=seed: fitted(init, seed))
    row("the planted factors", "", lambda: from_the_truth(X, H, W, options.sweeps))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--mean", type=float, default=0.5, help="mean count")
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=STARTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
