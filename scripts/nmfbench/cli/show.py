"""``nmfbench show``: the leaderboard of a finished run on the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="results/NAME", help="folder of a dataset")


def run(options: argparse.Namespace) -> None:
    """Print the leaderboard of every folder."""
    from nmfbench.tables.files import read_table

    for folder in options.folders:
        places = [folder / name / "leaderboard.tsv" for name in ("tables", "partial_tables", ".")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise InputError(
                f"{folder}: leaderboard.tsv",
                "the tables of a finished run",
                "none in this folder, tables/ or partial_tables/",
                "name the folder of a dataset (results/demo), or collect what is there: partial_tables",
            )
        sentence = found.with_suffix(".txt")
        sys.stdout.write(as_text(read_table(found)))
        if sentence.is_file():
            sys.stdout.write("\n" + sentence.read_text(encoding="utf-8"))


def as_text(board: pd.DataFrame) -> str:
    """The leaderboard in as many columns as a terminal has: both labels by NMI and F1, cost and coverage."""
    from nmfbench.tables.leaderboard import KEEP, MIX
    from nmfbench.tables.page import number

    titles = {KEEP: "type", MIX: "donor"}
    rows = [["model", "rank"]]
    columns = [
        f"{label}_{metric}"
        for metric in ("ARI", "NMI", "F1")
        for label in (KEEP, MIX)
        if f"{label}_{metric}" in board
    ]
    rows[0] += [f"{column.rpartition('_')[2]} {titles[column.rpartition('_')[0]]}" for column in columns]
    rows[0] += ["training", "results"]
    for line in board.to_dict("records"):
        scores = [number(line[column]) if line[column] == line[column] else "missing" for column in columns]
        seconds = line["train_seconds"]
        took = f"{number(seconds, 1)} s" if seconds == seconds else "missing"
        counted = f"{line['present']} of {line['expected']}"
        rows.append([str(line["display_name"]), str(line["rank"]), *scores, took, counted])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines) + "\n"
