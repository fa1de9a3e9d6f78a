"""Bad input through the whole workflow: one message, exit status not 0, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy import sparse

import data_files
from nmfbench.inapplicable import reason_in
from snake import Call, snakemake

pytestmark = pytest.mark.slow


def run(folder: Path, models: dict | None = None, target: str | None = None, **dataset) -> Call:
    """Run a config of one's own on ``cells.h5ad`` in a folder, up to one model."""
    model = next(iter(models or {"ae_nmf": {}}))
    config = {
        "datasets": {"mine": {"path": "cells.h5ad", "min_cells_per_donor": 5, **dataset}},
        "models": models or {"ae_nmf": {"max_iter": 1}},
        "ranks": [3],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    target = target or f"results/mine/{model}/rank-3/seed-42/result.h5ad"
    return snakemake(target, "--configfile", folder / "mine.yaml", directory=folder)


def assert_refused(call: Call, folder: Path, *expected: str) -> None:
    assert call.code != 0
    for words in (*expected, "what to do:"):
        assert words in call.text, call.text
    assert "Traceback" not in call.text
    left = [path.name for path in (folder / "results" / "mine").rglob("*") if path.is_file()]
    assert set(left) <= {"filtered.h5ad", "donors.tsv"}, left


def test_a_file_that_is_not_hdf5(tmp_path):
    (tmp_path / "cells.h5ad").write_text("cells")
    assert_refused(run(tmp_path), tmp_path, "cells.h5ad")


def test_a_misspelt_donor_column(tmp_path):
    obs = data_files.make_obs().rename(columns={"donor_id": "donor"})
    data_files.write(tmp_path / "cells.h5ad", obs=obs)
    assert_refused(run(tmp_path), tmp_path, "cells.h5ad", "donor_id", "donor")


def test_all_donors_under_the_minimum(tmp_path):
    data_files.write(tmp_path / "cells.h5ad")
    assert_refused(run(tmp_path, min_cells_per_donor=5000), tmp_path, "min_cells_per_donor")


def test_normalised_values_where_counts_are_wanted(tmp_path):
    data_files.write(tmp_path / "cells.h5ad", X=data_files.log_normalised(data_files.make_counts()))
    assert_refused(run(tmp_path), tmp_path, "cells.h5ad", "whole numbers")


def test_negative_counts(tmp_path):
    counts = data_files.make_counts()
    counts[3, 4] = -1
    data_files.write(tmp_path / "cells.h5ad", X=sparse.csr_matrix(counts))
    assert_refused(run(tmp_path), tmp_path, "cells.h5ad", "negative")


@pytest.mark.parametrize("model", ["cae_nmf1", "cae_nmf2"])
def test_a_single_donor_for_a_conditional_model(tmp_path, model):
    """No failure: the fit is not applicable, with its reason, and so is what follows from it."""
    data_files.write(tmp_path / "cells.h5ad")
    target = f"results/mine/{model}/rank-3/seed-42/clustering.tsv"
    call = run(tmp_path, models={model: {"max_iter": 1}}, min_cells_per_donor=25, target=target)
    assert call.code == 0, call.text
    fit = tmp_path / f"results/mine/{model}/rank-3/seed-42"
    for name in ("result.h5ad", "run.json", "history.tsv", "clustering.tsv"):
        assert "column 'donor_id' has one category" in reason_in(fit / name)


def test_a_rank_larger_than_the_data(tmp_path):
    data_files.write(tmp_path / "cells.h5ad")
    target = "results/mine/ae_nmf/rank-3/seed-42/result.h5ad"
    assert run(tmp_path, target=target).code == 0
    config = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**config, "ranks": [21]}))
    target = "results/mine/ae_nmf/rank-21/seed-42/result.h5ad"
    call = snakemake(target, "--configfile", tmp_path / "mine.yaml", directory=tmp_path)
    assert call.code != 0
    assert "rank 21 is larger than the data" in call.text
    assert "60 cells x 20 genes" in call.text


def test_a_gpu_where_there_is_none(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    data_files.write(tmp_path / "cells.h5ad")
    call = snakemake_with_device(tmp_path, "cuda")
    assert_refused(call, tmp_path, "CUDA device", torch.__version__)
    assert "epoch" not in call.text  # refused before anything is fitted


def snakemake_with_device(folder: Path, device: str) -> Call:
    run(folder, target="results/mine/filtered.h5ad")
    target = "results/mine/ae_nmf/rank-3/seed-42/result.h5ad"
    config = ["--configfile", folder / "mine.yaml", "--config", f"device={device}"]
    return snakemake(target, *config, directory=folder)


def test_hard_labels_survive_to_the_filtered_file(tmp_path):
    obs = data_files.make_obs()
    names = {"A": 'donor "one", left/right', "B": "Ünïcode donör", "C": "3"}
    obs["donor_id"] = obs["donor_id"].astype(str).map(names)
    data_files.write(tmp_path / "cells.h5ad", obs=obs)
    call = run(tmp_path, models={"cae_nmf1": {"max_iter": 1}})
    assert call.code == 0, call.text
    donors = pd.read_csv(tmp_path / "results" / "mine" / "donors.tsv", sep="\t", dtype=str)
    assert set(donors["donor"]) == set(names.values())


def test_a_path_that_is_not_there_is_named_with_its_key(tmp_path):
    config = {"datasets": {"mine": {"path": "nofile.h5ad"}}, "models": {"base_nmf": {}}, "ranks": [3]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    call = snakemake("-n", "--configfile", tmp_path / "mine.yaml", directory=tmp_path)
    assert call.code != 0
    assert "datasets.mine.path: nofile.h5ad" in call.text
    assert f"looked for from {tmp_path}" in call.text
