"""What benchmarks of the statistics begin with: a simulated atlas, filtered, and the pass over its shards."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from nmfbench.job import let_waiting_threads_sleep

let_waiting_threads_sleep()  # as jobs of the workflow do

NORMALISATION = {"target_sum": 1e4, "log1p": True}


def parser(description: str, *, genes: int) -> argparse.ArgumentParser:
    """The options that all of them have; `genes` by default."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--cells", type=int, default=20_000)
    found.add_argument("--genes", type=int, default=genes)
    found.add_argument("--counts", type=float, default=600.0, help="mean counts of a cell")
    found.add_argument("--shards", type=int, default=4, help="of the pass, one after the other")
    found.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    return found


def set_clock(options: argparse.Namespace) -> None:
    """Have everything count CPU seconds of this process where that was asked for."""
    if options.clock == "cpu":
        time.perf_counter = time.monotonic = time.process_time


def filtered_atlas(options: argparse.Namespace, folder: Path) -> Path:
    """Simulated counts, filtered."""
    from nmfbench.data import filter_donors, simulate_atlas

    simulate_atlas(
        folder / "cells.h5ad", n_cells=options.cells, n_genes=options.genes, mean_counts=options.counts,
        min_cells=100, n_small_donors=0,
    )  # fmt: skip
    filtered = folder / "filtered.h5ad"
    filter_donors(folder / "cells.h5ad", filtered, folder / "donors.tsv", min_cells_per_donor=100)
    return filtered


def gather(filtered: Path, n_shards: int) -> list[Path]:
    """One pass over the cells, shard by shard, as the workflow's jobs make it one after the other."""
    from nmfbench.statistics.shards import gather_file

    parts = [filtered.with_name(f"shard-{shard}.h5") for shard in range(n_shards)]
    for shard, part in enumerate(parts):
        gather_file(
            filtered, part, shard=shard, n_shards=n_shards, normalisation=NORMALISATION,
            condition_columns=["donor_id"], donor_grams=False, memory_mb=6144, passes=1,
        )  # fmt: skip
    return parts
