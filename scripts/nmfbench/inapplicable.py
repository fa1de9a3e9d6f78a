"""What stands in the place of a result that has no meaning for the data, so that all others are made.

A conditional model of a single donor, or a classifier of a single class, is no failure and no zero: its job
leaves a stub with the reason, jobs that need the result pass the reason on, and tables and figures show it.
"""

from __future__ import annotations

import gzip
import json
import textwrap
import zlib
from collections.abc import Iterable
from pathlib import Path

from nmfbench.atomic import whole_file
from nmfbench.errors import NotApplicable

MARK = "not applicable: "
_KEY = "not_applicable"
_LONGEST = 4096  # bytes of a stub


def reason_in(path: str | Path) -> str | None:
    """The reason that stands in a stub; None for a file that is none, or is not there."""
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(_LONGEST)
        if start.startswith(b"\x1f\x8b"):
            start = zlib.decompressobj(wbits=31).decompress(start, _LONGEST)
    except (OSError, zlib.error):
        return None
    if start.startswith(MARK.encode()):
        return start.decode("utf-8", "replace").removeprefix(MARK).strip()
    if start.startswith(b"{") and f'"{_KEY}"'.encode() in start[:64]:
        try:
            reason = json.loads(start).get(_KEY)
        except ValueError:
            return None
        return None if reason is None else str(reason)
    return None


def reason_among(paths: Iterable[str | Path]) -> str | None:
    """The reason of the first stub among some files."""
    return next((reason for path in paths if (reason := reason_in(path)) is not None), None)


def none_applicable(paths: Iterable[str | Path]) -> NotApplicable:
    """What a job of several fits raises where all of them are stubs, with the reason of the first."""
    return NotApplicable(
        "all models", "one that is applicable", f"none ({reason_among(paths)})", "add a model to the config"
    )


def write_stub(path: str | Path, reason: str) -> None:
    """Put the reason in the place of a result; as a picture where one is expected."""
    path, reason = Path(path), " ".join(reason.split())
    if path.suffix in (".png", ".pdf"):
        _draw(path, reason)
        return
    if path.suffix == ".json":
        content = json.dumps({_KEY: reason, "warnings": [f"{MARK}{reason}"]}, indent=2).encode()
    elif path.suffix == ".html":
        import html

        content = f"<p>{MARK}{html.escape(reason)}</p>\n".encode()
    else:
        content = f"{MARK}{reason}\n".encode()
    with whole_file(path) as stream:
        stream.write(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _draw(path: Path, reason: str) -> None:
    from nmfbench.figures import save, style

    figure = style.new_figure(style.SINGLE_COLUMN, 30)
    lines = textwrap.wrap(style.plain(f"{MARK}{reason}"), 70)[:6]
    style.add_text(figure, 4, 4, "\n".join(lines), fontsize=style.NORMAL)
    save(figure, [path])
