"""Light fits and the rank they support: errors against dense twins, the sweep, the decision, the figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import reference_solvers as reference
from nmfbench.errors import InputError
from nmfbench.figures import rank_selection_figure
from nmfbench.job import Interrupted, Job
from nmfbench.models import get_model
from nmfbench.models.autoencoder.exact.gathered import GatheredCells
from nmfbench.models.autoencoder.exact.held_out import gene_folds, hidden_gene_errors, matched_correlations
from nmfbench.rank_selection import sweep
from nmfbench.statistics import Layout, gather_shard, merge_files, save
from nmfbench.tables.rank_selection import summarise, supported_rank

N, P, K = 300, 40, 4
NAMES = ["ae_nmf", "cae_nmf1", "cae_nmf2"]


def cells(seed=0):
    """Cells of K planted factors, with donors that add a profile, and the codes of donors and types."""
    rng = np.random.default_rng(seed)
    W = np.kron(np.eye(K), np.ones(P // K)) * rng.gamma(4, 0.3, (K, P))
    kinds, donors = rng.integers(K, size=N), rng.integers(3, size=N)
    H = 0.1 + rng.gamma(4, 0.5, (N, K)) * (np.eye(K)[kinds] + 0.3)
    X = rng.poisson(H @ W + rng.gamma(1, 0.2, (3, P))[donors]).astype(np.float64)
    return sp.csr_matrix(X), donors, kinds


def layout(**changes):
    values = {
        "fingerprint": "cells",
        "genes": tuple(map(str, range(P))),
        "n_cells": N,
        "n_shards": 3,
        "piece_rows": 10,
        "conditions": {"donor_id": ("a", "b", "c")},
        "types": tuple("TBNM"),
        "donor_grams": True,
        "dtype": "float64",
    }
    return Layout(**values | changes)


def gathered(plan, shards):
    X, donors, kinds = cells()
    parts = []
    for shard in shards:
        rows = np.concatenate([np.arange(a, b) for a, b in plan.spans(shard)])
        parts.append((rows, gather_shard([(X[rows], donors[rows], kinds[rows])], plan, shard)))
    return parts


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Statistics of two shards to fit and of one to judge by."""
    folder = tmp_path_factory.mktemp("parts")
    for shard, (_, part) in enumerate(gathered(layout(), range(3))):
        save(part, folder / f"{shard}.h5")
    merge_files([folder / "0.h5", folder / "1.h5"], folder / "fitted.h5", shards=[0, 1])
    merge_files([folder / "2.h5"], folder / "held_out.h5", shards=[2])
    return folder / "fitted.h5", folder / "held_out.h5"


@pytest.mark.parametrize("name", NAMES)
def test_errors_on_other_cells_equal_the_dense_ones(name):
    (_, part), (rows, other) = gathered(layout(), [0, 1])
    model = get_model(name)(K, solver="statistics", device="cpu", random_state=0)
    model.fit_statistics(part, progress=False)
    operator, found = model.gram_of(other), GatheredCells(other)
    objective, relative_error, decoder = model.evaluate(operator, found)

    X, donors, kinds = (a[rows] for a in cells())
    X, W = X.toarray(), model.components_
    C = reference.one_hot(np.append(donors, 2))[:-1]
    profile = C @ model.condition_profiles_ if name == "cae_nmf1" else 0 * X
    V = W + model.condition_loadings_ if name == "cae_nmf2" else np.stack([W] * 3)
    written = np.stack([x @ W.T @ V[c] for x, c in zip(X, donors, strict=True)]) + profile
    assert relative_error == pytest.approx(((X - written) ** 2).sum() / (X**2).sum(), rel=1e-9)
    if name == "cae_nmf1":
        weights = [model.penalty_W, model.penalty_U, model.penalty_invariance]
        eta = model.penalty_hsic * min(512, len(X)) / len(X)
        import torch

        tensors = [torch.as_tensor(a) for a in (X, W, model.condition_profiles_)]
        parts = reference.additive(*tensors, donors, kinds, *weights, eta)
        assert objective == pytest.approx(float(sum(parts.values())), rel=1e-9)
    elif name == "ae_nmf":
        assert objective == pytest.approx(reference.tied(X, W, model.penalty_W), rel=1e-9)
    else:
        U = model.condition_loadings_
        expected = reference.donor_loadings(X, W, U, donors, model.penalty_W, model.penalty_U)
        assert objective == pytest.approx(expected, rel=1e-9)

    folds = gene_folds(P, 4)
    sums = found.condition_sums(by_type=False)
    errors = hidden_gene_errors(operator, other.gene_squares, decoder, folds, sums)
    for fold in range(4):
        hidden, seen = folds == fold, folds != fold
        left = 0.0
        for x, c, added in zip(X, donors, profile, strict=True):
            mixture = np.linalg.lstsq(V[c][:, seen].T, (x - added)[seen], rcond=None)[0]
            left += (((x - added)[hidden] - mixture @ V[c][:, hidden]) ** 2).sum()
        assert errors[fold] == pytest.approx(left / (X[:, hidden] ** 2).sum(), rel=1e-8)


