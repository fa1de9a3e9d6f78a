"""The expected runs and what their steps left behind.

A run is one cell of the grid: a plain mapping with

``dataset, model, display_name, rank, seed``
    which run it is;
``labels, cv_seeds``
    what its embedding is scored on;
``uses_labels``
    whether training saw the labels (optional; the run's own run.json comes first);
``donor_labels, donor_cv, donor_transfer, deviance``
    labels predicted in donors that are held out, whether by cross-validation and by transfer, and whether
    counts were set aside (optional);
``leiden_seeds, n_folds, classifiers, umap``
    how much is expected of each step (optional; the published protocol by default, no UMAP).

Anything else in it can be used by the patterns of log and benchmark files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nmfbench.inapplicable import MARK, reason_in
from nmfbench.paths import path_name
from nmfbench.tables.files import read_table

if TYPE_CHECKING:
    import pandas as pd

Cell = Mapping[str, Any]
T = TypeVar("T")

#: Columns that say which run a row belongs to, in the order of the wildcards.
RUN_COLUMNS = ("dataset", "model", "rank", "seed")

LEIDEN_SEEDS = 10
FOLDS = 5
CLASSIFIERS = 3


def run_folder(cell: Cell, directory: str | Path) -> Path:
    """Folder of a run: ``{directory}/{dataset}/{model}/rank-{rank}/seed-{seed}``."""
    return Path(
        directory, str(cell["dataset"]), cell["model"], f"rank-{cell['rank']}", f"seed-{cell['seed']}"
    )


def identity(cell: Cell) -> dict[str, Any]:
    """Values of :data:`RUN_COLUMNS`."""
    return {column: cell[column] for column in RUN_COLUMNS}


def classification_path(cell: Cell, directory: str | Path, label: str, cv_seed: int) -> Path:
    """Per-fold table of one label and one cross-validation seed."""
    return run_folder(cell, directory) / "classification" / path_name(label) / f"cv-seed-{cv_seed}.tsv"


def donor_cv_path(cell: Cell, directory: str | Path, label: str) -> Path:
    """Scores of one label with donors held out of the classifiers."""
    return run_folder(cell, directory) / "donor_cv" / f"{path_name(label)}.tsv"


def donor_transfer_path(cell: Cell, directory: str | Path) -> Path:
    """Scores of all labels with donors held out of the fits."""
    return run_folder(cell, directory) / "donor_transfer.tsv"


def fold_jobs(cell: Cell) -> Iterator[tuple[str, int]]:
    """Label and cross-validation seed of every classification of a run."""
    for label in cell["labels"]:
        for cv_seed in cell["cv_seeds"]:
            yield label, cv_seed


def expected_folds(cell: Cell) -> int:
    """Rows of one classification table."""
    return int(cell.get("n_folds", FOLDS)) * _count(cell.get("classifiers", CLASSIFIERS))


def expected_leiden(cell: Cell) -> int:
    """Rows per label of the clustering table."""
    return _count(cell.get("leiden_seeds", LEIDEN_SEEDS))


def _count(value: int | Sequence[Any]) -> int:
    return value if isinstance(value, int) else len(value)


def try_read(path: Path, read: Callable[[Path], T]) -> tuple[T | None, str | None]:
    """Read a file that may be missing or broken.

    Returns
    -------
    content, problem
        One of the two is None. Both are None where there is no file.
    """
    if not path.is_file():
        return None, None
    if (reason := reason_in(path)) is not None:
        return None, f"{MARK}{reason}"
    try:
        return read(path), None
    # ValueError covers what pandas, json and the decoder say of a broken file
    except (ValueError, KeyError, OSError, EOFError) as error:
        return None, f"{path.name} cannot be read: {' '.join(str(error).split())}"


def read_run_record(path: Path) -> dict[str, Any]:
    """Read a run.json."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("not a mapping")
    return record


def read_scores(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of scores and check that its columns are there."""
    table = read_table(path, text=("label",))
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise ValueError(f"no column {', '.join(absent)}")
    return table
