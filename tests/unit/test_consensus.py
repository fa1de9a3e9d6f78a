"""Consensus of fits: planted programs recovered from many seeds, and a curve that says so; outliers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.optimize import nnls
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from nmfbench.config import load_config
from nmfbench.errors import InputError
from nmfbench.factors.consensus import clustering_arrays, find_consensus, refit
from nmfbench.factors.consensus_fit import fit_consensus
from nmfbench.factors.moments import sum_moments
from nmfbench.factors.project import project
from nmfbench.factors.scores import gene_scores, spectra
from nmfbench.factors.stored import StoredFit
from nmfbench.figures.clustergram import clustergram_figure
from nmfbench.figures.consensus import consensus_figure
from nmfbench.figures.style import size_mm
from nmfbench.grid import Grid
from nmfbench.job import Job
from nmfbench.metrics.matching import match_by_cosine
from nmfbench.models import BaseNMF
from nmfbench.tables.files import read_table
from nmfbench.train import train
from planted import Planted

FILES = {"result": "result.h5ad", "history": "history.tsv", "record": "run.json"}
FIT = "{dataset}/{model}/rank-{rank}/seed-{seed}"
# how the cells were held, and clocks of stages that a consensus does not have
NOT_OF_A_CONSENSUS = {"rows", "seconds_to_load", "seconds_to_compile", "seconds_to_embed", "gpu_share"}


@pytest.fixture(scope="module")
def planted():
    return Planted.draw(n_types=13, n_cells=420, depth=900)  # the donor's program is the fourteenth


@pytest.fixture(scope="module")
def X(planted):
    counts = planted.counts
    return sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))


def fits(X, rank, n=20):
    return [
        BaseNMF(rank, init="random", max_iter=60, random_state=seed).fit(X).components_.T for seed in range(n)
    ]


@pytest.fixture(scope="module")
def by_rank(X):
    return {rank: fits(X, rank) for rank in (11, 14, 17)}


def test_fourteen_planted_programs_are_recovered_from_twenty_seeds_and_the_curve_says_so(by_rank, X, planted):
    found = {rank: find_consensus(loadings, density_threshold=2.0) for rank, loadings in by_rank.items()}
    assert max(found, key=lambda rank: found[rank].stability) == 14
    errors = {}
    for rank, consensus in found.items():
        _, error = refit([(0, X)], consensus.programs, X.shape[0])
        errors[rank] = error["relative_error"]
    assert errors[11] - errors[14] > 1.2 * (errors[14] - errors[17]), "the error bends at 14"
    consensus = find_consensus(by_rank[14])
    match = match_by_cosine(consensus.programs, planted.programs.T)[1]
    assert match["reciprocal"].all()
    assert match["cosine"].min() > 0.75
    genes = np.argsort(-(consensus.programs / consensus.programs.mean(axis=1, keepdims=True)), axis=0)[:10]
    for _, row in match.iterrows():
        own = set(range(10 * (row["other_factor"] - 1), 10 * row["other_factor"]))
        assert len(own & set(genes[:, row["factor"] - 1])) >= 8
    single = np.mean([match_by_cosine(W, planted.programs.T)[1]["cosine"].min() for W in by_rank[14]])
    assert match["cosine"].min() > single, "better than its fits"


def test_it_is_the_published_procedure(by_rank):
    """The slow twin works on the loadings themselves, as the definition is written."""
    loadings = by_rank[14]
    units = np.concatenate([W.T for W in loadings]).astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    near = NearestNeighbors(n_neighbors=7).fit(units).kneighbors(units)[0]
    density = near.sum(axis=1) / 6
    found = find_consensus(loadings)
    np.testing.assert_allclose(found.density, density, atol=1e-3)
    kept = density < 0.5
    np.testing.assert_array_equal(found.clusters >= 0, kept)
    labels = KMeans(14, n_init=10, random_state=1).fit_predict(units[kept])
    medians = np.array([np.median(units[kept][labels == j], axis=0) for j in range(14)])
    match = match_by_cosine(found.programs, medians.T)[1]
    assert match["cosine"].min() > 0.999
    np.testing.assert_allclose(found.programs.sum(axis=0), 1, rtol=1e-5)
    everyone = KMeans(14, n_init=10, random_state=1).fit_predict(units)
    assert found.stability == pytest.approx(silhouette_samples(units, everyone).mean(), abs=0.01)


def test_cnmf_itself_finds_the_same_programs_scores_and_spectra():
    """Its run of 20 seeds on planted counts is kept; see benchmarks/cnmf_reference.py."""
    kept = np.load(Path(__file__).parent / "fixtures" / "cnmf_consensus.npz")
    found = find_consensus([W.T for W in kept["merged"].reshape(20, 5, -1)])
    order = match_by_cosine(kept["spectra"].T, found.programs)[1].sort_values("factor")["other_factor"]
    np.testing.assert_allclose(found.programs.T[order - 1], kept["spectra"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.density, kept["density"].ravel(), atol=1e-3)
    assert found.stability == pytest.approx(float(kept["silhouette"]), abs=1e-3)
    counts = sparse.csr_matrix(Planted.draw(n_cells=240).counts)
    log = {"target_sum": 1e4, "log1p": True}
    sums = sum_moments([(counts, kept["usages"])], pd.RangeIndex(80), 5, log)
    np.testing.assert_allclose(gene_scores(sums), kept["scores"], rtol=1e-5, atol=1e-7)
    tpm = kept["tpm"]  # its last step ends early: 2e-5 of the largest
    np.testing.assert_allclose(spectra(sums), tpm, atol=1e-4 * tpm.max())


def test_silhouettes_are_scikit_learns():
    from nmfbench.factors.consensus import _silhouette

    points = np.random.default_rng(0).normal(size=(30, 3))
    labels = np.repeat([0, 1, 2], [14, 15, 1])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(_silhouette(distances, labels), silhouette_samples(points, labels), atol=1e-9)
    assert np.isnan(_silhouette(distances, np.zeros(30, dtype=int))).all()


def test_outliers_and_dead_factors_are_left_out():
    rng = np.random.default_rng(0)
    true = rng.gamma(0.3, size=(80, 3))
    loadings = [true * rng.gamma(5, size=3) + 0.01 * rng.random((80, 3)) for _ in range(8)]
    loadings[2][:, 1] = rng.gamma(0.3, size=80)  # a factor that no other fit has
    loadings[5][:, 0] = 0
    found = find_consensus(loadings)
    outliers = {3 * 2 + 1, 3 * 5}
    assert set(np.flatnonzero(found.clusters < 0)) == outliers
    assert found.n_outliers == 2
    assert sorted(found.fits) == [7, 7, 8]
    assert match_by_cosine(found.programs, true)[1]["cosine"].min() > 0.99


def test_fits_that_do_not_agree_or_do_not_belong_together_are_refused():
    rng = np.random.default_rng(0)
    apart = [rng.gamma(0.1, size=(200, 6)) for _ in range(5)]
    with pytest.raises(InputError, match="seeds do not agree"):
        find_consensus(apart)
    with pytest.raises(InputError, match="two fits at least"):
        find_consensus(apart[:1])
    with pytest.raises(InputError, match="same genes and rank"):
        find_consensus([apart[0], apart[1][:, :4]])


def test_rank_one_has_a_consensus_and_no_stability():
    rng = np.random.default_rng(0)
    found = find_consensus([rng.gamma(1, size=(30, 1)) * 0 + np.arange(1.0, 31)[:, None] for _ in range(4)])
    assert found.programs.shape == (30, 1)
    assert np.isnan(found.stability)


def test_usages_are_refitted_by_non_negative_least_squares(X, planted):
    programs = planted.programs.T
    usages, error = refit([(0, X[:100]), (100, X[100:])], programs, X.shape[0])
    dense = X.toarray().astype(float)
    expected = np.array([nnls(programs, cell)[0] for cell in dense[:20]])
    np.testing.assert_allclose(usages[:20], expected, rtol=1e-3, atol=1e-2 * expected.max())
    direct = np.square(dense - usages @ programs.T).sum()
    assert error["squared_error"] == pytest.approx(direct, rel=1e-4)
    assert error["relative_error"] == pytest.approx(direct / np.square(dense).sum(), rel=1e-4)


# ---- as a fit of its own


def test_a_consensus_is_a_fit_like_any_other(tmp_path):
    small = Planted.draw(n_cells=240)
    filtered = small.filtered(tmp_path)
    members = []
    for seed in (0, 1000, 2000, 3000):
        out = tmp_path / f"seed-{seed}"
        out.mkdir()
        members.append(out)
        train(
            str(filtered),
            **{key: str(out / name) for key, name in FILES.items()},
            **{"kind": "base_nmf", "name": "base_nmf", "display_name": "NMF", "rank": 5, "seed": seed},
            **{"settings": {"init": "random", "max_iter": 80}, "device": "cpu", "run": Job(threads=1)},
            **{"normalisation": {"target_sum": 1e4, "log1p": True}, "condition_columns": ["donor_id"]},
        )
    out = tmp_path / "consensus"
    out.mkdir()
    fit_consensus(
        [folder / "result.h5ad" for folder in members],
        [folder / "run.json" for folder in members],
        filtered,
        **{key: out / name for key, name in FILES.items()},
        **{
            "stability": out / "consensus.tsv",
            "clustering": out / "consensus_factors.npz",
            "name": "cons",
            "of": "base_nmf",
            "display_name": "Consensus",
        },
        **{"seed": 0, "settings": {"density_threshold": 0.5, "neighbour_share": 0.3}},
    )
    fit = StoredFit(out / "result.h5ad")
    assert (fit.n_factors, fit.n_cells, fit.record["model"]) == (5, 240, "cons")
    assert match_by_cosine(fit.loadings, small.programs.T)[1]["cosine"].min() > 0.8
    told = json.loads((out / "run.json").read_text())
    assert told.keys() >= json.loads((members[0] / "run.json").read_text()).keys() - NOT_OF_A_CONSENSUS
    assert told["consensus_of"]["seeds"] == [0, 1000, 2000, 3000]
    with np.load(out / "consensus_factors.npz") as kept:
        assert (kept["distances"].shape, int(kept["n_fits"])) == ((20, 20), 4)
        assert set(zip(kept["fit"], kept["factor"], strict=True)) == {
            (f, j) for f in range(4) for j in range(1, 6)
        }
        inside = kept["program"][:, None] == kept["program"]
        assert kept["distances"][inside].mean() < 0.5 * kept["distances"][~inside].mean(), "dark blocks"
    row = read_table(out / "consensus.tsv")
    assert row["stability"].item() > 0.5
    assert row["relative_error"].item() >= row["best_single_error"].item()
    assert row["relative_error"].item() == pytest.approx(row["best_single_error"].item(), rel=0.05)
    again = project(tmp_path / "source.h5ad", out / "result.h5ad").embedding
    np.testing.assert_allclose(again, fit.rows(0, 240), rtol=1e-3, atol=1e-3 * again.max())


def test_consensus_models_of_a_config():
    def config(**models):
        return load_config({"datasets": {"d": {"path": "x.h5ad"}}, "models": {"ae_nmf": {}, **models}})

    cfg = config(cons={"kind": "consensus", "of": "ae_nmf", "n_fits": 3})
    plan = Grid(cfg, lambda path: path.replace("<fit>", FIT))
    job = SimpleNamespace(dataset="d", model="cons", rank=4, seed=42)
    assert [path.split("seed-")[1] for path in plan.members("result.h5ad")(job)] == [
        f"{seed}/result.h5ad" for seed in (42, 1042, 2042)
    ]
    for of in ("cons", "nobody"):
        with pytest.raises(InputError, match=r"models\.cons\.of"):
            config(cons={"kind": "consensus", "of": of})


@pytest.mark.parametrize("rank", [1, 14])
def test_a_clustergram_shows_every_factor_its_density_and_silhouette(by_rank, rank):
    loadings = [W[:, :rank] for W in by_rank[14][:5]]
    found = find_consensus(loadings, density_threshold=0.6 if rank > 1 else 2.0)
    arrays = clustering_arrays(found, 5, 0.6)
    figure = clustergram_figure(arrays, "a title")
    distances, strip, density = figure.axes[0], figure.axes[1], figure.axes[3]
    assert distances.images[0].get_extent()[1] == 5 * rank
    runs = 1 + int((np.diff(arrays["program"]) != 0).sum())
    assert len(strip.patches) == runs >= rank
    assert sum(bar.get_height() for bar in density.patches) == 5 * rank
    assert size_mm(figure)[1] <= 0.55 * size_mm(figure)[0]


def test_a_large_map_of_distances_keeps_its_means(monkeypatch):
    monkeypatch.setattr("nmfbench.factors.consensus.LARGEST_MAP", 4)
    rng = np.random.default_rng(0)
    found = find_consensus([rng.gamma(1, size=(20, 2)) for _ in range(4)], density_threshold=2.0)
    arrays = clustering_arrays(found, 4, 2.0)
    assert arrays["distances"].shape == (4, 4)
    assert arrays["distances"].mean() == pytest.approx(found.distances.mean(), rel=1e-3)


def test_the_figure_has_a_panel_for_each_consensus():
    table = pd.DataFrame({"model": ["c"] * 3 + ["d"], "rank": [3, 4, 5, 4], "n_fits": 20})
    table = table.assign(stability=[0.5, 0.9, 0.6, np.nan], relative_error=[0.5, 0.4, 0.39, 0.4])
    figure = consensus_figure(table, {"a": "A", "c": "C", "d": "D"})
    assert len(figure.axes) == 4
    assert size_mm(figure)[1] < 0.55 * size_mm(figure)[0]
