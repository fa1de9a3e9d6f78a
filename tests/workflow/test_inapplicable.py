"""Bead-purified cells: one donor, one cell type, and a model that tells donors apart. The run ends well."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from nmfbench.inapplicable import reason_in
from snake import snakemake

CONFIG = {
    "datasets": {"d": {"path": "d.h5ad", "min_cells_per_donor": 5}},
    "models": {"cae_nmf1": {"max_iter": 2}},
    "ranks": [3],
    "seeds": [42],
    "device": "cpu",
    "integration": {"metrics": []},
    "clustering": {"n_neighbours": 10, "seeds": [0]},
    "classification": {"seeds": [42], "n_folds": 2, "min_cells_per_class": 6, "classifiers": ["knn"]},
}


@pytest.mark.slow
def test_all_is_made_and_says_why_there_is_nothing(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, 2, (1, 60)) + 0.05, (120, 60)).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(["B cell"] * 120), "donor_id": pd.Categorical(["D1"] * 120)},
        index=[f"c{i}" for i in range(120)],
    )
    var = pd.DataFrame({"feature_name": [f"G{i}" for i in range(60)]}, index=[f"ENSG{i}" for i in range(60)])
    anndata.AnnData(X=sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(tmp_path / "d.h5ad")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    call = snakemake("all", "--keep-going", "--configfile", tmp_path / "c.yaml", directory=tmp_path)
    assert call.code == 0, call.text

    dataset = tmp_path / "results" / "d"
    fit = dataset / "cae_nmf1" / "rank-3" / "seed-42"
    for name in (
        "result.h5ad",
        "clustering.tsv",
        "classification/donor_id/cv-seed-42.tsv",
    ):
        assert "all 'D1'" in reason_in(fit / name), name
    for figure in ("training-rank-3", "factor-statistics-rank-3", "scores-rank-3", "cae_nmf1/umap-rank-3"):
        assert (dataset / "figures" / f"{figure}.png").stat().st_size > 1000
    tables = dataset / "tables"
    covered = pd.read_csv(tables / "coverage.tsv", sep="\t").dropna(subset="model")
    assert (covered["failure"] == "not applicable").all()
    assert covered["reason"].str.contains("all 'D1'").all()
    scores = pd.read_csv(tables / "scores.tsv", sep="\t").query("metric in ['ARI', 'NMI', 'F1', 'AUROC']")
    assert (scores["status"] == "not applicable").all()
    assert pd.read_csv(tables / "resources.tsv", sep="\t")["model"].isna().all()
    assert "not applicable" in (tables / "leaderboard.txt").read_text()
