"""The whole way from an .h5ad of an atlas's size to its embedding, each stage in a process of its own.

Run: python benchmarks/rehearsal.py --folder DIR [--cells 592000] [--genes 20000] [--rank 80] [--minibatch]

The counts are simulated (about 1,000 nonzeros a cell) and written to DIR, with all that is made of them:
about 4 bytes a nonzero, two Gram matrices of 4 bytes x genes², and with --minibatch 10 bytes a nonzero more
for a while. What a stage does is what the workflow's rule of that name does. Peaks are VmHWM of the stage's
process; CPU seconds beside the wall's tell how busy the machine was with other work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
STAGES = ("simulate", "filter_donors", "gather_statistics", "merge_statistics", "train_ae_nmf")
MINIBATCH = ("shuffle_cells", "train_ae_nmf_minibatch")
STREAMED = ("filter_donors", "gather_statistics", "shuffle_cells")  # as these rules do
NORMALISATION = {"target_sum": 1e4, "log1p": True}


def run_stage(stage: str, folder: Path, cells: int, genes: int, rank: int, threads: int) -> dict:
    """The work of one stage; what it wants to tell beside seconds and memory."""
    source, filtered, shard = folder / "source.h5ad", folder / "filtered.h5ad", folder / "shard.h5"
    merged, store = folder / "statistics.h5", folder / "shuffled.h5ad"
    if stage == "simulate":
        from sparse_atlas import write_atlas

        types = {"n_donors": 24, "n_small_donors": 0, "n_cell_types": 25, "min_cells": max(1, cells // 100)}
        counts = 1300.0 if genes >= 10_000 else 550.0
        nonzeros = write_atlas(source, n_cells=cells, n_genes=genes, mean_counts=counts, **types)
        return {"nonzeros": nonzeros, "file_MB": round(source.stat().st_size / 1e6)}
    if stage == "filter_donors":
        from nmfbench.data import filter_donors

        filter_donors(source, filtered, folder / "donors.tsv", min_cells_per_donor=1)
        return {"file_MB": round(filtered.stat().st_size / 1e6)}
    if stage == "gather_statistics":
        from nmfbench.statistics.shards import gather_file

        gather_file(
            filtered, shard, shard=0, n_shards=1, normalisation=NORMALISATION, donor_grams=False,
            condition_columns=["donor_id"], memory_mb=6144, passes=1,
        )  # fmt: skip
        return {}
    if stage == "merge_statistics":
        from nmfbench.statistics import merge_files

        merge_files([shard], merged, shards=[0])
        shard.unlink()
        return {}
    if stage == "shuffle_cells":
        from nmfbench.rows.shuffle import shuffle_cells

        shuffle_cells(filtered, store, by_type=True)
        return {"file_MB": round(store.stat().st_size / 1e6)}
    return train(stage, folder, rank, threads)


def train(stage: str, folder: Path, rank: int, threads: int) -> dict:
    """Fit and embed as the rule does, and read run.json."""
    from nmfbench.job import Job
    from nmfbench.train import train as fit

    fold = folder / stage
    fold.mkdir()
    by_batch = stage.endswith("minibatch")
    settings = {"solver": "minibatch", "max_iter": 1} if by_batch else {"solver": "statistics"}
    where = {"shuffled": str(folder / "shuffled.h5ad")} if by_batch else {}
    where |= {} if by_batch else {"statistics": str(folder / "statistics.h5")}
    fit(
        str(folder / "filtered.h5ad"), result=str(fold / "result.h5ad"), history=str(fold / "history.tsv"),
        record=str(fold / "run.json"), kind="ae_nmf", name="ae_nmf", display_name="AE_NMF", rank=rank, seed=0,
        settings=settings, device="cpu", normalisation=NORMALISATION, condition_columns=["donor_id"],
        run=Job(threads=threads), out_of_core=True, **where,
    )  # fmt: skip
    record = json.loads((fold / "run.json").read_text())
    kept = ("seconds_to_load", "seconds", "seconds_to_embed", "epochs", "stop_reason", "relative_error")
    return {key: record[key] for key in kept} | {
        "file_MB": round((fold / "result.h5ad").stat().st_size / 1e6)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=592_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="a new or empty folder on a large disk")
    parser.add_argument("--minibatch", action="store_true", help="also one epoch of minibatches")
    parser.add_argument("--stages", nargs="*", help="only these, on what is already in the folder")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = (arguments.cells, arguments.genes, arguments.rank, arguments.threads)
    if arguments.stage:
        measured(arguments.stage, arguments.folder, *sizes)
        return
    print("stage\twall_s\tcpu_s\tpeak_MB\tload\tmore", flush=True)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages or STAGES + MINIBATCH * arguments.minibatch:
        print(in_own_process(stage, arguments.folder, *sizes), flush=True)


def in_own_process(stage: str, folder: Path, cells: int, genes: int, rank: int, threads: int) -> str:
    """Call this script for one stage; its row."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "OMP_WAIT_POLICY": "PASSIVE"}
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[variable] = str(threads)
    sizes = [f"--cells={cells}", f"--genes={genes}", f"--rank={rank}", f"--threads={threads}"]
    command = [sys.executable, "-W", "ignore", __file__, f"--stage={stage}", f"--folder={folder}", *sizes]
    return subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def measured(stage: str, folder: Path, *sizes: int) -> None:
    """Run a stage and print its row; the load is that of the last minute, this work included."""
    from nmfbench.memory import peak_mb, return_freed_arrays

    if stage in STREAMED:
        return_freed_arrays()
    began = time.perf_counter()
    more = run_stage(stage, folder, *sizes)
    wall, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu, load = used.ru_utime + used.ru_stime, os.getloadavg()[0]
    more = {key: round(value, 4) if isinstance(value, float) else value for key, value in more.items()}
    print(f"{stage}\t{wall:.0f}\t{cpu:.0f}\t{peak_mb():.0f}\t{load:.1f}\t{json.dumps(more)}", flush=True)


if __name__ == "__main__":
    main()
