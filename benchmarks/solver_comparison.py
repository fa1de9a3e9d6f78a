"""Which solver reaches which error, in how many seconds and products with K = Xᵀ X.

    python benchmarks/solver_comparison.py --h5ad cells.h5ad --seconds 60
    python benchmarks/solver_comparison.py --simulate 4000 3000 --route gram
    python benchmarks/solver_comparison.py --gram

The first two print one table of all solvers, run one after the other in this process from the same start;
the last one compares the two ways to gather XᵀX. A run stops at its time limit. Counts in X are scaled to
10,000 a cell and log1p is taken. Seconds include the start but neither reading nor compilation.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import scipy
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import gradient_methods

from nmfbench.fitting.loop import Run
from nmfbench.models.autoencoder.exact import (
    DonorObjective,
    GramOperator,
    SparseOperator,
    TiedObjective,
    minimise,
    start,
    sums_of_blocks,
)

MARKS = (10, 20, 30, 60)
GRADIENT = {
    "multiplicative 1/3": ("multiplicative", {"exponent": 1 / 3}),
    "multiplicative 1/2": ("multiplicative", {"exponent": 1 / 2}),
    "accelerated gradient": ("accelerated", {}),
    "L-BFGS-B": ("lbfgsb", {}),
    "Adam 1e-3": ("adam", {"step": 1e-3}),
    "Adam 5e-3": ("adam", {"step": 5e-3}),
}
ADDITIVE = {"penalty_U": 0.1, "penalty_invariance": 1e-3, "penalty_hsic": 5e-4}
COORDINATE = {"coordinate 1.0": 1.0, "coordinate 1.5": 1.5, "coordinate 1.8": 1.8, "coordinate 1.9": 1.9}


def main() -> None:
    options = arguments()
    print(machine() + (", CPU seconds" if options.clock == "cpu" else ""))
    if options.clock == "cpu":
        time.perf_counter = time.process_time  # for the solvers' own histories too
    if options.gram:
        compare_gram()
        return
    X, donors, types = read(options)
    density = X.nnz / (X.shape[0] * X.shape[1])
    print(
        f"{X.shape[0]} cells x {X.shape[1]} genes, {density:.1%} nonzero; rank {options.rank}, lambda_W 0.01"
    )
    sums = sums_of_blocks(X, donors, types)
    runs = {}
    for name, relax in COORDINATE.items():
        runs[name] = lambda data, relax=relax: coordinate(TiedObjective, data, options, relax)
    for name, (method, settings) in GRADIENT.items():
        runs[name] = lambda data, m=method, s=settings: follow(data, options, m, s)
    runs["cae_nmf1"] = lambda data: coordinate(TiedObjective, data, options, conditions=sums, **ADDITIVE)
    runs["cae_nmf2"] = lambda data: coordinate(DonorObjective, data, options, donors=donors, penalty_U=5e-2)
    chosen = options.solvers or list(runs)
    head = ["solver", "ends", "seconds", "steps", "products", *(f"at {m} s" for m in MARKS), "reached"]
    rows = []
    print(line(head))
    for name in chosen:
        trace, reason = runs[name](X)
        rows.append(summary(name, trace, reason))
        print(line(rows[-1]), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--h5ad", help="file with counts in X and obs donor_id and cell_type")
    parser.add_argument("--simulate", nargs=2, type=int, metavar=("CELLS", "GENES"), default=(3000, 2000))
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of each solver")
    parser.add_argument(
        "--tol", type=float, default=1e-5, help="relative decrease that counts as convergence"
    )
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a shared machine")
    parser.add_argument("--route", choices=["sparse", "gram"], default="sparse")
    parser.add_argument("--solvers", nargs="+", help="only these, by their names in the table")
    parser.add_argument(
        "--gram", action="store_true", help="compare sparse and dense products for XᵀX instead"
    )
    return parser.parse_args()


def read(options) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Normalised X in float32, donor and cell type codes."""
    from nmfbench.data import normalise_block, simulate_counts

    if options.h5ad:
        import anndata

        cells = anndata.read_h5ad(options.h5ad)
        X, obs = sp.csr_matrix(cells.X), cells.obs
    else:
        n, p = options.simulate
        X, obs, _ = simulate_counts(n_cells=n, n_genes=p, seed=0)
    X = normalise_block(X.astype(np.float32))
    codes = [np.unique(obs[c].astype(str), return_inverse=True)[1] for c in ("donor_id", "cell_type")]
    return X, *codes


