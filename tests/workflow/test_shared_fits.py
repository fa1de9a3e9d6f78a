"""Fits that share a GPU job which is killed underway: nothing is lost, and nothing comes out otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from snake import snakemake

PRETENDED = Path(__file__).parent / "pretended"
MODELS = ("ae_nmf", "cae_nmf1", "cae_nmf2")
CONFIG = """
datasets:
  small:
    simulate: {n_cells: 420, n_genes: 200, n_cell_types: 4, n_donors: 3, n_small_donors: 0, seed: 1}
    min_cells_per_donor: 40
models: {%s}
ranks: [5]
seeds: [42]
"""
FIT = "results/small/{}/rank-5/seed-42/{}"


CALL = (
    *("--executor", "pretended", "--jobs", "4", "--retries", "1", "--seconds-between-status-checks", "1"),
    *("--default-resources", "gpu_request=gpus", "fits_per_gpu_job=8", "mem_mb=2000", "runtime=30"),
    *("--resources", "gpu_turn=1", "--set-resource-scopes", "gpu_turn=local"),
)
"""What profiles/slurm says of fits that share a job, to another executor."""


def run(folder, *arguments, models=MODELS):
    """Fit the models, each for so long that a state is kept before it ends."""
    settings = "{solver: minibatch, max_iter: {minibatch: 150}, patience: 1000, batch_size: 64}"
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(CONFIG % ", ".join(f"{name}: {settings}" for name in MODELS))
    targets = [FIT.format(name, "result.h5ad") for name in models]
    return snakemake(*targets, "--configfile", config, *arguments, directory=folder, brief=True)


def fitted(folder, name):
    """What a fit came to: its history without the time it took, and its loadings."""
    history = pd.read_csv(folder / FIT.format(name, "history.tsv"), sep="\t")
    with h5py.File(folder / FIT.format(name, "result.h5ad")) as file:
        loadings = {key: file["varm"][key][()] for key in file["varm"]}
    return history.drop(columns=["seconds", "cells_per_s", "peak_mb", "compile_seconds"]), loadings


@pytest.mark.slow
def test_a_shared_job_killed_underway_keeps_what_is_finished_and_goes_on_from_the_checkpoint(
    tmp_path, monkeypatch
):
    folder = tmp_path / "shared"
    monkeypatch.setenv("PYTHONPATH", str(PRETENDED))
    monkeypatch.setenv("NMFBENCH_TEST_KILL_AT", str(folder))
    call = run(folder, *CALL)
    assert call.code == 0, call.text[-4000:]
    jobs = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]
    trainings = [job for job in jobs if any("train_" in rule for rule in job["rules"])]
    shared, *again = trainings
    assert sorted(shared["rules"]) == [f"train_{name}" for name in MODELS], "one job for the three"
    assert [len(shared[name]) for name in ("done", "underway")] == [1, 1], "during the second of them"
    assert sorted(len(job["rules"]) for job in again) == [1, 1], "the two that are left, each alone"
    assert {*shared["done"], *(rule for job in again for rule in job["rules"])} == set(shared["rules"])
    resumed = []
    for name in MODELS:
        log = (folder / f"results/logs/train/small/{name}/rank-5/seed-42.log").read_text()
        resumed += [f"train_{name}"] * ("of the checkpoint" in log)
    assert resumed == shared["underway"], "it went on from its checkpoint, and no other fit had one"
    assert not any((folder / FIT.format(name, "checkpoint")).exists() for name in MODELS)
    name = resumed[0].removeprefix("train_")
    history, loadings = fitted(folder, name)
    shutil.rmtree((folder / FIT.format(name, "")).parent)
    call = run(folder, models=[name])
    assert call.code == 0, call.text[-4000:]
    expected, unbroken = fitted(folder, name)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert loadings.keys() == unbroken.keys()
    for key, values in loadings.items():
        assert np.array_equal(values, unbroken[key]), key
