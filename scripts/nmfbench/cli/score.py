"""``nmfbench score``: any embedding of an .h5ad, scored as the workflow scores its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmfbench.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("file", type=Path, metavar="mydata.h5ad")
    parser.add_argument("--key", required=True, help="the array of obsm that is scored, such as X_pca")
    parser.add_argument(
        *("--label", "-l"), action="append", metavar="COLUMN",
        help="column of obs; once for each (default: cell_type and donor_id)",
    )  # fmt: skip
    parser.add_argument("--cv-seed", type=int, default=42, help="seed of the folds (default: 42)")
    parser.add_argument(
        "--no-classification", action="store_true", help="clusters only, which is much faster"
    )
    parser.add_argument("--out", type=Path, metavar="scores.csv", help="also write label, metric, value, std")


def run(options: argparse.Namespace) -> None:
    """Score one embedding and print a table of labels and metrics."""
    labels = options.label or ["cell_type", "donor_id"]
    H, obs = read(options.file, options.key, labels)
    table = score(
        H, obs, labels, cv_seed=options.cv_seed, classification=not options.no_classification,
        threads=options.threads,
    )  # fmt: skip
    if options.out:
        from nmfbench.tables.files import write_table

        write_table(table, options.out)
    sys.stdout.write(f"{options.file}: {options.key}, {H.shape[0]:,} cells x {H.shape[1]}\n")
    sys.stdout.write(as_text(table))


def read(path: Path, key: str, labels: list[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Read an array of obsm and columns of obs; nothing else of the file is read.

    Returns
    -------
    H : ndarray of shape (n_cells, k)
    obs : DataFrame of n_cells
        The labels, as text.
    """
    import pandas as pd

    from nmfbench.data.frames import frame_columns
    from nmfbench.data.h5ad import open_h5ad
    from nmfbench.data.labels import require_columns, stored_labels

    with open_h5ad(path) as file:
        keys = list(file["obsm"]) if "obsm" in file else []
        stored = file[f"obsm/{key}"] if key in keys else None
        if getattr(stored, "ndim", 0) != 2:
            arrays = [name for name in keys if getattr(file[f"obsm/{name}"], "ndim", 0) == 2]
            raise InputError(
                f"{path}: obsm[{key!r}]",
                "an array of cells x dimensions",
                f"no such array; obsm holds {', '.join(arrays) or 'none'}",
                "name one of these with --key",
            )
        H = stored[:]
        require_columns([("label", label) for label in labels], frame_columns(file["obs"]), path)
        obs = pd.DataFrame({label: stored_labels(file["obs"], label) for label in labels})
    if not np.isfinite(H).all():
        raise InputError(
            f"{path}: obsm[{key!r}]",
            "finite numbers",
            f"{int((~np.isfinite(H)).any(axis=1).sum()):,} cells with NaN or infinite values",
            "leave these cells out, or compute the embedding anew",
        )
    return H, obs


def score(
    H: np.ndarray, obs: pd.DataFrame, labels: list[str], *, cv_seed: int, classification: bool, threads: int
) -> pd.DataFrame:
    """Score an embedding with the workflow's defaults.

    Returns
    -------
    DataFrame
        label, metric, value, std (Leiden seeds, or fold means over classifiers) and n (values).
    """
    import pandas as pd

    from nmfbench.config.evaluation import Classification, Clustering
    from nmfbench.metrics import CLASSIFICATION_METRICS, CLUSTERING_METRICS
    from nmfbench.metrics.classification import classify
    from nmfbench.metrics.clustering import leiden_labels, neighbour_graph, score_clusters

    clustering, protocol = Clustering(), Classification().model_dump(exclude={"seeds"})
    graph = neighbour_graph(H, clustering.n_neighbours, n_jobs=threads)
    clusters = leiden_labels(
        graph,
        seeds=clustering.seeds,
        resolution=clustering.resolution,
        n_iterations=clustering.n_iterations,
        flavor=clustering.flavor,
    )
    rows: list[dict[str, Any]] = []
    for label in labels:
        scored = score_clusters(clusters, obs[label])
        rows += [_row(label, metric, scored[metric]) for metric in CLUSTERING_METRICS]
        if classification:
            folds = classify(H, obs[label], cv_seed=cv_seed, n_jobs=threads, **protocol)
            means = folds[folds["status"] == "ok"].groupby("fold")
            rows += [_row(label, metric, means[metric].mean()) for metric in CLASSIFICATION_METRICS]
    return pd.DataFrame(rows)


def _row(label: str, metric: str, values: pd.Series) -> dict[str, Any]:
    values = values.dropna()
    return {
        **{"label": label, "metric": metric},
        **{"value": values.mean(), "std": values.std(ddof=1), "n": len(values)},
    }


def as_text(table: pd.DataFrame) -> str:
    """A line for each metric, a column for each label."""
    from nmfbench.tables.page import number

    labels = list(dict.fromkeys(table["label"]))
    width = max(16, *(len(label) for label in labels))
    lines = [" " * 12 + "".join(f"  {label:>{width}}" for label in labels)]
    for metric, rows in table.groupby("metric", sort=False):
        cells = {row.label: f"{number(row.value)} ± {number(row.std)}" for row in rows.itertuples()}
        lines.append(f"{metric:<12}" + "".join(f"  {cells.get(label, ''):>{width}}" for label in labels))
    return "\n".join(lines) + "\n"
