"""Tables as pages: one HTML file that is sorted by a click and holds its own CSV."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nmfbench.shown import shown
from nmfbench.tables.files import write_text

if TYPE_CHECKING:
    import pandas as pd

_STYLE = """
body { font: 14px/1.4 system-ui, "DejaVu Sans", sans-serif; margin: 16px 20px; color: #1f2933; }
h1 { font-size: 18px; margin: 0 0 4px; }
p { max-width: 60em; margin: 4px 0 10px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #eef1f4; text-align: left; padding: 0; vertical-align: bottom; }
th button { all: unset; cursor: pointer; padding: 5px 9px; font-weight: 600; white-space: nowrap; }
th button:focus-visible { outline: 2px solid #0072B2; }
th[aria-sort="ascending"] button::after { content: " ▲"; }
th[aria-sort="descending"] button::after { content: " ▼"; }
td { padding: 3px 9px; border-bottom: 1px solid #e2e6ea; vertical-align: top; white-space: nowrap; }
td.number { text-align: right; }
td.long { white-space: normal; }
td.best { font-weight: 700; background: #dff1e7; }
td.missing { color: #8A8A8A; font-style: italic; }
tbody tr:hover td { background: #f5f7f9; }
"""
_SCRIPT = """
const table = document.querySelector("table"), body = table.tBodies[0];
table.querySelectorAll("th").forEach((head, place) => head.firstChild.addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") !== "descending" && head.dataset.first === "down"
    || head.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => row.cells[place].dataset.value;
  const order = new Intl.Collator(undefined, { numeric: true });
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays below
    const by = head.dataset.number ? Number(x) - Number(y) : order.compare(x, y);
    return down ? -by : by;
  });
  body.append(...rows);
}));
"""


def table_page(
    frame: pd.DataFrame,
    title: str,
    words: str = "",
    *,
    headings: Mapping[str, str] | None = None,
    spreads: Mapping[str, str] | None = None,
    high: Collection[str] = (),
    low: Collection[str] = (),
    digits: int = 3,
) -> str:
    """Write a table as one page without any other file.

    Parameters
    ----------
    frame : DataFrame
        Its columns are sorted by a click on their heading; missing values stay below.
    title, words : str
        Heading of the page, and what has to be known to read it.
    headings : mapping of str to str, optional
        What a column is called.
    spreads : mapping of str to str, optional
        Column whose deviation stands behind a ± in the column named first, and has none of its own.
    high, low : collection of str
        Columns of which the largest, or smallest, value is the best; it is marked.
    digits : int
        Decimals of numbers below 100. The CSV has all, and texts whole, formulas behind an apostrophe.

    Returns
    -------
    str
        HTML with a link that saves the whole table as CSV.
    """
    import pandas as pd

    headings, spreads = headings or {}, spreads or {}
    columns = [column for column in frame.columns if column not in set(spreads.values())]
    numbers = {column for column in columns if pd.api.types.is_numeric_dtype(frame[column])}
    best = {column: frame[column].max() for column in high if column in numbers}
    best |= {column: frame[column].min() for column in low if column in numbers}
    heads, lines = [], []
    for column in columns:
        kind = ' data-number="yes"' if column in numbers else ""
        first = ' data-first="down"' if column in high else ""
        name = html.escape(shown(headings.get(column, column)))
        heads.append(f"<th{kind}{first}><button>{name}</button></th>")
    for _, row in frame.iterrows():
        cells = []
        for column in columns:
            value, kind = row[column], "number" if column in numbers else ""
            if pd.isna(value):
                cells.append('<td class="missing" data-value="">missing</td>')
                continue
            text = number(value, digits) if column in numbers else shown(value)
            kind += " long" * (len(text) > 50)
            if column in spreads and pd.notna(row[spreads[column]]):
                text += f" ± {number(row[spreads[column]], digits)}"
            if column in best and value == best[column]:
                kind += " best"
            cells.append(
                f'<td class="{kind}" data-value="{html.escape(shown(value))}">{html.escape(text)}</td>'
            )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heading = html.escape(shown(title))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{heading}</h1>\n<p>{html.escape(words)}</p>\n"
        f'<p><a download="{_file_name(title)}.csv" href="{_data_uri(frame)}">Save as CSV</a> · '
        "click a heading to sort</p>\n"
        f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table>\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def write_page(path: str | Path, page: str) -> Path:
    """Write a page whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def number(value: float, digits: int = 3) -> str:
    """A number as a person reads it: thousands apart, and no more digits than it is worth."""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{value:.1g}"


def _data_uri(frame: pd.DataFrame) -> str:
    text = io.StringIO()
    write_text(frame, text, ",")
    return "data:text/csv;base64," + base64.b64encode(text.getvalue().encode()).decode()


def _file_name(title: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in title)
