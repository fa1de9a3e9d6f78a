"""Gene sets of factors: the file, its overlap with the genes, both tests against the libraries' values."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from nmfbench.data.simulate import Atlas, AtlasDesign
from nmfbench.errors import InputError
from nmfbench.factors.enrichment import (
    benjamini_hochberg,
    count_enriched,
    enrich,
    preranked,
    univariate_linear_model,
)
from nmfbench.factors.gene_sets import align_sets, read_gmt
from nmfbench.figures.enrichment import enrichment_figure

GENES = [f"G{i}" for i in range(60)]
SETS = {"FIRST": GENES[:8], "SECOND": GENES[20:32], "MIXED": GENES[5:25:2], "LAST": GENES[50:]}
# t-values of decoupler 2.2.0, dc.mt.ulm, of the table below
DECOUPLER = [
    [4.7315497775, -2.5811081371, 0.405254416, 0.7145191797],
    [0.9203693472, -3.1906691348, 0.1199372778, 0.9439926457],
    [-1.1614655347, 0.6101045691, 0.9327526464, 0.0617243282],
]
# normalised enrichment scores of gseapy 1.3.1, weight 1, 1,000 permutations, seed 0, of its first two rows
GSEAPY = [
    [1.8648902437, -1.7893130419, 0.8154461427, 0.952414778],
    [0.8614717109, -1.7700072764, -0.6933482549, 0.6769926082],
]


def table():
    rng = np.random.default_rng(7)
    scores = np.round(rng.normal(size=(3, 60)), 3)
    scores[0, :8] += 1.5
    scores[1, 20:32] -= 1.0
    return scores


def var(symbols=GENES, ids=None, mean=None):
    ids = [""] * len(symbols) if ids is None else ids
    mean = np.ones(len(symbols)) if mean is None else mean
    return pd.DataFrame({"symbol": symbols, "ensembl_id": ids, "mean": mean})


def aligned(universe="measured", **change):
    return align_sets(SETS, var(), np.ones(60, bool), universe=universe, **change)


def test_the_linear_model_is_decouplers_and_the_regressions():
    scores, sets = table(), aligned()
    t, p = univariate_linear_model(scores, sets)
    np.testing.assert_allclose(t, DECOUPLER, atol=1e-9)
    for place, genes in enumerate(SETS.values()):
        line = stats.linregress(np.isin(GENES, genes).astype(float), scores[0])
        assert t[0, place] == pytest.approx(line.slope / line.stderr)
        assert p[0, place] == pytest.approx(line.pvalue)


def test_decoupler_itself_agrees():
    dc = pytest.importorskip("decoupler", reason="decoupler is an extra of the tests")
    pairs = [(name, gene, 1.0) for name, genes in SETS.items() for gene in genes]
    net = pd.DataFrame(pairs, columns=["source", "target", "weight"])
    t, _ = dc.mt.ulm(pd.DataFrame(table(), columns=GENES, index=["a", "b", "c"]), net, tmin=1)
    np.testing.assert_allclose(univariate_linear_model(table(), aligned())[0], t[list(SETS)], atol=1e-9)


def test_the_preranked_test_is_gseapys():
    pytest.importorskip("gseapy", reason="gseapy is an extra")
    scores, p = preranked(table()[:2], aligned(), n_permutations=1000, seed=0)
    np.testing.assert_allclose(scores, GSEAPY, rtol=1e-6)
    assert p.argmin(axis=1).tolist() == [0, 1]
    assert (p >= 1 / 1001).all()


def test_without_gseapy_the_preranked_test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gseapy", None)
    with pytest.raises(InputError, match="pip install gseapy"):
        preranked(table(), aligned(), n_permutations=10, seed=0)


def test_adjusted_p_values():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    expected = stats.false_discovery_control(p[[0, 1, 3, 4]])
    np.testing.assert_allclose(benjamini_hochberg(p)[[0, 1, 3, 4]], expected)
    assert np.isnan(benjamini_hochberg(p)[2])


# ---- the file


def test_a_gmt_file_is_read(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("# note\nA\thttp://x\tG1\tG2,0.5\tG1\t\n\nB\t\tG3\n", encoding="utf-8")
    assert read_gmt(path) == {"A": ["G1", "G2"], "B": ["G3"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A G1 G2\n", "line 1"),
        ("A\tx\tG1\nA\tx\tG2\n", "second time"),
        ("\n", "none"),
    ],
)
def test_what_is_no_gmt_is_refused(tmp_path, text, expected):
    (tmp_path / "sets.gmt").write_text(text)
    with pytest.raises(InputError, match=expected):
        read_gmt(tmp_path / "sets.gmt")
    with pytest.raises(InputError, match="cannot be read"):
        read_gmt(tmp_path / "absent.gmt")


@pytest.mark.parametrize("universe", ["gene_sets", "measured"])
def test_sets_without_overlap_are_refused_with_examples_of_both_sides(universe):
    with pytest.raises(InputError) as refused:
        align_sets({"A": ["Cd3d", "Cd3e"]}, var(), np.ones(60, bool), where="mouse.gmt", universe=universe)
    for words in ("mouse.gmt", "0 of their 2 genes", "Cd3d", "G0", "same organism"):
        assert words in str(refused.value)


def test_sizes_universe_doubled_symbols_and_ids():
    assert aligned(min_size=11).names == ["SECOND"]
    sets = aligned(max_size=9)
    assert (sets.names, sets.n_large) == (["FIRST"], 3)
    assert len(aligned("gene_sets").universe) == len({gene for genes in SETS.values() for gene in genes})
    doubled = align_sets(
        {"A": ["X", "G1", "G2", "G3", "G4"]},
        var(["X", "X", *GENES[1:9]], mean=[1, 5, *[1] * 8]),
        np.ones(10, bool),
        universe="measured",
    )
    assert 1 in doubled.universe
    assert 0 not in doubled.universe, "the gene with the larger mean stands for the symbol"
    ids = [f"ENSG{i:011d}" for i in range(60)]
    by_id = align_sets(
        {"A": [f"{name}.3" for name in ids[:6]]}, var(ids=ids), np.ones(60, bool), universe="measured"
    )
    assert by_id.members() == {"A": ids[:6]}
    unscored = np.ones(60, bool)
    unscored[0] = False
    assert 0 not in align_sets(SETS, var(), unscored, universe="measured").universe


# ---- the whole


def programs():
    scores = np.vstack([table(), np.full(60, np.nan)])
    obs = pd.DataFrame({"factor": [1, 2, 3, 4]}, index=list("abcd"))
    return anndata.AnnData(scores, obs=obs, var=var().set_index(pd.Index(GENES)))


def gmt(path):
    path.write_text("".join(f"{name}\tx\t" + "\t".join(genes) + "\n" for name, genes in SETS.items()))
    return path


def test_every_set_is_tested_for_every_factor_and_adjusted_over_all(tmp_path):
    found = enrich(programs(), gmt(tmp_path / "sets.gmt"), universe="measured")
    assert len(found) == 3 * 4, "the dead factor is left out"
    np.testing.assert_allclose(found["padj"], stats.false_discovery_control(found["p"]))
    best = found.groupby("factor").first()
    assert best.loc[1, ["set", "direction"]].tolist() == ["FIRST", "up"]
    assert best.loc[2, ["set", "direction"]].tolist() == ["SECOND", "down"]
    assert set(best.loc[1, "leading_genes"].split()) <= set(SETS["FIRST"])
    counts = count_enriched(found, 4)
    assert (counts["factors_05"], counts["pairs_05"], counts["share_05"]) == (1, 1, 0.25)
    with pytest.raises(InputError, match="ulm, prerank"):
        enrich(programs(), tmp_path / "sets.gmt", method="fgsea")


def test_the_figure_counts_and_names_what_is_missing():
    found = {"factor": [1, 1, 2], "set": list("xyx"), "padj": [1e-3, 0.04, 0.2], "direction": "up"}
    summary = pd.DataFrame([{"model": "a", **count_enriched(pd.DataFrame(found), 4)}])
    figure = enrichment_figure(summary, {"a": "A", "b": "B"}, 4)
    words = [text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text"))]
    assert " 1 of 4" in words
    assert words.count(" missing") == 2


def test_the_sets_of_the_repository(repository):
    folder = repository / "config" / "gene_sets"
    blood = read_gmt(folder / "blood.gmt")
    assert "IFIT1" in blood["INTERFERON_RESPONSE"]
    dataset = yaml.safe_load((repository / "config" / "demo.yaml").read_text())["datasets"]["demo"]
    design = AtlasDesign(**dataset["simulate"], min_cells=dataset["min_cells_per_donor"])
    lead = Atlas(design).programs
    lead = lead - lead.mean(axis=0)
    demo = read_gmt(folder / "demo.gmt")
    for program, genes in enumerate(demo.values()):
        best = np.argsort(-lead[program], kind="stable")[:25]
        assert set(genes) == {f"GENE{gene}" for gene in best}
