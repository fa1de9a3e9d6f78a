"""The perturbation task through Snakemake: from nothing, every mode, a missing seed, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from nmfbench.config.perturbation import SimulatedScreen
from nmfbench.perturbation.cell_cycle import G2M_GENES, S_GENES
from nmfbench.perturbation.simulate import simulate
from nmfbench.perturbation.splits import LEFT_OUT
from nmfbench.perturbation.tables import collect
from snake import REPOSITORY, snakemake

DEMO = yaml.safe_load((REPOSITORY / "config" / "perturbation_demo.yaml").read_text())
SPLIT = Path("results/demo_screen/perturbation/unseen")
RUN = SPLIT / "coexpression/nb_glm/seed-101"

pytestmark = pytest.mark.slow


def with_config(folder: Path, **changes) -> list[str | Path]:
    """A config file in `folder`: the demo's, with changes."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**DEMO, **changes}, sort_keys=False))
    return ["--configfile", path, "--directory", folder]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the demo ran to its end."""
    folder = tmp_path_factory.mktemp("screen")
    call = snakemake(*with_config(folder))
    assert call.code == 0, call.text
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(
        folder / "results/demo_screen/tables" / name, sep="," if name.endswith("csv") else "\t"
    )


def test_every_predictor_has_scores_and_nothing_is_missing(finished):
    summary = table(finished, "perturbation_summary_unseen.csv").set_index("Predictor")
    assert list(summary.index) == ["Control", "Mean of perturbed", "Bilinear ridge", "NB-GLM", "Replicate"]
    assert summary[["MAE", "PDS", "PearsonDelta"]].notna().all(axis=None)
    assert summary["MAE"].idxmin() == "Replicate"
    assert summary.loc["Mean of perturbed", "CentredPearson"] == 0
    assert (table(finished, "perturbation_coverage.tsv")["status"] == "ok").all()
    scaled = table(finished, "perturbation_scores.tsv").query(
        "predictor == 'perturbed_mean' and metric == 'MAE'"
    )
    assert scaled["scaled"].abs().max() < 1e-9
    for figure in ("scores", "targets", "de_overlap"):
        assert (
            finished / f"results/demo_screen/figures/perturbation-{figure}-unseen.png"
        ).stat().st_size > 5000


def test_the_published_files_have_their_keys(finished):
    split = finished / "results/demo_screen/perturbation/unseen"
    targets = pd.read_csv(split / "targets.csv")
    assert targets.columns.tolist() == ["target_gene", "n_cells", "median_umi_per_cell"]
    with np.load(split / "truth/house/ground_truth_bulk.npz") as bulk:
        assert {"bulk_keys", "bulk_values", "genes"} <= set(bulk.files)
        assert bulk["bulk_values"].shape == (13, 200)
    metadata = json.loads((split / "truth/house/metadata.json").read_text())
    assert {"pert_col", "control", "perturbations", "content_sha256", "target_sum", "fdr_scope"} <= set(
        metadata
    )
    aggregate = json.loads((finished / RUN.parent / "multi_seed_metrics.json").read_text())
    assert {"base_mode", "seeds", "devices", "per_seed", "aggregate", "n_ok", "failed"} <= set(aggregate)
    assert {"mean", "std", "min", "max", "std_sample"} <= set(aggregate["aggregate"]["MAE"])
    assert aggregate["devices"] == {"101": "cpu"}
    page = (finished / RUN.parent / "multi_seed_metrics.md").read_text().splitlines()
    assert page[2].startswith("| metric | seed 101 | mean |")
    (row,) = [line.split(" | ") for line in page if line.startswith("| MAE ")]
    assert row[1] == row[2] == f"{aggregate['aggregate']['MAE']['mean']:.6g}"
    assert row[3] == "NA", "one seed has no spread"


def test_cells_are_counts_below_the_real_control(finished):
    cells = anndata.read_h5ad(finished / RUN / "cells.h5ad")
    targets = pd.read_csv(finished / "results/demo_screen/perturbation/unseen/targets.csv")
    drawn = cells[cells.obs["predicted"].to_numpy()]
    counts = drawn.obs["target_gene"].astype(str).value_counts()
    assert counts.to_dict() == dict(zip(targets["target_gene"], targets["n_cells"], strict=True))
    assert (cells.X.data == np.round(cells.X.data)).all()
    assert cells.obs_names.is_unique
    assert not cells.obs["predicted"].iloc[0]


def test_a_second_call_does_nothing(finished):
    call = snakemake("perturbation_predictions", "all", "-n", *with_config(finished))
    assert "Nothing to be done" in call.text


def test_the_report_of_a_screen_alone_answers_first(finished):
    call = snakemake("all", *with_config(finished), "--report", finished / "report.html")
    assert call.code == 0, call.text
    assert not re.findall(r".*\((?:WARNING|ERROR|SEVERE)/\d\).*", call.text)
    text = (finished / "report.html").read_text()
    assert "Who predicts what an unseen perturbation does?" in text
    assert "keeps cell types apart" not in text, "there is no embedding task"
    assert "beyond the interval over targets" in text
    mae = table(finished, "perturbation_summary_unseen.csv").set_index("Predictor")["MAE"]
    for name, value in mae.items():
        assert re.search(rf"{re.escape(name)}.{{0,300}}?{value:.3f}", text, re.DOTALL), name
    assert "system-message" not in text


def test_a_missing_seed_is_a_gap_and_no_zero(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    grid = []
    for seed in (101, 202):
        run = folder / RUN.parent / f"seed-{seed}"
        log = folder / f"{seed}.log"
        log.write_text(
            "12:00:00 nb_glm failed\nMemoryError\n12:00:01 train_nb_glm ends with exit code 4: memory\n"
        )
        grid.append(
            {
                **{"dataset": "demo_screen", "split": "unseen", "embedding": "coexpression", "trained": True},
                **{"predictor": "nb_glm", "kind": "nb_glm", "display_name": "NB-GLM", "seed": seed},
                **{"folder": str(run), "ceiling": "none", "logs": dict.fromkeys(
                    ("train_predictor", "predict_cells", "score_predictions"), str(log))},
            }
        )  # fmt: skip
    collect(grid, folder / "tables", bootstrap=100)
    coverage = pd.read_csv(folder / "tables/perturbation_coverage.tsv", sep="\t")
    assert coverage["status"].tolist() == ["ok", "memory"]
    seeds = pd.read_csv(folder / "tables/perturbation_seeds.tsv", sep="\t")
    assert (seeds["n_ok"] == 1).all()
    assert (seeds["n_failed"] == 1).all()
    scores = pd.read_csv(folder / "tables/perturbation_scores.tsv", sep="\t")
    assert set(scores["seed"]) == {101}
    aggregate = json.loads((folder / RUN.parent / "multi_seed_metrics.json").read_text())
    assert (aggregate["n_ok"], aggregate["failed"]) == (1, [202])
    assert aggregate["aggregate"]["MAE"]["n"] == 1
    page = (folder / RUN.parent / "multi_seed_metrics.md").read_text()
    assert page.startswith("1 of 2 seeds; missing: 202\n")
    (row,) = [line.split(" | ") for line in page.splitlines() if line.startswith("| MAE ")]
    assert row[2] == "NA", "a gap, not a zero"


def test_the_other_modes(finished, tmp_path):
    """A checkpoint, somebody's file, a truth made before, a list without one and a failure, in one call."""
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    shutil.copytree(folder / SPLIT / "truth/house", folder / "before")
    (folder / SPLIT / "truth/house/truth.npz").unlink()
    torch.save({"state_dict": {}, "cfg": {}}, folder / "theirs.pt")
    model = folder / RUN / "model.pt"
    theirs = anndata.read_h5ad(folder / RUN / "cells.h5ad")
    theirs[:, ::-1].copy().write_h5ad(folder / "theirs.h5ad")  # genes in another order
    wanted = pd.DataFrame(
        {"target_gene": ["GENE3", "nothing"], "n_cells": [7, 5], "median_umi_per_cell": [500, 0]}
    )
    wanted.to_csv(folder / "list.csv", index=False)
    predictors = {
        "nb_glm": {},
        "again": {"kind": "nb_glm", "checkpoint": str(model)},
        "mine": {"kind": "predictions_file", "path": str(folder / "theirs.h5ad")},
        "theirs": {"kind": "nb_glm", "checkpoint": str(folder / "theirs.pt")},
    }
    also = {"predict_also": str(folder / "list.csv"), "truth_cache": str(folder / "before")}
    options = with_config(folder, predictors=predictors, perturbation={**DEMO["perturbation"], **also})
    asked = {name: SPLIT / place / name / "seed-101/scores.tsv" for name, place in
             (("again", "coexpression"), ("mine", "none"), ("theirs", "coexpression"))}  # fmt: skip
    submission = "results/demo_screen/perturbation/submission/coexpression/nb_glm/seed-101/cells.h5ad"
    call = snakemake(*asked.values(), submission, *options)
    assert call.code == 1, call.text
    gap = "missing: demo_screen unseen coexpression theirs seed 101, predict_cells (bad input: "
    assert gap in call.text, call.text[-3000:]
    assert "kind: predictions_file" in call.text, "what to do with a checkpoint of another program"
    assert "NameError" not in call.text
    assert not (folder / asked.pop("theirs")).exists()
    assert not (folder / asked["again"]).with_name("model.pt").exists()
    scores = {name: pd.read_csv(folder / path, sep="\t") for name, path in asked.items()}
    # drawn from the checkpoint: the same cells, to the last count
    own = pd.read_csv(folder / RUN / "scores.tsv", sep="\t")
    assert scores["again"].equals(own)
    des = {name: table.set_index(["metric", "targets"])["value"] for name, table in scores.items()}
    assert des["mine"]["DES", "all"] == des["again"]["DES", "all"]
    cells = anndata.read_h5ad(folder / submission)
    counts = cells.obs.loc[cells.obs["predicted"], "target_gene"].astype(str).value_counts()
    assert counts.to_dict() == {"GENE3": 7, "nothing": 5}
    record = json.loads((folder / submission).with_name("run.json").read_text())
    assert list(record["flags"]) == ["nothing"]


