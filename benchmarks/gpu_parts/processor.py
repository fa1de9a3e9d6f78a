"""The processor's path before and after: the same minibatch fit in two trees of the code, by turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import scipy.sparse as sp
import torch

from gpu_parts.cells import simulate
from gpu_parts.registry import Bench, Line, part

HERE = Path(__file__).resolve().parents[2]
CODE = """
import json, sys, time
import scipy.sparse as sp
from nmfbench.models import get_model
X, kind, epochs = sp.load_npz(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def fit(n):
    settings = {"solver": "minibatch", "init": "random", "random_state": 0, "device": "cpu"}
    began = time.process_time()
    model = get_model(kind)(int(sys.argv[4]), max_iter=n, **settings).fit(X, progress=False)
    return time.process_time() - began, float(model.objective_)
fit(1)
print(json.dumps(min(fit(epochs) for _ in range(int(sys.argv[5])))))
"""


@part("processor")
def processor(bench: Bench) -> Iterator[Line]:
    """CPU seconds of epochs of `ae_nmf`, this tree's over another's; objectives must be the same number."""
    what, before = "minibatches on the processor, times before", bench.kept.get("before")
    if before is None:
        yield Line(what, None, "x", 1.05, beside="no tree was given (--before)")
        return
    size = (600, 90, 20, 2, 4) if bench.small else (3_000, 6_000, 500, 12, 40)
    n, p, draws, epochs, k = size
    cells = simulate(n, p, draws, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.npz"
        sp.save_npz(path, cells.values)
        trees = {"before": Path(str(before)), "now": HERE}
        taken = {name: [] for name in trees}
        objectives = set()
        for _ in range(1 if bench.small else 2):
            for name, tree in trees.items():
                seconds, objective = fitted(tree, path, epochs, k, 1 if bench.small else 5)
                taken[name].append(seconds)
                objectives.add(objective)
    same = "the same objective" if len(objectives) == 1 else f"objectives differ: {sorted(objectives)}"
    now, then = min(taken["now"]), min(taken["before"])
    beside = f"{now:.3g} and {then:.3g} CPU s, the least of several fits; {same}"
    yield Line(what, now / then, "x", 1.05, beside=beside)


def fitted(tree: Path, cells: Path, epochs: int, k: int, fits: int) -> tuple[float, float]:
    """CPU seconds, the least of so many fits by the code of a tree in one thread, and their objective."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(cells), "ae_nmf", str(epochs), str(k), str(fits)],
        env={**os.environ, **one, "PYTHONPATH": str(tree / "scripts")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, objective = json.loads(done.stdout.splitlines()[-1])
    return seconds, objective
