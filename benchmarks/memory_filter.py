"""Peak memory of filter_donors against the number of cells.

Run: python benchmarks/memory_filter.py [cells ...]

Each size is filtered in a process of its own, from a file with 2,000 nonzeros a cell over 20,000
genes whose blocks repeat, so that making it costs little. The peak is the largest resident memory of
that process; the first row, without work, is what Python and the libraries take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
N_GENES, NONZEROS, BLOCK = 20_000, 2_000, 5_000
LAYOUTS = ("csr", "csc", "hvg")

WORK = """
import resource, sys, time
import anndata, h5py, pandas, scipy.sparse  # what the work imports, so that the first row has it too
from nmfbench.data import filter_donors
began = time.perf_counter()
if sys.argv[1] != "nothing":
    outputs = sys.argv[2] + "/filtered.h5ad", sys.argv[2] + "/donors.tsv"
    genes = {"select": sys.argv[3], "n_top": 2000}
    filter_donors(sys.argv[1], *outputs, genes=genes, min_cells_per_donor=100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cells", type=int, nargs="*", default=[50_000, 200_000])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["csr", "hvg"])
    arguments = parser.parse_args()
    print("input\tcells\tnonzeros\tCSR_MB\tfile_MB\tpeak_MB\tseconds")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        peak, _ = filter_once("nothing", folder)
        print(f"-\t0\t0\t0\t0\t{peak:.0f}\t-", flush=True)
        for n_cells in arguments.cells:
            path = Path(folder, "cells.h5ad")
            for layout in arguments.layouts:
                # In a process of its own too: a child starts with the peak of its parent on its account.
                writing = get_context("spawn").Process(
                    target=write_cells, args=(path, n_cells, "csc" if layout == "csc" else "csr")
                )
                writing.start()
                writing.join()
                peak, seconds = filter_once(str(path), folder, "hvg" if layout == "hvg" else "none")
                size = path.stat().st_size / 1e6
                nonzeros = n_cells * NONZEROS
                sizes = f"{n_cells}\t{nonzeros}\t{8e-6 * nonzeros:.0f}\t{size:.0f}"
                print(f"{layout}\t{sizes}\t{peak:.0f}\t{seconds:.0f}", flush=True)


def filter_once(path: str, folder: str, select: str = "none") -> tuple[float, float]:
    """Peak resident memory (MB) and seconds of one filtering."""
    command = [sys.executable, "-c", WORK, path, folder, select]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    peak, seconds = map(float, done.stdout.split())
    return peak, seconds


def write_cells(path: Path, n_cells: int, form: str) -> None:
    """Write an h5ad file by repeating one block of cells."""
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from nmfbench.data.writer import whole_h5ad, write_sections

    rng = np.random.default_rng(0)
    genes = np.sort(np.argsort(rng.random((BLOCK, N_GENES)), axis=1)[:, :NONZEROS], axis=1)
    counts = rng.geometric(0.5, genes.size).astype(np.float32)
    indptr = np.arange(BLOCK + 1) * NONZEROS
    block = sparse.csr_matrix((counts, genes.ravel(), indptr), shape=(BLOCK, N_GENES))
    obs = pd.DataFrame(index=[f"cell{number:07d}" for number in range(n_cells)])
    obs["cell_type"] = pd.Categorical(np.array(["T cell", "B cell"])[np.arange(n_cells) % 2])
    obs["donor_id"] = pd.Categorical(np.array([f"D{number}" for number in range(6)])[np.arange(n_cells) % 6])
    var = pd.DataFrame(index=[f"G{number:05d}" for number in range(N_GENES)])
    if form == "csc":
        matrix = sparse.vstack([block] * (n_cells // BLOCK), format="csc")
        with whole_h5ad(path) as file:
            write_sections(file.hdf5, {"obs": obs, "var": var, "X": matrix})
        return
    with whole_h5ad(path) as file:
        writer = file.csr("X", N_GENES, n_cells * NONZEROS)
        for _ in range(n_cells // BLOCK):
            writer.append(block)
        writer.finish()
        write_sections(file.hdf5, {"obs": obs, "var": var})


if __name__ == "__main__":
    sys.path.insert(0, str(SCRIPTS))
    main()
