"""Peak memory of training and scoring against the number of cells.

Run: python benchmarks/memory_train_score.py [cells ...]

Simulated atlases of 2,000 genes; each step runs in a process of its own. Peaks are VmHWM of that process;
the row ``libraries`` is what the imports alone take. Training loads the matrix (8 bytes a nonzero);
classification is dominated by the trees of the random forest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
RANK = 40
STEPS = ("libraries", "filter", "base_nmf", "ae_nmf", "cae_nmf1", "cae_nmf2", "cluster", "classify")

WORK = """
import sys, time
import anndata, numpy, pandas, scipy.sparse, sklearn.decomposition, torch
from nmfbench.data import filter_donors, load_normalised, read_filtered, simulate_atlas
from nmfbench.memory import peak_mb
step, folder, n_cells, rank = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
source, filtered = folder + "/source.h5ad", folder + "/filtered.h5ad"
began, nonzeros = time.perf_counter(), 0
if step == "simulate":
    simulate_atlas(source, n_cells=n_cells, n_genes=2000, mean_counts=800.0, min_cells=200)
elif step == "filter":
    filter_donors(source, filtered, folder + "/donors.tsv", min_cells_per_donor=200)
elif step in ("cluster", "classify"):
    H = numpy.random.default_rng(0).random((n_cells, rank), dtype=numpy.float32)
    labels = pandas.Series(numpy.arange(n_cells) % 20).astype(str)
    if step == "cluster":
        from nmfbench.metrics.clustering import leiden_labels, neighbour_graph
        leiden_labels(neighbour_graph(H), seeds=[0])
    else:
        from nmfbench.metrics.classification import classify
        classify(H, labels, cv_seed=42, n_folds=2)
elif step != "libraries":
    from nmfbench.models import get_model
    data, X = read_filtered(filtered), load_normalised(filtered)
    nonzeros = X.nnz
    length = {"max_iter": 3 if step == "base_nmf" else 2}
    model = get_model(step)(rank, random_state=0, **length)
    model.fit(X, conditions=data.obs["donor_id"].astype(str), strata=data.obs["cell_type"].astype(str))
print(peak_mb(), time.perf_counter() - began, nonzeros)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cells", type=int, nargs="*", default=[5_000, 20_000])
    arguments = parser.parse_args()
    print("step\tcells\tnonzeros\tCSR_MB\tpeak_MB\tseconds")
    for n_cells in arguments.cells:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            measure("simulate", folder, n_cells)
            for step in STEPS:
                peak, seconds, nonzeros = measure(step, folder, n_cells)
                csr = 8e-6 * nonzeros
                print(f"{step}\t{n_cells}\t{nonzeros:.0f}\t{csr:.0f}\t{peak:.0f}\t{seconds:.1f}", flush=True)


def measure(step: str, folder: str, n_cells: int) -> tuple[float, float, float]:
    """Peak memory (MB), seconds and nonzeros of one step."""
    command = [sys.executable, "-W", "ignore", "-c", WORK, step, folder, str(n_cells), str(RANK)]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    peak, seconds, nonzeros = map(float, done.stdout.split())
    return peak, seconds, nonzeros


if __name__ == "__main__":
    main()
