"""An atlas from its filtered file to `result.h5ad`, by a job's own function in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gpu_parts.minibatch import K
from gpu_parts.registry import Bench, Line, part

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CODE = """
import json, os, sys
from nmfbench.job import Job
from nmfbench.models.autoencoder.card import AENMF
from nmfbench.train import train
filtered, folder, rank, device, most = sys.argv[1:]
train(
    filtered, **{name: f"{folder}/{file}" for name, file in
                 (("result", "result.h5ad"), ("history", "history.tsv"), ("record", "run.json"))},
    kind="ae_nmf", name="ae_nmf", display_name="AE_NMF",
    settings=AENMF(max_iter={"statistics": int(most)}).parameters(), rank=int(rank), seed=0, device=device,
    normalisation={"target_sum": 1e4, "log1p": True}, condition_columns=["donor_id"],
    run=Job(threads=os.cpu_count()), in_memory_mb=16_000,
)
"""


@part("atlas")
def atlas(bench: Bench) -> Iterator[Line]:
    """`ae_nmf` at its defaults; not run without a file: making one of 10⁹ nonzeros takes longer than all."""
    what = "filtered file to result.h5ad, ae_nmf"
    with tempfile.TemporaryDirectory() as folder:
        filtered = bench.kept.get("filtered") or (toy(Path(folder)) if bench.small else None)
        if filtered is None:
            yield Line(what, None, "s", 240.0, beside="no file was given (--filtered)")
            return
        began = time.perf_counter()
        rank, most = ("4", "5") if bench.small else (str(K), "500")
        command = [sys.executable, "-W", "ignore", "-c", CODE, str(filtered), folder, rank, str(bench.device)]
        given = {"env": {**os.environ, "PYTHONPATH": str(SCRIPTS)}, "capture_output": True, "text": True}
        done = subprocess.run([*command, most], check=False, **given)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        seconds = time.perf_counter() - began
        run = json.loads((Path(folder) / "run.json").read_text())
    size = f"{run['n_cells']:,} x {run['n_genes']:,}, {run['nonzeros']:,} nonzeros"
    route, ended = run["solver"]["route"], f"{run['stop_reason']} after {run['iterations']} sweeps"
    yield Line(what, seconds, "s", 240.0, beside=f"{size}; route {route}; {ended}")
    yield Line("host memory of the same at its peak", run["peak_mb"], "MB", 24_000.0)


def toy(folder: Path) -> Path:
    """A small filtered file."""
    from nmfbench.data import filter_donors, simulate_atlas

    source, filtered = folder / "source.h5ad", folder / "filtered.h5ad"
    simulate_atlas(
        source, n_cells=400, n_genes=60, n_donors=3, n_cell_types=3, mean_counts=60.0, min_cells=20
    )
    filter_donors(source, filtered, folder / "donors.tsv", min_cells_per_donor=20)
    return filtered
