"""Every run of the perturbation task of a config in one process: the tables without a start for each job.

    python benchmarks/perturbation_screen.py mine.yaml --folder results_screen [--dataset papalexi]

The files and tables are those of the workflow; an embedding ``from: fit`` needs the fit to be there, under
the same folder. For many seeds and predictors on a small screen most of a job's time is its start.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from nmfbench.config import load_config
from nmfbench.data import filter_donors
from nmfbench.job import Job
from nmfbench.perturbation import held_out, steps
from nmfbench.perturbation.fit import fit_predictor
from nmfbench.perturbation.grid import NONE, Grid
from nmfbench.perturbation.tables import collect

FILTER = (
    "cell_type_column",
    "donor_column",
    "condition_columns",
    "keep_obs",
    "obs_filters",
    "min_cells_per_donor",
)


def main(arguments: list[str] | None = None) -> None:
    """Make the files of every run that are not there, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dataset")
    options = parser.parse_args(arguments)
    cfg = load_config(yaml.safe_load(options.config.read_text()), where=str(options.config))
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    grid = Grid(cfg, lambda path: path.replace("<results>", "results").replace("<logs>", "results/logs"))
    for dataset in [options.dataset] if options.dataset else cfg.datasets_with("perturbation"):
        run_dataset(cfg, grid, dataset)


def run_dataset(cfg, grid: Grid, dataset: str) -> None:
    """All runs of one screen."""
    place = Path("results", dataset)
    filtered = place / "filtered.h5ad"
    if not filtered.exists():
        section = cfg.datasets[dataset].model_dump(include=set(FILTER))
        filter_donors(cfg.datasets[dataset].path, filtered, place / "donors.tsv", **section)
    scorer = cfg.perturbation.scorer.model_dump()
    started = time.monotonic()
    for run in grid.runs(dataset):
        wildcards = SimpleNamespace(**run)
        folder = place / "perturbation" / run["split"]
        screen = grid.screen(dataset)
        if not (folder / "sums.npz").exists():
            steps.make_split(str(filtered), screen, grid.split(wildcards), str(folder), scorer["target_sum"])
        truth = folder / "truth" / scorer["backend"]
        files = [str(folder / name) for name in ("split.npz", "sums.npz", "targets.csv")]
        if not (truth / "truth.npz").exists():
            held_out.make_truth(str(filtered), files[0], files[1], screen, scorer, str(truth))
        vectors = folder / "embeddings" / f"{run['embedding']}.npz"
        if run["embedding"] != NONE and not vectors.exists():
            vectors.parent.mkdir(parents=True, exist_ok=True)
            fit = grid.embedding_fit(wildcards)
            fit = fit.replace("<results>", "results") if fit else None
            settings = grid.embedding(wildcards)
            steps.make_embedding(str(filtered), files[0], screen, settings, str(vectors), fit=fit, also=None)
        home = folder / run["embedding"] / run["predictor"] / f"seed-{run['seed']}"
        if (home / "scores.tsv").exists():
            continue
        home.mkdir(parents=True, exist_ok=True)
        kind = cfg.predictors[run["predictor"]].kind
        model = home / ("model.pt" if kind == "nb_glm" else "model.npz")
        names = {name: str(home / name) for name in ("history.tsv", "run.json", "cells.h5ad", "profiles.npz")}
        fit_predictor(
            files[1], None if run["embedding"] == NONE else str(vectors), model=str(model),
            history=names["history.tsv"], record=names["run.json"], kind=kind, name=run["predictor"],
            settings=grid.settings(wildcards), seed=run["seed"], device=cfg.device, run=Job(1),
            filtered=str(filtered), split=files[0], screen=screen,
        )  # fmt: skip
        steps.predict_cells(
            str(model), files[2], str(filtered), files[0], screen=screen, settings=grid.settings(wildcards),
            sampling=grid.sampling(wildcards), predictor=run["predictor"], seed=run["seed"],
            cells_out=names["cells.h5ad"], profiles_out=names["profiles.npz"],
        )  # fmt: skip
        out = {f"{name}_out": str(home / f"{name}.tsv") for name in ("scores", "targets")}
        steps.score_cells(
            names["cells.h5ad"], names["profiles.npz"], str(truth / "truth.npz"), screen=screen,
            scorer=scorer, seed=run["seed"], record_out=str(home / "metrics.json"), **out,
        )  # fmt: skip
        Path(names["cells.h5ad"]).unlink()
        print(f"{time.monotonic() - started:7.0f} s  {' '.join(map(str, run.values()))}", flush=True)
    collect(grid.grid(SimpleNamespace(dataset=dataset)), place / "tables", bootstrap=scorer["bootstrap"])


if __name__ == "__main__":
    main()
