"""The hierarchical negative binomial model at the size of a merged atlas, streamed from a file.

Run: python benchmarks/nb_hierarchical_atlas.py FOLDER [--cells 186224] [--genes 39241] [--density 0.05]

Counts of the model itself are drawn a block of cells at a time into FOLDER (8 bytes a nonzero: 2.9 GB at
5 %), mapped into memory as CSR, and fitted by the estimator as a job would, with its embedding, checks and
posterior. Memory is the most that was resident, pages of the mapped file included. The file is deleted
afterwards unless --keep is given. `--threads` sets the threads of the fit.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import scipy.sparse as sp

CELLS_OF_A_BLOCK = 256
FILES = {"data": np.float32, "indices": np.int32, "indptr": np.int32}


@numba.njit(cache=True, inline="always")
def _uniform(state):
    """Next state of a counter and its mixed bits in [0, 1) (Steele, Lea & Flood 2014)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return state, np.float64(z >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True, nogil=True)
def draw_block(a, b, log_alpha, state, data, indices, lengths):
    """Counts of some cells into `data` and `indices`; returns how many are not zero."""
    alpha, rate, last = np.exp(log_alpha), np.exp(a), 0
    for i in range(len(b)):
        first, factor = last, np.exp(b[i])
        for g in range(len(a)):
            state, v = _uniform(state)
            mu = rate[g] * factor
            if v >= mu:  # P(y > 0) is at most mu
                continue
            more = -np.expm1(-alpha[g] * np.log1p(mu / alpha[g]))  # P(y >= k)
            if v >= more:
                continue
            q, k = mu / (mu + alpha[g]), 1
            p = (1.0 - more) * alpha[g] * q
            while v < more - p and k < 100_000:
                more -= p
                p *= q * (alpha[g] + k) / (k + 1)
                k += 1
            data[last], indices[last] = k, g
            last += 1
        lengths[i] = last - first
    return last


def truth(n: int, p: int, density: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects of genes and cells, and log dispersions, of counts with this share of nonzeros."""
    rng = np.random.default_rng(seed)
    a, b, log_alpha = rng.normal(0, 1.6, p), rng.normal(0, 0.5, n), rng.normal(0.7, 0.7, p)
    alpha, sample = np.exp(log_alpha), np.exp(a + b[:500, None])
    low, high = -20.0, 10.0
    for _ in range(50):
        shift = 0.5 * (low + high)
        share = 1 - ((1 + sample * np.exp(shift) / alpha) ** -alpha).mean()
        low, high = (shift, high) if share < density else (low, shift)
    return a + shift, b, log_alpha


def simulate(folder: Path, a: np.ndarray, b: np.ndarray, log_alpha: np.ndarray, threads: int) -> None:
    """Write the counts of all cells, a block at a time."""
    lengths = np.zeros(len(b), dtype=np.int64)

    def block(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(start, start + CELLS_OF_A_BLOCK)
        most = len(b[part]) * len(a)
        data, indices = np.empty(most, np.float32), np.empty(most, np.int32)
        state = np.uint64(np.random.SeedSequence([1, start]).generate_state(1, np.uint64)[0])
        found = draw_block(a, b[part], log_alpha, state, data, indices, lengths[part])
        return data[:found].copy(), indices[:found].copy()

    starts = list(range(0, len(b), CELLS_OF_A_BLOCK))
    with (
        open(folder / "data", "wb") as data,
        open(folder / "indices", "wb") as indices,
        ThreadPoolExecutor(threads) as pool,
    ):
        for turn in range(0, len(starts), 4 * threads):
            for values, genes in pool.map(block, starts[turn : turn + 4 * threads]):
                values.tofile(data)
                genes.tofile(indices)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    assert indptr[-1] < 2**31
    indptr.astype(np.int32).tofile(folder / "indptr")


def mapped(folder: Path, n: int, p: int) -> sp.csr_matrix:
    """The file as a matrix whose pages the system may drop."""
    parts = [np.memmap(folder / name, dtype, mode="r") for name, dtype in FILES.items()]
    counts = sp.csr_matrix((n, p), dtype=np.float32)
    counts.data, counts.indices, counts.indptr = parts
    counts.has_canonical_format = True
    return counts


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=186_224)
    parser.add_argument("--genes", type=int, default=39_241)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    from nmfbench.models.nb_hierarchical.estimator import NBHierarchical

    a, b, log_alpha = truth(args.cells, args.genes, args.density)
    folder = args.folder / "counts"
    folder.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    if not (folder / "indptr").exists():
        simulate(folder, a, b, log_alpha, args.threads)
    X = mapped(folder, args.cells, args.genes)
    said = {"nonzeros": int(X.nnz), "density": round(X.nnz / args.cells / args.genes, 4)}
    said |= {"simulate_wall_s": round(time.perf_counter() - wall), "simulate_peak_gb": peak_gb()}
    print(json.dumps(said), flush=True)
    wall, cpu = time.perf_counter(), time.process_time()
    model = NBHierarchical(10, random_state=0, device="cpu", verbose=1).fit(X)
    used = ~np.isnan(model.gene_total_)
    seen = used & (np.exp(a) > 0.05)
    said = {"cells": args.cells, "genes": args.genes, "threads": args.threads}
    said |= {"wall_s": round(time.perf_counter() - wall), "cpu_s": round(time.process_time() - cpu)}
    said |= {"seconds_of_steps": round(model.seconds_), "peak_gb": peak_gb()}
    said |= {"steps": model.n_steps_, "stop": model.stop_reason_, "slope": model.slope_}
    said |= {"elbo": round(model.elbo_, 1), "elbo_se": round(model.elbo_se_, 1)}
    said |= {"genes_without_counts": int((~used).sum())}
    said |= {"gene_effects": round(float(np.corrcoef(model.gene_total_[used], a[used])[0, 1]), 5)}
    said |= {"cell_totals": round(float(np.corrcoef(model.cell_effect_ + model.size_, b)[0, 1]), 5)}
    of_alpha = np.corrcoef(model.log_alpha_[seen], log_alpha[seen])[0, 1]
    said |= {"log_alpha_of_mean_above_0.05": round(float(of_alpha), 4), "n_seen": int(seen.sum())}
    print(json.dumps(said), flush=True)
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
