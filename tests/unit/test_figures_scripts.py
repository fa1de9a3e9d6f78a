"""The thin scripts, run as Snakemake runs them, from small tables to PNG and PDF."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from nmfbench.metrics.matching import match_factors
from nmfbench.tables.files import write_table

# Snakemake's object is imitated, and the reading of result.h5ad replaced: its format is tested elsewhere.
RUNNER = """
import runpy, sys, types
import numpy as np, pandas as pd

class Named(dict):
    __getattr__ = dict.__getitem__
    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

folder, scripts = sys.argv[1:]
sys.path.insert(0, scripts)
results = types.ModuleType("nmfbench.results")
def read_embedding(path, fit=None):
    obs = pd.read_csv(path, sep="\\t", index_col=0)
    return np.random.default_rng(0).gamma(1, size=(len(obs), 3)), obs
results.read_embedding = read_embedding
sys.modules["nmfbench.results"] = results
names = {"ae_nmf": "AE_NMF", "cae_nmf1": "CAE_NMF1"}
runs = [{"model": m, "display_name": n, "rank": 3, "seed": 1, "dataset": "d"} for m, n in names.items()]
jobs = {
    "scores": (Named(scores="scores.tsv", folds="folds.tsv"), Named(rank=3, display_names=names)),
    "tradeoff": (
        Named(scores="scores.tsv", folds="folds.tsv"),
        Named(rank=3, display_names=names, roles=dict.fromkeys(names, "model")),
    ),
    "training": (
        Named(histories=["history.tsv", "history.tsv"], records=["run.json", "run.json"]), Named(runs=runs)
    ),
    "umap": (Named(umap="umap.tsv.gz", result="obs.tsv"), Named(labels=["cell_type"], display_name="AE_NMF")),
    "factors": (Named(result="obs.tsv"), Named(label="cell_type", display_name="AE_NMF")),
    "resources": (Named(resources="resources.tsv"), Named()),
    "comparison": (Named(matches="matches.tsv", pairs="pairs.tsv.gz"), Named(names=["A", "B"])),
}
for figure, (inputs, params) in jobs.items():
    smk = types.SimpleNamespace(input=inputs, params=params, threads=1, log=[], rule=f"plot_{figure}",
                                output=Named(png=f"{figure}.png", pdf=f"{figure}.pdf"), wildcards=Named())
    runpy.run_path(f"{scripts}/plot_{figure}.py", init_globals={"snakemake": smk})
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("figures")
    tables(folder)
    (folder / "runner.py").write_text(RUNNER, encoding="utf-8")
    command = [sys.executable, "-W", "error", "runner.py", str(folder), str(repository / "scripts")]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


def tables(folder) -> None:
    """Write the tables as the workflow does."""
    grid = itertools.product(("ae_nmf", "cae_nmf1"), ("cell_type", "donor_id"), ("ARI", "F1"))
    scores = pd.DataFrame(grid, columns=["model", "label", "metric"])
    scores = scores.assign(rank=3, seed=1, value=0.5, std=0.1, n=10, uses_labels="", status="ok")
    write = {"sep": "\t", "index": False}
    scores.to_csv(folder / "scores.tsv", **write)
    folds = scores[scores["metric"] == "F1"].assign(cv_seed=1, fold=0, classifier="kNN", F1=0.5)
    folds.to_csv(folder / "folds.tsv", **write)
    (folder / "run.json").write_text('{"normalisation": {"target_sum": 10000.0, "log1p": true}}')
    epoch = np.arange(1, 5)
    history = pd.DataFrame(
        {"epoch": epoch, "objective": 9.0 / epoch, "relative_error": 1 / epoch, "seconds": epoch}
    )
    history.to_csv(folder / "history.tsv", **write)
    cells = [f"00{i}" for i in range(20)]  # names that look like numbers
    obs = pd.DataFrame({"cell_type": ["B cell", "T cell"] * 10}, index=[f"x{cell}" for cell in cells])
    obs.to_csv(folder / "obs.tsv", sep="\t")
    coordinates = pd.DataFrame({"cell": obs.index, "UMAP1": np.arange(20.0), "UMAP2": np.arange(20.0) % 3})
    coordinates.to_csv(folder / "umap.tsv.gz", **write)
    resources = pd.DataFrame(
        {"model": ["", "ae_nmf"], "rank": [None, 3], "seed": [None, 1], "step": ["filter", "train"],
         "seconds": [1.0, 2.0], "peak_mb": [100.0, 200.0], "threads": [1, 2], "device": ["cpu", "cpu"]}
    )  # fmt: skip
    resources.to_csv(folder / "resources.tsv", **write)
    matches, pairs = match_factors(np.eye(2, 3), np.eye(2, 3))  # a factor is left over: NA in the table
    write_table(matches.assign(n_cells=20, n_genes=9), folder / "matches.tsv")
    write_table(pairs, folder / "pairs.tsv.gz")


@pytest.mark.parametrize(
    "figure", ["scores", "tradeoff", "training", "umap", "factors", "resources", "comparison"]
)
def test_script_writes_both_files(drawn, figure):
    assert (drawn / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert (drawn / f"{figure}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    "figure", ["scores", "tradeoff", "training", "umap", "factors", "resources", "comparison"]
)
def test_script_is_thin_and_has_a_caption(repository, figure):
    assert len((repository / "scripts" / f"plot_{figure}.py").read_text(encoding="utf-8").splitlines()) <= 60
    caption = (repository / "workflow" / "report" / f"{figure}.rst").read_text(encoding="utf-8")
    assert len(caption) > 300
