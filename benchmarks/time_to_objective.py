"""Seconds until the objective of 100 published minibatch epochs is reached, by each way to fit ae_nmf.

    python benchmarks/time_to_objective.py --cells 20000 --genes 4000 --clock cpu

The minibatches are those of the published runs (512 cells, round robin over cell types, Adam at 1e-3, 100
epochs, no early stop) with sparse exact steps from the scaled NNDSVD start; what they end at is the target.
The statistics are gathered from the filtered file, block by block, as the workflow does. Seconds of a fit are
those of its history: the start included, reading and compilation not. ``--clock cpu`` counts CPU seconds of
this process, which means something on a busy machine; set OMP_NUM_THREADS and NUMBA_NUM_THREADS to 1 then.
"""

from __future__ import annotations

import math
import platform
import tempfile
import time
from pathlib import Path

from simulated_pass import NORMALISATION, filtered_atlas, gather, parser, set_clock

PUBLISHED = {
    "solver": "minibatch",
    "batches": "round_robin",
    "init": "nndsvd",
    "max_iter": 100,
    "patience": 100,
    "batch_size": 512,
}


def main() -> None:
    options = arguments()
    set_clock(options)
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options, folder: Path) -> dict[str, float]:
    """Print the table; returns how many times shorter each way is (0 where it does not get there)."""
    from nmfbench.data import load_normalised, read_filtered
    from nmfbench.models import get_model
    from nmfbench.statistics import load, merge_files

    data = read_filtered(filtered_atlas(options, folder))
    X, types = load_normalised(data.path, **NORMALISATION), data.label("cell_type")
    print(
        f"{platform.processor() or platform.machine()}; {options.clock} seconds; {X.shape[0]} cells x "
        f"{X.shape[1]} genes, {X.nnz / math.prod(X.shape):.1%} nonzero, rank {options.rank}"
    )
    AENMF = get_model("ae_nmf")
    common = {"random_state": 0, "device": "cpu"}
    gather(data.path, options.shards)  # compiles
    began = time.perf_counter()
    merge_files(gather(data.path, options.shards), folder / "all.h5")
    of_pass = time.perf_counter() - began
    statistics = load(folder / "all.h5")
    AENMF(2, max_iter=2, tol={"statistics": 0.0}, **common).fit_statistics(statistics, progress=False)
    AENMF(2, solver="statistics", max_iter=2, tol={"statistics": 0.0}, **common).fit(X[:500], progress=False)

    minibatch = AENMF(options.rank, **PUBLISHED, **common).fit(X, strata=types, progress=False)
    target, of_minibatches = minibatch.objective_, minibatch.history_[-1]["seconds"]
    gathered = AENMF(options.rank, **common).fit_statistics(statistics, progress=False)
    nonzeros = {"solver": "statistics", "gram_memory_mb": 0, "max_iter": 20}  # enough to pass the target
    cells = AENMF(options.rank, **nonzeros, **common).fit(X, progress=False)

    print(f"target: objective {target:.6g}, relative error {minibatch.relative_error_:.4f}\n")
    print("| way | seconds to the target | times shorter | sweeps | ended after | relative error then |")
    print("|---|---|---|---|---|---|")
    print(f"| 100 published epochs | {of_minibatches:.1f} | 1 | | | {minibatch.relative_error_:.4f} |")
    shorter = {}
    for name, model, before in (
        ("statistics, without the pass", gathered, 0.0),
        (f"statistics, with the pass of {of_pass:.1f} s", gathered, of_pass),
        ("all cells by their nonzeros, no pass", cells, 0.0),
    ):
        reached = next((row for row in model.history_ if row["objective"] <= target), None)
        end = model.history_[-1]
        way = name.partition(" of ")[0]
        if reached is None:
            shorter[way] = 0.0
            print(f"| {name} | not reached | | {end['epoch']} | | {end['relative_error']:.4f} |")
            continue
        seconds = before + reached["seconds"]
        shorter[way] = of_minibatches / seconds
        print(
            f"| {name} | {seconds:.2f} | {of_minibatches / seconds:.1f} | {reached['epoch']} "
            f"| {before + end['seconds']:.1f} s, {end['epoch']} sweeps | {end['relative_error']:.4f} |"
        )
    return shorter


def arguments(given: list[str] | None = None):
    options = parser(__doc__, genes=4_000)
    options.add_argument("--rank", type=int, default=80)
    return options.parse_args(given)


if __name__ == "__main__":
    main()