def test_folds_of_genes_are_even_and_the_same_for_all():
    folds = gene_folds(103, 5)
    assert np.bincount(folds).tolist() == [21, 21, 21, 20, 20]
    np.testing.assert_array_equal(folds, gene_folds(103, 5))


def test_factors_are_matched_whatever_their_order_and_scale():
    rng = np.random.default_rng(0)
    W = rng.random((4, 50))
    same = W[[2, 0, 3, 1]] * np.array([1, 5, 0.1, 2])[:, None]
    np.testing.assert_allclose(matched_correlations([W, same]), np.ones((2, 2)), rtol=1e-12)
    other = same.copy()
    other[0] = 1.0  # a constant factor matches nothing
    assert matched_correlations([W, other])[0, 1] == pytest.approx(0.75, abs=1e-12)
    assert abs(matched_correlations([W, rng.random((4, 50))])[0, 1]) < 0.5
    pairs = [np.corrcoef(W[a], same[b])[0, 1] for a, b in enumerate([1, 3, 0, 2])]
    np.testing.assert_allclose(pairs, 1)


def run_sweep(files, table, name="ae_nmf", run=None, **changes):
    options = {
        "kind": name,
        "name": name,
        "settings": {"penalty_W": 0.01, "max_iter": 200},
        "ranks": [2, K, 2 * K],
        "seeds": [0, 1, 2],
        "penalties": [{}],
        "gene_folds": 4,
        "device": "cpu",
    }
    sweep(*files, table, **{**options, **changes}, run=run or Job(threads=1))
    return pd.read_csv(table, sep="\t")


def test_the_planted_rank_is_found_and_only_hidden_genes_tell_it(files, tmp_path):
    fits = run_sweep(files, tmp_path / "fits.tsv")
    assert len(fits) == 9
    assert (fits["n_cells"] + fits["n_held_out"] == N).all()
    summary = summarise(fits).set_index("rank")
    assert summary["held_out_error"].is_monotonic_decreasing, "it cannot say where to stop"
    assert summary.index[summary["supported"]].tolist() == [K]
    assert summary.loc[K, "stability"] > summary.loc[2 * K, "stability"] + 0.05
    assert summary.loc[K, "n_seeds"] == 3
    assert summary.loc[K, "objective"] == pytest.approx(fits[fits["rank"] == K]["objective"].mean())
    assert [path.name for path in tmp_path.iterdir()] == ["fits.tsv"]


@pytest.mark.parametrize("name", NAMES)
def test_every_penalty_set_rank_and_seed_is_a_row(name, files, tmp_path):
    penalties = [{}, {"penalty_W": 1.0}, {"penalty_U": 2.0, "penalty_W": 0.5}]
    settings = {"penalty_W": 0.01} if name == "ae_nmf" else {"penalty_W": 0.01, "penalty_U": 0.1}
    options = {"ranks": [2, 3], "seeds": [0, 1], "penalties": penalties, "settings": settings}
    fits = run_sweep(files, tmp_path / "fits.tsv", name, **options)
    last = "penalty_W=0.5" if name == "ae_nmf" else "penalty_U=2, penalty_W=0.5"
    assert list(dict.fromkeys(fits["penalties"])) == ["as set", "penalty_W=1", last]
    assert len(fits) == 3 * 2 * 2
    alone = get_model(name)(3, **settings | {"penalty_W": 1.0}, init="random", random_state=1, device="cpu")
    from nmfbench.statistics import load

    alone.fit_statistics(load(files[0]), progress=False)
    row = fits.query("penalties == 'penalty_W=1' and rank == 3 and seed == 1")
    assert row["objective"].item() == pytest.approx(alone.objective_, rel=1e-12)
    assert fits["uses_labels"].all() == (name == "cae_nmf1")


