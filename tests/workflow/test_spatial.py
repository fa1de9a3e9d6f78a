"""A spatial model through the workflow: from simulated sections to rows in the CSVs."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from snake import snakemake

pytestmark = pytest.mark.slow

CONFIG = ["--configfile", "tests/configs/spatial.yaml"]


def test_sections_go_through_to_the_tables(tmp_path):
    results = tmp_path / "results" / "sections"
    tables = [f"clustering_metrics_by_{label}_k3.csv" for label in ("cell_type", "donor_id")]
    tables += [f"classification_summary_by_{label}_k3.csv" for label in ("cell_type", "donor_id")]
    call = snakemake(*(f"results/sections/tables/{name}" for name in tables), *CONFIG, directory=tmp_path)
    assert call.code == 0, call.text
    for name in tables:
        assert pd.read_csv(results / "tables" / name)["Model"].tolist() == ["PNMF_spatial"]
    fit = results / "pnmf_spatial" / "rank-3" / "seed-42"
    adata, filtered = (anndata.read_h5ad(path) for path in (fit / "result.h5ad", results / "filtered.h5ad"))
    assert set(adata.obsm) == {"H_pnmf_k3", "H_pnmf_sd_k3"}
    assert set(adata.varm) == {"W_pnmf_k3"}
    assert filtered.obsm["spatial"].shape == (adata.n_obs, 2)
    # smooth within a section: a cell's factors are more like its neighbour's than like another cell's
    logs = np.log(adata.obsm["H_pnmf_k3"])
    for donor in adata.obs["donor_id"].unique():
        mine = (adata.obs["donor_id"] == donor).to_numpy()
        xy, f = filtered.obsm["spatial"][mine], logs[mine]
        distance = np.linalg.norm(xy[:, None] - xy[None], axis=2) + 1e9 * np.eye(len(xy))
        nearest = distance.argmin(axis=1)
        assert ((f - f[nearest]) ** 2).mean() < 0.2 * 2 * f.var(axis=0).mean()
    integration = pd.read_csv(fit / "integration.tsv", sep="\t").set_index("metric")
    assert set(integration["status"]) <= {"ok", "not applicable"}
    assert integration["value"].dropna().between(0, 1).all()
    scores = pd.read_csv(results / "tables" / "scores.tsv", sep="\t").set_index("metric")
    assert scores.loc["iLISI", "value"] == integration.loc["iLISI", "value"]
    assert scores.loc["total", "status"] == "ok"
    record = json.loads((fit / "run.json").read_text())
    assert record["parameters"]["multigroup"] is True
    assert record["condition_columns"] == ["donor_id"]
    history = pd.read_csv(fit / "history.tsv", sep="\t")
    assert history["elbo"].iloc[-1] > history["elbo"].iloc[31] > history["elbo"].iloc[0]
