"""TensorBoard event files: what is in them, and that a fit is the same with and without them."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nmfbench.data import filter_donors, simulate_atlas
from nmfbench.fitting.observer import Observer
from nmfbench.job import Job
from nmfbench.models import get_model
from nmfbench.results import read_result
from nmfbench.rows.memory import InMemoryRows
from nmfbench.tensorboard import TensorBoardLog, column_moments, product_moments
from nmfbench.train import train

N, P, K = 80, 30, 3


@pytest.fixture(scope="module")
def X():
    counts = np.random.default_rng(0).poisson(0.7, size=(N, P))
    return sparse.csr_matrix(counts.astype(np.float32))


def state(k=K):
    rng = np.random.default_rng(1)
    return {"cell_factors": rng.gamma(1, size=(N, k)), "gene_factors": rng.gamma(1, size=(k, P))}


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def scalars(events, tag) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def test_moments_without_the_product(X):
    rng = np.random.default_rng(0)
    H, W = rng.gamma(1, size=(50, 4)), rng.gamma(1, size=(4, 20))
    mean, variance = product_moments(H, W)
    np.testing.assert_allclose(mean, (H @ W).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, (H @ W).var(axis=0), rtol=1e-10)
    mean, variance = column_moments(X)
    np.testing.assert_allclose(mean, X.toarray().mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(variance, X.toarray().var(axis=0, dtype=float), rtol=1e-10)


def test_scalars_of_the_steps(tmp_path):
    log = TensorBoardLog(tmp_path, n_cells=N, state_every=0)
    assert isinstance(log, Observer)
    losses = 100.0 / np.arange(1, 31)
    for step, loss in enumerate(losses, start=1):
        log.step(
            step,
            {
                "loss": loss,
                "chi_squared": abs(step - 7) + 2.0,
                "epoch": step / 4,
                "objective": loss,
                "seconds": 0.5 * step,
            },
        )
    log.end(30, state())
    events = read(tmp_path)
    assert list(scalars(events, "Loss/train").values()) == pytest.approx(losses)
    assert scalars(events, "Fit/chi_squared")[30] == 25
    assert scalars(events, "Chi-squared/best")[30] == 2
    assert scalars(events, "Chi-squared/step of the best")[30] == 7
    assert scalars(events, "Chi-squared/above the best")[30] == 23
    assert scalars(events, "Chi-squared/best over present")[30] == pytest.approx(2 / 25)
    assert scalars(events, "Loss/rolling mean")[30] == pytest.approx(losses.mean())
    assert scalars(events, "Loss/rolling sd")[20] == pytest.approx(losses[:20].std())
    assert scalars(events, "Speed/seconds per step")[20] == pytest.approx(0.5)
    assert scalars(events, "Speed/cells per second")[20] == pytest.approx(
        40
    )  # a quarter of 80 in half a second
    assert scalars(events, "Speed/passes over the cells")[20] == pytest.approx(5)
    assert scalars(events, "Memory/process peak MB")[20] > 10


@pytest.mark.parametrize("k", [1, 2, 5])
def test_state_is_drawn_and_measured(tmp_path, X, k):
    """At every rank, with one constant factor."""
    coordinates = np.random.default_rng(0).uniform(size=(N, 2))
    log = TensorBoardLog(tmp_path, n_cells=N, rows=InMemoryRows(X), coordinates=coordinates, max_points=40)
    first, second = state(k), state(k)
    second["cell_factors"] = second["cell_factors"] * 2
    second["cell_factors"][:, 0] = 1
    second["chi_squared"], second["mean_scale"] = 12.5, np.full(P, 3.0)
    log.state(50, first)
    log.state(100, second)
    log.end(120, second)
    events = read(tmp_path)
    norms = [np.linalg.norm(each["cell_factors"]) for each in (first, second)]
    assert scalars(events, "Norm/cell_factors") == pytest.approx({50: norms[0], 100: norms[1], 120: norms[1]})
    assert scalars(events, "Norm/cell_factors change")[100] == pytest.approx(abs(norms[1] - norms[0]))
    assert {"Histogram/cell_factors", "Histogram/gene_factors"} <= set(events.Tags()["histograms"])
    assert set(events.Tags()["images"]) == {"Factors in space", "Genes/mean and CV²"}
    image = events.Images("Factors in space")[0]
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert image.width > 300
    assert scalars(events, "Fitted values/smallest")[50] > 0
    assert scalars(events, "Fit/chi_squared") == scalars(events, "Chi-squared/best") == {100: 12.5, 120: 12.5}
    expected = second["cell_factors"].mean(axis=0) @ second["gene_factors"].mean(axis=1) * 3
    assert scalars(events, "Fitted values/mean")[100] == pytest.approx(expected, rel=0.2)


def test_projector_holds_the_sampled_rows_with_their_columns(tmp_path):
    obs = pd.DataFrame({"cell_type": ["B\tcell"] * N, "n": range(N)}, index=[f"c{i}" for i in range(N)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(P)])
    log = TensorBoardLog(tmp_path, n_cells=N, obs=obs, var=var, max_points=40)
    found = state()
    log.end(7, found)
    cells = pd.read_csv(tmp_path / "00007" / "cells" / "metadata.tsv", sep="\t")
    assert list(cells) == ["cell", "cell_type", "n"]
    assert len(cells) == 40
    assert set(cells["cell_type"]) == {"B cell"}
    tensors = np.loadtxt(tmp_path / "00007" / "cells" / "tensors.tsv")
    np.testing.assert_allclose(tensors, found["cell_factors"][cells["n"]], rtol=1e-5)
    genes = (tmp_path / "00007" / "genes" / "metadata.tsv").read_text().split()
    assert genes == list(var.index)
    assert "cells/metadata.tsv" in (tmp_path / "projector_config.pbtxt").read_text()


def test_a_new_run_replaces_the_old_one_and_a_resumed_one_goes_on(tmp_path):
    for steps in (range(1, 9), range(1, 6), range(4, 8)):  # anew; anew; resumed at 4
        log = TensorBoardLog(tmp_path, n_cells=N)
        for step in steps:
            log.step(step, {"loss": steps.start + step})
        log.end(steps[-1], {})
    assert scalars(read(tmp_path), "Loss/train") == {1: 2, 2: 3, 3: 4, 4: 8, 5: 9, 6: 10, 7: 11}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """Filtered counts of cells with coordinates."""
    folder = tmp_path_factory.mktemp("filtered")
    simulate_atlas(
        *(folder / "source.h5ad",),
        **{"n_cells": 90, "n_genes": 30, "n_cell_types": 2, "n_donors": 2, "n_small_donors": 0},
        **{"min_cells": 20, "mean_counts": 60.0},
    )
    source = anndata.read_h5ad(folder / "source.h5ad")
    source.obsm["spatial"] = np.random.default_rng(0).uniform(size=(source.n_obs, 2))
    source.write_h5ad(folder / "spatial.h5ad")
    places = folder / "spatial.h5ad", folder / "filtered.h5ad", folder / "donors.tsv"
    filter_donors(*places, min_cells_per_donor=20)
    return folder / "filtered.h5ad"


FAMILIES = {
    "base_nmf": {"max_iter": 6, "init": "random"},
    "ae_nmf": {"solver": "minibatch", "max_iter": 4, "batch_size": 30},
    "cae_nmf1": {"solver": "statistics", "max_iter": 4},
    "cae_nmf2": {"solver": "minibatch", "max_iter": 2, "batch_size": 30},
    "pyro_exponential": {"max_iter": 6, "batch_size": 40, "held_out_fraction": 0.1},
    "pyro_gamma_nb": {"inference": "svi", "max_iter": 60},
    "nb_hierarchical": {"max_iter": 60, "draws": 2},
    "pnmf": {"max_iter": 6},
    "pnmf_donor": {"max_iter": 6, "mode": "lower-bound"},
    "pnmf_spatial": {"max_iter": 4, "num_inducing": 10},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_fit_is_the_same_with_and_without_it(kind, filtered, tmp_path):
    """Every family, as a job trains it: bit for bit, and no generator of the process has moved."""
    results = []
    for log in (None, {"folder": str(tmp_path / "log"), "state_every": 5, "max_points": 20}):
        out = tmp_path / ("plain" if log is None else "watched")
        out.mkdir()
        names = {"result": "result.h5ad", "history": "history.tsv", "record": "run.json"}
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        train(
            str(filtered),
            **{key: str(out / name) for key, name in names.items()},
            **{"kind": kind, "name": kind, "display_name": kind, "settings": FAMILIES[kind]},
            **{"rank": 2, "seed": 0, "device": "cpu", "condition_columns": ["donor_id"]},
            normalisation={"target_sum": 1e4, "log1p": True},
            run=Job(threads=1),
            tensorboard=log,
        )
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
        results.append(read_result(out / "result.h5ad"))
    plain, watched = results
    for there, here in ((plain.obsm, watched.obsm), (plain.varm, watched.varm)):
        assert list(there) == list(here)
        for key in there:
            np.testing.assert_array_equal(here[key], there[key])
    history = pd.read_csv(out / "history.tsv", sep="\t")
    events = read(tmp_path / "log")
    losses = list(scalars(events, "Loss/train").values())
    assert len(losses) >= len(history) - 1  # some histories have a row of the start or of the end beside
    distance = np.abs(np.subtract.outer(losses, history["objective"].to_numpy())).min(axis=1)
    assert (distance <= 1e-5 * np.abs(losses)).all()
    assert "Norm/cell_factors" in events.Tags()["scalars"]
    assert {"Factors in space", "Genes/mean and CV²"} <= set(events.Tags()["images"])
    cells = next((tmp_path / "log").glob("*/cells/metadata.tsv")).read_text().splitlines()
    assert len(cells) == 21
    assert {"cell_type", "donor_id"} <= set(cells[0].split("\t"))


def test_an_autoencoder_is_watched_as_it_trains(tmp_path, X):
    log = TensorBoardLog(tmp_path, n_cells=N, rows=InMemoryRows(X), state_every=2)
    model = get_model("ae_nmf")(K, solver="minibatch", max_iter=4, random_state=0).fit(X, observer=log)
    events = read(tmp_path)
    losses = {row["epoch"]: row["objective"] for row in model.history_[1:]}
    assert scalars(events, "Loss/train") == pytest.approx(losses)
    assert set(scalars(events, "Norm/cell_factors")) == {2, 4}
    assert "Fit/penalty_W" in events.Tags()["scalars"]
    assert "Fit/objective" not in events.Tags()["scalars"], "it is Loss/train"
    assert (tmp_path / "00004" / "cells" / "tensors.tsv").exists()
