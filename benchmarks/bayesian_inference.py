"""Held-out log-likelihood against time: coordinate ascent and stochastic gradients, whole and by minibatches.

Run: python benchmarks/bayesian_inference.py ATLAS.h5ad [--cells 3000] [--rank 15] [--seconds 20]

A tenth of the counts is set aside by thinning, the same for every way. Seconds are CPU seconds of one thread;
a row shows the best held-out log-likelihood per entry that was reached within them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.sparse as sp

MARKS = (1, 2, 4, 8, 16)
WAYS = {
    "cavi": {},
    "cavi, batches of 256": {"batch_size": 256},
    "svi, lr 0.05": {"inference": "svi", "lr": 0.05},
    "svi, lr 0.1": {"inference": "svi", "lr": 0.1},
    "svi, lr 0.05, batches of 256": {"inference": "svi", "lr": 0.05, "batch_size": 256},
}


def load(path: str, n_cells: int) -> sp.csr_matrix:
    """Counts of some cells, genes that at least 20 of them express."""
    import anndata

    counts = anndata.read_h5ad(path).X.tocsr().astype(np.float32)
    rows = np.random.default_rng(0).choice(counts.shape[0], min(n_cells, counts.shape[0]), replace=False)
    counts = counts[np.sort(rows)]
    return counts[:, counts.getnnz(axis=0) >= 20].sorted_indices()


def main() -> None:
    """Fit every way and print a table."""
    import torch

    from nmfbench.models import get_model
    from nmfbench.models.bayesian import loop
    from nmfbench.training.loop import DivergedError

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--kind", default="pyro_exponential")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--rank", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loop.time.monotonic = time.process_time
    counts = load(options.path, options.cells)
    print(f"{counts.shape[0]} x {counts.shape[1]}, {counts.nnz / np.prod(counts.shape):.1%} nonzeros")
    print(f"| way | {' | '.join(f'{mark} s' for mark in MARKS)} | passes in all |")
    print("|---|" + "---|" * (len(MARKS) + 1))
    for name, settings in WAYS.items():
        started = time.process_time()
        model = get_model(options.kind)(
            options.rank,
            **{"max_epochs": 10**4, "num_steps": 10**5, "tol": 0, "patience": 10**6} | settings,
            held_out_fraction=0.1,
            marker_draws=0,
            random_state=0,
        )
        try:
            model.fit(counts, should_stop=lambda: time.process_time() - started > options.seconds)  # noqa: B023
        except DivergedError as error:
            print(f"| {name} | diverged: {error.thing} | {' | ' * (len(MARKS) - 1)} |", flush=True)
            continue
        best = []
        for mark in MARKS:
            reached = [r["held_out_log_likelihood"] for r in model.history_ if r["seconds"] <= mark]
            best.append(f"{max(reached):.5f}" if reached else "")
        print(f"| {name} | {' | '.join(best)} | {model.history_[-1]['epoch']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
