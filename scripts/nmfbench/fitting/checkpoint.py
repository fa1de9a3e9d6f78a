"""Crash-safe checkpoints: two files in a folder, of which at least one is whole at every moment."""

from __future__ import annotations

import json
import logging
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmfbench.errors import InputError

log = logging.getLogger(__name__)

FORMAT = "nmfbench-checkpoint-1"
LARGEST_SHARE = 0.05
"""Writing checkpoints takes at most this share of the time (except that the last is always written)."""


def settings_of(folder: str | Path) -> dict[str, Any]:
    """The settings of the newest state in a folder that can be read; empty where there is none."""
    for name in ("newest.npz", "previous.npz"):
        try:
            with (Path(folder) / name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return json.loads(stored["header"].tobytes())["settings"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    return {}


class Checkpoint:
    """The newest state of a fit and the one before it.

    Parameters
    ----------
    folder : str or Path
        Made when the first state is written. It holds ``newest.npz`` and ``previous.npz``.
    settings : mapping
        Every setting that decides the trajectory; a state of other settings is refused.
    fingerprint : str
        The same for the data.

    Notes
    -----
    A state is an uncompressed .npz (arrays with a checksum each, and a JSON header), written beside its
    place, flushed to the disk and renamed. A damaged newest file gives way to the previous one.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], fingerprint: str) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(dict(settings), sort_keys=True, default=str))
        self.fingerprint = fingerprint
        self._written_at = time.monotonic()
        self._seconds_to_write = 0.0

    @property
    def newest(self) -> Path:
        return self.folder / "newest.npz"

    @property
    def previous(self) -> Path:
        return self.folder / "previous.npz"

    def is_due(self, wait: float = 0.0) -> bool:
        """Whether enough time has passed since the last state, at least `wait` seconds."""
        return time.monotonic() - self._written_at >= max(wait, self._seconds_to_write / LARGEST_SHARE)

    def save(self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Write a state; a full disk costs the checkpoint, not the fit."""
        started = time.monotonic()
        header = {
            "format": FORMAT,
            "settings": self.settings,
            "fingerprint": self.fingerprint,
            "record": dict(record),
        }
        temporary = self.folder / f"writing-{os.getpid()}.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
                file.flush()
                os.fsync(file.fileno())
            if self.newest.exists():
                os.replace(self.newest, self.previous)
            os.replace(temporary, self.newest)
        except OSError as error:
            log.warning("no checkpoint was written to %s (%s); training goes on", self.folder, error)
        finally:
            temporary.unlink(missing_ok=True)
        self._written_at = time.monotonic()
        self._seconds_to_write = self._written_at - started

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The newest whole state (arrays, record); None where there is none.

        Raises
        ------
        InputError
            If the state is of other settings or other data, with the names of the settings.
        """
        for left in self.folder.glob("writing-*.npz"):
            left.unlink(missing_ok=True)  # by a kill in the middle of writing
        for path in (self.newest, self.previous):
            if not path.exists():
                continue
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    header = json.loads(stored["header"].tobytes())
                    arrays = {name: stored[name] for name in stored.files if name != "header"}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                log.warning(
                    "%s is damaged (%s: %s); trying the one before", path, type(error).__name__, error
                )
                continue
            self._refuse_other(path, header)
            return arrays, header["record"]
        return None

    def _refuse_other(self, path: Path, header: dict[str, Any]) -> None:
        remedy = f"use the former settings and data again, or delete {self.folder} to begin anew"
        if header.get("format") != FORMAT:
            raise InputError(
                f"{path}: not a checkpoint of this version", FORMAT, str(header.get("format")), remedy
            )
        theirs, ours = header["settings"], self.settings
        missing = "not set"
        differing = sorted(
            name
            for name in theirs.keys() | ours.keys()
            if theirs.get(name, missing) != ours.get(name, missing)
        )
        if differing:
            raise InputError(
                f"{path}: a checkpoint of other settings ({', '.join(differing)})",
                ", ".join(f"{name}={ours.get(name, missing)}" for name in differing),
                ", ".join(f"{name}={theirs.get(name, missing)}" for name in differing),
                remedy,
            )
        if header["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{path}: a checkpoint of other data",
                f"fingerprint {self.fingerprint}",
                header["fingerprint"],
                remedy,
            )