def test_a_given_pair_whose_cell_cycle_is_scored_on_a_listed_device(tmp_path):
    design = SimulatedScreen(n_genes=40, n_targets=4, n_cells=160, mean_counts=300, seed=2).model_dump()
    made = simulate(design)
    names = [*S_GENES[:8], *G2M_GENES[:8], *made.genes[16:]]
    target = pd.Series(made.target).replace(dict(zip(made.genes[:16], names, strict=False)))
    labels = pd.Categorical(target.to_numpy())
    obs = pd.DataFrame({"target_gene": labels}, index=[f"c{row}" for row in range(len(target))])
    screen = anndata.AnnData(made.counts, obs=obs, var=pd.DataFrame(index=names))
    held_out = sorted(set(target) - {"non-targeting"})[0]
    control = (target == "non-targeting").to_numpy()
    screen[(target != held_out).to_numpy()].write_h5ad(tmp_path / "train.h5ad")
    screen[(target == held_out).to_numpy() | control].write_h5ad(tmp_path / "test.h5ad")
    section = {"test_path": "test.h5ad", "score_phases": True, "min_cells": 2}
    config = {
        "datasets": {"pair": {"path": "train.h5ad", "tasks": ["perturbation"], "screen": section}},
        "perturbation": {
            "splits": {"given": {"kind": "column"}},
            "embeddings": {"control": {"from": "control", "components": 2}},
        },
        "predictors": {
            "published": {"kind": "nb_glm", "preset": "published", "use_cycle": True, "max_iter": 2}
        },
        "seeds": [3],
        "devices": ["cpu"],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    run = Path("results/pair/perturbation/given/control/published/seed-3")
    call = snakemake(run / "run.json", "--configfile", tmp_path / "mine.yaml", "--directory", tmp_path)
    assert call.code == 0, call.text
    record = json.loads((tmp_path / run / "run.json").read_text())
    assert record["device"] == "cpu"
    assert record["parameters"]["use_cycle"]
    split = pd.read_csv(tmp_path / run.parents[2] / "split.tsv", sep="\t")
    assert split.loc[split["set"] == "test", "target"].tolist() == [held_out]
    with np.load(tmp_path / run.parents[2] / "split.npz") as stored:
        assert len(stored["phase"]) == len(target) + control.sum()  # control cells are in both files
        assert set(stored["phase"]) == {0, 1, 2}, "scored, as there is no column of phases"
        # the second copy of a control cell is left out
        assert (stored["fold"] == LEFT_OUT).sum() == control.sum()
