"""CPU seconds and peak memory of every scoring step, beside the plain scikit-learn and scanpy way.

    python benchmarks/scoring_cost.py 5000 20000 80000

Each step runs in a process of its own on one thread. The embedding is a mixture of gamma
clouds, cells x 80, 45 classes.
The exponent is the slope of log seconds on log cells over the last two sizes; the estimate for 592,000
cells goes on from the largest size with it, and is an estimate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ATLAS, FACTORS, CLASSES, DONORS, FOLDS, SHUFFLES, LABELS = 592_000, 80, 45, 24, 5, 5, 2

#: What a step does, and how often it is done for one embedding and two labels with the published protocol.
STEPS = {
    "neighbours, z-scored (60)": 1,
    "neighbours, as given (90)": 1,
    "graph and Leiden, 10 seeds": 1,
    "nearest-neighbour CV, one shuffle": SHUFFLES * LABELS,
    "logistic regression, one fold": FOLDS * SHUFFLES * LABELS,
    "10 of 200 trees, one fold": 20 * FOLDS * SHUFFLES * LABELS,
    "LISI, donor and type": 1,
    "silhouettes": 1,
    "BRAS, PCR, connectivity, kSIM": 1,
    "plain: scanpy neighbours (25)": 1,
    "plain: nearest-neighbour CV, one shuffle": SHUFFLES * LABELS,
}
GROUPS = {
    "now: neighbours, Leiden, nearest-neighbour CV": list(STEPS)[:1] + list(STEPS)[2:4],
    "plain: the same": [list(STEPS)[9], list(STEPS)[2], list(STEPS)[10]],
}


def embedding(n_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells x factors, and the class and donor of each."""
    rng = np.random.default_rng(0)
    codes, donors = rng.integers(0, CLASSES, n_cells), rng.integers(0, DONORS, n_cells)
    H = rng.gamma(0.3, size=(CLASSES, FACTORS))[codes] * rng.gamma(2.0, 0.5, size=(n_cells, FACTORS))
    H += rng.gamma(0.3, 0.3, size=(n_cells, FACTORS))
    return H.astype(np.float32), codes, donors


def run_step(step: str, n_cells: int, folder: Path) -> dict[str, float]:
    """Do one step in this process, after its inputs are there."""
    import time

    from nmfbench.memory import peak_mb

    H, codes, donors = embedding(n_cells)
    work = _prepare(step, H, codes, donors, folder)
    work(small=True)  # imports and compiled loops
    begin = time.process_time()
    work(small=False)
    return {"seconds": time.process_time() - begin, "peak_mb": peak_mb()}


