"""The command nmfbench: the workflow's functions on one file, one clear message for input it cannot use."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from nmfbench.cli import main
from nmfbench.data import simulate_atlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """A simulated file with counts, labels and an embedding to score."""
    path = tmp_path_factory.mktemp("cli") / "atlas.h5ad"
    sizes = {"n_cells": 300, "n_genes": 120, "n_cell_types": 3, "n_donors": 3, "n_small_donors": 1}
    simulate_atlas(path, **sizes, mean_counts=200, min_cells=30, seed=0)
    adata = anndata.read_h5ad(path)
    rng = np.random.default_rng(0)
    types = adata.obs["cell_type"].cat.codes.to_numpy()
    adata.obsm["X_pca"] = np.eye(3)[types] * 6 + rng.normal(size=(adata.n_obs, 3))
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def fitted(atlas, tmp_path_factory):
    """A fit by the command."""
    folder = tmp_path_factory.mktemp("cli") / "fit"
    given = ["fit", str(atlas), "--rank", "4", "--min-cells", "30", "--out", str(folder), "--threads", "1"]
    assert main([*given, "--device", "cpu", "--set", "penalty_W=0.1", "--set", "max_iter=5"]) == 0
    return folder


def test_score_prints_and_writes_what_the_metrics_give(atlas, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert main(["score", str(atlas), "--key", "X_pca", "--out", str(out), "--threads", "1"]) == 0
    table = pd.read_csv(out).set_index(["label", "metric"])["value"]
    assert table["cell_type", "ARI"] > 0.4
    assert table["cell_type", "F1"] > 0.9
    assert abs(table["donor_id", "ARI"]) < 0.1
    text = capsys.readouterr().out
    assert "300 cells x 3" in text or "cells x 3" in text
    assert f"{table['cell_type', 'NMI']:.3f}" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--key", "X_tsne"], "X_pca"),
        (["--key", "X_pca", "--label", "celltype"], "perhaps 'cell_type'"),
    ],
)
def test_score_says_what_is_there(atlas, arguments, expected, capsys):
    assert main(["score", str(atlas), *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_score_refuses_what_is_not_finite(atlas, tmp_path, capsys):
    adata = anndata.read_h5ad(atlas)
    adata.obsm["X_pca"][3, 1] = np.nan
    adata.write_h5ad(tmp_path / "nan.h5ad")
    assert main(["score", str(tmp_path / "nan.h5ad"), "--key", "X_pca"]) == 2
    assert "1 cells with NaN" in capsys.readouterr().err


def test_fit_keeps_the_columns_that_a_model_reads_and_writes_its_files(atlas, tmp_path, capsys):
    adata = anndata.read_h5ad(atlas)
    adata.obs["depth"] = np.asarray(adata.X.sum(1)).ravel() * 10
    adata.write_h5ad(tmp_path / "depth.h5ad")
    given = [
        "fit",
        str(tmp_path / "depth.h5ad"),
        "--model",
        "nb_hierarchical",
        "--rank",
        "3",
        "--threads",
        "1",
    ]
    given += ["--device", "cpu", "--set", "offset=column", "--set", "draws=5", "--out", str(tmp_path / "fit")]
    assert main([*given, "--set", "depth_column=depth"]) == 0
    said = json.loads((tmp_path / "fit" / "run.json").read_text())["nb_hierarchical"]
    assert (said["offset"], said["cells_by_total"]) == ("column", 0)
    assert (tmp_path / "fit" / "trace.nc").exists()
    assert main([*given, "--set", "depth_column=dept"]) == 2
    assert "depth" in capsys.readouterr().err


def test_fit_leaves_what_a_training_job_leaves(fitted):
    record = json.loads((fitted / "run.json").read_text())
    assert record["parameters"]["penalty_W"] == 0.1
    assert record["rank"] == 4
    assert (fitted / "history.tsv").is_file()
    adata = anndata.read_h5ad(fitted / "result.h5ad")
    assert adata.obsm["H_shared_k4"].shape[1] == 4


def test_fitted_cells_are_projected_to_where_they_are(atlas, fitted, tmp_path):
    out = tmp_path / "projected.h5ad"
    assert main(["project", str(fitted / "result.h5ad"), str(atlas), "--out", str(out)]) == 0
    trained, projected = anndata.read_h5ad(fitted / "result.h5ad"), anndata.read_h5ad(out)
    assert projected.n_obs > trained.n_obs, "cells of the small donor are embedded too"
    H = projected[trained.obs_names].obsm["H_shared_k4"]
    assert_allclose(H, trained.obsm["H_shared_k4"], rtol=1e-5, atol=1e-6)


def test_project_tells_missing_genes_and_needs_half_of_them(atlas, fitted, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata = anndata.read_h5ad(atlas)
    if adata.raw is not None:
        adata = adata.raw.to_adata()
    adata[:, 2:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    call = ["project", str(fitted / "result.h5ad"), "fewer.h5ad", "--matrix", "X", "--label", "cell_type"]
    assert main(call) == 0
    assert "2 missing" in capsys.readouterr().out
    assert "cell_type_transferred" in anndata.read_h5ad("projected.h5ad").obs
    adata[:, 70:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    assert main(call) == 2
    assert "at least 50%" in capsys.readouterr().err


def test_config_check_reads_the_outline(atlas, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    text = "datasets: {mine: {path: %s, min_cells_per_donor: %d, donor_column: %s}}\nmodels: {ae_nmf: {}}\n"
    config.write_text(text % (atlas, 30, "donor_id"))
    assert main(["config", "check", str(config)]) == 0
    said = capsys.readouterr().out
    assert "donors with at least 30" in said
    assert "1 smaller donors" in said
    config.write_text(text % (atlas, 30, "donor"))
    assert main(["config", "check", str(config)]) == 2
    assert "perhaps 'donor_id'" in capsys.readouterr().err
    config.write_text(text % (atlas, 5000, "donor_id"))
    assert main(["config", "check", str(config)]) == 2
    assert "lower datasets.<name>.min_cells_per_donor" in capsys.readouterr().err


def test_show_prints_the_leaderboard(tmp_path, capsys):
    board = pd.DataFrame(
        {"model": ["ae_nmf"], "display_name": ["AE_NMF"], "rank": [5], "seeds": [1], "cell_type_NMI": [0.5],
         "donor_id_NMI": [np.nan], "present": [3], "expected": [4], "train_seconds": [1.5]}
    )  # fmt: skip
    board.to_csv(tmp_path / "leaderboard.tsv", sep="\t", index=False, na_rep="NA")
    (tmp_path / "leaderboard.txt").write_text("A sentence.")
    assert main(["show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "AE_NMF" in said
    assert "0.500  missing" in said.replace("    ", "  ").replace("   ", "  ")
    assert "3 of 4" in said
    assert "A sentence." in said
    assert main(["show", str(tmp_path / "gone")]) == 2


def test_no_command_prints_the_commands(capsys):
    assert main([]) == 2
    assert "score an embedding" in capsys.readouterr().out
    assert main(["--version"]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fit", "nowhere.h5ad"], "check the path that was given"),
        (["project", "nowhere/result.h5ad", "nowhere.h5ad"], "check the path that was given"),
        (["fit", "ATLAS", "--donor", "doner_id"], "set --donor to one of them (perhaps 'donor_id'"),
        (["fit", "ATLAS", "--cell-type", "celltype"], "set --cell-type to one of them (perhaps 'cell_type'"),
        (["fit", "ATLAS", "--rank", "9999", "--min-cells", "30"], "lower --rank"),
        (["fit", "ATLAS", "--model", "ae_nfm"], "did you mean 'ae_nmf'?"),
        (["fit", "ATLAS", "--set", "penalty_w=1"], "did you mean 'penalty_W'?"),
    ],
)
def test_what_a_newcomer_gets_wrong_is_said_in_the_options_of_the_command(
    atlas, arguments, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([str(atlas) if word == "ATLAS" else word for word in arguments]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "datasets.<name>" not in said


def test_a_gpu_that_is_not_there_is_refused_before_a_file_is_written(atlas, tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["fit", str(atlas), "--device", "cuda", "--out", str(tmp_path / "fit")]) == 2
    assert "--device auto (or cpu)" in capsys.readouterr().err
    assert not (tmp_path / "fit").exists()
