"""The whole workflow at micro size: what it leaves, that it is done then, and what a failure costs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import anndata
import pandas as pd
import pytest

import browser
from snake import snakemake

MICRO = ["--configfile", "tests/configs/micro.yaml", "tests/configs/micro_ranks.yaml"]
MODELS = {
    "base_nmf": "Base_NMF",
    "ae_nmf": "AE_NMF",
    "cae_nmf2": "CAE_NMF2",
    "pyro_gamma_nb": "Pyro_GammaNB",
}
CLUSTERING_COLUMNS = "Model,ARI,ARI Std,NMI,NMI Std"
CLASSIFICATION_COLUMNS = (
    "Model,MeanFoldF1,F1_std,MeanFoldAUROC,AUROC_std,MeanFoldPrecision,Precision_std,MeanFoldAccuracy,"
    "Accuracy_std,MeanFoldRecall,Recall_std,n_rows,n_cells,n_classes,min_cells_per_class"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the micro workflow ran to its end."""
    folder = tmp_path_factory.mktemp("micro")
    call = snakemake(*MICRO, directory=folder)
    assert call.code == 0, call.text
    return folder


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_csv_columns_to_the_letter(finished):
    tables = finished / "results" / "micro" / "tables"
    for label in ("cell_type", "donor_id"):
        clustering = (tables / f"clustering_metrics_by_{label}_k5.csv").read_text().splitlines()
        classification = (tables / f"classification_summary_by_{label}_k5.csv").read_text().splitlines()
        assert clustering[0] == CLUSTERING_COLUMNS
        assert classification[0] == CLASSIFICATION_COLUMNS
        for lines in (clustering, classification):
            assert [line.split(",")[0] for line in lines[1:]] == list(MODELS.values())


def test_csv_and_tidy_table_agree_and_nothing_is_missing(finished):
    tables = finished / "results" / "micro" / "tables"
    scores = pd.read_csv(tables / "scores.tsv", sep="\t")
    csv = pd.read_csv(tables / "clustering_metrics_by_cell_type_k5.csv", index_col="Model")
    one = scores.query("model == 'ae_nmf' and seed == 42 and label == 'cell_type' and metric == 'ARI'")
    assert csv.loc["AE_NMF", "ARI"] == pytest.approx(one["value"].item(), rel=1e-5)
    assert (pd.read_csv(tables / "coverage.tsv", sep="\t")["status"] == "ok").all()


def test_summaries_are_means_over_folds_seeds_and_classifiers(finished):
    tables = finished / "results" / "micro" / "tables"
    folds = pd.read_csv(tables / "folds.tsv", sep="\t")
    summary = pd.read_csv(tables / "classification_summary_by_donor_id_k5.csv", index_col="Model")
    rows = folds.query("model == 'cae_nmf2' and seed == 42 and label == 'donor_id'")
    assert len(rows) == 3 * 1 * 3 == summary.loc["CAE_NMF2", "n_rows"]
    assert summary.loc["CAE_NMF2", "MeanFoldF1"] == pytest.approx(rows["F1"].mean(), rel=1e-5)
    assert summary.loc["CAE_NMF2", "F1_std"] == pytest.approx(rows["F1"].std(ddof=1), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "obsm", "varm", "name"),
    [
        ("base_nmf", ["H_sklearn_nmf_k5"], ["W_sklearn_nmf_k5"], "sklearn_NMF_baseline"),
        ("ae_nmf", ["H_shared_k5"], ["W_tied_k5"], "AE_NMF_no_cond_tied"),
        (
            "cae_nmf2",
            ["H_shared_k5", "H_cond_latent_k5", "H_concat_full_k5"],
            ["W_concat_k5"],
            "CNMF_2nd_donorOnly",
        ),
    ],
)
def test_results_have_the_published_keys_and_no_counts(finished, model, obsm, varm, name):
    adata = anndata.read_h5ad(finished / "results" / "micro" / model / "rank-5" / "seed-42" / "result.h5ad")
    assert adata.X is None
    assert set(adata.obsm) == set(obsm)
    assert set(adata.varm) == set(varm)
    assert adata.uns["model_name"] == name
    assert adata.uns["k_rank"] == 5
    assert {"cell_type", "donor_id", "tissue", "assay"} <= set(adata.obs)