def _prepare(step: str, H: np.ndarray, codes: np.ndarray, donors: np.ndarray, folder: Path):
    """The work of a step as a function; what other steps made is read before."""
    from nmfbench.metrics import mixing, separation
    from nmfbench.metrics.classification import classify
    from nmfbench.metrics.classifiers import make_classifier, stream_forest
    from nmfbench.metrics.clustering import leiden_labels, neighbour_graph
    from nmfbench.metrics.labels import scale_embedding
    from nmfbench.metrics.neighbours import Neighbours, find_neighbours, load_neighbours, save_neighbours

    labels = codes.astype(str)

    def table(name: str, width: int, small: bool) -> Neighbours:
        if small:
            X = H[:2000] if name == "as_given" else scale_embedding(H[:2000])[0]
            return find_neighbours(X, width)
        return load_neighbours(folder / f"{name}-{len(H)}.npz", name)

    def rows(small: bool) -> slice:
        return slice(0, 2000 if small else None)

    def search(name: str, width: int):
        def work(small: bool) -> None:
            X = H[rows(small)]
            found = find_neighbours(X if name == "as_given" else scale_embedding(X)[0], width)
            if not small:
                save_neighbours(folder / f"{name}-{len(H)}.npz", {name: found})

        return work

    def leiden(small: bool) -> None:
        graph = neighbour_graph(H[rows(small)], 25, neighbours=table("z_scored", 60, small))
        leiden_labels(graph, seeds=range(1 if small else 10))

    def nearest(small: bool) -> None:
        near = table("z_scored", 60, small)
        classify(H[rows(small)], labels[rows(small)], cv_seed=42, classifiers=["knn"], neighbours=near)

    def plain_nearest(small: bool) -> None:
        """The same folds and scores as scikit-learn's user writes them."""
        from sklearn.metrics import precision_recall_fscore_support, roc_auc_score
        from sklearn.model_selection import StratifiedKFold

        X, y = H[rows(small)], codes[rows(small)]
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=42).split(X, y):
            knn = make_classifier("knn", 0, 1).fit(X[train], y[train])
            share = knn.predict_proba(X[test])
            precision_recall_fscore_support(y[test], share.argmax(axis=1), average="macro", zero_division=0)
            for number in range(share.shape[1]):
                roc_auc_score(y[test] == number, share[:, number])

    def linear(small: bool) -> None:
        X, y = H[rows(small)], labels[rows(small)]
        n = int(0.8 * len(X))
        make_classifier("logistic_regression", 0, 1).fit(X[:n], y[:n]).predict_proba(X[n:])

    def forest(small: bool) -> None:
        X, y = H[rows(small)], labels[rows(small)]
        n = int(0.8 * len(X))
        trees = make_classifier("random_forest", 0, 1).set_params(n_estimators=10)
        stream_forest(trees, X[:n], y[:n], X[n:])

    def lisi(small: bool) -> None:
        near = table("as_given", 90, small)
        for label in (codes, donors):
            mixing.lisi(near, label[rows(small)])

    def silhouettes(small: bool) -> None:
        separation.silhouettes(H[rows(small)], codes[rows(small)])

    def cheap(small: bool) -> None:
        near = table("as_given", 90, small)
        X, types, batch = H[rows(small)], codes[rows(small)], donors[rows(small)]
        separation.batch_silhouette(X, types, batch)
        separation.donor_variance(X, batch)
        mixing.graph_connectivity(near, types)
        mixing.neighbour_shares(near, types)

    def scanpy_graph(small: bool) -> None:
        import anndata
        import scanpy

        cells = anndata.AnnData(scale_embedding(H[rows(small)])[0])
        scanpy.pp.neighbors(cells, n_neighbors=25, use_rep="X", transformer="sklearn")

    works = [
        *(search("z_scored", 60), search("as_given", 90), leiden, nearest, linear, forest, lisi, silhouettes),
        *(cheap, scanpy_graph, plain_nearest),
    ]
    return dict(zip(STEPS, works, strict=True))[step]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cells", type=int, nargs="*", default=[5_000, 20_000, 80_000])
    parser.add_argument("--folder", type=Path, default=Path("scoring-cost"))
    parser.add_argument("--step", choices=STEPS, help="one step in this process, for the script itself")
    parser.add_argument("--only", nargs="+", choices=STEPS, help="these steps instead of all, in this order")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.step:
        print(json.dumps(run_step(arguments.step, arguments.cells[0], arguments.folder)))
        return
    sizes = sorted(arguments.cells)
    found: dict[str, dict[int, dict[str, float]]] = {step: {} for step in arguments.only or STEPS}
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    for n_cells in sizes:
        for step in found:
            command = [
                sys.executable,
                __file__,
                str(n_cells),
                "--folder",
                str(arguments.folder),
                "--step",
                step,
            ]
            done = subprocess.run(
                command, env={**os.environ, **one_thread}, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stderr)
            found[step][n_cells] = json.loads(done.stdout.splitlines()[-1])
            print(f"# {n_cells} {step}: {found[step][n_cells]}", file=sys.stderr, flush=True)
    report(found, sizes)


def report(found: dict[str, dict[int, dict[str, float]]], sizes: list[int]) -> None:
    """Print the table of steps, and what one embedding costs in all."""
    heads = [f"{n:,} cells" for n in sizes]
    print("| step | times | " + " | ".join(heads) + " | exponent | 592,000, each (estimate) | peak MB |")
    print("|---" * (len(sizes) + 5) + "|")
    estimates = {}
    for step, by_size in found.items():
        seconds = [by_size[n]["seconds"] for n in sizes]
        slope = np.nan
        if len(sizes) > 1:
            slope = np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2])
        estimates[step] = seconds[-1] * (ATLAS / sizes[-1]) ** slope
        cells = " | ".join(f"{s:.2f} s" for s in seconds)
        peak = by_size[sizes[-1]]["peak_mb"]
        print(f"| {step} | {STEPS[step]} | {cells} | {slope:.2f} | {estimates[step]:,.0f} s | {peak:,.0f} |")
    if not set(found) >= {step for group in GROUPS.values() for step in group}:
        return
    for n in sizes:
        now, plain = (
            sum(found[step][n]["seconds"] * STEPS[step] for step in GROUPS[group]) for group in GROUPS
        )
        print(
            f"\n{n:,} cells, 2 labels, 5 shuffles: {now:.1f} s now, {plain:.1f} s plain: {plain / now:.1f}x"
        )


if __name__ == "__main__":
    main()
