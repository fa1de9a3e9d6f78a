"""Reading and writing tables: whole or not at all, and the same text back."""

from __future__ import annotations

import gzip
import io
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: How a missing value is written; figures and people see a gap, never a zero.
NOT_AVAILABLE = "NA"

_REASON_CHARACTERS = 300
_ENDING = " ends with exit code "  # what a job writes last; the line above it says why


def write_table(frame: pd.DataFrame, path: str | Path, *, digits: int | None = None) -> Path:
    """Write a table next to its place, then move it there.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(os.fdopen(handle, "wb"))
            if path.suffix == ".gz":
                # neither time nor temporary name, so that equal tables are equal files
                raw = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))
            text = stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
            frame.to_csv(
                text,
                sep=_separator(path),
                index=False,
                na_rep=NOT_AVAILABLE,
                float_format=None if digits is None else f"%.{digits}g",
                lineterminator="\n",
            )
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets nobody else read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _separator(path: Path) -> str:
    return "," if ".csv" in path.suffixes else "\t"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_table(path: str | Path, *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table of :func:`write_table`.

    Parameters
    ----------
    path : path
        Table.
    text : sequence of str
        Columns to keep as text to the letter, such as cell names that look like numbers.

    Returns
    -------
    DataFrame
    """
    import pandas as pd

    path = Path(path)
    # a converter rather than a dtype: dtypes still turn "NA" into a missing value
    return pd.read_csv(
        path,
        sep=_separator(path),
        converters=dict.fromkeys(text, str),
        na_values=[NOT_AVAILABLE],
        keep_default_na=False,
        float_precision="round_trip",
        encoding="utf-8",
    )


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
    lines = [line for line in last_lines(path) if _ENDING not in line]
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