@pytest.mark.parametrize("model", MODELS)
def test_every_run_can_be_traced(finished, model):
    folder = finished / "results" / "micro" / model / "rank-5" / "seed-42"
    record = json.loads((folder / "run.json").read_text())
    assert record["display_name"] == MODELS[model]
    assert record["versions"]["nmfbench"]
    assert record["data_fingerprint"]
    assert record["device"] == "cpu"
    assert record["seconds"] > 0
    solver = {"ae_nmf": "statistics", "cae_nmf2": "statistics"}.get(model)
    assert (record["solver"] or {}).get("solver") == solver
    history = pd.read_csv(folder / "history.tsv", sep="\t")
    assert {"epoch", "objective", "seconds", "cells_per_s", "peak_mb"} <= set(history)
    assert history["objective"].min() == pytest.approx(record["objective"], rel=1e-6)
    assert not (folder / "checkpoint").exists()


def test_the_manifest_holds_the_whole_config(finished):
    manifest = json.loads((finished / "results" / "manifest.json").read_text())
    assert manifest["config"]["models"]["ae_nmf"]["penalty_W"] == 0.01
    assert manifest["config"]["models"]["ae_nmf"]["max_iter"] == {"minibatch": 4}
    assert "micro.yaml" in manifest["configfiles"][0]


def test_figures_are_made_in_both_formats(finished):
    figures = finished / "results" / "micro" / "figures"
    names = ["scores-rank-5", "tradeoff-rank-5", "training-rank-5", "resources"]
    names += ["factor-statistics-rank-5", "orthogonality-rank-5"]
    names += [f"{model}/{kind}-rank-5" for model in MODELS for kind in ("umap", "factors")]
    for name in names:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_two_fits_are_compared(finished):
    folder = finished / "results" / "micro" / "comparisons"
    name = "ae_nmf-rank-5-seed-42-with-base_nmf-rank-5-seed-42"
    matches = pd.read_csv(folder / f"{name}.tsv", sep="\t")
    assert sorted(matches["factor"]) == sorted(matches["other_factor"]) == [1, 2, 3, 4, 5]
    assert matches["score"].between(-1, 1).all()
    assert len(pd.read_csv(folder / f"{name}-pairs.tsv.gz", sep="\t")) == 25
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_rank_that_unseen_molecules_ask_for(finished):
    tables = finished / "results" / "micro" / "tables"
    chosen = pd.read_csv(tables / "unseen_molecules.tsv", sep="\t")
    fits = pd.read_csv(tables / "unseen_molecules_fits.tsv", sep="\t")
    assert list(chosen["rank"]) == [2, 4, 6]
    assert chosen["chosen"].sum() == 1
    errors = fits.groupby("rank")["unseen_error"].mean()
    assert chosen.loc[chosen["chosen"], "rank"].item() == errors.index[errors <= 1.002 * errors.min()].min()
    assert (finished / "results/micro/figures/unseen_molecules.png").read_bytes().startswith(b"\x89PNG")


def test_factors_are_described_and_new_cells_embedded(finished):
    results = finished / "results" / "micro"
    summary = pd.read_csv(results / "tables" / "factor_summary.tsv", sep="\t")
    assert list(summary["model"]) == list(MODELS)
    assert (summary["n_factors"] == 5).all()
    genes = pd.read_csv(results / "ae_nmf" / "rank-5" / "seed-42" / "top_genes.tsv", sep="\t")
    assert {"symbol", "ensembl_id", "score"} <= set(genes)
    scores = pd.read_csv(results / "projections" / "again" / "scores.tsv", sep="\t")
    assert scores["accuracy"].item() > 0.9, "the fit's own cells and those of the small donor"


def test_a_second_run_does_nothing(finished):
    call = snakemake(*MICRO, directory=finished)
    assert call.code == 0
    assert "Nothing to be done" in call.text


@pytest.fixture(scope="module")
def report(finished) -> Path:
    """The report of the micro workflow; that no caption warns is a test of every caption."""
    call = snakemake(*MICRO, "--report", "results/report.html", directory=finished)
    assert call.code == 0, call.text
    assert not re.findall(r".*\((?:WARNING|ERROR|SEVERE)/\d\).*", call.text)
    return finished / "results" / "report.html"


