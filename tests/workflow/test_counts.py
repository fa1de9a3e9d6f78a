"""Rules of models of counts at micro size: draws of NUTS beside the fit, checks, held-out scores."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml

from snake import snakemake

pytestmark = pytest.mark.slow


def test_a_panel_is_compared_with_nuts_and_a_fit_is_checked(tmp_path):
    simulate = {"n_cells": 120, "n_genes": 60, "n_cell_types": 3, "n_donors": 2, "n_small_donors": 0}
    panel = {"cells": 30, "genes": 6, "chains": 2, "warmup": 50, "draws": 60}
    config = {
        "datasets": {"micro": {"simulate": simulate | {"seed": 1}, "min_cells_per_donor": 10}},
        "models": {
            "nb_hierarchical": {"mask_fraction": 0.1, "draws": 20, "nuts": panel},
            "pnmf": {"mask_fraction": 0.1, "max_iter": 20},
        },
        "ranks": [3],
        "tensorboard": {"enabled": True, "state_every": 5},
    }
    (tmp_path / "micro.yaml").write_text(yaml.safe_dump(config))
    out = "results/micro"
    targets = [f"{out}/nb_hierarchical/nuts/nuts_summary.tsv", f"{out}/tables/held_out_counts.tsv"]
    targets += [f"{out}/figures/nb_hierarchical/count-checks-rank-3.png"]
    call = snakemake(*targets, "--configfile", tmp_path / "micro.yaml", directory=tmp_path)
    assert call.code == 0, call.text
    folder = tmp_path / out
    summary = pd.read_csv(folder / "nb_hierarchical/nuts/nuts_summary.tsv", sep="\t").set_index("quantity")
    assert {"gene_total", "cell_centred", "log_alpha"} <= set(summary.index)
    assert summary.loc["gene_total", "n"] == 6
    assert summary.loc["gene_total", "difference_median"] < 0.6, "draws of the same posterior, if few"
    assert 0.6 < summary.loc["gene_total", "sd_ratio_median"] < 1.7
    assert (summary["status"] == "unreliable").all(), "120 draws are no comparison, and it says so"
    assert abs(summary["held_out_vi"] - summary["held_out_nuts"]).max() < 0.05
    assert (folder / "nb_hierarchical/nuts/nuts.nc").stat().st_size > 1000
    scores = pd.read_csv(folder / "tables/held_out_counts.tsv", sep="\t")
    assert (scores["status"] == "ok").all()
    assert scores[scores["stratum"] == "all"]["n_entries"].nunique() == 1, "the same entries for every model"
    whole = scores[scores["stratum"] == "all"].set_index("source")["value"]
    assert whole["gene_poisson"] < whole["pnmf"]
    assert whole["gene_poisson"] < whole["rank_one_poisson"] < whole["nb_hierarchical"]
    assert set(scores["split"]) == {"entries"}
    said = json.loads((folder / "nb_hierarchical/rank-3/seed-42/run.json").read_text())
    assert said["nb_hierarchical"]["stop_reason"] == "converged"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((tmp_path / "results/logs/tensorboard").rglob("events*")).parent))
    events.Reload()
    assert "Fit/elbo" in events.Tags()["scalars"]
    elbo = [event.value for event in events.Scalars("Fit/elbo")]
    assert elbo[-1] > elbo[0]
