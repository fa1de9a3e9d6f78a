"""What was expected, what is there, and why the rest is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmfbench.metrics import CLASSIFICATION_METRICS, CLUSTERING_METRICS
from nmfbench.tables.files import reason_from_log
from nmfbench.tables.runs import (
    RUN_COLUMNS,
    Cell,
    classification_path,
    expected_folds,
    expected_leiden,
    identity,
    read_scores,
    run_folder,
    try_read,
)

if TYPE_CHECKING:
    import pandas as pd

COVERAGE_COLUMNS = (*RUN_COLUMNS, "step", "label", "expected", "present", "status", "reason")

TRAIN, CLUSTER, SCORE, CLASSIFY, UMAP = (
    "train",
    "cluster_embedding",
    "score_clusters",
    "classify_embedding",
    "compute_umap",
)


def coverage(
    grid: Sequence[Cell], directory: str | Path, log_patterns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Compare what every step should have left with what is there.

    Parameters
    ----------
    grid : sequence of mapping
        Expected runs (:mod:`nmfbench.tables.runs`).
    directory : path
        Folder above the datasets.
    log_patterns : mapping of str to str, optional
        Log file of each step (``train``, ``cluster_embedding``, ``score_clusters``,
        ``classify_embedding``, ``compute_umap``), with fields of the cell, ``{label}`` and ``{cv_seed}``
        in braces.

    Returns
    -------
    DataFrame
        Columns :data:`COVERAGE_COLUMNS`. ``expected`` and ``present`` count files, Leiden seeds or fold
        rows. ``status`` is ``ok``, ``partial`` or ``missing``; the last two have a ``reason``.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in grid:
        rows += _Run(cell, Path(directory), log_patterns or {}).rows()
    table = pd.DataFrame(rows, columns=list(COVERAGE_COLUMNS))
    return table.astype({"expected": "int64", "present": "int64"})


class _Run:
    """Coverage of one run."""

    def __init__(self, cell: Cell, directory: Path, log_patterns: Mapping[str, str]) -> None:
        self.cell = cell
        self.directory = directory
        self.folder = run_folder(cell, directory)
        self.log_patterns = log_patterns

    def rows(self) -> list[dict[str, Any]]:
        trained = (self.folder / "result.h5ad").is_file()
        clustered = (self.folder / "clusters.tsv.gz").is_file()
        waits = None if trained else "not run: the training has no result"
        rows = [
            self._row(TRAIN, None, 1, trained, self._reason(TRAIN)),
            self._row(CLUSTER, None, 1, clustered, waits or self._reason(CLUSTER)),
            *self._clustering(waits if waits or clustered else "not run: there are no clusters"),
            *(self._classification(label, waits) for label in self.cell["labels"]),
        ]
        if self.cell.get("umap", False):
            laid_out = (self.folder / "umap.tsv.gz").is_file()
            rows.append(self._row(UMAP, None, 1, laid_out, waits or self._reason(UMAP)))
        return rows

    def _clustering(self, waits: str | None) -> list[dict[str, Any]]:
        path = self.folder / "clustering.tsv"
        table, problem = try_read(path, partial(read_scores, columns=["label", *CLUSTERING_METRICS]))
        reason = problem or waits or self._reason(SCORE)
        rows = []
        for label in self.cell["labels"]:
            present = 0
            if table is not None:
                present = int(
                    table.loc[table["label"] == label, list(CLUSTERING_METRICS)].notna().all(axis=1).sum()
                )
                reason = f"{path.name} has no scores of this label for some seeds"
            rows.append(self._row(SCORE, label, expected_leiden(self.cell), present, reason))
        return rows

    def _classification(self, label: str, waits: str | None) -> dict[str, Any]:
        present, reasons = 0, []
        read = partial(read_scores, columns=[*CLASSIFICATION_METRICS, "status", "message"])
        for cv_seed in self.cell["cv_seeds"]:
            path = classification_path(self.cell, self.directory, label, cv_seed)
            table, problem = try_read(path, read)
            if table is None:
                reasons.append(problem or waits or self._reason(CLASSIFY, label=label, cv_seed=cv_seed))
                continue
            failed = table[table["status"] != "ok"]
            present += len(table) - len(failed)
            reasons += [f"{row.classifier}: {row.message}" for row in failed.itertuples()]
        expected = expected_folds(self.cell) * len(self.cell["cv_seeds"])
        # the same reason many times over is said once, with how often
        counted = [
            f"{text} ({n} times)" if (n := reasons.count(text)) > 1 else text
            for text in dict.fromkeys(reasons)
        ]
        return self._row(CLASSIFY, label, expected, present, "; ".join(counted) or "fewer rows than expected")

    def _reason(self, step: str, **fields: Any) -> str:
        pattern = self.log_patterns.get(step)
        return reason_from_log(pattern and pattern.format(**self.cell, **fields))

    def _row(self, step: str, label: str | None, expected: int, present: int, reason: str) -> dict[str, Any]:
        present = int(present)
        status = "ok" if present >= expected else "partial" if present else "missing"
        return identity(self.cell) | {
            "step": step,
            "label": label,
            "expected": expected,
            "present": present,
            "status": status,
            "reason": "" if status == "ok" else reason,
        }
