"""Held-out tables and figures of models of counts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from nmfbench.config import load_config
from nmfbench.figures.count_checks import count_checks_figure
from nmfbench.figures.posterior_comparison import posterior_comparison_figure
from nmfbench.grid import Grid
from nmfbench.tables.files import write_table
from nmfbench.tables.held_out import COLUMNS, collect_held_out


def test_scores_of_all_models_of_counts_are_put_together(tmp_path):
    mine = pd.DataFrame(
        {
            "split": "molecules",
            "source": ["nb_hierarchical", "gene_poisson"],
            "stratum": "all",
            "n_entries": 8,
        }
        | {"value": [-1.0, -1.5], "se": 0.1, "delta": [0.0, 0.5]}
    )
    write_table(mine, tmp_path / "held_out.tsv")
    for name, value in (("a", -1.0), ("b", -1.2), ("c", None)):
        record = {"held_out_log_likelihood": value, "n_cells": 4, "n_genes": 2}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    fit = {"dataset": "d", "rank": 3, "seed": 1}
    tables = [{"file": tmp_path / "held_out.tsv", "model": "a", **fit}]
    records = [{"file": tmp_path / f"{name}.json", "model": name, **fit} for name in "abc"]
    found = collect_held_out(tables, records)
    assert list(found.columns) == list(COLUMNS)
    assert found["source"].tolist() == ["a", "gene_poisson", "b"], "its own score once, no row without one"
    assert found["value"].tolist() == [-1.0, -1.5, -1.2]
    assert collect_held_out([], []).empty


def test_targets_come_with_the_model_and_with_its_panel():
    models = {"base_nmf": {}, "nb": {"kind": "nb_hierarchical"}}
    base = {"datasets": {"d": {"simulate": {}}}, "ranks": [3]}

    def targets(**nb):
        config = load_config(base | {"models": {"base_nmf": {}, "nb": {**models["nb"], **nb}}})
        return Grid(config, lambda text: text.replace("<results>", "out")).targets()

    assert "out/d/figures/nb/count-checks-rank-3.png" in targets()
    assert "out/d/tables/held_out_counts.tsv" in targets()
    assert "out/d/figures/nb/advi-vs-nuts.png" not in targets()
    assert "out/d/figures/nb/advi-vs-nuts.png" in targets(nuts={"cells": 20, "genes": 5})
    without = load_config(base | {"models": {"base_nmf": {}}})
    assert not [file for file in Grid(without, str).targets() if "held_out" in file]


def test_figures_draw_what_there_is():
    rng = np.random.default_rng(0)
    genes = pd.DataFrame(
        {
            f"{what}_{way}": rng.random(30)
            for what in ("zeros", "variance_ratio")
            for way in ("observed", "predicted")
        }
    )
    genes["zeros_z"] = np.r_[5.0, np.zeros(29)]
    cells = pd.DataFrame({"detected_observed": rng.random(20), "detected_predicted": rng.random(20)})
    held_out = pd.DataFrame(
        {"split": "entries", "source": ["nb_hierarchical", "gene_poisson"], "stratum": "all"}
        | {"value": [-1.0, -1.2], "se": 0.1}
    )
    figure = count_checks_figure(genes, cells, held_out, "NB, d", "#AB1578")
    assert "1 of 30 genes" in figure.axes[0].get_title()
    assert len(figure.axes[3].texts) == 2
    empty = count_checks_figure(genes, cells, held_out.iloc[:0], "NB, d", "#AB1578")
    assert "no counts" in empty.axes[3].texts[0].get_text()
    table = pd.DataFrame(
        {"quantity": ["gene_total"] * 5 + ["cell_centred"] * 5, "identified": True}
        | {key: rng.random(10) for key in ("mean_vi", "sd_vi", "mean_nuts", "sd_nuts")}
    )
    drawn = posterior_comparison_figure(table, pd.DataFrame({"status": ["unreliable"]}), "NB")
    assert "unreliable" in drawn.texts[0].get_text()
