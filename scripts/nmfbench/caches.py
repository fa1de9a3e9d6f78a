"""Caches of libraries and temporary files, where the usual place cannot be written to.

Snakemake, matplotlib and numba keep caches under the home folder. On compute nodes and in containers there
may be none, or it is read-only, or its quota is used up; each of them then ends in a traceback of its own.
Here the variables are set that lead all of them to a folder of the run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

ROOM = 512 * 1024  # bytes that have to fit: an index of fonts has 50 KB, a compiled loop 100 KB


_TEMPORARY = ("TMPDIR", "TEMP", "TMP")


def settle(environment: MutableMapping[str, str] | None = None) -> Path | None:
    """Lead caches to a folder that can be written to, where the usual one cannot.

    What the person set is left alone as long as it can be written to.

    Parameters
    ----------
    environment : mutable mapping, optional
        By default that of the process, from which its children inherit.

    Returns
    -------
    Path or None
        The folder that was chosen; None where the usual one will do, or where there is no other.
    """
    environment = os.environ if environment is None else environment
    _settle_temporary(environment)
    usual = environment.get("XDG_CACHE_HOME") or (
        os.path.join(environment["HOME"], ".cache") if environment.get("HOME") else None
    )
    if usual is not None and has_room(Path(usual)):
        return None
    user = os.getuid() if hasattr(os, "getuid") else "user"
    for folder in (
        Path(".snakemake", "caches").absolute(),
        Path(tempfile.gettempdir(), f"nmfbench-caches-{user}"),
    ):
        if has_room(folder):
            environment["XDG_CACHE_HOME"] = str(folder)
            for variable, name in (("MPLCONFIGDIR", "matplotlib"), ("NUMBA_CACHE_DIR", "numba")):
                given = environment.get(variable)
                if not given or not has_room(Path(given)):
                    environment[variable] = str(folder / name)
                    (folder / name).mkdir(exist_ok=True)
            return folder
    return None


def _settle_temporary(environment: MutableMapping[str, str]) -> None:
    """Lead temporary files to the run where the usual place is full: Snakemake's scheduler needs some."""
    usual = next((environment[name] for name in _TEMPORARY if environment.get(name)), "/tmp")
    folder = Path(".snakemake", "tmp").absolute()
    if os.name == "posix" and not has_room(Path(usual)) and has_room(folder):
        environment.update(dict.fromkeys(_TEMPORARY, str(folder)))
        tempfile.tempdir = None  # it was looked up already


def has_room(folder: Path) -> bool:
    """Whether files can be made and filled in a folder, which is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(ROOM))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        return False
    return True
