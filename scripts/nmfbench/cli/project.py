"""``nmfbench project``: new cells in the embedding of a fit, with labels of the nearest cells of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("result", type=Path, metavar="result.h5ad", help="of a fit, with run.json beside it")
    parser.add_argument("file", type=Path, metavar="newdata.h5ad", help="raw counts of other cells")
    parser.add_argument("--matrix", default="auto", help="where the counts lie: auto, raw, X or a layer")
    parser.add_argument(
        *("--label", "-l"), action="append", default=[], metavar="LABEL[=COLUMN]",
        help="label of the fit's cells to be transferred, with the new cells' column that holds the truth, "
        "for scores (default: cell_type, with the column of that name if there is one); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--filtered",
        type=Path,
        help="counts the fit was trained on (default: filtered.h5ad beside the result)",
    )
    parser.add_argument("--out", type=Path, default=Path("projected.h5ad"), help="default: projected.h5ad")


def run(options: argparse.Namespace) -> None:
    """Write an .h5ad with the embedding of the new cells and what was transferred, without counts."""
    from nmfbench.factors.project import project, write_projection

    beside = options.result.with_name("filtered.h5ad")
    labels = {}
    for text in options.label:
        label, _, column = text.partition("=")
        labels[label] = column or None
    projection = project(
        options.file,
        options.result,
        filtered=options.filtered or (beside if beside.is_file() else None),
        matrix=options.matrix,
        labels=labels or None,
        n_jobs=options.threads,
    )
    write_projection(projection, options.out)
    n, k = projection.embedding.shape
    sys.stdout.write(f"{options.out}: obsm[{projection.key!r}], {n:,} cells x {k}\n")
    matched = projection.genes["matched_by"].value_counts()
    counts = ", ".join(f"{count:,} {how}" for how, count in matched.items())
    sys.stdout.write(f"genes of the fit: {counts}\n")
    if len(projection.scores):
        shown = projection.scores.to_string(index=False, float_format=lambda value: f"{value:.3f}")
        sys.stdout.write(f"{shown}\n")