def operator_of(X: sp.csr_matrix, options, donors=None):
    if options.route == "sparse":
        return SparseOperator(X, groups=donors)
    parts = [X] if donors is None else [X[donors == c] for c in range(donors.max() + 1)]
    return GramOperator([(part.T @ part).toarray() for part in parts], n_cells=X.shape[0])


def coordinate(objective, X, options, relax=1.8, *, donors=None, **penalties):
    """Sweeps over an objective, stopped at the limit."""
    operator = operator_of(X, options, donors)

    def begin():
        W = start(operator, options.rank, "nndsvd", ridge=1e-2 * operator.n_cells)
        return objective(operator, W, penalty_W=1e-2, **penalties)

    minimise(begin(), relax=relax, max_iter=1)  # compiles
    operator.n_products, products = 0.0, []
    began = time.perf_counter()

    def watch() -> bool:
        products.append(operator.n_products)
        return time.perf_counter() - began > options.seconds

    first = begin()
    wait = time.perf_counter() - began
    run = Run(should_stop=watch, progress=False)
    result = minimise(first, relax=relax, tol=options.tol, max_iter=100_000, run=run)
    products.insert(0, products[0])  # of the start: not told
    steps = zip(result.history, products, strict=True)
    rows = [(r["seconds"] + wait, i, n, r["relative_error"]) for i, (r, n) in enumerate(steps)]
    return rows, result.stop_reason


def follow(X, options, method: str, settings: dict):
    """A gradient method, stopped at the limit or when ten steps bring less than ten times the tolerance."""
    operator = operator_of(X, options)
    ridge = 1e-2 * operator.n_cells
    operator.product(start(operator, options.rank, "nndsvd", ridge=ridge))
    began = time.perf_counter()
    W = start(operator, options.rank, "nndsvd", ridge=ridge)
    operator.n_products = 0.0
    rows, values, reason = [], [], "max_seconds"
    steps = getattr(gradient_methods, method)(operator, W, 1e-2, **settings)
    for i, (value, error, _) in enumerate(steps):
        rows.append((time.perf_counter() - began, i, operator.n_products, error / operator.squared_norm))
        values.append(value)
        if rows[-1][0] > options.seconds:
            break
        if i >= 20 and min(values[:-10]) - min(values) < 10 * options.tol * abs(value):
            reason = "converged"
            break
    steps.close()
    return rows, reason


def summary(name: str, rows: list[tuple], reason: str) -> list[str]:
    seconds, errors = np.array([r[0] for r in rows]), np.array([r[3] for r in rows])
    at = [errors[seconds <= mark].min(initial=np.inf) for mark in MARKS]
    marks = [
        f"{e:.4f}" if np.isfinite(e) and s <= seconds[-1] else "" for e, s in zip(at, MARKS, strict=True)
    ]
    return [
        name,
        reason,
        f"{seconds[-1]:.1f}",
        str(rows[-1][1]),
        f"{rows[-1][2]:.0f}",
        *marks,
        f"{errors.min():.4f}",
    ]


def compare_gram() -> None:
    """XᵀX of one block of cells: the sparse kernel and BLAS, at densities around the crossing."""
    from nmfbench.statistics.gather import PartialGrams
    from nmfbench.statistics.record import Layout

    rng = np.random.default_rng(0)
    print(line(["genes", "density", "sparse us/cell", "dense us/cell", "largest difference"]))
    for genes, density in ((2000, 0.05), (2000, 0.15), (8000, 0.05), (8000, 0.10), (8000, 0.15)):
        cells = 1024
        X = sp.random(cells, genes, density, format="csr", dtype=np.float32, random_state=rng)
        X.sort_indices()
        times, results = [], []
        for method in ("sparse", "dense"):
            plan = Layout("", tuple(map(str, range(genes))), cells, method=method)
            PartialGrams(plan).add(X[:8])
            grams = PartialGrams(plan)
            began = time.perf_counter()
            grams.add(X)
            times.append(1e6 * (time.perf_counter() - began) / cells)
            results.append(grams.finish()[0])
        gap = np.abs(results[0] - results[1]).max() / results[0].max()
        print(line([str(genes), f"{density:.0%}", *(f"{t:.0f}" for t in times), f"{gap:.1e}"]), flush=True)


def machine() -> str:
    import numba

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (r.split(":")[1].strip() for r in info.read_text().splitlines() if "model name" in r), model
        )
    versions = f"numpy {np.__version__}, scipy {scipy.__version__}, numba {numba.__version__}"
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = f"{os.cpu_count()} cores, {numba.get_num_threads()} threads{busy}"
    return f"{model}, {threads}; Python {platform.python_version()}, {versions}"


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
