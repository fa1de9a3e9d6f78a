"""Whether a source file is the one that results were made of: its size, its date and a look at its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

_LOOKS, _BYTES = 256, 4096  # a megabyte of a file of any size


def source_state(path: str | Path) -> dict[str, int | str] | None:
    """What tells a file from another one under the same name, without reading all of it.

    Snakemake runs a job again when an input is newer than its output. One that was put in its place with an
    older date (from a backup, by ``cp -p`` or ``rsync -t``) is noticed by this.

    Parameters
    ----------
    path
        A file that may be missing.

    Returns
    -------
    dict or None
        ``bytes``, ``modified`` (whole seconds) and ``sample``: a checksum of 256 pieces of 4 KiB, evenly
        spread from the first to the last. None where there is no file that can be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            size = stream.seek(0, 2)
            for look in range(_LOOKS):
                stream.seek(look * max(0, size - _BYTES) // (_LOOKS - 1))
                digest.update(stream.read(_BYTES))
                if size <= _BYTES:
                    break
        modified = int(Path(path).stat().st_mtime)
    except OSError:
        return None
    return {"bytes": size, "modified": modified, "sample": digest.hexdigest()[:16]}
