"""Reading and writing tables: whole or not at all, and the same text back."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from nmfbench.atomic import whole_file

if TYPE_CHECKING:
    import pandas as pd

#: How a missing value is written; figures and people see a gap, never a zero.
NOT_AVAILABLE = "NA"

_REASON_CHARACTERS = 300
_ENDING = " ends with exit code "  # what a job writes last; the line above it says why


def write_table(frame: pd.DataFrame, path: str | Path, *, digits: int | None = None) -> Path:
    """Write a table next to its place, then move it there.

    Every text comes back from :func:`read_table` as it was. One that a spreadsheet would take for a formula
    is written behind an apostrophe, as is one that begins with an apostrophe.

    Parameters
    ----------
    frame : DataFrame
        Table; its index is not written.
    path : path
        ``.csv`` separates with commas, anything else with tabs; ``.gz`` compresses.
    digits : int, optional
        Significant digits of floating-point numbers; all of them by default.

    Returns
    -------
    Path
    """
    path = Path(path)
    with ExitStack() as stack:
        raw = stack.enter_context(whole_file(path))
        if path.suffix == ".gz":
            # neither time nor temporary name, so that equal tables are equal files
            raw = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))
        text = stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
        write_text(frame, text, _separator(path), digits=digits)
    return path


def write_text(frame: pd.DataFrame, stream: TextIO, separator: str, *, digits: int | None = None) -> None:
    """Write a table to an open file as :func:`write_table` does."""
    frame, odd = _inert(frame)
    frame.to_csv(
        stream,
        sep=separator,
        index=False,
        na_rep=NOT_AVAILABLE,
        float_format=None if digits is None else f"%.{digits}g",
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL,
    )


def _inert(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """The table without formulas, and whether some text needs quotes that it would not get by itself."""
    changed, odd = {}, False
    for name in frame.columns:
        values = frame[name]
        if values.dtype.kind != "O" and not hasattr(values, "cat"):
            continue
        texts = values.astype(object)
        odd = odd or any(isinstance(text, str) and "\r" in text for text in texts)
        if any(isinstance(text, str) and guarded(text) != text for text in texts):
            changed[name] = [guarded(text) if isinstance(text, str) else text for text in texts]
    return (frame.assign(**changed) if changed else frame), odd


_FORMULA = re.compile(r"\s*[=+@-].")


def guarded(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet would compute it; numbers stay numbers."""
    if text.startswith("'"):
        return "'" + text
    if not _FORMULA.match(text):
        return text
    try:
        float(text)
    except ValueError:
        return "'" + text
    return text


def unguarded(text: str) -> str:
    """What :func:`guarded` was given."""
    return text[1:] if text.startswith("'") else text


def _separator(path: Path) -> str:
    return "," if ".csv" in path.suffixes else "\t"


def read_table(path: str | Path, *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table of :func:`write_table`.

    Parameters
    ----------
    path : path
        Table.
    text : sequence of str
        Columns to keep as text to the letter: names of cells and donors, which may look like numbers or be
        called NA.

    Returns
    -------
    DataFrame
    """
    import pandas as pd

    path = Path(path)
    # a converter rather than a dtype: dtypes still turn "NA" into a missing value
    frame = pd.read_csv(
        path,
        sep=_separator(path),
        converters=dict.fromkeys(text, unguarded),
        na_values=[NOT_AVAILABLE],
        keep_default_na=False,
        float_precision="round_trip",
        encoding="utf-8",
    )
    for name in frame.columns.difference(text):
        if frame[name].dtype.kind == "O":
            frame[name] = [unguarded(value) if isinstance(value, str) else value for value in frame[name]]
    return frame


def last_lines(path: str | Path | None) -> list[str]:
    """The last lines of a log that are not empty, without colours; none where there is no log."""
    if path is None or not Path(path).is_file():
        return []
    with open(path, "rb") as handle:
        handle.seek(max(0, os.path.getsize(path) - 65536))
        lines = handle.read().decode("utf-8", errors="replace").splitlines()
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^\S ]|[\x00-\x08]", " ", line).rstrip() for line in lines]
    return [line for line in lines if line.strip()]


def reason_from_log(path: str | Path | None) -> str:
    """Say in one line why a step failed, from the end of its log.

    Parameters
    ----------
    path : path or None
        Log of the step.

    Returns
    -------
    str
        The last InputError in it, else its last line that is not empty, else that there is none.
    """
    if path is None or not Path(path).is_file():
        return "not run: the step left no log"
    lines = last_lines(path)
    ends = [number for number, line in enumerate(lines) if _ENDING in line]
    lines = lines[: ends[-1]] if ends else lines  # libraries may say something while the process ends
    lines = [line for line in lines if _ENDING not in line]
    if not lines:
        return "the log of the step is empty"
    reason = lines[-1].strip()
    for number in range(len(lines) - 1, 0, -1):
        # the lines of an InputError: thing, expected, got, what to do
        details = [" ".join(line.split()) for line in lines[number : number + 2]]
        if details[0].startswith("expected:"):
            thing = lines[number - 1].rpartition("InputError: ")[2].strip()
            reason = "; ".join([thing, *(line for line in details if line.startswith(("expected:", "got:")))])
            break
    return reason if len(reason) <= _REASON_CHARACTERS else reason[: _REASON_CHARACTERS - 3] + "..."
