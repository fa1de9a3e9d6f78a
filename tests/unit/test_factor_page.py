"""The page of a fit's factors and the two figures: what they show, names as text, gaps said."""

from __future__ import annotations

import html.parser

import numpy as np
import pandas as pd

from nmfbench.factors.page import factor_page
from nmfbench.figures.factor_statistics import factor_statistics_figure
from nmfbench.figures.orthogonality import orthogonality_figure
from nmfbench.figures.style import size_mm

NASTY = "<script>alert(1)</script> $title {x}"


def row(factor, **change):
    numbers = ["W_zeros", "H_zeros", "variance_explained", "variance_unique", "effective_genes"]
    numbers += ["effective_cells", "between_donors", "W_cosine_max", "H_cosine_max"]
    texts = {"status": "ok", "donor_factor": False, "W_nearest": 2, "H_nearest": 2}
    return {"factor": factor, **dict.fromkeys(numbers, 0.5), **texts, **change}


def tables():
    gap = dict.fromkeys(["variance_explained", "H_cosine_max", "H_nearest", "effective_cells"], np.nan)
    factors = pd.DataFrame([row(1, donor_factor=True), row(2, status="dead", donor_factor=np.nan, **gap)])
    by_class = pd.DataFrame(
        {"factor": 1, "label": "cell_type", "class": ["B", NASTY], "auroc": [0.6, 0.9], "share": [0.4, 0.6]}
    )
    genes = pd.DataFrame(
        {"factor": 1, "symbol": ["CD3D", NASTY], "gene": ["ENSG1", "x"], "score": [2.0, 1.0], "detected": 0.5}
    )
    return factors, by_class, genes


class Reader(html.parser.HTMLParser):
    """Text of the articles and every tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.articles = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "article":
            self.articles.append("")

    def handle_data(self, data):
        if self.articles:
            self.articles[-1] += data + " "


def test_a_page_has_a_card_for_each_factor_and_names_are_text():
    sets = pd.DataFrame({"factor": [1], "set": ["INTERFERON"], "score": [9.0], "padj": [1e-9]})
    page = Reader(factor_page(NASTY, *tables(), sets))
    assert page.tags.count("script") == 1
    assert len(page.articles) == 2
    first, second = page.articles
    assert first.index(NASTY) < first.index("INTERFERON")
    assert first.count(NASTY) == 2
    assert first.index("0.90") < first.index("0.60"), "the most specific class on top"
    assert "donor factor: 50%" in first
    assert "dead: no cell" in second
    assert "no gene has a positive score" in second
    assert "nan" not in second.lower().split("function")[0]


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text")))


def test_factor_statistics_are_drawn_for_every_model_and_a_missing_one_is_named():
    rng = np.random.default_rng(0)
    columns = [f"{side}_{name}" for side in "WH" for name in ("zeros", "L1", "L2")]
    factors = pd.DataFrame(rng.random((6, 6)), columns=columns).assign(model=["a"] * 3 + ["b"] * 3)
    factors.loc[0, columns] = 0.0  # a dead factor has no place on a logarithmic axis
    pairs = pd.DataFrame(rng.random((6, 2)), columns=["W_cosine", "H_cosine"]).assign(model=["a", "b"] * 3)
    figure = factor_statistics_figure(factors, pairs, {"a": "A", "b": "B", "c": "C"}, 3)
    assert len(figure.axes) == 8
    assert texts(figure).count("missing") == 8
    width, height = size_mm(figure)
    assert height < 0.55 * width
    many = factor_statistics_figure(factors, pairs, {f"m{i}": f"M{i}" for i in range(14)}, 3)
    assert size_mm(many)[1] < 0.7 * width


def test_orthogonality_is_drawn_with_and_without_its_history():
    history = pd.DataFrame({"model": "a", "epoch": range(5), "objective": [5.0, 3, 2, 1.5, 1.4]})
    summary = pd.DataFrame({"model": ["a", "b"], "orthogonality": [2.0, 30.0]})
    matched = pd.DataFrame({"model": "b", "cosine": [0.9, 0.4]})
    figure = orthogonality_figure(history, summary, matched, {"a": "A", "b": "B"}, "a", 3)
    fall, orthogonality, agreement = figure.axes[:3]
    assert max(len(line.get_xdata()) for line in fall.lines) == 5
    assert sum(len(line.get_xdata()) for line in orthogonality.lines) == 0
    assert len(agreement.lines) == 1
    told = history.assign(orthogonality=[9.0, 8, 7, 6, 5])
    figure = orthogonality_figure(told, summary, matched.iloc[:0], {"a": "A", "b": "B"}, "a", 3)
    assert len(figure.axes[1].lines) == 1
    assert "no other model" in texts(figure)
