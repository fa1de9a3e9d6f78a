"""Programs of one dataset in another: planted ones found again under other names and in another order."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from nmfbench.config import load_config
from nmfbench.errors import InputError
from nmfbench.factors.across import compare_programs
from nmfbench.grid import Grid
from planted import Planted


def test_planted_programs_are_found_in_the_other_dataset(tmp_path):
    one, drawn = Planted.draw(n_cells=100), Planted.draw(n_cells=80, seed=1)
    order = list(range(70, -1, -1))  # fewer genes, the other way round, by symbol alone
    var = pd.DataFrame(index=[f"GENE{gene}" for gene in order])
    counts, programs = drawn.counts[:, order], drawn.programs[:, order]
    other = dataclasses.replace(drawn, counts=counts, programs=programs, var=var)
    first = one.result(tmp_path / "one.h5ad")
    swapped = programs[[4, 0, 1, 2, 3]].T
    second = other.result(tmp_path / "other.h5ad", W=swapped)
    found = compare_programs(first, second).set_index("factor")
    assert found["other_factor"].to_dict() == {5: 1, 1: 2, 2: 3, 3: 4, 4: 5}
    assert found["reciprocal"].all()
    assert (found["cosine"] > found["next_best"] + 0.2).all()
    assert (found["n_genes"] == 71).all()
    mouse = dataclasses.replace(
        one, var=one.var.set_axis([f"Gm{i}" for i in range(80)]).drop(columns="feature_name")
    )
    with pytest.raises(InputError, match="same organism"):
        compare_programs(first, mouse.result(tmp_path / "mouse.h5ad"))


def test_every_pair_of_datasets_is_compared_where_the_config_asks_for_it():
    asked = {"datasets": {name: {"path": "x.h5ad"} for name in "abc"}, "models": {"ae_nmf": {}}, "ranks": [4]}
    for across, n in ((False, 0), (True, 3)):
        cfg = load_config({**asked, "factors": {"across_datasets": across}})
        files = Grid(cfg, lambda path: path).targets()
        assert sum("with-dataset" in file for file in files) == n
