"""In how much of a job's time its card worked, as NVIDIA's driver counts it."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable

SECONDS_BETWEEN = 1.0
"""Between two samples; the driver's own counter looks back over up to a second."""


class GpuUse:
    """Samples the share of time in which a kernel ran, in a thread of its own, until it is stopped.

    Parameters
    ----------
    sample : callable or None
        The share over the last moment, 0 to 1, or None where it cannot be told. None: nothing is sampled.
    every : float
        Seconds between two samples.
    """

    def __init__(self, sample: Callable[[], float | None] | None, every: float = SECONDS_BETWEEN) -> None:
        self._sample, self._every = sample, every
        self._begun, self._worked, self._known = time.monotonic(), 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nmfbench-gpu-use", daemon=True)
        if sample is not None:
            self._thread.start()

    @classmethod
    def of(cls, device: str) -> GpuUse:
        """Of the CUDA device that `device` (auto, cpu, cuda ...) leads to; of nothing where there is none."""
        if device == "auto" or device.startswith("cuda"):
            import torch

            if torch.cuda.is_available():
                return cls(_sampler(torch.device("cuda" if device == "auto" else device)))
        return cls(None)

    def stop(self) -> None:
        """End the samples."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    @property
    def share(self) -> float | None:
        """Mean over the samples, each weighed by the time since the one before; None where there is none."""
        return round(self._worked / self._known, 4) if self._known else None

    def _watch(self) -> None:
        last = self._begun
        while not self._over.wait(self._every):
            share, now = self._sample(), time.monotonic()
            if share is None:
                return
            self._worked += share * (now - last)
            self._known += now - last
            last = now


def _sampler(device) -> Callable[[], float | None] | None:
    """By the driver's library where its Python package is installed, else by nvidia-smi."""
    import torch

    try:
        torch.cuda.utilization(device)
    except (ImportError, RuntimeError, OSError):
        pass
    else:
        return lambda: torch.cuda.utilization(device) / 100
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    identifier = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return lambda: _told_by([program, "-i", identifier])


def _told_by(program: list[str]) -> float | None:
    """What nvidia-smi prints, which is no number for a part of a card (MIG)."""
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run([*program, *query], capture_output=True, text=True, timeout=10, check=True)
        return float(done.stdout.strip()) / 100
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
