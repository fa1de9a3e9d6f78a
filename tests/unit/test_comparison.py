"""Two fits compared factor by factor: alignment, one assignment, ranks that differ, constant factors."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nmfbench.comparison import compare_fits, read_factors
from nmfbench.errors import InputError
from nmfbench.metrics.matching import factor_correlations, log_profiles, match_factors
from nmfbench.models import get_model
from nmfbench.results import read_result, write_result


def factors(k: int, n: int = 60, p: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.gamma(0.5, size=(n, k)).astype(np.float32), rng.gamma(0.5, size=(p, k)).astype(np.float32)


def result(path, H, W, *, cells=None, genes=None, varm=None):
    """A result.h5ad with these factors."""
    n, k = H.shape
    cells = [f"cell{i}" for i in range(n)] if cells is None else cells
    genes = [f"gene{i}" for i in range(len(W))] if genes is None else genes
    write_result(
        path,
        obs=pd.DataFrame({"cell_type": "t", "donor_id": "d"}, index=cells),
        var=pd.DataFrame(index=genes),
        obsm={f"H_k{k}": H},
        varm=varm or {f"W_k{k}": W},
        uns={"model_name": "m"},
        record={
            **{"model": "m", "display_name": "M", "rank": k, "seed": 0},
            **{"embedding": f"H_k{k}", "uses_labels": ""},
        },
    )
    return path


def test_correlations_are_those_of_numpy_and_undefined_for_constant_factors(monkeypatch):
    monkeypatch.setattr("nmfbench.metrics.matching._BLOCK_ROWS", 7)
    A, B = factors(3)[0], factors(4, seed=1)[0]
    expected = np.corrcoef(A.astype(float).T, B.astype(float).T)[:3, 3:]
    np.testing.assert_allclose(factor_correlations(A, B), expected, atol=1e-12)
    A[:, 1] = 1 + 6e-8 * np.arange(len(A)) / len(A)  # a row-normalised embedding of one factor
    found = factor_correlations(A, B)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], atol=1e-12)


def test_the_unit_of_a_factor_does_not_matter_and_no_gene_decides_alone():
    _, W = factors(3)
    np.testing.assert_allclose(log_profiles(W * [1e-3, 1.0, 1e4]), log_profiles(W), rtol=1e-5)
    unrelated = factors(2, p=2000)[1].astype(float)
    unrelated[:5] = 50  # five genes that every factor holds, such as those of ribosomes
    assert factor_correlations(unrelated, unrelated)[0, 1] > 0.9
    assert factor_correlations(*[log_profiles(unrelated)] * 2)[0, 1] < 0.4


def test_a_planted_permutation_is_found_in_shuffled_files(tmp_path):
    H, W = factors(6)
    order = np.array([3, 0, 5, 1, 4, 2])
    rng = np.random.default_rng(1)
    cells, genes = rng.permutation(len(H)), rng.permutation(len(W))
    noise = rng.uniform(0.9, 1.1, H.shape)
    first = result(tmp_path / "a.h5ad", H, W)
    second = result(
        tmp_path / "b.h5ad",
        ((H * noise)[:, order] * rng.uniform(0.1, 10, 6))[cells],
        W[:, order][genes],
        cells=[f"cell{i}" for i in cells],
        genes=[f"gene{i}" for i in genes],
    )
    found = compare_fits(first, second)
    assert (found.n_cells, found.n_genes) == (60, 40)
    assert (found.matches["status"] == "matched").all()
    assert dict(zip(found.matches["factor"], found.matches["other_factor"], strict=True)) == {
        old + 1: new + 1 for new, old in enumerate(order)
    }
    assert found.matches["embedding_correlation"].min() > 0.99
    np.testing.assert_allclose(found.matches["loadings_correlation"], 1, atol=1e-6)
    assert (found.matches["next_best"] < 0.6).all()
    assert found.matches["score"].is_monotonic_decreasing


def test_cells_and_genes_of_one_fit_alone_are_left_out(tmp_path):
    H, W = factors(3)
    first = result(tmp_path / "a.h5ad", H, W)
    genes = [f"gene{i}" for i in range(25, 40)] + [f"other{i}" for i in range(25)]
    second = result(
        *(tmp_path / "b.h5ad", H[:50][::-1], np.roll(W, -25, axis=0)),
        cells=[f"cell{i}" for i in range(50)][::-1],
        genes=genes,
    )
    found = compare_fits(first, second)
    assert (found.n_cells, found.n_genes) == (50, 15)
    np.testing.assert_allclose(found.matches[["embedding_correlation", "loadings_correlation"]], 1, atol=1e-6)


@pytest.mark.parametrize("what", ["cells", "genes"])
def test_fits_of_other_cells_or_genes_are_refused(tmp_path, what):
    H, W = factors(3)
    first = result(tmp_path / "a.h5ad", H, W)
    names = [f"x{i}" for i in range(len(H if what == "cells" else W) - 2)] + [
        f"{what[:-1]}0",
        f"{what[:-1]}1",
    ]
    second = result(tmp_path / "b.h5ad", H, W, **{what: names})
    with pytest.raises(InputError, match=f"{what}\n.*at least 3 names in common\n.*2 in common of"):
        compare_fits(first, second)


@pytest.mark.filterwarnings("ignore:.*not unique:UserWarning")
def test_names_that_stand_twice_are_refused(tmp_path):
    H, W = factors(3)
    first = result(tmp_path / "a.h5ad", H, W)
    second = result(tmp_path / "b.h5ad", H, W, genes=["gene1", *(f"gene{i}" for i in range(1, 40))])
    with pytest.raises(InputError, match="'gene1' more than once"):
        compare_fits(first, second)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 1), (1, 2), (2, 2), (5, 3), (3, 7)])
def test_ranks_may_differ(tmp_path, k, m):
    H, W = factors(max(k, m))
    first = result(tmp_path / "a.h5ad", H[:, :k], W[:, :k])
    second = result(tmp_path / "b.h5ad", H[:, ::-1][:, :m], W[:, ::-1][:, :m])
    matches = compare_fits(read_result(first), second).matches
    assert (matches["status"] == "matched").sum() == min(k, m)
    assert (matches["status"] == "unmatched").sum() == abs(k - m)
    assert sorted(matches["factor"].dropna()) == list(range(1, k + 1))
    assert sorted(matches["other_factor"].dropna()) == list(range(1, m + 1))
    same = {(f, max(k, m) + 1 - f) for f in range(1, k + 1) if max(k, m) + 1 - f <= m}
    found = {(row.factor, row.other_factor) for row in matches.dropna(subset="score").itertuples()}
    assert same <= found


def test_constant_factors(tmp_path):
    H, W = factors(3)
    H[:, 1], W[:, 1] = 0, 0  # an unused factor
    H[:, 2] = 1  # known by its genes alone
    matches = compare_fits(*(result(tmp_path / f"{name}.h5ad", H, W) for name in "ab")).matches
    assert matches["factor"].tolist()[:2] == matches["other_factor"].tolist()[:2] == [1, 3]
    assert np.isnan(matches["embedding_correlation"][1])
    assert matches["loadings_correlation"][1] == pytest.approx(1)
    assert matches["score"].tolist()[:2] == pytest.approx([1, 0.5])
    assert matches["status"].tolist() == ["matched", "matched", "constant", "constant"]


def test_one_assignment_serves_both_factors():
    """Against every permutation: embedding and loadings alone would choose two different ones."""
    in_cells = np.array([[0.9, 0.6, 0.0], [0.6, 0.6, 0.1], [0.0, 0.2, 0.7]])
    in_genes = np.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.3], [0.3, 0.1, 0.6]])

    def best(score):
        return max(itertools.permutations(range(3)), key=lambda order: score[range(3), order].sum())

    assert best(in_cells) != best((in_cells + in_genes) / 2)
    matches, pairs = match_factors(in_cells, in_genes)
    chosen = pairs[pairs["matched"]]["other_factor"].to_numpy() - 1
    assert tuple(chosen) == best((in_cells + in_genes) / 2)
    assert len(pairs) == 9
    first = matches.set_index("factor").loc[1]
    assert first["score"] == pytest.approx(0.75)
    assert first["next_best"] == pytest.approx(0.5)


def test_loadings_that_could_be_several_are_asked_for(tmp_path):
    H, W = factors(3)
    sd = {"W_k3": W, "W_sd_k3": W / 2, "U_gene_k3": W}
    assert read_factors(result(tmp_path / "a.h5ad", H, W, varm=sd)).loadings[0, 0] == W[0, 0]
    two = result(tmp_path / "b.h5ad", H, W, varm={"W_k3": W, "W_other_k3": 2 * W})
    with pytest.raises(InputError, match="W_k3, W_other_k3"):
        read_factors(two)
    assert read_factors(two, loadings="W_other_k3").loadings[0, 0] == 2 * W[0, 0]
    with pytest.raises(InputError, match="one of the keys of obsm: H_k3"):
        read_factors(two, embedding="H")


@pytest.mark.parametrize("given", [None, "cells", "genes"])
def test_fits_of_the_bayesian_models(tmp_path, given):
    """Their loadings have other names, and constant patterns a column on one side alone."""
    rng = np.random.default_rng(0)
    H, W = factors(3)
    counts = sparse.csr_matrix(rng.poisson(H @ W.T).astype(np.float64))
    cells, genes = [[f"{name}{i}" for i in range(size)] for name, size in (("cell", 60), ("gene", 40))]
    donors = np.array(["a", "b"])[np.arange(60) % 2]
    settings = {
        None: {},
        "cells": {"fixed_samples": "donors"},
        "genes": {
            "fixed_genes": pd.DataFrame(rng.gamma(1, size=(40, 2)), index=genes),
            "learn_probs": "fixed",
        },
    }[given]
    paths = []
    for seed in (0, 1):
        model = get_model("pyro_exponential")(3, max_iter=40, random_state=seed, marker_draws=2, **settings)
        model.fit(counts, conditions=donors, gene_names=genes)
        paths.append(tmp_path / f"{seed}.h5ad")
        write_result(
            paths[-1],
            obs=pd.DataFrame({"cell_type": "t", "donor_id": donors}, index=cells),
            var=pd.DataFrame(index=genes),
            obsm=model.embeddings(),
            varm=model.loadings(),
            uns=model.unstructured(),
            record={
                **{"model": "m", "display_name": "M", "rank": 3, "seed": seed},
                **{"embedding": model.embedding_key_, "uses_labels": ""},
            },
        )
    one = read_factors(paths[1])  # of the last model
    np.testing.assert_allclose(one.loadings, model.components_[2 if given == "cells" else 0 :].T, rtol=1e-6)
    assert one.embedding.shape[1] == one.loadings.shape[1] == (5 if given == "genes" else 3)
    matches = compare_fits(*paths).matches
    assert (matches["status"] == "matched").all()
    if given is None:
        assert matches["loadings_correlation"].min() > 0.8
    if given == "genes":  # the two constant patterns are the same in both, and come first
        same = matches[matches["factor"] <= 2]
        assert (same["factor"] == same["other_factor"]).all()
        np.testing.assert_allclose(same["loadings_correlation"], 1, atol=1e-6)
