"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def part_of(path: str | Path) -> Path:
    """Where the unfinished twin of `path` lies: beside it, under the same name after every kill."""
    path = Path(path)
    return path.with_name(f".{path.name}.part")


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A new file that takes its place only when the context ends well.

    What a killed run left under the temporary name goes first, and the file is created there or not at all:
    a link of that name is never followed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        part.unlink(missing_ok=True)
        with part.open("xb") as stream:
            yield stream
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
