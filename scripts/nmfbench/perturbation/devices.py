"""GPUs of one machine without a scheduler: a job takes the first that is free."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_NONE = ("cpu", "none", "-1")


def names_of(devices: Sequence[int | str]) -> list[str]:
    """``cuda:2`` and 2 as ``"2"``; cpu, none and -1 as ``"cpu"``."""
    names = [str(device).strip().lower().removeprefix("cuda:") for device in devices]
    return ["cpu" if name in _NONE else name for name in names]


@contextlib.contextmanager
def device_of_its_own(
    devices: Sequence[int | str] | None, folder: str | Path, wait: float = 0.5
) -> Iterator[str | None]:
    """Hold a device until the context ends; to be entered before torch is loaded.

    A lock file in `folder` marks the device as taken; the lock goes with the process, however it ends.

    Parameters
    ----------
    devices : sequence or None
        None: nothing is done.
    folder : path
        Of the lock files.
    wait : float
        Seconds between two looks, while all devices are taken.

    Yields
    ------
    str or None
        ``cuda`` with ``CUDA_VISIBLE_DEVICES`` set to the device, ``cpu``, or None.
    """
    if not devices:
        yield None
        return
    names = names_of(devices)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            taken = next(
                (name for name in names if _take(stack, Path(folder, f"device-{name}.lock"), name)), None
            )
            if taken is not None:
                break
            time.sleep(wait)
        if taken == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
            yield "cpu"
            return
        os.environ["CUDA_VISIBLE_DEVICES"] = taken
        log.info("device %s of %s", taken, ", ".join(names))
        yield "cuda"


def _take(stack: contextlib.ExitStack, path: Path, name: str) -> bool:
    if name == "cpu":
        return True  # there is enough of it for all
    handle = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
