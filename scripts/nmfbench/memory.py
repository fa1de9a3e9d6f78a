"""How much memory this process has used."""

from __future__ import annotations

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
