"""The workflow on a cut of real data: 500 variable genes, few epochs; what must hold of a sensible result."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from snake import snakemake

pytestmark = [pytest.mark.slow, pytest.mark.real]


@pytest.fixture(scope="module")
def tables(real_h5ad, tmp_path_factory) -> Path:
    """Tables of a run on the real file, cut to 500 genes."""
    folder = tmp_path_factory.mktemp("real")
    config = {
        "datasets": {
            "real": {
                "path": str(real_h5ad),
                "min_cells_per_donor": 200,
                "genes": {"select": "hvg", "n_top": 500},
            }
        },
        "models": {
            "base_nmf": {},
            "ae_nmf": {"solver": "minibatch", "max_iter": 30},
            "cae_nmf2": {},
            "pyro_exponential": {"held_out_fraction": 0.05},
        },
        "ranks": [15],
        "classification": {"seeds": [42], "classifiers": ["logistic_regression"]},
    }
    (folder / "real.yaml").write_text(yaml.safe_dump(config))
    target = "results/real/tables/scores.tsv"
    call = snakemake(target, "--configfile", folder / "real.yaml", directory=folder, timeout=900)
    assert call.code == 0, call.text
    return folder / "results" / "real" / "tables"


def test_nothing_is_missing(tables):
    assert (pd.read_csv(tables / "coverage.tsv", sep="\t")["status"] == "ok").all()


def test_every_model_knows_cell_types_better_than_donors(tables):
    for model, rows in pd.read_csv(tables / "scores.tsv", sep="\t").groupby("model"):
        value = rows.set_index(["label", "metric"])["value"]
        assert value["cell_type", "NMI"] > 0.4, model
        assert value["donor_id", "NMI"] < 0.15, model
        assert value["cell_type", "Accuracy"] > 0.75, model
        assert value["cell_type", "AUROC"] > value["donor_id", "AUROC"], model


def test_small_donors_are_dropped_and_said_so(tables):
    donors = pd.read_csv(tables.parent / "donors.tsv", sep="\t")
    dropped = donors[~donors["kept"]]
    assert (dropped["n_cells"] < 200).all()
    assert dropped["reason"].str.contains("200").all()


def test_conditional_models_fit_no_worse_than_the_tied_one(tables):
    def error(model):
        path = tables.parent / model / "rank-15" / "seed-42" / "run.json"
        return json.loads(path.read_text())["relative_error"]

    assert error("cae_nmf2") < error("ae_nmf")
    assert error("base_nmf") < error("ae_nmf")