def test_a_killed_sweep_goes_on_and_other_settings_are_named(files, tmp_path):
    expected = run_sweep(files, tmp_path / "whole.tsv")

    class Stopping(Job):
        asked = 0

        def stop_requested(self):
            self.asked += 1
            return self.asked > 120

    with pytest.raises(Interrupted):
        run_sweep(files, tmp_path / "fits.tsv", run=Stopping(threads=1))
    kept = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "fits.fits").iterdir())
    assert {"rank-2-seed-0", "rank-2-seed-1"} <= set(kept)
    assert len(kept) < 9
    assert not (tmp_path / "fits.tsv").exists()
    with pytest.raises(InputError, match=r"other settings \(penalty_W\)"):
        run_sweep(files, tmp_path / "fits.tsv", settings={"penalty_W": 0.3, "max_iter": 200})
    found = run_sweep(files, tmp_path / "fits.tsv")
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_what_cannot_be_swept_is_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"rank_selection\.ranks: 41"):
        run_sweep(files, tmp_path / "fits.tsv", ranks=[3, 41])
    with pytest.raises(InputError, match="different shards"):
        run_sweep((files[0], files[0]), tmp_path / "fits.tsv")
    plan = layout(donor_grams=False)
    for part, shards in (("fitted", [0, 1]), ("held_out", [2])):
        for shard, (_, found) in zip(shards, gathered(plan, shards), strict=True):
            save(found, tmp_path / f"{shard}.h5")
        merge_files([tmp_path / f"{s}.h5" for s in shards], tmp_path / f"{part}.h5", shards=shards)
    without = tmp_path / "fitted.h5", tmp_path / "held_out.h5"
    with pytest.raises(InputError, match="a Gram matrix for each donor"):
        run_sweep(without, tmp_path / "fits.tsv", "cae_nmf2")


def test_the_supported_rank_is_the_smallest_near_the_best():
    behind = pd.Series([0.05, 0.004, 0.001, 0.0, 0.002], index=[2, 4, 8, 16, 32])
    error = pd.Series([0.001, 0.001, 0.002, 0.0, 0.001], index=behind.index)
    assert supported_rank(behind, error) == 8
    assert supported_rank(behind[:2], pd.Series([0.0, 0.01], index=[2, 4])) == 4
    assert supported_rank(behind * 0, error * 0) == 2


def test_the_figure_marks_the_supported_rank(files, tmp_path):
    fits = run_sweep(files, tmp_path / "fits.tsv", penalties=[{}, {"penalty_W": 1.0}])
    figure = rank_selection_figure(fits, summarise(fits), {"base_nmf": "Base_NMF", "ae_nmf": "AE_NMF"})
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes[:3]] == [
        "relative error of whole cells", "relative error of hidden genes", "stability (matched correlation)",
    ]  # fmt: skip
    star = next(line for line in figure.axes[1].lines if line.get_marker() == "*")
    assert star.get_xdata().tolist() == [K]
    words = {text.get_text() for text in figure.texts}
    assert words > {"penalties: as set", "penalties: penalty_W=1"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AE_NMF"]
    wild = fits.assign(predicted_error=fits["predicted_error"] + 50 * (fits["rank"] == 2 * K))
    summary = summarise(fits).assign(
        predicted_error=lambda s: s["predicted_error"] + 50 * (s["rank"] == 2 * K)
    )
    assert rank_selection_figure(wild, summary).axes[1].get_ylim()[1] < 2, "the lowest can be told apart"
    with pytest.raises(InputError, match="stability"):
        rank_selection_figure(fits.drop(columns="stability"), summarise(fits))
