"""The rank that unseen molecules ask for: errors against a dense twin, the planted rank, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from nmfbench.config import load_config
from nmfbench.data import filter_donors, normalise_block, read_filtered
from nmfbench.data.halves import split_counts
from nmfbench.errors import InputError
from nmfbench.figures import unseen_molecules_figure
from nmfbench.job import Interrupted, Job
from nmfbench.models import AENMFCommon
from nmfbench.plan import Plan
from nmfbench.tables.unseen_molecules import said_of_ranks, summarise_unseen
from nmfbench.unseen_molecules import halves_of, score_unseen_molecules, unseen_error

N, P, K = 400, 60, 5
AS_USUAL = {"target_sum": 1e4, "log1p": True}


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """Counts of K programs with genes of their own, which cells mix."""
    rng = np.random.default_rng(0)
    programs = np.kron(np.eye(K), np.ones(P // K)) * rng.gamma(4, 0.3, (K, P)) + 0.02
    usage = rng.dirichlet(np.full(K, 0.4), N)
    counts = rng.poisson(usage @ programs * 12).astype(np.float32)
    folder = tmp_path_factory.mktemp("unseen")
    labels = {"donor_id": np.array(["a", "b"])[np.arange(N) % 2], "cell_type": ["T"] * N}
    obs = pd.DataFrame(labels, index=[f"c{i}" for i in range(N)]).astype("category")
    var = pd.DataFrame(index=[f"g{i}" for i in range(P)])
    anndata.AnnData(X=sp.csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "cells.h5ad")
    kept = folder / "filtered.h5ad"
    filter_donors(folder / "cells.h5ad", kept, folder / "donors.tsv", min_cells_per_donor=5)
    return kept


def scored(filtered, table, run=None, **changes):
    options = {
        "kind": "ae_nmf_common",
        "name": "mine",
        "settings": {"penalty_W": 0.01, "max_iter": 300, "n_axes": K},
        "ranks": [1, 2, 3, 4, 5, 6, 8, 12],
        "seeds": [0, 1],
        "normalisation": AS_USUAL,
        "gene_scaling": "none",
        "device": "cpu",
    }
    score_unseen_molecules(filtered, table, **{**options, **changes}, run=run or Job(threads=1))
    return pd.read_csv(table, sep="\t")


@pytest.mark.parametrize("scaling", ["none", "sqrt"])
def test_the_error_is_that_of_the_dense_twin(filtered, tmp_path, scaling):
    fits = scored(filtered, tmp_path / "fits.tsv", ranks=[3], seeds=[4, 5], gene_scaling=scaling)
    counts = sp.vstack([block for _, block in read_filtered(filtered).blocks()], format="csr")
    for seed, found in zip((4, 5), fits["unseen_error"], strict=True):
        halves = []
        for part in split_counts(counts, 0, [seed, 1]):
            half = sp.csr_matrix((part, counts.indices, counts.indptr), counts.shape, copy=True)
            halves.append(normalise_block(half, **AS_USUAL).toarray().astype(np.float64))
        if scaling == "sqrt":  # by the half that is fitted alone
            sd = halves[0].std(axis=0)
            halves = [half / np.sqrt(np.where(sd > 0, sd, 1)) for half in halves]
        X, Y = halves
        model = AENMFCommon(3, penalty_W=0.01, max_iter=300, n_axes=K, random_state=seed)
        W = model.fit(sp.csr_matrix(X.astype(np.float32))).components_.astype(float)
        expected = np.square(Y - X @ W.T @ W).sum() / np.square(Y).sum()
        assert found == pytest.approx(expected, rel=1e-4)
        seen, unseen = halves_of(counts, seed, AS_USUAL, scaling)
        assert unseen_error(W, seen, unseen) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scaling", ["none", "sqrt"])
def test_about_the_planted_rank_is_chosen(filtered, tmp_path, scaling):
    fits = scored(filtered, tmp_path / "fits.tsv", gene_scaling=scaling)
    assert len(fits) == 16
    summary = summarise_unseen(fits, 0.002).set_index("rank")
    assert summary.index[summary["chosen"]].tolist() in ([K], [K + 1])
    assert summary.loc[K - 1, "above_least"] > 0.01
    assert summary["relative_error"].idxmin() == 12, "the error of what is seen cannot say where to stop"
    assert [path.name for path in tmp_path.iterdir()] == ["fits.tsv"]


def test_a_killed_job_goes_on(filtered, tmp_path):
    options = {"ranks": [2, 4], "seeds": [0, 1]}
    expected = scored(filtered, tmp_path / "whole.tsv", **options)

    class Stopping(Job):
        asked = 0

        def stop_requested(self):
            self.asked += 1
            return self.asked > 40

    with pytest.raises(Interrupted):
        scored(filtered, tmp_path / "fits.tsv", Stopping(threads=1), **options)
    assert (tmp_path / "fits.fits" / "rank-2-seed-0").is_dir()
    assert not (tmp_path / "fits.tsv").exists()
    found = scored(filtered, tmp_path / "fits.tsv", **options)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_the_smallest_rank_near_the_least_is_chosen_of_each_model():
    def rows(model, errors):
        return [
            {"model": model, "rank": rank, "seed": seed, "unseen_error": error + 0.01 * seed, "sweeps": 9,
             "relative_error": 0.5, "stop_reason": "converged", "seconds": 1.0}
            for rank, error in errors.items() for seed in (0, 1)
        ]  # fmt: skip

    fits = pd.DataFrame(rows("a", {4: 0.6, 8: 0.5005, 16: 0.5, 32: 0.51}) + rows("b", {4: 0.6, 8: 0.5}))
    summary = summarise_unseen(fits, 0.002)
    assert summary.loc[summary["chosen"], ["model", "rank"]].to_numpy().tolist() == [["a", 8], ["b", 8]]
    assert summary.loc[0, ["unseen_error", "n_seeds", "converged"]].tolist() == pytest.approx([0.605, 2, 1])
    exact = summarise_unseen(fits, 0.0)
    assert exact.loc[exact["chosen"], "rank"].tolist() == [16, 8]
    said = said_of_ranks(summary, 0.002)
    assert said["a"].startswith("rank 8 is the smallest")
    assert said["a"].endswith("is within 0.2 % of the least (0.5050, rank 16)")
    assert said["b"].endswith("it is the largest tried: try larger ones")
    figure = unseen_molecules_figure(fits, summary, 0.002, {"a": "A", "b": "B"})
    stars = [line for line in figure.axes[0].lines if line.get_markersize() == 9]
    assert [star.get_xdata().tolist() for star in stars] == [[8], [8]]
    assert any(text.get_text().startswith("A: rank 8 is the smallest") for text in figure.texts)


def test_what_cannot_be_judged_so_is_refused_and_what_can_needs_no_pass(filtered, tmp_path):
    with pytest.raises(InputError, match=r"rank_selection\.ranks: 61"):
        scored(filtered, tmp_path / "fits.tsv", ranks=[61])
    models = {"ae_nmf_common": {}, "ae_nmf_blind": {}, "cae_nmf2": {}}
    config = {"datasets": {"d": {"simulate": {}, "gene_scaling": "sqrt"}}, "models": models}
    asked = {"criterion": "unseen_molecules", "models": ["ae_nmf_common"]}
    found = load_config(config | {"rank_selection": asked, "statistics": {"shards": 1}})

    def spell(pattern):
        for name in ("results", "logs", "benchmarks"):
            pattern = pattern.replace(f"<{name}>", name)
        return pattern.replace("<fit>", "{dataset}/{model}/rank-{rank}/seed-{seed}")

    plan = Plan(found, spell, str)
    names = {file.rpartition("/")[2] for file in plan.targets()}
    assert {"unseen_molecules.tsv", "unseen_molecules.png"} <= names
    assert "rank_selection.tsv" not in names
    jobs = {job["step"]: job for job in plan.shared_jobs(SimpleNamespace(dataset="d"))}
    assert jobs["score_unseen_molecules"]["model"] == "ae_nmf_common"
    assert jobs["score_unseen_molecules"]["needs"] == ["results/d/filtered.h5ad"]
    assert not {"gather_statistics", "select_ranks"} & set(jobs)
    for name, why in (("ae_nmf_blind", "diagonal"), ("cae_nmf2", "donors")):
        with pytest.raises(InputError, match=why):
            load_config(config | {"rank_selection": asked | {"models": [name]}})
    with pytest.raises(InputError, match="hidden_genes alone"):
        load_config(config | {"rank_selection": asked | {"penalties": [{"penalty_W": 1.0}]}})
