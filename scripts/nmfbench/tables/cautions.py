"""What the runs of a dataset warn of, for the first page of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmfbench.shown import shown
from nmfbench.tables.runs import Cell, read_run_record, run_folder, try_read

MOST = 6


def sentence(text: object) -> str:
    """Text of a job as the first page takes it: one line, without the marks of its markup."""
    return " ".join(shown(str(text).replace("`", "'").replace("\\", "/")).split())


def cautions(grid: Sequence[Cell], directory: str | Path) -> list[str]:
    """Every warning of the ``run.json`` of some runs once, with the models that it concerns where not all.

    Parameters
    ----------
    grid, directory
        As of :func:`~nmfbench.tables.scores.collect_clusterings`.

    Returns
    -------
    list of str
        Sentences of plain text, the commonest first.
    """
    concerned: dict[str, dict[str, None]] = {}
    seen: dict[str, None] = {}
    for cell in grid:
        name = str(cell.get("display_name", cell["model"]))
        record, problem = try_read(run_folder(cell, directory) / "run.json", read_run_record)
        notes = [problem] if problem else list((record or {}).get("warnings", ()))
        if record is not None:
            notes += _unexpected_cells(cell, record)
        if record is not None or problem:
            seen[name] = None
        for note in notes:
            concerned.setdefault(sentence(note), {})[name] = None
    order = sorted(concerned, key=lambda note: -len(concerned[note]))
    said = [
        f"Warning{'' if len(concerned[note]) == len(seen) else ' of ' + ', '.join(concerned[note])}: {note}."
        for note in order[:MOST]
    ]
    if len(order) > MOST:
        said.append(f"{len(order) - MOST} further warnings are in the run.json of the fits.")
    return said


def _unexpected_cells(cell: Cell, record: Mapping[str, Any]) -> list[str]:
    """A note where another number of cells was kept than the config says is known."""
    expected, kept = cell.get("expected_cells"), record.get("cells_of_dataset", record.get("n_cells"))
    if expected is None or kept is None or kept == expected:
        return []
    return [
        f"{kept:,} cells were kept, and datasets.{cell['dataset']}.expected_cells is {expected:,}: "
        "another version of the file, or other filters; its scores do not compare with published ones"
    ]
