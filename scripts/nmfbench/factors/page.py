"""A page for the factors of one fit, to be read and searched in a browser without a connection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.shown import shown

if TYPE_CHECKING:
    import pandas as pd

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN_GENES, _SHOWN_CLASSES, _SHOWN_SETS = 50, 4, 8
_STATES = {"dead": "dead: no cell or no gene has it", "constant": "the same in every cell"}


def factor_page(
    title: str,
    factors: pd.DataFrame,
    by_class: pd.DataFrame,
    top_genes: pd.DataFrame,
    enrichment: pd.DataFrame | None = None,
) -> str:
    """HTML with a card for each factor: genes, classes of each label, statistics, enriched sets.

    Parameters
    ----------
    title : str
        What fit this is.
    factors, by_class, top_genes : DataFrame
        The tables of :func:`nmfbench.factors.describe.describe_factors`.
    enrichment : DataFrame, optional
        Sets of each factor: ``factor``, ``set``, ``score``, ``padj``, ``direction``; the best first.

    Returns
    -------
    str
        Names from the data are escaped: they are text wherever they stand.
    """
    genes = dict(list(top_genes.groupby("factor", sort=False)))
    classes = dict(list(by_class.groupby("factor", sort=False)))
    sets = {} if enrichment is None else dict(list(enrichment.groupby("factor", sort=False)))
    cards = [
        _card(row, genes.get(row["factor"]), classes.get(row["factor"]), sets.get(row["factor"]))
        for row in factors.to_dict("records")
    ]
    # not str.format: names from the data may hold braces
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(shown(title)), n_factors=len(cards), cards="\n".join(cards)
    )


def write_page(path: str | Path, html: str) -> None:
    """Write the page, whole or not at all."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, path)


def _card(
    row: Mapping[str, Any],
    genes: pd.DataFrame | None,
    classes: pd.DataFrame | None,
    sets: pd.DataFrame | None,
) -> str:
    number = int(row["factor"])
    parts = [f"<h2>Factor {number}</h2>{_badges(row)}", _gene_list(genes), _class_lists(classes)]
    parts += [_set_list(sets), _figures(row)]
    explained = row["variance_explained"]
    key = explained if np.isfinite(explained) else -1
    return f'<article data-factor="{number}" data-variance="{key:.6g}">{"".join(parts)}</article>'


def _badges(row: Mapping[str, Any]) -> str:
    badges = [_STATES[row["status"]]] if row["status"] in _STATES else []
    if str(row["donor_factor"]) == "True":
        badges.append(f"donor factor: {row['between_donors']:.0%} of its variance within cell types")
    return "".join(f'<span class="badge">{escape(text)}</span>' for text in badges)


def _gene_list(genes: pd.DataFrame | None) -> str:
    if genes is None:
        return '<p class="none">no gene has a positive score</p>'
    spans = []
    for symbol, gene, score, detected in _rows(
        genes.head(_SHOWN_GENES), ("symbol", "gene", "score", "detected")
    ):
        told = escape(f"{shown(gene)} · score {score:.3g} · in {detected:.0%} of cells")
        spans.append(f'<span title="{told}">{escape(shown(symbol))}</span>')
    return f'<p class="genes">{" ".join(spans)}</p>'


def _class_lists(classes: pd.DataFrame | None) -> str:
    if classes is None:
        return ""
    tables = []
    for label, rows in classes.groupby("label", sort=False):
        best = rows.sort_values("auroc", ascending=False, kind="stable").head(_SHOWN_CLASSES)
        cells = [
            (name, _number(auroc, ".2f"), _number(share, ".0%"))
            for name, auroc, share in _rows(best, ("class", "auroc", "share"))
        ]
        tables.append(_table((label, "AUROC", "share"), cells))
    return f'<div class="labels">{"".join(tables)}</div>'


def _set_list(sets: pd.DataFrame | None) -> str:
    if sets is None:
        return ""
    cells = [
        (name, _number(score, ".2f"), _number(padj, ".1e"))
        for name, score, padj in _rows(sets.head(_SHOWN_SETS), ("set", "score", "padj"))
    ]
    return f'<div class="labels">{_table(("gene set", "score", "adjusted p"), cells)}</div>'


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """An HTML table; everything in it is text."""
    lines = ["".join(f"<th>{escape(shown(cell))}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(shown(cell))}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _rows(table: pd.DataFrame, columns: Iterable[str]) -> Iterable[tuple]:
    return zip(*(table[column] for column in columns), strict=True)


def _figures(row: Mapping[str, Any]) -> str:
    figures = {
        "variance explained": _number(row["variance_explained"], ".1%"),
        "alone": _number(row["variance_unique"], ".2%"),
        "effective genes": _number(row["effective_genes"], ",.0f"),
        "effective cells": _number(row["effective_cells"], ",.0f"),
        "zeros in W, H": f"{_number(row['W_zeros'], '.0%')}, {_number(row['H_zeros'], '.0%')}",
        "nearest in W, H": f"{_nearest(row, 'W')}, {_nearest(row, 'H')}",
    }
    text = " · ".join(f"{name} {value}" for name, value in figures.items())
    return f'<p class="figures">{escape(text)}</p>'


def _nearest(row: Mapping[str, Any], side: str) -> str:
    which = row[f"{side}_nearest"]
    if which is None or not np.isfinite(float(which)) or not int(which):
        return "–"
    return f"{int(which)} ({_number(row[f'{side}_cosine_max'], '.2f')})"


def _number(value: Any, form: str) -> str:
    return format(float(value), form) if np.isfinite(float(value)) else "–"
