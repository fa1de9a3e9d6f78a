"""Time and peak memory of describing the factors of one fit (statistics and gene scores) against the cells.

Run: python benchmarks/factors_speed.py --folder DIR [--cells 50000 592000] [--genes 20000] [--rank 80]
     [--nonzeros 1000] [--threads 2]

The counts are one random block of 4,096 cells repeated, the embedding is made up: neither the time nor the
memory depends on what the values are. Each size runs in a process of its own; 45 cell types and 24 donors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy import sparse

BLOCK = 4096
N_TYPES, N_DONORS = 45, 24


def main(given: list[str] | None = None) -> list[dict[str, float]]:
    options = arguments(given)
    print("cells\tgenes\trank\tnonzeros\tthreads\twall_s\tcpu_s\tpeak_MB", flush=True)
    rows = []
    for cells in options.cells:
        folder = options.folder / f"cells-{cells}"
        folder.mkdir(parents=True, exist_ok=True)
        write_inputs(folder, cells, options.genes, options.rank, options.nonzeros)
        command = [sys.executable, __file__, "--describe", str(folder), "--threads", str(options.threads)]
        command += ["--folder", str(options.folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append({"cells": cells, **row})
        print(
            f"{cells}\t{options.genes}\t{options.rank}\t{options.nonzeros}\t{options.threads}\t"
            f"{row['wall_s']:.1f}\t{row['cpu_s']:.1f}\t{row['peak_MB']:.0f}",
            flush=True,
        )
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return rows


def write_inputs(folder: Path, n_cells: int, n_genes: int, rank: int, nonzeros: int) -> None:
    """A filtered.h5ad and a result.h5ad of made-up content."""
    import pandas as pd

    from nmfbench.data.filtered import PROVENANCE_KEY
    from nmfbench.data.writer import whole_h5ad, write_sections
    from nmfbench.results import write_result

    rng = np.random.default_rng(0)
    density = rng.dirichlet(np.full(n_genes, 0.3))
    most = np.argsort(-density)[: max(nonzeros * 3, nonzeros)]
    indices = np.concatenate([np.sort(rng.choice(most, nonzeros, replace=False)) for _ in range(BLOCK)])
    counts = rng.geometric(0.5, len(indices)).astype(np.float32)
    shape, indptr = (BLOCK, n_genes), np.arange(0, len(indices) + 1, nonzeros)
    block = sparse.csr_matrix((counts, indices.astype(np.int32), indptr), shape)
    names = {
        "cell_type": pd.Categorical.from_codes(
            rng.integers(N_TYPES, size=n_cells), np.arange(N_TYPES).astype(str)
        ),
        "donor_id": pd.Categorical.from_codes(
            rng.integers(N_DONORS, size=n_cells), np.arange(N_DONORS).astype(str)
        ),
    }
    obs = pd.DataFrame(names, index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame(
        {"feature_name": [f"S{i}" for i in range(n_genes)]}, index=[f"ENSG{i:011d}" for i in range(n_genes)]
    )
    with whole_h5ad(folder / "filtered.h5ad") as new:
        X = new.csr("X", n_genes, n_cells * nonzeros)
        for start in range(0, n_cells, BLOCK):
            X.append(block[: n_cells - start])
        X.finish()
        write_sections(
            new.hdf5, {"obs": obs, "var": var, "uns": {PROVENANCE_KEY: {"fingerprint": "made up"}}}
        )
    H = rng.gamma(0.5, size=(n_cells, rank)).astype(np.float32)
    H[rng.random(H.shape) < 0.5] = 0
    W = rng.gamma(0.3, size=(n_genes, rank)).astype(np.float32)
    record = {"model": "made_up", "display_name": "made up", "rank": rank, "seed": 0}
    write_result(
        folder / "result.h5ad", obs=obs, var=var, obsm={"H": H}, varm={"W_x": W}, uns={"model_name": "x"},
        record=record | {"embedding": "H", "uses_labels": ""},
    )  # fmt: skip


def describe(folder: Path, threads: int) -> None:
    """Describe the factors, and print what it took."""
    import torch
    from threadpoolctl import threadpool_limits

    from nmfbench.factors.describe import describe_factors
    from nmfbench.memory import peak_mb

    torch.set_num_threads(threads)
    started = time.monotonic()
    names = {"factors": "factors.tsv", "summary": "summary.tsv", "labels_table": "labels.tsv"}
    names |= {"pairs": "pairs.tsv.gz", "top_genes": "genes.tsv", "programs": "programs.h5ad"}
    with threadpool_limits(threads):
        describe_factors(
            folder / "filtered.h5ad",
            folder / "result.h5ad",
            **{key: folder / name for key, name in names.items()},
            labels=["cell_type", "donor_id"],
            normalisation={"target_sum": 1e4, "log1p": True},
        )
    used = resource.getrusage(resource.RUSAGE_SELF)
    took = {"wall_s": time.monotonic() - started, "cpu_s": used.ru_utime + used.ru_stime}
    # not ru_maxrss, which begins with that of the process that wrote the files
    print(json.dumps(took | {"peak_MB": peak_mb()}))


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="on a disk with room for the counts")
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 592_000])
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--nonzeros", type=int, default=1000, help="genes with a count in each cell")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--describe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.describe is not None:
        describe(options.describe, options.threads)
        sys.exit(0)
    return options


if __name__ == "__main__":
    main()