def test_the_report_answers_first(report):
    text = report.read_text()
    assert "Which embedding keeps cell types apart" in text
    assert "keeps cell types apart best" in text
    assert len(re.findall(r">\s*(\d\d) of \1\s*<", text)) >= len(MODELS)
    for category in ("Overview", "Scores", "Tables", "Embeddings", "Training", "Resources", "Comparisons"):
        assert category in text
    assert "system-message" not in text


def test_pages_hold_the_numbers_of_the_tables(finished):
    tables = finished / "results" / "micro" / "tables"
    page = (tables / "clustering_metrics_by_cell_type_k5.html").read_text()
    csv = pd.read_csv(tables / "clustering_metrics_by_cell_type_k5.csv")
    values = [float(value) for value in re.findall(r'data-value="([0-9.e+-]+)"', page)]
    assert [any(value == pytest.approx(shown, rel=1e-5) for shown in values) for value in csv["ARI"]] == [
        True
    ] * len(MODELS)
    assert page.count("<tr>") == 1 + len(MODELS)
    assert "SIM1" in (tables / "donors.html").read_text()


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs a browser: Debian's chromium")
@pytest.mark.parametrize("window", browser.WINDOWS, ids=lambda window: f"{window[0]}x{window[1]}")
def test_nothing_of_the_report_is_cut_off_in_a_browser(report, window, tmp_path):
    seen = browser.measure(report, window, tmp_path)
    kinds = [result["kind"] for result in seen]
    assert kinds.count("start") == 1
    assert kinds.count("img") >= 4 + 2 * len(MODELS)
    assert kinds.count("html") >= 8
    for result in seen:
        assert result["above"] >= -1, f"the top of {result['name']} lies above the window"
        assert result["left"] >= -1, f"the left of {result['name']} lies outside of the window"
        if result["kind"] == "img":
            assert result["height"] <= result["window"], f"{result['name']} is taller than the window"


def test_one_rule_again(finished):
    call = snakemake(*MICRO, "-n", "--forcerun", "train_pyro_gamma_nb", directory=finished)
    assert call.code == 0
    assert "rule train_pyro_gamma_nb:" in call.text
    assert "rule train_ae_nmf:" not in call.text


def test_a_change_of_one_models_settings_trains_that_model_alone(finished):
    change = ["--config", "models={cae_nmf2: {penalty_U: 0.2}}"]
    call = snakemake(*MICRO, "-n", *change, directory=finished)
    assert "rule train_cae_nmf2:" in call.text
    assert "rule train_ae_nmf:" not in call.text
    assert "rule filter_donors:" not in call.text


def test_a_failed_model_is_a_gap_and_the_rest_is_there(finished, tmp_path):
    folder = copy_of(finished, tmp_path)
    change = ["--config", "device=cuda", "models={cae_nmf2: {penalty_U: 0.2}}"]
    target = "results/micro/cae_nmf2/rank-5/seed-42/result.h5ad"
    call = snakemake(target, *MICRO, *change, "--rerun-triggers", "params", directory=folder)
    assert call.code != 0
    assert "no CUDA device" in call.text or "cuda" in call.text
    assert "what to do" in call.text
    assert not (folder / target).exists()
    shutil.rmtree(folder / "results" / "micro" / "tables")
    call = snakemake("partial_tables", *MICRO, directory=folder)
    assert call.code == 0, call.text
    tables = folder / "results" / "micro" / "partial_tables"
    coverage = pd.read_csv(tables / "coverage.tsv", sep="\t")
    gap = coverage.query("model == 'cae_nmf2' and seed == 42 and step == 'train'")
    assert gap["status"].item() == "missing"
    assert gap["failure"].item() == "gpu missing"
    assert "cuda" in gap["reason"].item().lower()
    overview = pd.read_csv(tables / "overview.tsv", sep="\t").set_index("model")
    assert overview.loc["cae_nmf2", "failures"] == "train: gpu missing"
    assert overview.loc["ae_nmf", "failures"] == "none"
    summary = pd.read_csv(tables / "clustering_metrics_by_cell_type_k5.csv")
    assert "AE_NMF" in set(summary["Model"])
    call = snakemake("partial_tables", *MICRO, "--report", "results/report.html", directory=folder)
    assert call.code == 0, call.text
    front_page = (folder / "results" / "report.html").read_text()
    assert "micro (unfinished)" in front_page
    assert "train: gpu missing" in front_page
