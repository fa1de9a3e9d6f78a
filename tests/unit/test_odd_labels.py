"""Labels that are legal and odd: markup, formulas, marks of direction, very long ones, hundreds."""

from __future__ import annotations

import base64
import csv
import html.parser
import io

import numpy as np
import pandas as pd
import pytest

from nmfbench import figures
from nmfbench.factors.page import factor_page
from nmfbench.figures import factors as factors_module
from nmfbench.figures import umap as umap_module
from nmfbench.shown import LONGEST, shown
from nmfbench.tables.cautions import sentence
from nmfbench.tables.page import table_page
from nmfbench.tensorboard import _metadata

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"
ODD = [
    MARKUP,
    "\"><b onmouseover='x'>",
    "</table></script>",
    "=cmd|'/c calc'!A0",
    "+SUM(A1)",
    "@x",
    "\u202egpj.exe",
    "\u2066T cell",
    "a\r\nb\tc",
    "T cell " * 1000,
    "γδ T",
    "&lt;b&gt;",
]
DIRECTION = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Rendered(html.parser.HTMLParser):
    """What a browser would make of a page: tags, attributes, the text of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.cells, self.links, self.inside = [], [], [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if name == "href"]
        self.inside = tag == "td"
        if self.inside:
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def test_a_table_page_shows_odd_labels_as_text():
    frame = pd.DataFrame({"donor": ODD, "n": range(len(ODD)), MARKUP: 1.5})
    page = table_page(frame, MARKUP, MARKUP)
    plain = table_page(pd.DataFrame({"donor": ["D"] * len(ODD), "n": range(len(ODD)), "x": 1.5}), "t", "w")
    rendered, expected = Rendered(page), Rendered(plain)
    assert rendered.tags == expected.tags
    assert set(rendered.attributes) == set(expected.attributes)
    assert rendered.cells[::3] == [shown(text) for text in ODD]
    assert MARKUP in rendered.cells
    assert not DIRECTION & set(page)
    assert max(map(len, rendered.cells)) <= LONGEST


def test_the_csv_in_a_page_is_whole_and_computes_nothing():
    page = table_page(pd.DataFrame({"donor": ODD, "n": range(len(ODD))}), "t")
    (link,) = Rendered(page).links
    text = base64.b64decode(link.removeprefix("data:text/csv;base64,")).decode()
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    assert [row[0].removeprefix("'") for row in rows] == ODD
    assert not any(row[0].lstrip().startswith(("=", "+", "@")) for row in rows)


def test_the_page_of_factors_shows_odd_labels_as_text():
    n = len(ODD)
    numbers = ["W_zeros", "H_zeros", "variance_explained", "variance_unique", "effective_genes"]
    numbers += ["effective_cells", "between_donors", "W_cosine_max", "H_cosine_max"]
    factors = pd.DataFrame(
        [{"factor": 1, **dict.fromkeys(numbers, 0.5), "status": "ok", "donor_factor": False,
          "W_nearest": 1, "H_nearest": 1}]
    )  # fmt: skip

    def made(texts):
        labels = [f"label {i}" for i in range(n)]
        classes = {"factor": 1, "label": labels, "class": texts, "auroc": 0.5, "share": 0.5}
        genes = {"factor": 1, "symbol": texts, "gene": texts, "score": 1.0, "detected": 0.5}
        sets = {"factor": 1, "set": texts, "score": 1.0, "padj": 0.1}
        return factor_page(texts[0], factors, pd.DataFrame(classes), pd.DataFrame(genes), pd.DataFrame(sets))

    page = made(ODD)
    rendered, expected = Rendered(page), Rendered(made(["x"] * n))
    assert rendered.tags == expected.tags
    assert set(rendered.attributes) == set(expected.attributes)
    assert MARKUP in rendered.cells
    assert not DIRECTION & set(page)
    assert max(map(len, rendered.cells)) <= LONGEST


def test_what_tensorboard_is_given_is_one_short_line_for_each_cell():
    obs = pd.DataFrame({"donor": ODD, MARKUP + "\tx": ODD}, index=[f"c{i}" for i in range(len(ODD))])
    given = _metadata(obs, np.arange(len(ODD)), "cells")
    texts = [text for row in [given["metadata_header"], *given["metadata"]] for text in row]
    assert len(given["metadata"]) == len(ODD)
    assert not any(DIRECTION & set(text) or len(text.splitlines()) > 1 or "\t" in text for text in texts)
    assert max(map(len, texts)) <= LONGEST


def test_the_first_page_takes_a_reason_as_text():
    said = sentence("`code` \\* <b>\u202e" + "x" * 9000)
    assert said.startswith("'code' /* <b>x")
    assert len(said) <= LONGEST


# ---- hundreds of labels


def texts(figure):
    return [
        text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text")) if text.get_text()
    ]


def atlas(n_types, n_donors, n=3000):
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(n)]
    types, donors = np.arange(n) % n_types, rng.integers(0, n_donors, n)
    donors[:n_donors] = np.arange(n_donors)
    obs = pd.DataFrame(
        {"cell_type": [f"type {t}" for t in types], "donor_id": [f"D{d}" for d in donors]}, index=names
    )
    xy = rng.normal(size=(n, 2))
    return pd.DataFrame({"cell": names, "UMAP1": xy[:, 0], "UMAP2": xy[:, 1]}), obs


def test_a_umap_of_300_types_and_500_donors_names_the_largest():
    most = umap_module._MOST_NAMED
    coordinates, obs = atlas(300, 500)
    figure = figures.umap_figure(coordinates, obs)
    said = texts(figure)
    for start, n in ("type ", 300), ("D", 500):
        named = [text for text in said if text.startswith(start) and text.removeprefix(start).isdecimal()]
        assert len(named) == most - 1
        assert f"and {n - most + 1} more" in said
        assert f"({n})" in " ".join(said)
    largest = obs["donor_id"].value_counts().index[0]
    assert largest in said
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    # what is drawn is bounded, whatever the number of donors: cells, and a disc for each that is named
    assert all(len(axes.collections) <= 2 + most for axes in panels)
    assert len(figure.findobj(match=lambda a: hasattr(a, "get_text"))) < 7 * most


@pytest.mark.parametrize("n", [126, 127])
def test_the_last_line_of_a_legend_is_a_name_or_a_count(n):
    said = texts(figures.umap_figure(*atlas(n, 2), labels=["cell_type"]))
    assert ("and 2 more" in said) == (n == 127)
    assert sum(text.startswith("type ") for text in said) == (126 if n == 126 else 125)


def test_factors_of_300_types_show_those_with_the_largest_weights():
    most, rng = factors_module._MOST_GROUPS, np.random.default_rng(0)
    labels = np.array([f"type {i % 300:03d}" for i in range(3000)])
    table = figures.factors_figure(figures.factor_table(rng.gamma(1, size=(3000, 4)), labels), "AE_NMF")
    named = [text for text in texts(table) if text.startswith("type ")]
    assert len(set(named)) == most
    assert any(f"and {300 - most} more" in text for text in texts(table))
