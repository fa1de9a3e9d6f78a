"""Tables from a made-up results folder: columns, gaps, reasons, round trips."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nmfbench.tables.cells import CELLS
from nmfbench.tables.collect import collect_dataset
from nmfbench.tables.files import read_table, reason_from_log, write_table
from nmfbench.tables.resources import collect_resources, read_benchmark
from nmfbench.tables.runs import run_folder
from nmfbench.tables.scheduler import Accounted
from nmfbench.tables.scores import collect_clusterings, collect_folds, collect_scores, seed_spread
from nmfbench.tables.uncertainty import COMPARISON_COLUMNS, INTERVAL_COLUMNS, comparisons, intervals

CLUSTERING_HEADER = "Model,ARI,ARI Std,NMI,NMI Std"
CLASSIFICATION_HEADER = (
    "Model,MeanFoldF1,F1_std,MeanFoldAUROC,AUROC_std,MeanFoldPrecision,Precision_std,"
    "MeanFoldAccuracy,Accuracy_std,MeanFoldRecall,Recall_std,n_rows,n_cells,n_classes,min_cells_per_class"
)
RUN = ["dataset", "model", "rank", "seed"]
METRICS = ["F1", "AUROC", "Precision", "Accuracy", "Recall"]
FOLDS_START = [*RUN, "label", "cv_seed", "fold", "classifier", *METRICS]
FOLDS_START += ["fit_seconds", "n_train", "n_test", "status"]
SCORES = [*RUN, "label", "metric", "value", "std", "n", "uses_labels", "status", "profile"]
RESOURCES_START = [*RUN, "step", "seconds", "peak_mb", "gpu_peak_mb", "cpu_seconds", "threads", "device"]
COVERAGE = [*RUN, "step", "label", "expected", "present", "status", "failure", "reason"]
LABELS = ["cell_type", "donor_id"]
CV_SEEDS = [42, 52]
DISPLAY = {"base_nmf": "Base_NMF", "ae_nmf": 'AE, "NMF" é/ü', "cae_nmf1": "CAE_NMF1"}


def cell(model, seed=0, rank=8, **more):
    return {
        "dataset": "demo",
        "model": model,
        "display_name": DISPLAY[model],
        "rank": rank,
        "seed": seed,
        "labels": LABELS,
        "cv_seeds": CV_SEEDS,
        "leiden_seeds": [0, 1, 2],
        "n_folds": 2,
        "classifiers": ["knn", "random_forest"],
        "umap": True,
        **more,
    }


def clustering_table(rng):
    rows = [
        {"label": label, "leiden_seed": s, "ARI": rng.uniform(), "NMI": rng.uniform(), "n_clusters": 5}
        for label in LABELS
        for s in range(3)
    ]
    return pd.DataFrame(rows)


def fold_table(rng, cv_seed):
    rows = []
    for fold in range(2):
        for classifier in ("knn", "random_forest"):
            row = {"cv_seed": cv_seed, "fold": fold, "classifier": classifier}
            row |= {metric: rng.uniform() for metric in METRICS}
            row |= {"fit_seconds": 0.5, "n_train": 60, "n_test": 30, "converged": True}
            row |= {"status": "ok", "message": "", "n_cells": 90, "n_classes": 4, "min_cells_per_class": 10}
            rows.append(row)
    return pd.DataFrame(rows)


def make_run(directory, one, uses_labels=False):
    """Everything that the steps of one run leave."""
    rng = np.random.default_rng([one["seed"], one["rank"], len(one["model"])])
    folder = run_folder(one, directory)
    folder.mkdir(parents=True)
    (folder / "result.h5ad").write_bytes(b"result")
    (folder / "neighbours.npz").write_bytes(b"neighbours")
    record = {
        "uses_labels": uses_labels,
        "seconds": 12.5,
        "peak_mb": 800.0,
        "gpu_peak_mb": 90.0,
        "device": "cuda",
    }
    (folder / "run.json").write_text(json.dumps(record))
    write_table(pd.DataFrame({"cell": ["c1"], "leiden_seed_0": [1]}), folder / "clusters.tsv.gz")
    write_table(pd.DataFrame({"cell": ["c1"], "UMAP1": [1.0], "UMAP2": [2.0]}), folder / "umap.tsv.gz")
    write_table(clustering_table(rng), folder / "clustering.tsv")
    for label in LABELS:
        for cv_seed in CV_SEEDS:
            write_table(
                fold_table(rng, cv_seed), folder / "classification" / label / f"cv-seed-{cv_seed}.tsv"
            )
    return folder


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def collect(results, grid, **patterns):
    return collect_dataset("demo", grid, results, results / "demo" / "tables", **patterns)


def test_files_and_columns_to_the_letter(results):
    grid = [cell("base_nmf"), cell("ae_nmf")]
    for one in grid:
        make_run(results, one)
    paths = collect(results, grid)
    assert set(paths) == {
        "folds.tsv",
        "scores.tsv",
        "resources.tsv",
        "coverage.tsv",
        "overview.tsv",
        "leaderboard.tsv",
        "scaled_scores.tsv",
        "clustering_metrics_by_cell_type_k8.csv",
        "clustering_metrics_by_donor_id_k8.csv",
        "classification_summary_by_cell_type_k8.csv",
        "classification_summary_by_donor_id_k8.csv",
    }
    headers = {name: path.read_text(encoding="utf-8").split("\n", 1)[0] for name, path in paths.items()}
    for label in LABELS:
        assert headers[f"clustering_metrics_by_{label}_k8.csv"] == CLUSTERING_HEADER
        assert headers[f"classification_summary_by_{label}_k8.csv"] == CLASSIFICATION_HEADER
    assert headers["scores.tsv"].split("\t") == [*SCORES, *CELLS]
    assert headers["coverage.tsv"].split("\t") == COVERAGE
    assert headers["folds.tsv"].split("\t")[: len(FOLDS_START)] == FOLDS_START
    assert headers["resources.tsv"].split("\t")[: len(RESOURCES_START)] == RESOURCES_START
    written = set(results.joinpath("demo/tables").iterdir())
    assert {path for path in written if path.suffix in (".tsv", ".csv")} == set(paths.values())
    pages = {
        "leaderboard",
        "coverage",
        "overview",
        "resources",
        *(Path(n).stem for n in paths if n[-3:] == "csv"),
    }
    beside = {path.name for path in written - set(paths.values())}
    assert beside == {f"{page}.html" for page in pages} | {"leaderboard.txt"}


def test_means_and_deviations_are_over_all_repeats(results):
    one = cell("ae_nmf")
    folder = make_run(results, one, uses_labels=True)
    paths = collect(results, [one])

    clusters = read_table(folder / "clustering.tsv").query("label == 'donor_id'")
    row = pd.read_csv(paths["clustering_metrics_by_donor_id_k8.csv"]).iloc[0]
    assert row["Model"] == DISPLAY["ae_nmf"]
    assert row["ARI"] == pytest.approx(clusters["ARI"].mean(), rel=1e-5)
    assert row["NMI Std"] == pytest.approx(clusters["NMI"].std(ddof=1), rel=1e-5)

    files = [folder / "classification" / "cell_type" / f"cv-seed-{s}.tsv" for s in CV_SEEDS]
    folds = pd.concat(map(read_table, files))
    row = pd.read_csv(paths["classification_summary_by_cell_type_k8.csv"]).iloc[0]
    for metric in METRICS:
        assert row[f"MeanFold{metric}"] == pytest.approx(folds[metric].mean(), rel=1e-5)
        assert row[f"{metric}_std"] == pytest.approx(folds[metric].std(ddof=1), rel=1e-5)
    assert row[["n_rows", "n_cells", "n_classes", "min_cells_per_class"]].tolist() == [8, 90, 4, 10]

    scores = read_table(paths["scores.tsv"])
    mine = scores.query("label == 'cell_type' and metric == 'F1'").iloc[0]
    assert mine["value"] == folds["F1"].mean()  # every digit, unlike the CSV
    assert (mine["n"], mine["status"], bool(mine["uses_labels"])) == (8, "ok", True)
    assert len(scores) == len(LABELS) * 7


def test_a_missing_model_is_a_gap_and_has_a_reason(results, tmp_path):
    grid = [cell("base_nmf"), cell("ae_nmf"), cell("cae_nmf1")]
    make_run(results, grid[0])
    make_run(results, grid[2])
    log = tmp_path / "logs" / "train" / "ae_nmf.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "starts\ncannot use its input.\nfiltered.h5ad: X\n  expected:   counts\n  got:        NaN\n"
        "  what to do: mend it\n12:00:00 train_ae_nmf ends with exit code 2: bad input\n"
    )
    paths = collect(
        results,
        grid,
        log_patterns={"train": str(tmp_path / "logs/{step}/{model}.log").replace("{step}", "train")},
    )

    for name in ("clustering_metrics_by_cell_type_k8.csv", "classification_summary_by_donor_id_k8.csv"):
        assert pd.read_csv(paths[name])["Model"].tolist() == ["Base_NMF", "CAE_NMF1"]
    scores = read_table(paths["scores.tsv"]).query("model == 'ae_nmf'")
    assert scores["value"].isna().all()
    assert scores["std"].isna().all()
    assert (scores["status"] == "missing").all()
    assert (scores["n"] == 0).all()
    coverage = read_table(paths["coverage.tsv"])
    assert (coverage.query("model != 'ae_nmf'")["status"] == "ok").all()
    gone = coverage.query("model == 'ae_nmf'").set_index("step")
    assert (gone["status"] == "missing").all()
    assert gone.loc["train", "reason"] == "filtered.h5ad: X; expected: counts; got: NaN"
    assert gone.loc["cluster_embedding", "reason"] == "not run: the training has no result"
    assert (gone.drop("train")["failure"] == "not run").all()
    overview = read_table(paths["overview.tsv"]).set_index("model")
    assert overview.loc["base_nmf", "classify_embedding"] == "16 of 16"
    assert overview.loc["ae_nmf", "classify_embedding"] == "0 of 16"
    assert overview["failures"].tolist() == ["none", "train: bad input", "none"]


def integration_table(**values):
    from nmfbench.metrics import METRICS as KNOWN

    rows = [
        {"metric": name, "label": KNOWN[name].label, "value": value, "unscaled": value, "n_cells": 90}
        | {"seconds": 0.1, "status": "not applicable" if np.isnan(value) else "ok", "message": ""}
        for name, value in values.items()
    ]
    return pd.DataFrame(rows)


def test_integration_scores_and_their_aggregates(results):
    wanted = ["BRAS", "iLISI", "PCR", "graph_connectivity", "cLISI", "ASW_label", "isolated_labels", "kSIM"]
    grid = [cell("base_nmf", integration=wanted), cell("ae_nmf", integration=wanted)]
    for one in grid:
        make_run(results, one)
    values = dict(zip(wanted, [0.8, 0.4, 0.6, 0.2, 0.9, 0.5, 0.7, 0.1], strict=True))
    write_table(integration_table(**values), run_folder(grid[0], results) / "integration.tsv")
    values |= {"iLISI": np.nan, "PCR": np.nan}  # two of four parts of the batch aggregate
    table = integration_table(**values)
    table.loc[0, ["status", "value", "message"]] = ["failed", np.nan, "MemoryError: no room"]
    write_table(table, run_folder(grid[1], results) / "integration.tsv")
    paths = collect(results, grid)
    scores = read_table(paths["scores.tsv"]).set_index(["model", "metric", "label"])["value"]
    clusters = [scores["base_nmf", name, "cell_type"] for name in ("NMI", "ARI")]
    bio = np.mean([0.9, 0.5, 0.7, *clusters])
    assert scores["base_nmf", "kSIM", "cell_type"] == 0.1
    assert scores["base_nmf", "batch_correction", "integration"] == pytest.approx(0.5)
    assert scores["base_nmf", "bio_conservation", "integration"] == pytest.approx(bio)
    assert scores["base_nmf", "total", "integration"] == pytest.approx(0.6 * bio + 0.4 * 0.5)
    assert np.isfinite(scores["ae_nmf", "bio_conservation", "integration"])
    assert np.isnan(scores["ae_nmf", "batch_correction", "integration"])
    assert np.isnan(scores["ae_nmf", "total", "integration"])
    coverage = read_table(paths["coverage.tsv"]).query("step == 'score_integration'").set_index("model")
    assert coverage["present"].tolist() == [8, 7]
    assert coverage.loc["ae_nmf", "reason"] == "BRAS: MemoryError: no room"


def write_counts(results, one, rng, n_donors):
    """Counts of cells such as the steps of a run leave."""
    folder, sizes = run_folder(one, results), rng.integers(20, 40, size=(n_donors, 3))
    clusters, classes = [], []
    for donor, true in np.ndindex(sizes.shape):
        n, name = int(sizes[donor, true]), {"donor": f"d{donor:02}", "true": f"T{true}"}
        right = int(rng.integers(n // 2, n))
        clusters += [{"leiden_seed": s, **name, "cluster": true, "n": right} for s in range(3)]
        clusters += [{"leiden_seed": s, **name, "cluster": 3, "n": n - right} for s in range(3)]
        for fold in range(2):
            row = {"classifier": "knn", "fold": fold, **name}
            classes += [
                {**row, "predicted": f"T{true}", "n": right},
                {**row, "predicted": "T0", "n": n - right},
            ]
    table = pd.concat([pd.DataFrame(clusters).assign(label=label) for label in LABELS])
    write_table(table, folder / "cluster_counts.tsv.gz")
    for label in LABELS:
        for cv_seed in CV_SEEDS:
            write_table(
                pd.DataFrame(classes), folder / "classification" / label / f"cv-seed-{cv_seed}-counts.tsv.gz"
            )


@pytest.mark.parametrize(
    ("n_donors", "method"), [(20, "bootstrap over donors"), (9, "jackknife over donors"), (5, "none")]
)
def test_intervals_over_seeds_and_donors(results, n_donors, method):
    grid = [cell("base_nmf"), cell("base_nmf", seed=1), cell("ae_nmf")]
    rng = np.random.default_rng(0)
    for one in grid:
        make_run(results, one)
        write_counts(results, one, rng, n_donors)
    scores = read_table(collect(results, grid)["scores.tsv"], text=["label"])
    table = intervals(scores, grid, results, replicates=200, seed=0)
    assert tuple(table.columns) == INTERVAL_COLUMNS
    seeds = table.query("unit == 'training seed' and metric == 'ARI' and label == 'cell_type'")
    seeds = seeds.set_index("model")
    assert seeds.loc["base_nmf", "low"] < seeds.loc["base_nmf", "value"] < seeds.loc["base_nmf", "high"]
    assert np.isnan(seeds.loc["ae_nmf", "low"]), "one seed has no interval"
    donors = table.query("unit == 'donor'")
    assert set(donors["label"]) == {"cell_type"}, "a draw of donors changes the donor labels themselves"
    assert set(donors["metric"]) == {"ARI", "NMI", "F1", "Precision", "Accuracy", "Recall"}
    assert donors["method"].str.startswith(method).all()
    assert (donors["n"] == n_donors).all()
    if method != "none":
        assert ((donors["low"] < donors["value"]) & (donors["value"] < donors["high"])).all()


def test_models_are_compared_over_folds_and_seeds(results):
    grid = [cell(m, seed=s) for m in ("base_nmf", "ae_nmf", "cae_nmf1") for s in (0, 1)]
    grid.append(cell("cae_nmf1", seed=2) | {"model": "control", "role": "control"})
    for one in grid:
        make_run(results, one)
    paths = collect(results, grid)
    scores, folds = (read_table(paths[name], text=["label"]) for name in ("scores.tsv", "folds.tsv"))
    table = comparisons(scores, folds, grid)
    assert tuple(table.columns) == COMPARISON_COLUMNS
    assert "control" not in set(table["model"]) | set(table["other"])
    mine = table.query("label == 'cell_type' and metric == 'F1' and unit == 'fold' and classifier == 'mean'")
    assert mine[["model", "other"]].values.tolist() == [
        ["base_nmf", "ae_nmf"],
        ["base_nmf", "cae_nmf1"],
        ["ae_nmf", "cae_nmf1"],
    ]
    first = folds.query("label == 'cell_type' and seed == 0")
    means = first.pivot_table(index=["cv_seed", "fold"], columns="model", values="F1")
    d = means["base_nmf"] - means["ae_nmf"]
    assert mine["n"].tolist() == [4, 4, 4], "2 shuffles of 2 folds, the classifiers of a fold averaged"
    assert mine["difference"].iloc[0] == pytest.approx(d.mean())
    assert mine["t"].iloc[0] == pytest.approx(d.mean() / np.sqrt((1 / 4 + 30 / 60) * d.var(ddof=1)))
    assert mine["p_holm"].min() == pytest.approx(min(3 * mine["p"].min(), 1))
    assert (table["p_holm"].dropna() >= table["p"].dropna()).all()
    assert set(table.query("unit == 'training seed'")["n"]) == {2}


def test_nothing_there_gives_empty_tables_and_full_coverage(results):
    paths = collect(results, [cell("base_nmf")])
    assert paths["clustering_metrics_by_cell_type_k8.csv"].read_text() == CLUSTERING_HEADER + "\n"
    assert paths["classification_summary_by_cell_type_k8.csv"].read_text() == CLASSIFICATION_HEADER + "\n"
    assert len(read_table(paths["folds.tsv"])) == 0
    coverage = read_table(paths["coverage.tsv"])
    steps = ["train", "find_neighbours", "cluster_embedding", "score_clusters", "score_clusters"]
    steps += ["classify_embedding", "classify_embedding", "compute_umap"]
    assert coverage["step"].tolist() == steps
    assert coverage["expected"].tolist() == [1, 1, 1, 3, 3, 8, 8, 1]
    assert (coverage["present"] == 0).all()


def test_failed_folds_and_lost_files_are_partial(results, tmp_path):
    one = cell("base_nmf")
    folder = make_run(results, one)
    path = folder / "classification" / "cell_type" / "cv-seed-42.tsv"
    table = read_table(path)
    table.loc[[0, 2], METRICS] = np.nan
    table.loc[[0, 2], "status"] = "failed"
    table.loc[[0, 2], "message"] = "MemoryError: no\troom"
    write_table(table, path)
    (folder / "classification" / "donor_id" / "cv-seed-52.tsv").unlink()
    log = tmp_path / "classify-donor_id-52.log"
    log.write_text("Traceback\nKilled\n\n")
    paths = collect(
        results, [one], log_patterns={"classify_embedding": str(tmp_path / "classify-{label}-{cv_seed}.log")}
    )

    summary = pd.read_csv(paths["classification_summary_by_cell_type_k8.csv"]).iloc[0]
    assert summary["n_rows"] == 6
    both = [read_table(folder / "classification" / "cell_type" / f"cv-seed-{s}.tsv") for s in CV_SEEDS]
    assert summary["MeanFoldF1"] == pytest.approx(pd.concat(both)["F1"].mean(), rel=1e-5)
    coverage = read_table(paths["coverage.tsv"]).query("step == 'classify_embedding'").set_index("label")
    assert coverage["status"].tolist() == ["partial", "partial"]
    assert coverage["present"].tolist() == [6, 4]
    assert coverage.loc["cell_type", "reason"] == "knn: MemoryError: no\troom (2 times)"
    assert coverage["failure"].tolist() == ["crash", "killed"]
    assert coverage.loc["donor_id", "reason"].endswith("kill from outside: Killed")
    folds = read_table(paths["folds.tsv"])
    assert (folds["status"] == "failed").sum() == 2


@pytest.mark.parametrize(
    "content", [b"", b"no table", b"\xff\xfe\x00", b"label\tleiden_seed\ncell_type\t0\n"]
)
def test_a_broken_file_is_missing_with_its_name(results, content):
    one = cell("base_nmf")
    folder = make_run(results, one)
    (folder / "clustering.tsv").write_bytes(content)
    (folder / "run.json").write_bytes(content)
    paths = collect(results, [one])
    coverage = read_table(paths["coverage.tsv"]).query("step == 'score_clusters'")
    assert (coverage["status"] == "missing").all()
    assert coverage["reason"].str.startswith("clustering.tsv cannot be read").all()
    assert len(pd.read_csv(paths["clustering_metrics_by_cell_type_k8.csv"])) == 0


def test_a_held_out_score_has_a_row_of_its_own_and_no_place_in_the_csvs(results):
    grid = [cell("base_nmf"), cell("ae_nmf")]
    plain, counts = (make_run(results, one) for one in grid)
    for folder, value in ((plain, None), (counts, -0.125)):
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"held_out_log_likelihood": value}))
    paths = collect(results, grid)
    rows = read_table(paths["scores.tsv"], text=("label",)).query("metric == 'held_out_log_likelihood'")
    assert rows[["model", "label", "value", "n", "status"]].to_numpy().tolist() == [
        ["ae_nmf", "counts", -0.125, 1, "ok"]
    ]
    assert rows["std"].isna().all()
    assert not any("held" in path.read_text() for name, path in paths.items() if name.endswith(".csv"))
    from nmfbench.figures.scores import METRIC_NAMES, scores_figure

    figure = scores_figure(read_table(paths["scores.tsv"], text=("label",)), 8)
    titles = {axes.get_title(loc="left").rstrip(" ↑↓") for axes in figure.axes}
    assert titles <= {*METRIC_NAMES, *METRIC_NAMES.values()}


def test_several_training_seeds(results):
    grid = [cell("base_nmf", seed) for seed in (7, 3, 5)]
    folders = [make_run(results, one) for one in grid[:2]]
    paths = collect(results, grid)
    first = read_table(folders[0] / "clustering.tsv").query("label == 'cell_type'")["ARI"].mean()
    table = pd.read_csv(paths["clustering_metrics_by_cell_type_k8.csv"])
    assert table["ARI"].tolist() == [pytest.approx(first, rel=1e-5)]

    spread = read_table(paths["seeds.tsv"])
    assert list(spread.columns) == ["dataset", "model", "rank", "label", "metric", "mean", "std", "n", *CELLS]
    mine = spread.query("label == 'cell_type' and metric == 'ARI'").iloc[0]
    values = read_table(paths["scores.tsv"]).query("label == 'cell_type' and metric == 'ARI'")["value"]
    assert mine["mean"] == pytest.approx(values.mean())
    assert mine["std"] == pytest.approx(values.std(ddof=1))
    assert mine["n"] == 2

    collect(results, grid[:1])
    assert not paths["seeds.tsv"].exists()


def test_ranks_have_their_own_files_and_other_datasets_do_not_enter(results):
    grid = [cell("base_nmf"), cell("base_nmf", rank=16), cell("ae_nmf", dataset="other")]
    for one in grid:
        make_run(results, one)
    paths = collect(results, grid)
    for rank in (8, 16):
        assert len(pd.read_csv(paths[f"clustering_metrics_by_cell_type_k{rank}.csv"])) == 1
    assert set(read_table(paths["scores.tsv"])["dataset"]) == {"demo"}


def test_same_input_same_bytes(results):
    grid = [cell("base_nmf"), cell("ae_nmf")]
    for one in grid:
        make_run(results, one)
    first = {name: path.read_bytes() for name, path in collect(results, grid).items()}
    assert first == {name: path.read_bytes() for name, path in collect(results, grid).items()}


BENCHMARK = (
    "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    "61.5\t0:01:01\t512.25\t900.0\t500.0\t505.0\t1.0\t2.0\t150.0\t92.5\n"
)


def test_resources_join_run_records_and_benchmark_files(results, tmp_path):
    one = cell("ae_nmf", kind="deep")
    make_run(results, one)
    texts = {
        "filter-demo.tsv": BENCHMARK,
        "train-deep-ae_nmf.tsv": BENCHMARK,
        "cluster-8-0.tsv": BENCHMARK.replace("512.25", "-").replace("92.5", "NA"),
        "classify-cell_type-42.tsv": BENCHMARK,
        "classify-donor_id-52.tsv": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    job = {"dataset": "demo", "step": "filter_donors", "model": None, "part": "", "log": "no log"}
    job["benchmark"] = str(tmp_path / "filter-demo.tsv")
    patterns = {
        "train": "train-{kind}-{model}.tsv",
        "cluster_embedding": "cluster-{rank}-{seed}.tsv",
        "classify_embedding": "classify-{label}-{cv_seed}.tsv",
    }
    files = {k: str(tmp_path / v) for k, v in patterns.items()}
    table = collect_resources([one], results, files, jobs=[job])
    rows = table.set_index("step")
    assert list(rows.index) == ["filter_donors", "train", "cluster_embedding", "classify_embedding"]
    assert rows.loc["filter_donors", ["model", "rank", "seed"]].isna().all()
    assert rows.loc["filter_donors", "seconds"] == 61.5
    # training: its own clock and peaks, the CPU time of the job
    train = rows.loc["train", ["seconds", "peak_mb", "gpu_peak_mb", "cpu_seconds", "device"]]
    assert train.tolist() == [12.5, 800.0, 90.0, 92.5, "cuda"]
    assert np.isnan(rows.loc["cluster_embedding", "peak_mb"])
    assert np.isnan(rows.loc["cluster_embedding", "cpu_seconds"])
    assert rows.loc["classify_embedding", ["label", "cv_seed"]].tolist() == ["cell_type", 42]
    path = write_table(table, tmp_path / "resources.tsv")
    assert (
        path.read_text().splitlines()[1].startswith("demo\tNA\tNA\tNA\tfilter_donors\t61.5\t512.25\tNA\t92.5")
    )
    with pytest.raises(ValueError, match="benchmark"):
        read_benchmark(path)


def test_resources_tell_the_efficiency_and_the_wait(results, tmp_path):
    one = cell("base_nmf")
    make_run(results, one)
    (tmp_path / "umap.tsv").write_text(BENCHMARK)
    (tmp_path / "cluster.tsv").write_text(BENCHMARK.replace("61.5", "0.2"))
    start = "12:00:00 compute_umap (x=y) starts on node7 with 2 threads"
    (tmp_path / "umap.log").write_text(f"{start}, SLURM job 41 in partition cpu\n")
    (tmp_path / "cluster.log").write_text(f"{start}\n")
    benchmarks = {"compute_umap": "umap.tsv", "cluster_embedding": "cluster.tsv"}
    logs = {"compute_umap": "umap.log", "cluster_embedding": "cluster.log"}
    table = collect_resources(
        [one],
        results,
        {step: str(tmp_path / name) for step, name in benchmarks.items()},
        {step: str(tmp_path / name) for step, name in logs.items()},
        {"41": Accounted("COMPLETED", 17.0)},
    ).set_index("step")
    umap, cluster = table.loc["compute_umap"], table.loc["cluster_embedding"]
    assert (umap["threads"], umap["job"], umap["queue_seconds"]) == (2, "41", 17.0)
    assert umap["cpu_efficiency"] == pytest.approx(92.5 / (61.5 * 2), abs=1e-3)
    assert cluster[["cpu_efficiency", "queue_seconds", "job"]].isna().all()


def test_training_has_its_row_without_benchmark_files(results):
    one = cell("ae_nmf")
    make_run(results, one)
    assert collect_resources([one], results)["step"].tolist() == ["train"]
    assert len(collect_resources([cell("base_nmf")], results)) == 0


NASTY = [
    "CD4+ T cell",
    "NK/T",
    "B cell, naïve",
    'so-called "DC"',
    "γδ T",
    "NA",
    "",
    "007",
    "1e3",
    "it's\ta tab",
]


@pytest.mark.parametrize("name", ["cells.csv", "cells.tsv", "cells.tsv.gz"])
def test_text_survives_the_round_trip(tmp_path, name):
    table = pd.DataFrame({"cell": NASTY, "value": np.random.default_rng(0).uniform(size=len(NASTY))})
    path = write_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(path, text=["cell"]), table, check_exact=True)
    if name.endswith(".gz"):
        first = path.read_bytes()
        assert gzip.decompress(first).startswith(b"cell\tvalue\n")
        assert write_table(table, path).read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_missing_values_are_na_and_stay_missing(tmp_path):
    table = pd.DataFrame({"a": [1.5, np.nan], "b": pd.array([1, None], dtype="Int64")})
    path = write_table(table, tmp_path / "t.tsv")
    assert path.read_text() == "a\tb\n1.5\t1\nNA\tNA\n"
    assert read_table(path).isna().sum().tolist() == [1, 1]


def test_a_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    path = write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.tsv")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="No space"):
        write_table(pd.DataFrame({"a": [2]}), path)
    assert path.read_text() == "a\n1\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.tsv"]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "the log of the step is empty"),
        ("start\nValueError: no\n\n", "ValueError: no"),
        ("\x1b[31mKilled\x1b[0m  \n", "Killed"),
        (
            "nmfbench.errors.InputError: a.h5ad: obs\n  expected:   x\n  got:        y\n  what to do: z\n",
            "a.h5ad: obs; expected: x; got: y",
        ),
        ("x" * 1000, "x" * 297 + "..."),
    ],
    ids=["empty", "exception", "colour", "input error", "long"],
)
def test_reason_from_log(tmp_path, log, reason):
    path = tmp_path / "step.log"
    path.write_text(log)
    assert reason_from_log(path).strip() == reason
    assert reason_from_log(tmp_path / "none.log") == reason_from_log(None) == "not run: the step left no log"


def test_spread_over_one_seed_is_none(results):
    one = cell("base_nmf")
    make_run(results, one)
    clusterings, folds = collect_clusterings([one], results), collect_folds([one], results)
    assert seed_spread(collect_scores([one], results, clusterings, folds)) is None
