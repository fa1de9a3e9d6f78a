"""Draw the figure at the head of the README, and its twin by minibatches.

docs/results_kang2018.md holds what two runs of tests/configs/kang2018.yaml gave; the figures are those of a
run, colours and markers included. A run of one's own: ``--scores results/kang2018/tables/scores.tsv``.

    python benchmarks/real_cells_figure.py
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd

from nmfbench.figures import save, tradeoff_figure
from nmfbench.models import cards

PAGE = Path(__file__).parents[1] / "docs" / "results_kang2018.md"
METRICS = ("ARI", "NMI", "F1", "AUROC")
RANK = 80


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table of scores, line by line."""
    found = re.findall(r"^\| \| ARI cell type .*\n\|[-|]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    lines = [body.splitlines() for body in found]
    return [[[cell.strip(" *") for cell in line.strip("|").split("|")] for line in body] for body in lines]


def scores_of(lines: list[list[str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The lines as scores.tsv has them, and the names that figures show."""
    kinds = {card.display_name: kind for kind, card in cards().items()}
    rows = []
    for display_name, *values in lines:
        columns = [(label, metric) for label in ("cell_type", "donor_id") for metric in METRICS]
        for (label, metric), text in zip(columns, values, strict=False):
            value, _, std = text.replace("*", "").partition("±")
            which = {"model": kinds[display_name], "rank": RANK, "seed": 42, "label": label, "metric": metric}
            deviation = float(std) if std else float("nan")
            rows.append(which | {"value": float(value), "std": deviation, "status": "ok"})
    table = pd.DataFrame(rows)
    return table, {kinds[line[0]]: line[0] for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", type=Path, help="scores.tsv of a run, in place of the page's first table")
    parser.add_argument("--out", type=Path, default=PAGE.parent / "figures", help="folder of the figures")
    options = parser.parse_args()
    names = ("kang2018_tradeoff.png", "kang2018_tradeoff_minibatch.png")
    found = [scores_of(lines) for lines in tables(PAGE.read_text())]
    if options.scores is not None:
        shown = {kind: card.display_name for kind, card in cards().items()}
        found[0] = pd.read_csv(options.scores, sep="\t"), shown
    for name, (scores, display_names) in zip(names, found, strict=True):
        save(tradeoff_figure(scores, RANK, display_names), [options.out / name])
        print(options.out / name)


if __name__ == "__main__":
    main()
