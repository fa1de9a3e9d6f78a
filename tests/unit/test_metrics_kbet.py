"""kBET: what is handed to scib-metrics, by a stand-in for it, and its own numbers where it is installed."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nmfbench.config.evaluation import Integration
from nmfbench.metrics import DEFAULT_INTEGRATION_METRICS, INTEGRATION_METRICS, METRICS
from nmfbench.metrics.integration import integration_scores
from nmfbench.metrics.kbet import kbet
from nmfbench.metrics.neighbours import find_neighbours
from nmfbench.packages import SCIB_METRICS, missing_packages
from nmfbench.tables.integration import BATCH, aggregate_rows


@pytest.fixture
def scib(monkeypatch):
    """A package of that name that keeps what it was given, and the draws of NumPy's own generator."""
    calls = []

    def kbet_per_label(graph, *, batches, labels, return_df):
        assert return_df
        draw = np.random.random()  # noqa: NPY002
        calls.append(SimpleNamespace(graph=graph, donors=batches, types=labels, draw=draw))
        names = np.unique(labels)
        values = np.linspace(0.0, 1.0, names.size)
        logging.getLogger("scib_metrics").info("Diffusion distance failed. Skip.")
        return values.mean(), pd.DataFrame({"cluster": names, "kBET": values})

    package, nearest = ModuleType("scib_metrics"), ModuleType("scib_metrics.nearest_neighbors")
    package.kbet_per_label = kbet_per_label
    nearest.NeighborsResults = SimpleNamespace
    monkeypatch.setitem(sys.modules, "scib_metrics", package)
    monkeypatch.setitem(sys.modules, "scib_metrics.nearest_neighbors", nearest)
    return calls


@pytest.fixture
def without_scib(monkeypatch):
    monkeypatch.setitem(sys.modules, "scib_metrics", None)


def cells(n=400, n_donors=2, apart=0.0):
    """Three types of which the first has half of the cells; donors at random, `apart` from one another."""
    rng = np.random.default_rng(5)
    types, donors = rng.choice(3, n, p=[0.5, 0.25, 0.25]), rng.integers(0, n_donors, n)
    H = rng.normal(size=(n, 4)) + 20.0 * np.eye(4)[types]
    H[:, 3] += apart * donors
    return H.astype("f4"), types, donors


def scores(H, types, donors, **given):
    table = integration_scores(H, types.astype(str), donors.astype(str), find_neighbours(H, 90), **given)
    return table.set_index("metric")


def test_it_is_off_until_it_is_named():
    assert "kBET" in INTEGRATION_METRICS
    assert "kBET" not in DEFAULT_INTEGRATION_METRICS
    assert Integration().metrics == list(DEFAULT_INTEGRATION_METRICS)
    assert (Integration().environment, Integration().settings().get("kbet_cells")) == ("evaluation", None)
    asked = Integration(metrics=["iLISI", "kBET"], kbet_cells=500)
    assert (asked.environment, asked.settings()["kbet_cells"]) == ("kbet", 500)


def test_a_sample_keeps_the_types_and_is_the_same_each_time(scib):
    H, types, donors = cells()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    rows = [scores(H, types, donors, metrics=["kBET"], kbet_cells=100).loc["kBET"] for _ in range(2)]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    first, second = scib
    assert first.draw == second.draw
    np.testing.assert_array_equal(first.graph.indices, second.graph.indices)
    assert first.graph.indices.shape == (100, 50)
    wanted = 100 * np.bincount(types) / types.size
    assert np.abs(np.bincount(first.types) - wanted).max() < 1.0
    assert (rows[0].status, rows[0].n_cells, rows[0].value) == ("ok", 100, 0.5)
    assert rows[0].message == (
        "stratified sample of 100 of 400 cells, seed 0; "
        "3 of 3 cell types, 1 of them 0, 1 as their diffusion map failed"
    )


def test_cells_without_a_label_are_left_out_of_all_of_them(scib):
    H, types, donors = cells()
    names = np.array([f"t{code}" for code in types], dtype=object)
    names[:50] = None
    table = integration_scores(H, names, donors.astype(str), find_neighbours(H, 90), metrics=["kBET"])
    (call,) = scib
    assert len(call.types) == len(call.donors) == len(call.graph.indices) == table["n_cells"][0] == 350
    np.testing.assert_array_equal(call.donors, donors[50:])
    assert "sample" not in table["message"][0]


def test_what_has_no_meaning_is_said(scib):
    H, types, donors = cells()
    one = scores(H, types, np.zeros_like(donors), metrics=["kBET"]).loc["kBET"]
    assert (one.status, one.message) == ("not applicable", "one donor: there is nothing to mix")
    nested = scores(H, types, np.minimum(types, 1), metrics=["kBET"]).loc["kBET"]
    assert (nested.status, nested.message) == ("not applicable", "nothing in these cells to compare")
    assert not scib


def test_without_the_package_the_score_is_a_gap_and_the_others_are_there(without_scib):
    H, types, donors = cells()
    table = scores(H, types, donors, metrics=["iLISI", "kBET"])
    assert table["status"].tolist() == ["ok", "failed"]
    assert np.isnan(table.loc["kBET", "value"])
    message = table.loc["kBET", "message"]
    for word in ("metric kBET", "scib-metrics==0.5.10", "envs/kbet.yaml", "`integration.metrics`"):
        assert word in message
    assert "\n" not in message
    absent = SCIB_METRICS._replace(module="no_such_thing")
    (said,) = missing_packages([("kBET", absent), ("iLISI", None)], "metric", "integration.metrics")
    assert "pip install scib-metrics==0.5.10" in str(said)


def test_it_is_a_part_of_the_batch_aggregate_where_it_is_asked_for():
    values = {"BRAS": 0.8, "iLISI": 0.4, "PCR": 0.6, "graph_connectivity": 0.2, "kBET": 1.0}
    table = pd.DataFrame(
        [{"metric": name, "label": METRICS[name].label, "value": value} for name, value in values.items()]
    )
    run = {"dataset": "d", "model": "m", "rank": 2, "seed": 0}

    def batch(wanted):
        rows = aggregate_rows(run | {"integration": wanted}, table)
        return next((row["value"], row["n"]) for row in rows if row["metric"] == BATCH)

    assert batch([name for name in values if name != "kBET"]) == (pytest.approx(0.5), 4)
    assert batch(list(values)) == (pytest.approx(0.6), 5)


@pytest.mark.filterwarnings("ignore")
def test_live():
    pytest.importorskip("scib_metrics")
    H, types, donors = cells(600)
    mixed = kbet(H, types, donors, n_cells=20_000)
    assert mixed.value > 0.85  # 0.95 where donors are drawn for each neighbour anew
    assert mixed.n_cells == 600
    assert kbet(H, types, donors, n_cells=20_000) == mixed
    assert kbet(*cells(600, apart=30.0), n_cells=20_000).value < 0.15
