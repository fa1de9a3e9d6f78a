"""Scoring on the card: exact neighbours of all pairs, and the logistic regression of a fold."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

from gpu_parts.registry import Bench, Line, part
from nmfbench.metrics.classifiers import make_classifier
from nmfbench.metrics.neighbours import find_neighbours
from nmfbench.metrics.on_device import fit_regression

N_CELLS, FACTORS, N_CLASSES = 592_000, 80, 45


@part("scores")
def scores(bench: Bench) -> Iterator[Line]:
    """25 neighbours of each cell and a regression of 45 classes, each beside the CPU's of fewer cells."""
    X, classes = embedding(2_000 if bench.small else N_CELLS, 8 if bench.small else FACTORS)
    part_of, threads = X[: max(len(X) // 30, 600)], os.cpu_count() or 1
    there = {"n_jobs": threads, "device": bench.device}
    same = find_neighbours(part_of, 25, n_jobs=threads), find_neighbours(part_of, 25, **there)
    equal = all(
        np.array_equal(*(getattr(table, name) for table in same)) for name in ("indices", "distances")
    )
    began = time.perf_counter()
    find_neighbours(X, 25, **there)
    beside = f"of {len(part_of):,} cells the same as on the CPU: {'yes' if equal else 'NO'}"
    yield Line(f"all pairs, {len(X):,} x {X.shape[1]}, 25 neighbours", since(began), "s", 15.0, beside=beside)
    train = np.arange(len(X)) % 5 > 0
    began = time.perf_counter()
    fit_regression(make_classifier("logistic_regression", 0, 1), X[train], classes[train], bench.device)
    seconds = since(began)
    few = np.arange(len(X)) < len(part_of)
    on_cpu = make_classifier("logistic_regression", 0, 1).fit(X[few & train], classes[few & train])
    there = make_classifier("logistic_regression", 0, 1)
    predict = fit_regression(there, X[few & train], classes[few & train], bench.device)
    asked = X[few & ~train]
    agree = np.mean(on_cpu.predict(asked) == there[-1].classes_[predict(asked).argmax(axis=1)])
    beside = f"{agree:.2%} of {len(asked):,} predictions of a fit to fewer cells as on the CPU"
    yield Line(
        f"logistic regression, {train.sum():,} cells, {N_CLASSES} classes", seconds, "s", beside=beside
    )


def embedding(n: int, factors: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative cells about the centres of their classes."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, N_CLASSES, n)
    centres = rng.gamma(0.5, 1.0, (N_CLASSES, factors)).astype(np.float32)
    noise = rng.standard_gamma(0.5, (n, factors), dtype=np.float32)
    return centres[classes] + noise, classes


def since(began: float) -> float:
    return time.perf_counter() - began
