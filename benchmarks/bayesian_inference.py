"""Held-out log-likelihood against time: coordinate ascent and stochastic gradients, whole and in batches.

Run: python benchmarks/bayesian_inference.py [ATLAS.h5ad ...] [--cells 3000] [--genes 1500] [--seeds 3]

The data are counts of the model itself (planted), and the given files: some cells, and the highest genes
among those that at least 20 of them express. A tenth of the counts is set aside by thinning, the same for
every way of one seed. Seconds are CPU seconds of one thread. A row shows the best held-out log-likelihood
per entry that was reached within them (mean over the seeds), and in how many seeds it led the first
row. Seeds differ in the split as well as in the start, so that only the comparison within a seed tells.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

MARKS = (1, 2, 4, 8)
WAYS = {
    "cavi": {},
    "cavi, batches of 256": {"batch_size": 256},
    "svi, lr 0.05": {"inference": "svi", "learning_rate": 0.05},
    "svi, lr 0.1": {"inference": "svi", "learning_rate": 0.1},
    "svi, lr 0.1, batches of 256": {"inference": "svi", "learning_rate": 0.1, "batch_size": 256},
}


def load(path: str, n_cells: int, n_genes: int) -> sp.csr_matrix:
    """Counts of some cells, the highest genes that at least 20 of them express."""
    import anndata

    counts = anndata.read_h5ad(path).X.tocsr().astype(np.float32)
    rows = np.random.default_rng(0).choice(counts.shape[0], min(n_cells, counts.shape[0]), replace=False)
    counts = counts[np.sort(rows)]
    genes = np.flatnonzero(counts.getnnz(axis=0) >= 20)
    totals = np.asarray(counts[:, genes].sum(axis=0)).ravel()
    genes = np.sort(genes[np.argsort(-totals, kind="stable")[:n_genes]])
    return counts[:, genes].sorted_indices()


def planted(n_cells: int, n_genes: int, rank: int) -> sp.csr_matrix:
    """Counts of the model: sparse gamma factors, cells of different depth, p = 1/2."""
    rng = np.random.default_rng(0)
    P = rng.gamma(0.5, 1.0, (n_cells, rank)) * rng.lognormal(0, 0.4, (n_cells, 1))
    A = rng.gamma(0.3, 0.25, (rank, n_genes)) * rng.lognormal(0, 1.0, n_genes)
    return sp.csr_matrix(rng.negative_binomial(np.maximum(P @ A, 1e-12), 0.5).astype(np.float32))


def curve(counts: sp.csr_matrix, kind: str, rank: int, seed: int, seconds: float, **settings) -> list:
    """Best held-out score at each mark, and the passes over the cells; one of the ways, one seed."""
    from nmfbench.models import get_model

    started = time.process_time()
    model = get_model(kind)(
        rank,
        **{"max_iter": {"cavi": 10**4, "svi": 10**5}, "tol": 0, "patience": 10**6} | settings,
        held_out_fraction=0.1,
        marker_draws=0,
        random_state=seed,
        learn_probs="fixed",
    )
    model.fit(counts, should_stop=lambda: time.process_time() - started > seconds, progress=False)
    scores = [
        [row["held_out_log_likelihood"] for row in model.history_ if row["seconds"] <= mark] for mark in MARKS
    ]
    return [*(max(reached, default=np.nan) for reached in scores), model.history_[-1]["epoch"]]


def datasets(options: argparse.Namespace) -> Iterator[tuple[str, sp.csr_matrix]]:
    """What is fitted, with its name."""
    yield "planted", planted(options.cells, options.genes, options.rank)
    for path in options.paths:
        yield Path(path).stem, load(path, options.cells, options.genes)


def main() -> None:
    """Fit every way with every seed and print a table for each dataset."""
    import torch

    from nmfbench.fitting.loop import DivergedError
    from nmfbench.models.bayesian import loop

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--kind", default="pyro_exponential")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=1500)
    parser.add_argument("--rank", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loop.time.monotonic = time.process_time
    for title, counts in datasets(options):
        density = counts.nnz / np.prod(counts.shape)
        print(f"\n{title}: {counts.shape[0]} x {counts.shape[1]}, {density:.1%} nonzeros, k = {options.rank}")
        print(f"| way | {' | '.join(f'{mark} s' for mark in MARKS)} | passes in all |")
        print("|---|" + "---|" * (len(MARKS) + 1))
        first = None
        for way, settings in WAYS.items():
            try:
                found = np.array(
                    [
                        curve(counts, options.kind, options.rank, seed, options.seconds, **settings)
                        for seed in range(options.seeds)
                    ]
                )
            except DivergedError as error:
                print(f"| {way} | diverged: {error.thing} | {' | ' * (len(MARKS) - 1)} |", flush=True)
                continue
            first = found if first is None else first
            cells = [
                ""
                if np.isnan(score)
                else f"{score:.5f}" + ("" if found is first else f" ({ahead}/{len(found)})")
                for score, ahead in zip(found.mean(0)[:-1], (found > first).sum(0), strict=False)
            ]
            print(f"| {way} | {' | '.join(cells)} | {found[:, -1].mean():.0f} |", flush=True)


if __name__ == "__main__":
    main()
