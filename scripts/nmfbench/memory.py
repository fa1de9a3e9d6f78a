"""How much memory this process has used."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path


def peak_mb() -> float:
    """Largest resident memory of this process so far, in megabytes (10⁶ bytes).

    Linux says it in ``VmHWM``; ``ru_maxrss``, the portable figure, starts at the peak of the parent process.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024 / 1e6
    except (OSError, AttributeError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


LARGE_BLOCK = 2**20  # bytes


def return_freed_arrays() -> None:
    """Have the C library give arrays of a mebibyte and more back to the system as soon as they are freed.

    For a process that streams: glibc begins like that, but after the first few such arrays it keeps them in
    its heap, where those of other sizes leave holes, and a pass over many blocks comes to hold tens of
    megabytes more than one over few. Costs a few percent of time. Nothing is done with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform == "linux" and mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


_M_MMAP_THRESHOLD = -3  # malloc.h
