"""Time and memory of scoring and fitting at the size of a large screen.

    python benchmarks/perturbation_scale.py score [--targets 300 --genes 10000 --cells 60000]
    python benchmarks/perturbation_scale.py fit [--targets 120 --genes 18080 --width 512]

Counts are simulated directly as sparse matrices; nothing dense of cells x genes is made.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from nmfbench.memory import peak_mb


def random_cells(rng: np.random.Generator, n_cells: int, n_genes: int, per_cell: int) -> sparse.csr_matrix:
    """Counts of cells with about `per_cell` genes seen, some genes much oftener than others."""
    weight = rng.lognormal(0, 1.5, n_genes)
    columns = rng.choice(n_genes, (n_cells, per_cell), p=weight / weight.sum())
    indptr = np.arange(n_cells + 1) * per_cell
    counts = sparse.csr_matrix(
        (np.ones(columns.size, np.float32), columns.ravel(), indptr), (n_cells, n_genes)
    )
    counts.sum_duplicates()
    return counts


def score(options: argparse.Namespace) -> None:
    """Truth and one prediction by the house scorer."""
    from nmfbench.perturbation.scoring.backends import BACKENDS
    from nmfbench.perturbation.scoring.ceiling import replicate_ceiling
    from nmfbench.perturbation.scoring.cells import Cells
    from nmfbench.perturbation.scoring.score import score_prediction
    from nmfbench.perturbation.scoring.truth import build_truth

    rng = np.random.default_rng(0)
    names = [f"T{number}" for number in range(options.targets)]
    control = options.cells // 20
    others = rng.permutation(np.arange(options.cells - control) % options.targets)
    group = np.concatenate([np.full(control, -1), np.sort(others)])
    real, predicted = (
        Cells(random_cells(rng, options.cells, options.genes, options.per_cell), group, names)
        for _ in range(2)
    )
    genes = [f"G{number}" for number in range(options.genes)]
    own = np.arange(options.targets)
    print(f"{real.counts.nnz / 1e6:.0f} million nonzeros a side, {peak_mb():.0f} MB before scoring")
    wall, cpu = time.monotonic(), time.process_time()
    truth = build_truth(real, BACKENDS["house"], genes, own, target_sum=1500.0, fdr=0.05)
    print(f"truth: {time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} CPU s")
    score_prediction(truth, predicted)
    print(
        f"truth and one prediction: {time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} CPU s, "
        f"peak {peak_mb():.0f} MB",
        flush=True,
    )
    replicate_ceiling(
        real, BACKENDS["house"], genes, own, target_sum=1500.0, fdr=0.05, responsive=truth.responsive(5),
        reference=None,
    )  # fmt: skip
    print(
        f"with the ceiling: {time.monotonic() - wall:.0f} s, {time.process_time() - cpu:.0f} CPU s, "
        f"peak {peak_mb():.0f} MB"
    )


def fit(options: argparse.Namespace) -> None:
    """The default NB-GLM in concise mode, with its choice of the penalty."""
    from nmfbench.perturbation.background import Background
    from nmfbench.perturbation.control import Control
    from nmfbench.perturbation.embeddings import Embedding
    from nmfbench.perturbation.fold import Fold
    from nmfbench.perturbation.predictors import predictor_of, settings_of
    from nmfbench.perturbation.sums import Sums

    rng = np.random.default_rng(0)
    p, n_targets, n_cells = options.genes, options.targets, 150
    vectors = rng.standard_normal((p, options.width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    genes = np.array([f"G{number}" for number in range(p)], dtype=object)
    mean = rng.lognormal(-2, 1.5, p)
    change = vectors[:, :8] @ rng.standard_normal((8, 8)) @ vectors[: n_targets + 10, :8].T * 8
    counts = rng.poisson(n_cells * mean * np.exp(change.T)).astype(float)
    n = np.full(len(counts), float(n_cells))
    fold = np.where(np.arange(len(counts)) < n_targets, -1, 0)
    zeros, logs = np.zeros(len(counts), int), np.log1p(counts / n_cells) * n_cells
    half, totals = rng.integers(0, 2, len(counts)), counts.sum(axis=1)
    sums = Sums(
        np.arange(len(counts)), fold, zeros, half, n, n, n, totals, counts, logs, logs, mean, mean,
        np.exp(rng.normal(0, 0.4, 4000)), mean.sum(), mean.sum(), genes, genes[: len(counts)],
        np.arange(len(counts)), np.zeros((len(counts) + 1, 3)),
    )  # fmt: skip
    control = Control(mean, np.full(p, 5.0), np.log1p(mean))
    embedding = Embedding(vectors, dict(zip(genes, vectors, strict=True)))
    asked = [str(name) for name in genes[n_targets : n_targets + 10]]
    one = Fold(sums, Background.of(sums, control), embedding, 0, asked)
    wall, cpu = time.monotonic(), time.process_time()
    predictor = predictor_of("nb_glm")(settings_of("nb_glm")().model_dump())
    prediction = predictor.predict(one, print)
    r = np.corrcoef((prediction.log_rate - np.log(mean)).ravel(), change.T[n_targets:].ravel())[0, 1]
    print(
        f"{p} genes, {n_targets} targets, width {options.width}: {time.monotonic() - wall:.0f} s, "
        f"{time.process_time() - cpu:.0f} CPU s, peak {peak_mb():.0f} MB, correlation with the truth {r:.3f}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["score", "fit"])
    parser.add_argument("--targets", type=int, default=None)
    parser.add_argument("--genes", type=int, default=None)
    parser.add_argument("--cells", type=int, default=60_000)
    parser.add_argument("--per-cell", type=int, default=1_500)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args(arguments)
    defaults = {"score": (300, 10_000), "fit": (120, 18_080)}[options.what]
    options.targets, options.genes = options.targets or defaults[0], options.genes or defaults[1]
    machine()
    (score if options.what == "score" else fit)(options)


def machine() -> None:
    """Say what the figures were measured on, and how busy it was."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "scipy", "numba"))
    print(f"{model}, {os.cpu_count()} cores, load {load:.1f}; Python {platform.python_version()}, {packages}")


if __name__ == "__main__":
    main()
