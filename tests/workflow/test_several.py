"""Two datasets as one benchmark, and donors held out, through the workflow."""

from __future__ import annotations

import pandas as pd
import pytest

from snake import snakemake
from test_dag import planned

CONFIG = ["--configfile", "tests/configs/several.yaml"]


def test_what_is_planned(tmp_path):
    models = "models={pca: {}, cae_nmf1: {}, cae_nmf2: {}, harmony: {}}"
    call = snakemake("-n", *CONFIG, "--config", models, directory=tmp_path)
    assert call.code == 0, call.text
    jobs = planned(call.text)
    assert jobs["classify_held_out_donors"] == 4 * 2, "one label, as a donor cannot be predicted"
    assert jobs["transfer_to_donors"] == 3 * 2, "not Harmony"
    assert jobs["gather_donor_group"] == jobs["merge_donor_groups"] == 3 * 2
    assert (jobs["collect_across_datasets"], jobs["plot_across_datasets"]) == (1, 2)
    assert "plot_critical_differences" not in jobs, "from five datasets on"


@pytest.mark.slow
def test_datasets_are_taken_together_and_donors_held_out(tmp_path):
    wanted = ["across_datasets/tables/scores_across_datasets.tsv", "first/tables/donors_held_out.tsv"]
    wanted += ["across_datasets/figures/scores-by-cell_type-rank-4.png"]
    wanted += ["first/figures/donors-held-out-rank-4.png"]
    call = snakemake(*(f"results/{name}" for name in wanted), *CONFIG, directory=tmp_path)
    assert call.code == 0, call.text
    results = tmp_path / "results"
    means = pd.read_csv(results / wanted[0], sep="\t")
    one = means.query("label == 'cell_type' and metric == 'NMI'").iloc[0]
    both = [
        pd.read_csv(results / name / "tables" / "scores.tsv", sep="\t").query(
            "label == 'cell_type' and metric == 'NMI'"
        )
        for name in ("first", "second")
    ]
    values = [table["value"].item() for table in both]
    assert one["mean"] == pytest.approx(sum(values) / 2)
    assert one["se"] == pytest.approx(abs(values[0] - values[1]) / 2)
    assert both[0]["profile"].item().startswith("fast; changed: clustering.n_neighbours")
    held = pd.read_csv(results / wanted[1], sep="\t").query("metric == 'F1' and classifier == 'mean'")
    assert set(held["protocol"]) == {"random folds", "donor_cv", "donor_transfer"}
    assert held["value"].between(0.5, 1).all()
    coverage = pd.read_csv(results / "first" / "tables" / "coverage.tsv", sep="\t").set_index("step")
    assert (coverage.loc[["classify_held_out_donors", "transfer_to_donors"], "status"] == "ok").all()
    csv = (results / "first" / "tables" / "classification_summary_by_cell_type_k4.csv").read_text()
    assert csv.startswith("Model,MeanFoldF1,F1_std,MeanFoldAUROC,AUROC_std,MeanFoldPrecision,Precision_std")
