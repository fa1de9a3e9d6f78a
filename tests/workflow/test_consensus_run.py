"""A consensus in the workflow: its members are trained, and it is a row beside their model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from snake import snakemake

pytestmark = pytest.mark.slow

CONFIG = """
datasets:
  tiny:
    simulate: {n_cells: 240, n_genes: 80, n_cell_types: 3, n_donors: 2, n_small_donors: 0, seed: 1}
    min_cells_per_donor: 30
models:
  base_nmf: {max_iter: 10, init: random}
  agreed: {kind: consensus, of: base_nmf, n_fits: 2, density_threshold: 2}
ranks: [3]
seeds: [42]
clustering: {n_neighbours: 10, seeds: [0]}
"""


def test_a_consensus_is_a_row_beside_its_model(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    wanted = ["results/tiny/tables/consensus.tsv", "results/tiny/figures/agreed/clustergram-rank-3.png"]
    wanted += [f"results/tiny/{model}/rank-3/seed-42/factors.tsv" for model in ("base_nmf", "agreed")]
    call = snakemake(*wanted, "--configfile", tmp_path / "config.yaml", directory=tmp_path)
    assert call.code == 0, call.text
    row = pd.read_csv(tmp_path / "results/tiny/tables/consensus.tsv", sep="\t")
    assert (row["model"].item(), row["of"].item(), row["n_fits"].item()) == ("agreed", "base_nmf", 2)
    assert (tmp_path / "results/tiny/base_nmf/rank-3/seed-1042/result.h5ad").is_file(), "a further member"
    factors = pd.read_csv(tmp_path / "results/tiny/agreed/rank-3/seed-42/factors.tsv", sep="\t")
    assert len(factors) == 3
    history = pd.read_csv(tmp_path / "results/tiny/agreed/rank-3/seed-42/history.tsv", sep="\t")
    assert history["orthogonality"].iloc[-1] == pytest.approx(factors["orthogonality"].sum(), rel=1e-4)
    call = snakemake("-n", "--configfile", tmp_path / "config.yaml", directory=tmp_path)
    planned = call.text
    for rule in ("cluster_embedding", "classify_embedding", "collect_tables", "plot_consensus"):
        assert rule in planned
    assert np.isfinite(row["relative_error"]).all()
